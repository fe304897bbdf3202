"""CPU threads: how many there may be, how many this process uses, and what for."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

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


def side_by_side(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Yield what comes of items, in their order; several are worked on at a time, each with its
    share of the threads of this process.

    For steps of a fraction of a millisecond: a second thread does not speed these up at all.

    Examples
    --------
    >>> [*side_by_side(abs, [-1, -2, 3])]
    [1, 2, 3]
    """
    import torch

    threads = torch.get_num_threads()
    workers = min(threads, len(items), MOST_AT_A_TIME)
    if workers <= 1:
        yield from map(work, items)
        return
    torch.set_num_threads(threads // workers)  # of the threads that start from now on, too
    try:
        with ThreadPoolExecutor(workers) as pool:
            yield from pool.map(work, items)
    finally:
        torch.set_num_threads(threads)


__all__ = ["MOST_AT_A_TIME", "shared_out", "side_by_side", "use_threads"]
