"""Ctrl-C and SIGTERM: the first one asks the work to finish with what it has."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

_STOPPING = (signal.SIGINT, signal.SIGTERM)
_FINISHING = b"\ntruvae: finishing with what there is; another Ctrl-C quits at once\n"


@dataclass
class StopSignals:
    """The first Ctrl-C or SIGTERM asks the restoration to finish with what it has.

    The second Ctrl-C quits at once.

    Parameters
    ----------
    quiet
        Whether to say nothing of it on stderr.
    """

    quiet: bool = False
    received: int | None = None

    def __enter__(self) -> "StopSignals":
        self._before = {int(number): signal.signal(number, self._note) for number in _STOPPING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        first, self.received = self.received is None, number
        for again in {number, signal.SIGINT}:
            signal.signal(again, self._before[again])
        if first and not self.quiet:
            with suppress(OSError):
                os.write(2, _FINISHING)  # sys.stderr may be in the midst of writing


@contextmanager
def held() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back: a process that is started meanwhile never sees them."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


__all__ = ["StopSignals", "held"]
