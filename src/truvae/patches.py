"""Patches: all overlapping patches of a picture as a view, and their weighted merging."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from truvae.training import Posterior


class Patches:
    """All overlapping P x P patches of a grey picture as data points, never stored.

    Parameters
    ----------
    image
        The picture (R, C), NaN where missing.
    size
        P, at most the smaller side of the picture.

    Examples
    --------
    >>> patches = Patches(torch.arange(12.0).view(3, 4), 2)
    >>> len(patches), patches[torch.tensor([0, 5])]
    (6, tensor([[ 0.,  1.,  4.,  5.],
            [ 6.,  7., 10., 11.]]))
    """

    def __init__(self, image: Tensor, size: int) -> None:
        self.size = size
        self.shape = image.shape
        self._view = image.unfold(0, size, 1).unfold(1, size, 1)
        row = torch.arange(size, device=image.device)[:, None] * self.shape[1]
        self._offsets = (row + torch.arange(size, device=image.device)).flatten()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the grid of patches: (R - P + 1, C - P + 1)."""
        return self._view.shape[0], self._view.shape[1]

    def __len__(self) -> int:
        """Return the number of patches, N = (R - P + 1) (C - P + 1)."""
        return self.grid[0] * self.grid[1]

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return the patches `rows` (B,) as (B, P * P)."""
        width = self._view.shape[1]
        return self._view[rows // width, rows % width].flatten(1)

    def blocks(self, size: int = 1 << 14) -> Iterable[Tensor]:
        """Yield all patches in order, `size` at a time."""
        for rows in torch.arange(len(self), device=self._offsets.device).split(size):
            yield self[rows]

    def mean_observed(self) -> float:
        """Return the mean number of observed entries of a patch."""
        return sum(float(block.isfinite().sum()) for block in self.blocks()) / len(self)

    def pixels(self, rows: Tensor) -> Tensor:
        """Return the flat positions in the picture of the patches `rows`: (B, P * P)."""
        width = self._view.shape[1]
        corner = rows // width * self.shape[1] + rows % width
        return corner[:, None] + self._offsets


def principal_axes(patches: Patches) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean (D,) of all patches, their variances (D,) along their principal axes in
    ascending order, and these axes in columns (D, D), in float64; finite data only.
    """
    dimension = patches.size**2
    total = torch.zeros(dimension, dtype=torch.float64, device=patches._offsets.device)
    moment = total.new_zeros(dimension, dimension)
    for block in patches.blocks():
        total += block.sum(0)
        moment += (block.T @ block).double()
    mean = total / len(patches)
    variances, axes = torch.linalg.eigh(moment / len(patches) - mean.outer(mean))
    return mean, variances, axes


def principal_features(patches: Patches, n_features: int) -> Tensor:
    """Return the leading principal components of all patches: (N, n_features), finite data only."""
    mean, _, axes = principal_axes(patches)
    leading = axes[:, -n_features:].to(torch.float32)
    return torch.cat([(block - mean.float()) @ leading for block in patches.blocks()])


def noise_level(patches: Patches) -> float:
    """Estimate the standard deviation of white noise from all patches of a picture.

    The signal lies in a few principal axes, and the variances along the others are that of the
    noise, scattered evenly around it: the largest ones are left out until the mean of the rest is
    no more than their median (Chen, Zhu and Heng 2015, doi:10.1109/ICCV.2015.62). From one noise
    draw to the next it varies less than the wavelet estimate of scikit-image.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> picture = torch.arange(64.0).expand(64, 64) + 3 * torch.randn(64, 64, generator=g)
    >>> round(noise_level(Patches(picture, 8)))
    3
    """
    _, variances, _ = principal_axes(patches)
    for n in range(len(variances), 1, -1):
        if variances[:n].mean() <= variances[:n].median():
            break
    return math.sqrt(max(float(variances[:n].mean()), 0.0))


def merge(patches: Patches, estimates: Iterable[Posterior], doubt: float) -> Tensor:
    """Average overlapping estimates of patches into a picture (R, C).

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
    """
    device = patches._offsets.device
    total = torch.zeros(patches.shape, dtype=torch.float64, device=device).flatten()
    weight = torch.zeros_like(total)
    for estimate in estimates:
        trust = 1 / (1 + estimate.variance[:, None].double() / doubt)
        place = patches.pixels(estimate.rows).flatten()
        total.index_add_(0, place, (estimate.mean.double() * trust).flatten())
        weight.index_add_(0, place, trust.expand_as(estimate.mean).flatten())
    return (total / weight).view(patches.shape)


def cosine_basis(size: int) -> Tensor:
    """Return the two-dimensional cosine basis (DCT-II) of P x P patches in columns: (P^2, P^2).

    >>> basis = cosine_basis(3)
    >>> torch.allclose(basis.T @ basis, torch.eye(9), atol=1e-6)
    True
    """
    from scipy.fft import dct

    axis = torch.tensor(dct(np.eye(size), norm="ortho", axis=0), dtype=torch.float32)
    return torch.kron(axis, axis).T.contiguous()


__all__ = [
    "Patches",
    "cosine_basis",
    "merge",
    "noise_level",
    "principal_axes",
    "principal_features",
]
