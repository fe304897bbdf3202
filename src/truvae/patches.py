"""Patches: all overlapping patches of a picture as a view, and their weighted merging."""

from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from truvae.ranks import ALONE, Ranks
from truvae.training import Posterior


class Patches:
    """All overlapping P x P patches of a picture, or of frames, as data points, never stored.

    The entries of a patch go channel by channel, each row by row: D = K P^2 for K channels. A
    recording is a picture (1, n, K) of one row, and its windows are patches of 1 x P.

    Parameters
    ----------
    image
        The picture (R, C) or (R, C, K), or frames (F, R, C, K); NaN where missing.
    size
        P, at most the smaller side of the picture; or both sides, rows and columns of a patch.
    rows
        Some of the patches, to have these alone as data points; None for all.

    Examples
    --------
    >>> patches = Patches(torch.arange(12.0).view(3, 4), 2)
    >>> len(patches), patches[torch.tensor([0, 5])]
    (6, tensor([[ 0.,  1.,  4.,  5.],
            [ 6.,  7., 10., 11.]]))
    """

    def __init__(
        self, image: Tensor, size: int | tuple[int, int], rows: Tensor | None = None
    ) -> None:
        self.sides = _sides(size)
        self.shape = image.shape
        self.device = image.device
        self._rows = rows
        frames = image if image.ndim == 4 else image.view(1, *image.shape[:2], -1)
        self._frames, self.n_channels = frames, frames.shape[3]
        self._view = frames.unfold(1, self.sides[0], 1).unfold(2, self.sides[1], 1)
        self._width = frames.shape[2]
        row, column, channel = (
            torch.arange(n, device=image.device) for n in (*self.sides, self.n_channels)
        )
        pixel = row[:, None] * self._width + column
        self._offsets = (pixel * self.n_channels + channel[:, None, None]).flatten()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the grid of patches: (R - P + 1, C - P + 1)."""
        return self._view.shape[1], self._view.shape[2]

    @property
    def places(self) -> tuple[int, int, int]:
        """Frames, and rows and columns of the grid of patches in each."""
        return len(self._view), *self.grid

    @property
    def n_entries(self) -> int:
        """D, entries of a patch: P^2 (or the product of its sides) for each channel."""
        return len(self._offsets)

    def __len__(self) -> int:
        """Return the number of patches, N = F (R - P + 1) (C - P + 1) if it is all."""
        if self._rows is not None:
            return len(self._rows)
        return len(self._view) * self.grid[0] * self.grid[1]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return the patches `rows` (B,) as (B, D)."""
        return self._view[self._corners(rows)].flatten(1)

    def some(self, rows: Tensor) -> "Patches":
        """Return the patches `rows` (B,) alone, as data points; still a view."""
        found = copy(self)
        found._rows = rows if self._rows is None else self._rows[rows]
        return found

    def resized(self, size: int) -> "Patches":
        """Return all patches of another size of the same picture, or of all of it if that is less.

        >>> Patches(torch.zeros(5, 7), 2).resized(6).sides
        (5, 6)
        """
        rows, columns = self._frames.shape[1:3]
        return Patches(self._frames, (min(size, rows), min(size, columns)))

    def lattice(self, stride: int) -> Tensor:
        """Return the numbers of patches that cover all pixels: those on every `stride`-th row and
        column of the grid, every one if patches are smaller, and on the last ones.

        >>> Patches(torch.zeros(5, 7), 2).lattice(2)
        tensor([ 0,  2,  4,  5, 12, 14, 16, 17, 18, 20, 22, 23])
        """
        row, column = (
            torch.tensor(every(n, min(stride, side)), device=self.device)
            for n, side in zip(self.grid, self.sides, strict=True)
        )
        frame = torch.arange(len(self._view), device=self.device)[:, None, None] * self.grid[0]
        return ((frame + row[:, None]) * self.grid[1] + column).flatten()

    def box(self, frames: slice, rows: slice, columns: slice) -> tuple[slice, slice, slice]:
        """Return the pixels of the patches that begin in a box of places, by frame, row, column."""
        high, wide = (side - 1 for side in self.sides)
        return (
            frames,
            slice(rows.start, rows.stop + high),
            slice(columns.start, columns.stop + wide),
        )

    def cut(self, frames: slice, rows: slice, columns: slice) -> "Patches":
        """Return all patches that begin in a box of places, as those of a part of the frames."""
        return Patches(self._frames[self.box(frames, rows, columns)], self.sides)

    def begin_in(self, frames: slice, rows: slice, columns: slice) -> Tensor:
        """Tell which patches begin in a box of places: (N,), True or False."""
        boxes = frames, rows, columns
        places = self._corners(torch.arange(len(self), device=self.device))
        inside = torch.ones(len(self), dtype=torch.bool, device=self.device)
        for place, box in zip(places, boxes, strict=True):
            inside &= (place >= box.start) & (place < box.stop)
        return inside

    def blocks(self, size: int = 1 << 14) -> Iterable[Tensor]:
        """Yield all patches in order, `size` at a time."""
        for rows in torch.arange(len(self), device=self.device).split(size):
            yield self[rows]

    def mean_observed(self) -> Tensor:
        """Return the mean number of observed entries of a patch in each channel: (K,)."""
        known = (b.isfinite().view(len(b), self.n_channels, -1).sum((0, 2)) for b in self.blocks())
        return torch.stack([*known]).sum(0).double() / len(self)

    def pixels(self, rows: Tensor) -> Tensor:
        """Return the flat positions in the picture of the patches `rows`: (B, D)."""
        frame, row, column = self._corners(rows)
        height = self.grid[0] + self.sides[0] - 1
        corner = ((frame * height + row) * self._width + column) * self.n_channels
        return corner[:, None] + self._offsets

    def _corners(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return frame, row and column of the first pixels of patches."""
        rows = rows if self._rows is None else self._rows[rows]
        n_rows, n_columns = self.grid
        line = rows // n_columns
        return line // n_rows, line % n_rows, rows % n_columns


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return rows and columns of a patch, of a square one if only one number is given."""
    return size if isinstance(size, tuple) else (size, size)


def every(n: int, stride: int) -> list[int]:
    """Return every `stride`-th of n places, and the last one.

    >>> every(6, 2)
    [0, 2, 4, 5]
    """
    return [*range(0, n - 1, stride), n - 1]


def principal_axes(patches: Patches) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean (D,) of all patches, their variances (D,) along their principal axes in
    ascending order, and these axes in columns (D, D), in float64.

    Of incomplete patches each covariance is that of the entries observed together.
    """
    total = torch.zeros(patches.n_entries, dtype=torch.float64, device=patches.device)
    moment = total.new_zeros(patches.n_entries, patches.n_entries)
    together = moment.clone()
    for block in patches.blocks():
        known = block.isfinite()
        block = block.masked_fill(~known, 0.0)
        total += block.sum(0)
        moment += (block.T @ block).double()
        together += (known.float().T @ known.float()).double()
    together = together.clamp(min=1)
    mean = total / together.diagonal()
    variances, axes = torch.linalg.eigh(moment / together - mean.outer(mean))
    return mean, variances, axes


@dataclass(frozen=True)
class Features:
    """Coordinates of patches in which near ones look alike: leading principal components.

    >>> g = torch.Generator().manual_seed(0)
    >>> patches = Patches(torch.randn(9, 9, generator=g), 3)
    >>> Features.of(patches, 4)(patches).shape
    torch.Size([49, 4])
    """

    mean: Tensor
    """(D,), the mean patch."""
    axes: Tensor
    """(D, n), the leading principal axes in columns."""

    @classmethod
    def of(cls, patches: Patches, n_features: int) -> "Features":
        """Find the leading axes of patches."""
        mean, _, axes = principal_axes(patches)
        return cls(mean.float(), axes[:, -n_features:].float())

    def __call__(self, patches: Patches) -> Tensor:
        """Return the coordinates (N, n) of patches without gaps."""
        return torch.cat([(block - self.mean) @ self.axes for block in patches.blocks()])


def merge(
    patches: Patches, estimates: Iterable[Posterior], doubt: float, ranks: Ranks = ALONE
) -> Tensor:
    """Average overlapping estimates of patches into a picture, in the shape of `patches.shape`.

    Parameters
    ----------
    patches
        Where the estimates belong.
    estimates
        Posterior moments of all patches, in any order and grouping.
    doubt
        Each patch weighs 1 / (1 + v / doubt), with v its posterior variance: the part of the
        error that the model does not know of, in squared units of the data; infinite for
        equal weights.
    ranks
        Processes, each of which has the estimates of some patches; all get the whole picture.
    """
    total, weight = weighted_sum(patches, estimates, doubt)
    ranks.sum_([total, weight])
    return total.div_(weight)


def weighted_sum(
    patches: Patches, estimates: Iterable[Posterior], doubt: float
) -> tuple[Tensor, Tensor]:
    """Return what `merge` divides: at each pixel the sum of the estimates, each with its weight,
    and that of the weights, float64, in the shape of `patches.shape`.
    """
    (total,), weight = _sums(patches, estimates, doubt, 1, lambda of: (of.mean,))
    return total, weight


def merge_moments(
    patches: Patches, estimates: Iterable[Posterior], doubt: float
) -> tuple[Tensor, Tensor]:
    """Return what `merge` does, and the mean posterior variance of the patches around each pixel
    with the same weights, in the same shape.
    """
    (mean, variance), weight = _sums(
        patches,
        estimates,
        doubt,
        2,
        lambda of: (of.mean, of.variance[:, None].expand_as(of.mean)),
    )
    return mean.div_(weight), variance.div_(weight)


def _sums(
    patches: Patches,
    estimates: Iterable[Posterior],
    doubt: float,
    n_values: int,
    values_of: Callable[[Posterior], tuple[Tensor, ...]],
) -> tuple[list[Tensor], Tensor]:
    """Return the weighted sums of each of some values (B, D) of the patches around each pixel, and
    the sum of their weights.
    """
    doubt = max(doubt, torch.finfo(torch.float64).tiny)  # without noise there is none
    zeros = torch.zeros(patches.shape.numel(), dtype=torch.float64, device=patches.device)
    totals, weight = [zeros.clone() for _ in range(n_values)], zeros.clone()
    for estimate in estimates:
        trust = 1 / (1 + estimate.variance[:, None].double() / doubt)
        place = patches.pixels(estimate.rows).flatten()
        for total, value in zip(totals, values_of(estimate), strict=True):
            total.index_add_(0, place, (value.double() * trust).flatten())
        weight.index_add_(0, place, trust.expand_as(estimate.mean).flatten())
    return [total.view(patches.shape) for total in totals], weight.view(patches.shape)


def cosine_basis(size: int | tuple[int, int], n_channels: int = 1) -> Tensor:
    """Return the cosine basis (DCT-II) of patches with K channels in columns: (D, D).

    `size` is P, or both sides, as of `Patches`. Across the channels it is the cosine transform too,
    which parts brightness from colour.

    >>> basis = cosine_basis(3, 2)
    >>> torch.allclose(basis.T @ basis, torch.eye(18), atol=1e-6)
    True
    """
    return cosine_transform(n_channels, *_sides(size))


def cosine_transform(*lengths: int) -> Tensor:
    """Return the cosine basis of arrays of this shape, flattened, in columns.

    >>> cosine_transform(1, 4)[:, 0]
    tensor([0.5000, 0.5000, 0.5000, 0.5000])
    """
    from scipy.fft import dct

    axes = [dct(np.eye(n), norm="ortho", axis=0) for n in lengths]
    return torch.tensor(reduce(np.kron, axes).T, dtype=torch.float32).contiguous()


__all__ = [
    "Features",
    "Patches",
    "cosine_basis",
    "cosine_transform",
    "every",
    "merge",
    "merge_moments",
    "principal_axes",
    "weighted_sum",
]
