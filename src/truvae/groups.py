"""Gaussian priors of groups of data points that look alike, and the posterior means under them.

The mean and covariance of points near to each other in a first estimate are a prior of the
noise-free point; the posterior mean under it is the second step of non-local Bayes (Lebrun, Buades
and Morel 2013, doi:10.1137/120874989). Missing entries are left out of the likelihood, so that they
follow from the known ones alone (Yu, Sapiro and Mallat 2012, doi:10.1109/TIP.2011.2176743, do so
with Gaussians that all patches share).

A covariance is given by its n deviations G (n, D): C = G^T G + spare2 I, where spare2 is a variance
that every entry may have besides.
"""

import torch
from torch import Tensor

# What is added to a diagonal, over its trace and the precision of its numbers.
_JITTER = 8


def moments(group: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (B, 1, D) of groups (B, n, D), and the deviations from it over the root of n,
    (B, n, D), whose second moment is the covariance of the group.
    """
    mean = group.mean(1, keepdim=True)
    return mean, (group - mean) / group.shape[1] ** 0.5


def complete(
    x: Tensor, mean: Tensor, deviations: Tensor, sigma2: float, spare2: float
) -> tuple[Tensor, Tensor]:
    """Return the posterior means of data (B, k, D) without gaps under the Gaussians of their groups
    (see `moments`), and the posterior variance of each group, (B,), mean over the entries.

    The gain of the Wiener filter, C (C + sigma2 I)^-1, needs systems of n equations only: with
    t = sigma2 + spare2, it is I - sigma2 / t (I - G^T (G G^T + t I)^-1 G).
    """
    total = sigma2 + spare2
    system = deviations @ deviations.transpose(1, 2)
    system.diagonal(dim1=1, dim2=2).add_(total + _jitter(deviations)[..., 0])
    # Not torch.linalg.solve, which fails for batches of large systems on several threads
    # (github.com/pytorch/pytorch/issues/142815).
    weights = torch.cholesky_solve(deviations, torch.linalg.cholesky(system))
    residual = x - mean
    explained = residual @ deviations.transpose(1, 2) @ weights
    lost = sigma2 / max(total, torch.finfo(mean.dtype).tiny)
    share = (deviations * weights).sum((1, 2)) / x.shape[2]
    variance = sigma2 * torch.lerp(torch.ones_like(share), share, lost)
    return mean + torch.lerp(residual, explained, lost), variance


def incomplete(x: Tensor, mean: Tensor, deviations: Tensor, sigma2: float, spare2: float) -> Tensor:
    """Return the posterior means of data (B, k, D), NaN where missing, under the Gaussians of their
    groups.

    A point is the mean, a sum of the deviations with standard normal coefficients c, and what is
    spare. With O the observed entries, the posterior means are
    c = (G_O G_O^T + t I)^-1 G_O (x - mean)_O with t = sigma2 + spare2, and spare2 / t of what c
    leaves of the deviation. That is a system of n equations for each point, and the same as one of
    D equations with the covariance C: the smaller one is solved.
    """
    known = x.isfinite()
    residual = (x - mean).masked_fill(~known, 0.0)
    solve = _by_coefficients if deviations.shape[1] < deviations.shape[2] else _by_entries
    return mean + solve(deviations, residual, known.to(x), sigma2, spare2)


def _by_coefficients(
    deviations: Tensor, residual: Tensor, known: Tensor, sigma2: float, spare2: float
) -> Tensor:
    """Return estimates (B, k, D) less the mean, by n equations each (see `incomplete`)."""
    observed = deviations[:, None] * known[:, :, None]
    system = (observed.flatten(1, 2) @ deviations.transpose(1, 2)).view(*observed.shape[:3], -1)
    system.diagonal(dim1=2, dim2=3).add_(sigma2 + spare2 + _jitter(deviations))
    right = residual @ deviations.transpose(1, 2)
    coefficients = _solve(system, right)
    signal = coefficients @ deviations
    share = spare2 / max(sigma2 + spare2, torch.finfo(signal.dtype).tiny)
    return signal + share * known * (residual - signal)


def _by_entries(
    deviations: Tensor, residual: Tensor, known: Tensor, sigma2: float, spare2: float
) -> Tensor:
    """Return the same by D equations each, those of missing entries being w = 0."""
    covariance = deviations.transpose(1, 2) @ deviations
    covariance.diagonal(dim1=1, dim2=2).add_(spare2)
    system = covariance[:, None] * known[..., :, None] * known[..., None, :]
    noise = torch.where(known > 0, sigma2 + _jitter(deviations), 1.0)
    system.diagonal(dim1=2, dim2=3).add_(noise)
    return _solve(system, residual) @ covariance


def _solve(system: Tensor, right: Tensor) -> Tensor:
    """Solve positive definite systems (B, k, m, m) with right sides (B, k, m)."""
    factor = torch.linalg.cholesky(system)
    return torch.cholesky_solve(right[..., None], factor)[..., 0]


def _jitter(deviations: Tensor) -> Tensor:
    """Groups of few patches have singular systems, in float32 even a little below zero: (B, 1, 1).

    It is added to the diagonal.
    """
    info = torch.finfo(deviations.dtype)
    trace = deviations.square().sum((1, 2))[:, None, None]
    return (_JITTER * info.eps * trace).clamp(min=info.tiny**0.5)  # equal patches have none


__all__ = ["complete", "incomplete", "moments"]
