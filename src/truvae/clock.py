"""Time: budgets, progress, and how long a pass over the data takes."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from numbers import Real

from truvae.errors import InputError
from truvae.ranks import ALONE, Ranks


@dataclass
class Stopwatch:
    """Seconds by the clock of rank 0, of which some may have been spent by an earlier process.

    >>> watch, start = Stopwatch(), time.perf_counter()
    >>> watch.forward(60.0)
    >>> watch() - start >= 60
    True
    """

    before: float = 0.0
    ranks: Ranks = ALONE

    def __call__(self) -> float:
        """Return the seconds; only differences mean anything."""
        return self.ranks.first(time.perf_counter) + self.before

    def forward(self, seconds: float) -> None:
        """Count so many seconds as spent."""
        self.before += seconds


@dataclass
class Clock:
    """Progress by epochs or, when it runs ahead of them, by the time spent of a budget.

    Parameters
    ----------
    budget
        Seconds from now that training and the closing pass over the data may take; None for any.
    on_progress
        Told the progress in [0, 1] now and then.
    should_stop
        Asked now and then; training ends once it says True.
    closing
        Passes over the data that come after the training, in E-steps.
    watch
        Says what time it is; all clocks made from this one share it.
    own_stop
        Where `should_stop` asks all ranks, the same without asking the others.
    """

    budget: float | None = None
    on_progress: Callable[[float], None] = lambda progress: None
    should_stop: Callable[[], bool] = lambda: False
    closing: float = 1
    watch: Stopwatch = field(default_factory=Stopwatch)
    own_stop: Callable[[], bool] | None = None

    def __post_init__(self) -> None:
        """Start the clock."""
        self.start = self.watch()

    def of(self, ranks: Ranks) -> "Clock":
        """Return a clock by which all ranks decide alike: it has the time and the budget of rank 0,
        and stops when any of them should.
        """
        if ranks == self.watch.ranks:
            return self
        return replace(
            self,
            budget=ranks.first(self._rest),
            should_stop=lambda: ranks.any(self.should_stop()),
            own_stop=self.should_stop,
            watch=replace(self.watch, ranks=ranks),
        )

    def alone(self) -> "Clock":
        """Return a clock for work during which ranks do not meet: it asks no rank but this one.

        All ranks call this at the same time.
        """
        return replace(
            self,
            budget=self._rest(),
            should_stop=self.own_stop or self.should_stop,
            watch=self.watch if self.watch.ranks.size == 1 else Stopwatch(),
        )

    def silent(self) -> "Clock":
        """Return a clock that tells no progress."""
        return replace(self, budget=self._rest(), on_progress=lambda progress: None)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self.watch() - self.start

    def progress(self, share: float, one_pass: float) -> float:
        """Return the progress in [0, 1].

        Parameters
        ----------
        share
            Share of the planned epochs that is done.
        one_pass
            Seconds that a pass over the data takes.
        """
        spent = self._spent(self.closing * one_pass)
        progress = 1.0 if self.should_stop() else min(1.0, max(share, spent))
        self.on_progress(progress)
        return progress

    def go_on(self, progress: float) -> bool:
        """Tell the progress in [0, 1] of work of another kind than epochs, or that of the time when
        it runs ahead; return whether there is time for more.
        """
        self.on_progress(min(1.0, max(progress, self._spent(0))))
        return self.left() > 0 and not self.should_stop()

    def left(self) -> float:
        """Return the seconds of the budget that are left; infinite without one."""
        if self.budget is None:
            return math.inf
        return self.budget - self.seconds

    def without(self, seconds: float) -> "Clock":
        """Return a clock that leaves so many seconds of the budget untouched."""
        return replace(self, budget=self._rest(seconds))

    def before(self, passes: float) -> "Clock":
        """Return a clock for training that so many passes over the data follow."""
        return replace(self, budget=self._rest(), closing=passes)

    def span(self, first: float, last: float) -> "Clock":
        """Return a clock whose progress from 0 to 1 goes from `first` to `last` of this one."""
        return replace(
            self,
            budget=self._rest(),
            on_progress=lambda done: self.on_progress(first + (last - first) * done),
        )

    def part(self, index: int, n: int) -> "Clock":
        """Return a clock for part `index` (from 0) of `n`, with its share of the time left."""
        share = self.span(index / n, (index + 1) / n)
        return replace(share, budget=None if self.budget is None else self.left() / (n - index))

    def _rest(self, without: float = 0.0) -> float | None:
        return None if self.budget is None else max(self.left() - without, 0.0)

    def _spent(self, closing: float) -> float:
        if self.budget is None:
            return 0.0
        return (self.budget - self.left()) / max(self.budget - closing, 1e-9)


def check_budget(seconds: float | None) -> None:
    """Raise an `InputError` if a time budget that was asked for makes no sense."""
    if seconds is not None and not (isinstance(seconds, Real) and seconds > 0):
        raise InputError(f"time_budget must be above 0 (seconds), not {seconds!r}")


class Pace:
    """How long the E-steps of one pass over N data points take, so many of them at a time."""

    def __init__(self, n_data: int, at_a_time: int = 1) -> None:
        self._n_data, self._at_a_time = n_data, at_a_time
        self._seconds = 0.0
        self._seen = 0

    @property
    def one_pass(self) -> float:
        """Seconds for all data points, 0 as long as nothing is known."""
        return self._seconds / self._at_a_time / max(self._seen, 1) * self._n_data

    def add(self, n_points: int, seconds: float) -> None:
        """Count an E-step of so many data points."""
        self._seconds += seconds
        self._seen += n_points


__all__ = ["Clock", "Pace", "Stopwatch", "check_budget"]
