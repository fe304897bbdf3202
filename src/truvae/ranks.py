"""Ranks: processes that train one model together, each on data points of its own.

All ranks run the same program. Each keeps a share of the data points and their states; what the
M-step sums over data points is summed over ranks, so that all have the same model, bit for bit.
torchrun starts them (torch.distributed with gloo on CPUs, nccl between GPUs; on one machine numbers
on the CPU go through memory that all see, `board`). One process alone is `ALONE`: nothing is sent,
and torch.distributed is never used.
"""

import atexit
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import chain, islice, repeat
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from truvae import torchrun
from truvae.board import Board, reserve
from truvae.errors import InputError, RankError

T = TypeVar("T")

# How long a rank waits for the others before it gives up. They wait while rank 0 reads and checks.
_TIMEOUT = timedelta(minutes=10)
# Ranges of data points of each rank.
_RANGES = 8
_COMBINE: dict[str, Callable[..., Tensor]] = {"SUM": torch.add, "MAX": torch.maximum}


@dataclass(frozen=True)
class Ranks:
    """The processes of a job, as one of them sees them.

    Methods that send something must be called by all ranks, in the same order.

    Parameters
    ----------
    rank
        The number of this process, from 0.
    size
        How many there are.
    board
        Memory that all of them see, if they have it.

    Examples
    --------
    >>> ALONE.share(3), ALONE.sum(1, 2.5), ALONE.any(False)
    (tensor([0, 1, 2]), (1, 2.5), False)
    >>> Ranks(1, 2).share(32)
    tensor([ 2,  3,  6,  7, 10, 11, 14, 15, 18, 19, 22, 23, 26, 27, 30, 31])
    """

    rank: int = 0
    size: int = 1
    board: Board | None = field(default=None, repr=False, compare=False)

    @classmethod
    def join(cls, device: torch.device) -> "Ranks":
        """Join the job that torchrun started, to compute on a kind of device; `ALONE` without one.

        A process group that exists already is used as it is.

        Raises
        ------
        InputError
            If there are more processes than GPUs to compute on.
        """
        if torchrun.size() == 1:
            return ALONE
        import torch.distributed as dist

        if not dist.is_initialized():
            on_gpu = device.type == "cuda"
            if on_gpu:
                _take_gpu(torchrun.local_rank())
            with _told():
                # Numbers that ranks agree on are on the CPU, also where the model is not.
                dist.init_process_group(
                    "cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_TIMEOUT
                )
            atexit.register(dist.destroy_process_group)  # its threads must not outlive Python
        ranks = cls(dist.get_rank(), dist.get_world_size())
        return replace(ranks, board=_board(ranks)) if torchrun.on_one_machine() else ranks

    # What is whose

    def share(self, n: int) -> Tensor:
        """Return which of n items are those of this rank: some ranges, far from each other.

        Whole ranges, since patches look like those beside them and near data points learn from each
        other; several, so that each rank has its part of what is easy and what is not.
        """
        return torch.cat(torch.arange(n).tensor_split(_RANGES * self.size)[self.rank :: self.size])

    def own(self, rows: Tensor) -> Tensor:
        """Return those of some rows that are this rank's `share`."""
        return rows if self.size == 1 else rows[self.share(len(rows))]

    def check_enough(self, n: int, what: str) -> None:
        """Raise an `InputError` if n data points are too few for each rank to have one."""
        if n < self.size:
            raise InputError(f"{n} {what} are too few for {self.size} processes: start fewer")

    def part(self, n: int) -> int:
        """Return how many of n items this rank takes; each takes one at least."""
        return max(len(self.share(n)), 1)

    def mine(self, items: Iterable[T]) -> Iterable[T]:
        """Return every `size`-th of the items, for work that is the same wherever it is done."""
        return islice(items, self.rank, None, self.size)

    def in_step(self, items: Sequence[T], nothing: T) -> Iterator[T]:
        """Yield the items of this rank, then `nothing` until those of all ranks are through."""
        n = int(self.most(len(items)))
        return islice(chain(items, repeat(nothing)), n)

    def fork(self, generator: torch.Generator) -> torch.Generator:
        """Return a generator for the draws of this rank.

        The one given, which is in the same state on all ranks, goes on in the same way on all; what
        is drawn follows from its state, the rank and the number of ranks. Alone, it is the same.
        """
        return generator if self.size == 1 else fork(generator, self.rank)

    # What all have in common

    def first(self, compute: Callable[[], T]) -> T:
        """Return what rank 0 computes; the others do not."""
        if self.size == 1:
            return compute()
        import torch.distributed as dist

        told: list[Any] = [compute() if self.rank == 0 else None]
        with _told():
            dist.broadcast_object_list(told, src=0)
        found: T = told[0]
        return found

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors by those of rank 0."""
        if self.size == 1:
            return
        import torch.distributed as dist

        with _told(), torch.no_grad():
            for tensor in tensors:
                whole = tensor.contiguous()
                dist.broadcast(whole, src=0)
                tensor.copy_(whole)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors of one type by their sums over all ranks, in one message."""
        if self.size == 1:
            return
        whole = torch.cat([tensor.flatten() for tensor in tensors])
        self._reduce(whole, "SUM")
        for tensor, part in zip(tensors, whole.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def sum(self, *numbers: float) -> tuple[float, ...]:
        """Return the sums of numbers over all ranks."""
        if self.size == 1:
            return numbers
        total = torch.tensor(numbers, dtype=torch.float64)
        self._reduce(total, "SUM")
        return tuple(total.tolist())

    def mean(self, value: float, weight: float) -> float:
        """Return the mean of a number over all ranks, each with its weight."""
        if self.size == 1:
            return value
        total, weight = self.sum(value * weight, weight)
        return total / weight

    def most(self, number: float) -> float:
        """Return the largest of the numbers of all ranks."""
        if self.size == 1:
            return number
        largest = torch.tensor(number, dtype=torch.float64)
        self._reduce(largest, "MAX")
        return float(largest)

    def any(self, flag: bool) -> bool:
        """Tell whether a flag is true on any rank."""
        return bool(self.most(flag))

    def mean_gradients_(self, parameters: Iterable[nn.Parameter], weight: float) -> None:
        """Overwrite gradients by their means over all ranks, each with its weight, in one message.

        With gradients of means over so many numbers, that is the gradient of the mean over all.
        """
        if self.size == 1:
            return
        learned = [p for p in parameters if p.requires_grad]
        parts = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in learned]
        whole = torch.cat([*parts, parts[0].new_ones(1)]).mul_(weight)
        self._reduce(whole, "SUM")
        whole = whole[:-1].div_(whole[-1])
        for p, part in zip(learned, whole.split([p.numel() for p in learned]), strict=True):
            p.grad = part.view_as(p)

    def gather(self, rows: Tensor, n: int) -> Tensor:
        """Put the rows of all ranks, n in all, together; each has its `share` of them."""
        if self.size == 1:
            return rows
        whole = rows.new_zeros(n, *rows.shape[1:])
        whole[self.share(n)] = rows
        self._reduce(whole, "SUM")
        return whole

    def _reduce(self, tensor: Tensor, how: str) -> None:
        import torch.distributed as dist

        with _told():
            if self.board is not None and tensor.device.type == "cpu":
                self.board.reduce_(tensor, _COMBINE[how])
            else:
                dist.all_reduce(tensor, getattr(dist.ReduceOp, how))


def fork(generator: torch.Generator, number: int = 0) -> torch.Generator:
    """Return a generator whose draws follow from a number and the state of another one, which goes
    on.

    Examples
    --------
    >>> one, two = (fork(torch.Generator().manual_seed(0), i) for i in range(2))
    >>> one.initial_seed() + 1 == two.initial_seed()
    True
    """
    seed = torch.randint(1 << 62, (), generator=generator, device=generator.device)
    return torch.Generator(generator.device).manual_seed(int(seed) + number)


ALONE = Ranks()
"""One process."""


def _board(ranks: Ranks) -> Board | None:
    """Return memory that all ranks see; None where it is not to be had."""
    reserved = reserve(ranks.size) if ranks.rank == 0 else None
    folder = ranks.first(lambda: reserved and reserved[0])
    if folder is None:
        return None
    listener = reserved and reserved[1]
    with _told():
        board = Board(folder, ranks.rank, ranks.size, listener, _TIMEOUT.total_seconds())
    atexit.register(board.close)
    return board


def _take_gpu(number: int) -> None:
    """Let this process compute on the GPU of this number."""
    n = torch.cuda.device_count()
    if number >= n:
        raise InputError(
            f"{n} GPUs are too few for the processes on this machine, each of which needs one: "
            f"start {n} of them, or take --device cpu"
        )
    torch.cuda.set_device(number)


@contextmanager
def _told() -> Iterator[None]:
    """Tell what goes wrong between processes in one line."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RankError(f"another process of the job has ended, or is stuck: {reason}") from error


__all__ = ["ALONE", "Ranks", "fork"]
