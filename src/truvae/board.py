"""Sums over the processes of one machine, through memory that all of them see.

Through the network of the machine with itself (gloo) the gradients of a step take about as long as
half of the step; so they take a tenth of it.
"""

import os
import shutil
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

import torch
from torch import Tensor

# Where Linux keeps files in memory; elsewhere there is no board.
_FOLDER = Path("/dev/shm")
# Bytes of a page; longer tensors go in parts.
_PAGE = 1 << 20


class Board:
    """Pages of memory, two for each rank, and a line to the other ranks.

    A rank writes on its page, waits until all have written, and reads the pages of all. Next time
    it takes its other page: some may still read this one.

    Parameters
    ----------
    folder
        What `reserve` returned on rank 0.
    rank
        The number of this process.
    size
        How many there are.
    listener
        On rank 0, what `reserve` returned too; None on the others.
    timeout
        Seconds after which the other processes are given up.
    """

    def __init__(
        self, folder: str, rank: int, size: int, listener: socket.socket | None, timeout: float
    ) -> None:
        memory = torch.from_file(
            f"{folder}/pages", shared=True, size=2 * size * _PAGE, dtype=torch.uint8
        )
        self._pages, self._rank, self._turn = memory.view(2, size, _PAGE), rank, 0
        if listener is None:
            line = socket.socket(socket.AF_UNIX)
            line.settimeout(timeout)
            line.connect(f"{folder}/line")
            self._lines = [line]
        else:
            listener.settimeout(timeout)
            self._lines = [listener.accept()[0] for _ in range(size - 1)]
            listener.close()
            for line in self._lines:
                line.settimeout(timeout)
        self._meet()
        if rank == 0:  # all have opened it: it needs no name any more
            shutil.rmtree(folder, ignore_errors=True)

    def reduce_(self, tensor: Tensor, combine: Callable[..., Tensor]) -> None:
        """Overwrite a contiguous tensor on the CPU by `combine` of those of all ranks.

        All ranks combine them in the same order, so that the results are the same bit for bit.
        """
        for part in tensor.view(-1).split(_PAGE // tensor.element_size()):
            pages = self._pages[self._turn].view(part.dtype)[:, : len(part)]
            pages[self._rank].copy_(part)
            self._meet()
            part.copy_(pages[0])
            for page in pages[1:]:
                combine(part, page, out=part)
            self._turn = 1 - self._turn

    def close(self) -> None:
        """Hang up; the others notice."""
        for line in self._lines:
            line.close()

    def _meet(self) -> None:
        """Wait until all ranks are here."""
        if self._rank > 0:
            self._lines[0].sendall(b".")
        for line in self._lines:
            if not line.recv(1):
                raise ConnectionError("its line is closed")
        if self._rank == 0:
            for line in self._lines:
                line.sendall(b".")


def reserve(size: int) -> tuple[str, socket.socket] | None:
    """Reserve memory for so many ranks; return its folder and who listens to them.

    None where memory is not to be had.
    """
    if not _FOLDER.is_dir():
        return None
    folder = mkdtemp(prefix="truvae-", dir=_FOLDER)
    with suppress(OSError):
        with open(f"{folder}/pages", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, 2 * size * _PAGE)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(f"{folder}/line")
        listener.listen(size)
        return folder, listener
    shutil.rmtree(folder, ignore_errors=True)
    return None


__all__ = ["Board", "reserve"]
