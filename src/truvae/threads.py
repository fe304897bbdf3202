"""CPU threads: how many there may be, and how many this process uses."""

import os


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


__all__ = ["shared_out", "use_threads"]
