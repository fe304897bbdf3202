"""The second look: every patch again, with its nearest patches in the first estimate as its prior.

The model describes all patches of a picture with one decoder. Once its estimate is there, the
patches around a place that look most alike in it tell more about that place: their mean and
covariance are a Gaussian prior of the noise-free patch, and the posterior mean under it is the
second step of non-local Bayes (Lebrun, Buades and Morel 2013, doi:10.1137/120874989). Missing
pixels are left out of the likelihood, so that they follow from the known ones alone (Yu, Sapiro
and Mallat 2012, doi:10.1109/TIP.2011.2176743, do so with Gaussians that all patches share).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import TypeVar

import torch
from torch import Tensor

from truvae.chunks import near_groups
from truvae.patches import Patches, every, merge, merge_moments
from truvae.ranks import ALONE, Ranks
from truvae.threads import side_by_side
from truvae.training import Posterior

T = TypeVar("T")

_Tile = tuple[list[int], list[int], list[int]]

# References lie on every third row and column (every second one costs twice the time and gains less
# than 0.01 dB), where pixels are missing on every second one; those in tiles of so many pixels
# share their candidates, which lie in so many frames before and after theirs, too.
_STRIDE, _DENSE, _TILE, _FRAMES = 3, 2, 16, 3
# Candidates of which copies are made at a time.
_COMPARED = 1 << 13
# Patches count as those that differ by nothing but noise if their estimates do by less than this
# share of its variance, twice as many as are needed are such, and their noisy means vary by no more
# than noise makes them, and this share.
_ALIKE, _ENOUGH, _TOO_VARIED = 0.1, 2, 1.05
# Multiples of these, modulo 65536, are spread evenly, by frame, row and column of a place.
_STEPS, _MODULUS = (40503, 49472, 37345), 0x10000
# Where pixels are missing every patch has a system of equations of its own: so many patches of a
# group are estimated, those nearest to the reference.
_ESTIMATED = 8
# What is added to a diagonal, over its trace and the precision of its numbers.
_JITTER = 8
# The error of a patch estimate that its posterior variance does not know of, in units of the noise.
_DOUBT = 0.02
# Of a recording: seconds of a window, and how far around it to look for those most like it; the
# windows that make a prior, the share of a window from one reference to the next, and the
# references that share their candidates.
_WINDOW, _REACH, _NEAR, _STEP, _TOGETHER = 150 / 16_000, 0.05, 64, 1 / 3, 16
# Rows of a table among which similar ones are looked for, and rows estimated at a time.
_LEAF, _ROWS = 4096, 256


@torch.no_grad()
def refine(
    noisy: Tensor,
    estimate: Tensor,
    sigma: float,
    size: int,
    *,
    n_near: int = 32,
    reach: int = 20,
    spare: float = 0.0,
    go_on: Callable[[float], bool] = lambda done: True,
    ranks: Ranks = ALONE,
) -> Tensor:
    """Restore a picture once more, given a first estimate of it.

    In a stack the patches most alike are looked for in the frames before and after, too: where
    these show the same place, or what has moved there, they tell more of it than one frame does.

    Parameters
    ----------
    noisy
        The noisy picture (R, C) or (R, C, K), or frames (F, R, C, K), NaN where missing.
    estimate
        The first estimate, same shape, finite.
    sigma
        Standard deviation of the noise, in units of the picture.
    size
        P: patches are P x P pixels; at most the smaller side of the picture.
    n_near
        Nearest patches that make a prior.
    reach
        How many pixels around a tile of references to look for them.
    spare
        Standard deviation, in units of the picture, that every pixel may have besides the
        covariance of the nearest patches; it keeps priors of fewer patches than entries open.
    go_on
        Asked before a tile is taken, up to eight for each thread ahead, with the share of the tiles
        that were; it need not ask other ranks.
    ranks
        Processes that share the tiles; all get the whole estimate.

    Returns
    -------
    The second estimate, same shape; `estimate` itself if `go_on` said False on any rank.

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
    data, pilot = Patches(noisy, size), Patches(estimate.to(noisy), size)
    n_near = min(n_near, len(data))
    complete = bool(noisy.isfinite().all())
    posterior_of = _complete if complete else _incomplete
    stride = min(_STRIDE if complete else _DENSE, size)
    reaches = _FRAMES, reach, reach
    means = _means(data) if complete else None
    tiles = deque(ranks.mine(_tiles(pilot.places, stride)))

    @torch.no_grad()
    def look(tile: _Tile) -> Posterior:
        around = [_around(*axis) for axis in zip(tile, reaches, pilot.places, strict=True)]
        references, candidates = (_numbers(x, pilot.places, noisy.device) for x in (tile, around))
        distance = _distances(pilot, references, candidates)
        if means is not None:
            order, first = (_order(x, pilot.places) for x in (candidates, references))
            drawn = (order - first[:, None]) % _MODULUS / _MODULUS
            distance = _scattered(distance, drawn, means[candidates], n_near, sigma, data.n_entries)
        near = _nearest(distance, references, candidates, n_near)
        return posterior_of(data, pilot, near, sigma**2, spare**2)

    # Threads inside of these small steps do not speed them up.
    posteriors = side_by_side(look, _while(go_on, tiles), noisy.device)
    refined = merge(data, posteriors, _DOUBT * sigma**2, ranks)
    return estimate if ranks.any(bool(tiles)) else refined


@torch.no_grad()
def refine_recording(
    noisy: Tensor, estimate: Tensor, sigma: float, sample_rate: float
) -> tuple[Tensor, Tensor]:
    """Restore a recording once more, given a first estimate of it.

    A voice repeats itself from one period to the next: the windows most alike within 50 ms are the
    prior of each other.

    Parameters
    ----------
    noisy
        (n, K), without gaps.
    estimate
        The first estimate, same shape.
    sigma
        Standard deviation of the noise, in units of the recording.
    sample_rate
        Samples a second.

    Returns
    -------
    The second estimate, (n, K), and its variance where the first one is right.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> clean = torch.sin(torch.arange(4000.0) * 0.1)[:, None]
    >>> noisy = clean + 0.3 * torch.randn(4000, 1, generator=g)
    >>> second, _ = refine_recording(noisy, clean, 0.3, 16_000)
    >>> bool((second - clean).square().mean() < (noisy - clean).square().mean() / 5)
    True
    """
    length = min(max(8, round(_WINDOW * sample_rate)), len(noisy))
    data, pilot = (Patches(x[None], (1, length)) for x in (noisy, estimate.to(noisy)))
    reach, last = round(_REACH * sample_rate), len(data)
    references = data.lattice(max(1, round(_STEP * length)))

    @torch.no_grad()
    def look(some: Tensor) -> Posterior:
        first, end = max(0, int(some[0]) - reach), min(last, int(some[-1]) + reach + 1)
        around = torch.arange(first, end, device=noisy.device)
        near = _nearest(_distances(pilot, some, around), some, around, _NEAR)
        return _complete(data, pilot, near, sigma**2, 0.0)

    posteriors = side_by_side(look, references.split(_TOGETHER), noisy.device)
    mean, variance = merge_moments(data, posteriors, _DOUBT * sigma**2)
    return mean[0], variance[0]


@torch.no_grad()
def refine_rows(
    x: Tensor,
    estimate: Tensor,
    references: Tensor,
    sigma: float,
    generator: torch.Generator,
    n_near: int = 64,
) -> Tensor:
    """Estimate rows of a table once more, each under the Gaussian of the rows most like it.

    Parameters
    ----------
    x
        The noisy rows (N, D), NaN where missing.
    estimate
        A first estimate of them, (N, D), finite.
    references
        (M, D), complete rows among which similar ones are looked for.
    sigma
        Standard deviation of the noise, in units of the data.
    generator
        Source of randomness of the trees by which similar rows are found.
    n_near
        Similar rows that make a prior, if there are so many.

    Returns
    -------
    The posterior means of the noise-free rows given their known entries, (N, D).

    Examples
    --------
    >>> references = torch.arange(60.0).outer(torch.tensor([1.0, 2.0]))  # on a line
    >>> x = torch.tensor([[20.0, torch.nan]])
    >>> g = torch.Generator().manual_seed(0)
    >>> refine_rows(x, torch.tensor([[19.0, 42.0]]), references, 0.1, g, 8).round(decimals=1)
    tensor([[20., 40.]])
    """
    n_references, known = len(references), x.isfinite()
    pilot = torch.where(known, x.nan_to_num(), estimate)
    refined = estimate.clone()
    for group in near_groups(torch.cat([references, pilot]), _LEAF, generator):
        near, rows = group[group < n_references], group[group >= n_references] - n_references
        if len(near) > 1:
            for part in rows.split(_ROWS):
                distance = torch.cdist(pilot[part], references[near])
                nearest = distance.topk(min(n_near, len(near)), largest=False).indices
                moments = _moments(references[near[nearest]])
                refined[part] = _conditional(x[part][:, None], *moments, sigma**2, 0.0)[:, 0]
    return refined


def _conditional(
    x: Tensor, mean: Tensor, deviations: Tensor, sigma2: float, spare2: float
) -> Tensor:
    """Return the posterior means of data (B, k, D), NaN where missing, under the Gaussians of their
    groups (see `_moments` and `_incomplete`).
    """
    known = x.isfinite()
    residual = (x - mean).masked_fill(~known, 0.0)
    solve = _by_coefficients if deviations.shape[1] < deviations.shape[2] else _by_entries
    return mean + solve(deviations, residual, known.to(x), sigma2, spare2)


def _tiles(places: tuple[int, int, int], stride: int) -> Iterator[_Tile]:
    """Yield the frame, the rows and the columns of the references of each tile."""
    n_frames, *grid = places
    rows, columns = (every(n, stride) for n in grid)
    side = _TILE // stride
    for frame, i, j in product(
        range(n_frames), range(0, len(rows), side), range(0, len(columns), side)
    ):
        yield [frame], rows[i : i + side], columns[j : j + side]


def _while(go_on: Callable[[float], bool], left: deque[T]) -> Iterator[T]:
    """Take items and yield them, until `go_on`, told the share that is taken, says False."""
    n = len(left)
    while left and go_on(1 - len(left) / n):
        yield left.popleft()


def _around(some: list[int], reach: int, n: int) -> list[int]:
    return [*range(max(0, some[0] - reach), min(n, some[-1] + reach + 1))]


def _numbers(
    axes: Sequence[list[int]], places: tuple[int, int, int], device: torch.device
) -> Tensor:
    """Return the row numbers of the patches at all frames, rows and columns of some."""
    frame, row, column = (torch.tensor(axis, device=device) for axis in axes)
    first = frame[:, None, None] * places[1] + row[:, None]
    return (first * places[2] + column).flatten()


def _distances(patches: Patches, references: Tensor, candidates: Tensor) -> Tensor:
    """Return the Euclidean distances of references from candidates, (B, m)."""
    from_here = patches[references]
    parts = (torch.cdist(from_here, patches[some]) for some in candidates.split(_COMPARED))
    return torch.cat([*parts], 1)


def _means(patches: Patches) -> Tensor:
    """Return the mean of each channel of patches, (N, K)."""
    blocks = (block.view(len(block), patches.n_channels, -1) for block in patches.blocks())
    return torch.cat([block.mean(2) for block in blocks])


def _order(numbers: Tensor, places: tuple[int, int, int]) -> Tensor:
    """Return numbers of patches as others, which are spread evenly modulo `_MODULUS` wherever they
    begin in a row or a column.
    """
    _, rows, columns = places
    by_frame, by_row, by_column = _STEPS
    frame, row, column = numbers // (rows * columns), numbers // columns % rows, numbers % columns
    return frame * by_frame + row * by_row + column * by_column


def _scattered(
    distance: Tensor, drawn: Tensor, means: Tensor, n: int, sigma: float, n_entries: int
) -> Tensor:
    """Return distances (B, m) by which neighbours are drawn evenly of all patches that are alike,
    where these seem to differ by nothing but noise.

    Those nearest in an estimate would be those that share its error, so that it stays in their
    average. Weak texture that does not change the mean of a patch passes for noise.

    Parameters
    ----------
    distance
        Between estimates of patches.
    drawn
        (B, m), numbers in [0, 1): those with the least are drawn.
    means
        Of each channel of the candidates as they are, noisy, (m, K).
    n
        How many neighbours are needed.
    sigma
        Standard deviation of the noise.
    n_entries
        Of a patch.
    """
    most = sigma * (_ALIKE * n_entries) ** 0.5
    alike = distance < most
    weights, means = alike.double(), means.double()  # of a difference between squares
    count = weights.sum(1, keepdim=True).clamp(min=1)
    variance = weights @ means.square() / count - (weights @ means / count).square()
    by_noise = sigma**2 * means.shape[1] / n_entries
    even = (variance <= _TOO_VARIED * by_noise).all(1, keepdim=True) & (count >= _ENOUGH * n)
    return torch.where(alike & even, most * drawn.to(distance), distance)


def _nearest(distance: Tensor, references: Tensor, candidates: Tensor, n: int) -> Tensor:
    """Return the `n` candidates nearest to each reference, by distances (B, m): (B, n).

    The reference itself comes first, also where others equal it, so that no pixel is left out.
    """
    distance = distance.masked_fill(candidates == references[:, None], -1.0)
    nearest = distance.topk(min(n, len(candidates)), largest=False).indices
    return candidates[nearest]


def _group(pilot: Patches, near: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (B, 1, D) of groups of patches (B, n), and the deviations from it over the
    root of n, (B, n, D), whose second moment is the covariance of the group.
    """
    return _moments(pilot[near.flatten()].view(*near.shape, pilot.n_entries))


def _moments(group: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same of groups (B, n, D)."""
    mean = group.mean(1, keepdim=True)
    return mean, (group - mean) / group.shape[1] ** 0.5


def _complete(
    data: Patches, pilot: Patches, near: Tensor, sigma2: float, spare2: float
) -> Posterior:
    """Return the posterior of all patches of each group (B, n) under the Gaussian of the group.

    Its covariance is C = G^T G + spare2 I, of n deviations G (n, D), so that the gain of the Wiener
    filter C (C + sigma2 I)^-1 needs systems of n equations only: with t = sigma2 + spare2, it is
    I - sigma2 / t (I - G^T (G G^T + t I)^-1 G).
    """
    mean, deviations = _group(pilot, near)
    total = sigma2 + spare2
    system = deviations @ deviations.transpose(1, 2)
    system.diagonal(dim1=1, dim2=2).add_(total + _jitter(deviations)[..., 0])
    # Not torch.linalg.solve, which fails for batches of large systems on several threads
    # (github.com/pytorch/pytorch/issues/142815).
    weights = torch.cholesky_solve(deviations, torch.linalg.cholesky(system))
    rows = near.flatten()
    residual = data[rows].view(*near.shape, -1) - mean
    explained = residual @ deviations.transpose(1, 2) @ weights
    lost = sigma2 / max(total, torch.finfo(mean.dtype).tiny)
    estimate = mean + torch.lerp(residual, explained, lost)
    share = (deviations * weights).sum((1, 2)) / data.n_entries
    variance = sigma2 * torch.lerp(torch.ones_like(share), share, lost)
    return Posterior(rows, estimate.flatten(0, 1), variance.repeat_interleave(near.shape[1]))


def _incomplete(
    data: Patches, pilot: Patches, near: Tensor, sigma2: float, spare2: float
) -> Posterior:
    """Return the posterior of the nearest patches of each group, missing entries left out.

    A patch is the mean, a sum of the n deviations G (n, D) with standard normal coefficients c, and
    what is spare. With O the observed entries, the posterior means are
    c = (G_O G_O^T + t I)^-1 G_O (x - mean)_O with t = sigma2 + spare2, and spare2 / t of what c
    leaves of the deviation. That is a system of n equations for each patch, and the same as one of
    D equations with the covariance G^T G + spare2 I: the smaller one is solved.
    """
    mean, deviations = _group(pilot, near)
    near = near[:, :_ESTIMATED]
    rows = near.flatten()
    x = data[rows].view(*near.shape, -1)
    estimate = _conditional(x, mean, deviations, sigma2, spare2)
    return Posterior(rows, estimate.flatten(0, 1), estimate.new_zeros(len(rows)))


def _by_coefficients(
    deviations: Tensor, residual: Tensor, known: Tensor, sigma2: float, spare2: float
) -> Tensor:
    """Return estimates (B, k, D) less the mean, by n equations each (see `_incomplete`)."""
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


__all__ = ["refine", "refine_recording", "refine_rows"]
