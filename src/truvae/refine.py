"""The second look: every patch again, with its nearest patches in the first estimate as its prior.

The model describes all patches of a picture with one decoder. Once its estimate is there, the
patches around a place that look most alike in it tell more about that place: their mean and
covariance are a Gaussian prior of the noise-free patch, and the posterior mean under it is the
second step of non-local Bayes (Lebrun, Buades and Morel 2013, doi:10.1137/120874989).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from truvae.patches import Patches, merge
from truvae.training import Posterior

# References lie on every second pixel, in tiles of 8 x 8 that share their candidates.
_STRIDE, _TILE = 2, 8
# The error of a patch estimate that its posterior variance does not know of, in units of the noise.
_DOUBT = 0.02


@torch.no_grad()
def refine(
    noisy: Tensor, estimate: Tensor, sigma: float, size: int, n_near: int = 32, reach: int = 20
) -> Tensor:
    """Restore a picture once more, given a first estimate of it.

    Missing pixels take the values of the estimate: at the fixed point of repeated calls they are
    their posterior means, as if they had been left out.

    Parameters
    ----------
    noisy
        The noisy picture (R, C), NaN where missing.
    estimate
        The first estimate (R, C), finite.
    sigma
        Standard deviation of the noise, in units of the picture.
    size
        P: patches are P x P pixels; at most the smaller side of the picture.
    n_near
        Nearest patches that make a prior.
    reach
        How many pixels around a tile of references to look for them.

    Returns
    -------
    The second estimate (R, C).

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> clean = torch.arange(32.0).div(8).floor().expand(32, 32)
    >>> noisy = clean + 0.5 * torch.randn(32, 32, generator=g)
    >>> first = torch.nn.functional.avg_pool2d(noisy[None], 3, 1, 1, count_include_pad=False)[0]
    >>> second = refine(noisy, first, 0.5, 6)
    >>> errors = [float((x - clean).square().mean().sqrt()) for x in (noisy, first, second)]
    >>> errors == sorted(errors, reverse=True)
    True
    """
    observed = torch.where(noisy.isfinite(), noisy, estimate)
    data, pilot = Patches(observed, size), Patches(estimate, size)
    n_near = min(n_near, len(data))
    posteriors = (
        _posterior(data, pilot, _nearest(pilot, references, near, n_near), sigma**2)
        for references, near in _tiles(pilot.grid, reach, noisy.device)
    )
    return merge(data, posteriors, _DOUBT * sigma**2)


def _tiles(
    grid: tuple[int, int], reach: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the row numbers of the references of each tile, and of the patches around it."""
    rows, columns = ([*range(0, n - 1, _STRIDE), n - 1] for n in grid)
    for i in range(0, len(rows), _TILE):
        for j in range(0, len(columns), _TILE):
            tile = rows[i : i + _TILE], columns[j : j + _TILE]
            around = _around(tile[0], reach, grid[0]), _around(tile[1], reach, grid[1])
            yield _numbers(tile, grid[1], device), _numbers(around, grid[1], device)


def _around(places: list[int], reach: int, n: int) -> list[int]:
    return [*range(max(0, places[0] - reach), min(n, places[-1] + reach + 1))]


def _numbers(axes: tuple[list[int], list[int]], width: int, device: torch.device) -> Tensor:
    """Return the row numbers of the patches at all pairs of rows and columns."""
    row, column = (torch.tensor(axis, device=device) for axis in axes)
    return (row[:, None] * width + column).flatten()


def _nearest(patches: Patches, references: Tensor, candidates: Tensor, n: int) -> Tensor:
    """Return the `n` candidates nearest to each reference in Euclidean distance: (B, n)."""
    distance = torch.cdist(patches[references], patches[candidates])
    nearest = distance.topk(min(n, len(candidates)), largest=False, sorted=False).indices
    return candidates[nearest]


def _posterior(data: Patches, pilot: Patches, near: Tensor, sigma2: float) -> Posterior:
    """Return the posterior of the patches of each group (B, K) under the Gaussian of the group."""
    shape = (*near.shape, data.size**2)
    rows = near.flatten()
    prior = pilot[rows].view(shape)
    mean = prior.mean(1, keepdim=True)
    centred = prior - mean
    covariance = centred.transpose(1, 2) @ centred / near.shape[1]
    noise = sigma2 * torch.eye(shape[-1], device=near.device)
    gain = torch.linalg.solve(covariance + noise, covariance)
    estimate = mean + (data[rows].view(shape) - mean) @ gain
    variance = sigma2 * gain.diagonal(dim1=1, dim2=2).mean(1, keepdim=True)
    return Posterior(rows, estimate.flatten(0, 1), variance.expand(near.shape).flatten())


__all__ = ["refine"]
