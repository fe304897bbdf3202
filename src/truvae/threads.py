"""CPU threads: how many there may be, how many this process uses, and what for."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
R = TypeVar("R")

# More pieces of work at a time would wait for the interpreter, which runs one thread at a time.
MOST_AT_A_TIME = 4
# Pieces of work begun before what came of the first is taken, for each that is done at a time.
_AHEAD = 8


def wait_without_spinning() -> None:
    """Let threads that wait rest, unless `OMP_WAIT_POLICY` says otherwise: on a busy machine those
    that spin keep those from work that they wait for, and all take many times as long.

    It holds for torch if that is imported later, and for processes that this one starts.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def use_threads(n: int | None) -> None:
    """Let this process compute with `n` threads; None leaves it to torch.

    Called before torch is imported, it also holds for what torch imports.
    """
    if n is None:
        return
    os.environ["OMP_NUM_THREADS"] = str(n)
    import torch

    torch.set_num_threads(n)


def shared_out(n: int | None, jobs: int) -> int:
    """Return how many of `n` threads, None for one per core, each of `jobs` processes gets.

    Examples
    --------
    >>> shared_out(8, 3), shared_out(2, 4)
    (2, 1)
    """
    from joblib import cpu_count

    return max(1, (n or cpu_count()) // jobs)


Begin = Callable[[Callable[[T], R], Sequence[T]], Iterator[R]]
"""Begins work on items; yields what comes of them, in their order."""


# Whether this thread does a piece of work.
_here = threading.local()


def at_a_time(device: "torch.device") -> int:
    """Return how many pieces of work `helpers` do at a time, the caller included."""
    import torch

    if device.type != "cpu" or getattr(_here, "busy", False):
        return 1
    return min(torch.get_num_threads(), MOST_AT_A_TIME)


@contextmanager
def helpers(device: "torch.device") -> "Iterator[Begin[Any, Any]]":
    """Give a function that begins work on items, several at a time, while the caller goes on.

    On a CPU, each piece of work has its share of the threads of this process. Whoever asks for what
    nobody has begun does it himself, so that no thread waits while something is left to begin; with
    one thread, on another device, or within a piece of work, that is all there is to it. For steps
    of a fraction of a millisecond: threads inside them hardly speed these up.

    Examples
    --------
    >>> import torch
    >>> with helpers(torch.device("cpu")) as begin:
    ...     found = begin(abs, [-1, -2, 3])
    ...     [*found]
    [1, 2, 3]
    """
    import torch

    threads, together = torch.get_num_threads(), at_a_time(device)
    if together == 1:
        yield map
        return
    torch.set_num_threads(threads // together)  # of the threads that start from now on, too
    pool = ThreadPoolExecutor(together - 1)
    try:
        yield partial(_begin, pool)
    finally:
        try:
            pool.shutdown(cancel_futures=True)
        finally:
            torch.set_num_threads(threads)


def side_by_side(work: Callable[[T], R], items: Iterable[T], device: "torch.device") -> Iterator[R]:
    """Yield what comes of work on items, in their order, several at a time (`helpers`); few are
    ahead of what is taken, so that little waits.

    Examples
    --------
    >>> import torch
    >>> [*side_by_side(abs, range(-3, 0), torch.device("cpu"))]
    [3, 2, 1]
    """
    left, ahead = iter(items), _AHEAD * at_a_time(device)
    with helpers(device) as begin:
        while some := [*islice(left, ahead)]:
            yield from begin(work, some)


def _begin(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    work = partial(_alone, work)
    futures = {place: pool.submit(work, item) for place, item in enumerate(items)}
    return _results(futures, work, items)


def _alone(work: Callable[[T], R], item: T) -> R:
    """Do a piece of work, which is not parted any further."""
    _here.busy = True
    try:
        return work(item)
    finally:
        _here.busy = False


def _results(
    futures: dict[int, Future[R]], work: Callable[[T], R], items: Sequence[T]
) -> Iterator[R]:
    """Yield all results in order, and do what has not begun instead of waiting; keep none."""
    own: dict[int, R] = {}
    places = iter(range(len(items)))
    for place in range(len(items)):
        while not futures[place].done():
            free = next((i for i in places if i in futures and futures[i].cancel()), None)
            if free is None:
                break
            own[free] = work(items[free])
        future = futures.pop(place)
        yield own.pop(place) if future.cancelled() else future.result()


__all__ = [
    "MOST_AT_A_TIME",
    "at_a_time",
    "helpers",
    "shared_out",
    "side_by_side",
    "use_threads",
    "wait_without_spinning",
]
