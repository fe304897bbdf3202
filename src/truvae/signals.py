"""Ctrl-C and SIGTERM: the first one asks the work to finish with what it has."""

import signal
from dataclasses import dataclass
from types import FrameType


@dataclass
class StopSignals:
    """The first Ctrl-C or SIGTERM asks the restoration to finish with what it has.

    The second Ctrl-C quits at once.
    """

    received: int | None = None
    used: bool = False
    """Whether a restoration has begun: the first one also pays for the start of the program."""

    def __enter__(self) -> "StopSignals":
        self._before = {
            int(number): signal.signal(number, self._note)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
        signal.signal(number, self._before[number])


__all__ = ["StopSignals"]
