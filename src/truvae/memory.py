"""Memory: how much there is, and whether what a file claims to hold fits into it."""

import os
from math import prod
from pathlib import Path

from truvae.errors import InputError

# Reading takes memory for the values as they are stored, and for a copy in another type or order.
_COPIES = 2


def available() -> int | None:
    """Return the bytes of memory that can be had now, None where it cannot be told."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(found.split()[1]) << 10
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows
        return None


def check_fits(name: object, shape: tuple[int, ...], itemsize: int) -> None:
    """Refuse, before memory is taken, a file that claims to hold more than fits into it.

    Raises
    ------
    InputError
        If values of this shape and size in bytes, and a copy of them, need more memory than there
        is.
    """
    needed, there = _COPIES * prod(shape) * itemsize, available()
    if there is not None and needed > there:
        raise InputError(
            f"{name} has shape {shape}: reading it takes {needed / 1e9:.1f} GB of memory, and "
            f"{there / 1e9:.1f} GB are there; crop or split it"
        )


__all__ = ["available", "check_fits"]
