"""Chunks: which data points go through an E-step together, and in which order.

A chunk is a list of groups. The points of a group share one pool in the E-step; the M-step then
goes through the points of the whole chunk in random order. `NearChunks` makes groups of near
neighbours by a random projection tree (doi:10.1145/1374376.1374452): N log N work and memory for
N, where a graph of nearest neighbours takes N^2 work. A new tree for every epoch lets good states
travel through the whole data set.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Chunk = list[Tensor]
"""Groups of row numbers."""
Chunks = Callable[[torch.Generator], list[Chunk]]


@dataclass(frozen=True)
class ShuffledChunks:
    """Chunks of one group of `size` random data points each (the batches of Algorithm 1)."""

    n_data: int
    size: int

    def __call__(self, generator: torch.Generator) -> list[Chunk]:
        """Draw the chunks of one epoch."""
        order = torch.randperm(self.n_data, generator=generator, device=generator.device)
        return [[rows] for rows in order.split(self.size)]


@dataclass(frozen=True)
class NearChunks:
    """Chunks of `per_chunk` random groups, each of about `group` points near to each other.

    Parameters
    ----------
    features
        (N, K), coordinates in which nearness is measured (Euclidean); what is missing, NaN, counts
        as the mean of its coordinate.
    group
        Points in a group.
    per_chunk
        Groups in a chunk.
    """

    features: Tensor
    group: int = 256
    per_chunk: int = 8

    def __post_init__(self) -> None:
        """Fill in what is missing: heights that are not numbers would part no points."""
        missing = self.features.isnan()
        if missing.any():
            means = self.features.nanmean(0).nan_to_num()
            object.__setattr__(self, "features", torch.where(missing, means, self.features))

    def __call__(self, generator: torch.Generator) -> list[Chunk]:
        """Draw the chunks of one epoch."""
        groups = near_groups(self.features, self.group, generator)
        order = torch.randperm(len(groups), generator=generator, device=generator.device).tolist()
        return [
            [groups[i] for i in order[start : start + self.per_chunk]]
            for start in range(0, len(groups), self.per_chunk)
        ]


def rows_of(chunk: Chunk, device: torch.device) -> Tensor:
    """Return the row numbers of all groups of a chunk, which may have none."""
    return torch.cat(chunk) if chunk else torch.empty(0, dtype=torch.long, device=device)


def near_groups(features: Tensor, size: int, generator: torch.Generator) -> list[Tensor]:
    """Split points (N, K) into groups of about `size` neighbours by a random projection tree.

    Every level splits every group at its median along a random direction of its own.

    >>> groups = near_groups(torch.arange(8.0)[:, None], 2, torch.Generator().manual_seed(0))
    >>> sorted(sorted(group.tolist()) for group in groups)
    [[0, 1], [2, 3], [4, 5], [6, 7]]
    """
    features = features if features.is_floating_point() else features.float()
    n, device = len(features), features.device
    depth = max(0, round(math.log2(n / size)))
    order = torch.randperm(n, generator=generator, device=device)
    place = torch.arange(n, device=device)
    for level in range(depth):
        # Position i belongs to group i * 2^level // N: groups differ by one point at most.
        group = place * (1 << level) // n
        direction = torch.randn(1 << level, features.shape[1], generator=generator, device=device)
        height = (features[order] * direction[group].to(features.dtype)).sum(1).double()
        height = (height - height.min()) / (height.max() - height.min()).clamp(min=1e-300)
        order = order[torch.argsort(2 * group + height, stable=True)]
    group = place * (1 << depth) // n
    return list(order.split(torch.bincount(group, minlength=1 << depth).tolist()))


__all__ = ["Chunk", "Chunks", "NearChunks", "ShuffledChunks", "near_groups", "rows_of"]
