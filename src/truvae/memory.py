"""Memory: how much there is, and whether what a file claims to hold fits into it."""

import os
from math import prod
from pathlib import Path

from truvae.errors import InputError

# Reading takes memory for the values as they are stored, and for a copy in another type or order.
_COPIES = 2
# Values of so many bytes come from one at most, by the compression of PNG, TIFF and HDF5 files.
MOST_DEFLATED = 1032


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


def check_stored(
    path: Path,
    what: str,
    claimed: int,
    most: int,
    stored: int | None = None,
    fault: str = "damaged or cut short",
) -> None:
    """Refuse, before memory is taken, a file that claims more than its bytes can hold.

    What lacks would be made up by the decoder, or read as zeros.

    Parameters
    ----------
    path
        The file.
    what
        What it claims to hold.
    claimed, most
        How much that is, and how much of it one byte can hold at most.
    stored
        Bytes that there are; None for those of the file.
    fault
        What else may be wrong with such a file.

    Raises
    ------
    InputError
        If there are too few bytes.
    """
    stored = path.stat().st_size if stored is None else stored
    if claimed > most * stored:
        raise InputError(f"{path} is {fault}: {what} cannot be stored in {stored} bytes")


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


__all__ = ["MOST_DEFLATED", "available", "check_fits", "check_stored"]
