"""CPU threads: how many there may be, how many this process uses, and what for."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
R = TypeVar("R")

# More pieces of work at a time would wait for the interpreter, which runs one thread at a time.
MOST_AT_A_TIME = 4


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


Start = Callable[[Callable[[T], R], Sequence[T]], Iterator[R]]
"""Begins work on items; yields what comes of them, in their order."""


def at_a_time(device: "torch.device") -> int:
    """Return how many pieces of work `helpers` do at a time, the caller included."""
    import torch

    return min(torch.get_num_threads(), MOST_AT_A_TIME) if device.type == "cpu" else 1


@contextmanager
def helpers(device: "torch.device") -> "Iterator[Start[Any, Any]]":
    """Give a function that begins work on items, several at a time, while the caller goes on.

    On a CPU, each piece of work has its share of the threads of this process. Whoever asks for what
    nobody has begun does it himself, so that no thread waits while there is something to do; with
    one thread, or on another device, that is all there is to it. For steps of a fraction of a
    millisecond: threads inside them hardly speed these up.

    Examples
    --------
    >>> import torch
    >>> with helpers(torch.device("cpu")) as start:
    ...     found = start(abs, [-1, -2, 3])
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
        yield partial(_start, pool)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _start(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    futures = [pool.submit(work, item) for item in items]
    return _results(futures, work, items)


def _results(
    futures: Sequence[Future[R]], work: Callable[[T], R], items: Sequence[T]
) -> Iterator[R]:
    """Yield all results in order, and do what has not begun instead of waiting."""
    own: dict[int, R] = {}
    places = iter(range(len(items)))
    for place, future in enumerate(futures):
        while not future.done():
            free = next((i for i in places if futures[i].cancel()), None)
            if free is None:
                break
            own[free] = work(items[free])
        yield own.pop(place) if future.cancelled() else future.result()


__all__ = ["MOST_AT_A_TIME", "at_a_time", "helpers", "shared_out", "use_threads"]
