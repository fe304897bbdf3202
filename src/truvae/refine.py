"""The second look: every patch again, with its nearest patches in the first estimate as its prior.

The model describes all patches of a picture with one decoder. Once its estimate is there, the
patches around a place that look most alike in it (see `neighbours`) tell more about that place:
they are a Gaussian prior of the noise-free patch (see `groups`).
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import TypeVar

import torch
from torch import Tensor

from truvae import groups
from truvae.chunks import near_groups
from truvae.neighbours import distances, drawn, means, nearest, scattered
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
# Where pixels are missing every patch has a system of equations of its own: so many patches of a
# group are estimated, those nearest to the reference.
_ESTIMATED = 8
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
    posterior_of = _of_all if complete else _of_nearest
    stride = min(_STRIDE if complete else _DENSE, size)
    reaches = _FRAMES, reach, reach
    noisy_means = means(data) if complete else None
    tiles = deque(ranks.mine(_tiles(pilot.places, stride)))

    @torch.no_grad()
    def look(tile: _Tile) -> Posterior:
        around = [_around(*axis) for axis in zip(tile, reaches, pilot.places, strict=True)]
        references, candidates = (_numbers(x, pilot.places, noisy.device) for x in (tile, around))
        distance = distances(pilot, references, candidates)
        if noisy_means is not None:
            draws = drawn(references, candidates, pilot.places)
            known = noisy_means[candidates]
            distance = scattered(distance, draws, known, n_near, sigma, data.n_entries)
        near = nearest(distance, references, candidates, n_near)
        return posterior_of(data, pilot, near, sigma**2, spare**2)

    # Threads inside of these small steps do not speed them up.
    posteriors = side_by_side(look, _while(go_on, tiles), noisy.device)
    refined = merge(data, posteriors, _DOUBT * sigma**2, ranks)
    return estimate if ranks.any(bool(tiles)) else refined


@torch.no_grad()
def refine_recording(
    noisy: Tensor,
    estimate: Tensor,
    sigma: float,
    sample_rate: float,
    *,
    go_on: Callable[[], bool] = lambda: True,
    ranks: Ranks = ALONE,
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
    go_on
        Asked again and again; it need not ask other ranks.
    ranks
        Processes that all do this.

    Returns
    -------
    The second estimate, (n, K), and its variance where the first one is right; `estimate` itself,
    with the variance of the noise, if `go_on` said False on any rank.

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
        near = nearest(distances(pilot, some, around), some, around, _NEAR)
        return _of_all(data, pilot, near, sigma**2, 0.0)

    left = deque(references.split(_TOGETHER))
    posteriors = side_by_side(look, _while(lambda done: go_on(), left), noisy.device)
    mean, variance = merge_moments(data, posteriors, _DOUBT * sigma**2)
    if ranks.any(bool(left)):
        return estimate, torch.full_like(variance[0], sigma**2)
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
                moments = groups.moments(references[near[nearest]])
                refined[part] = groups.incomplete(x[part][:, None], *moments, sigma**2, 0.0)[:, 0]
    return refined


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


def _of_all(data: Patches, pilot: Patches, near: Tensor, sigma2: float, spare2: float) -> Posterior:
    """Return the posterior of all patches of each group (B, n) under the Gaussian of the group."""
    moments = groups.moments(_taken(pilot, near))
    estimate, variance = groups.complete(_taken(data, near), *moments, sigma2, spare2)
    variance = variance.repeat_interleave(near.shape[1])
    return Posterior(near.flatten(), estimate.flatten(0, 1), variance)


def _of_nearest(
    data: Patches, pilot: Patches, near: Tensor, sigma2: float, spare2: float
) -> Posterior:
    """Return the posterior of the nearest patches of each group, missing entries left out."""
    moments = groups.moments(_taken(pilot, near))
    near = near[:, :_ESTIMATED]
    estimate = groups.incomplete(_taken(data, near), *moments, sigma2, spare2).flatten(0, 1)
    return Posterior(near.flatten(), estimate, estimate.new_zeros(len(estimate)))


def _taken(patches: Patches, near: Tensor) -> Tensor:
    """Return patches of groups (B, n) as (B, n, D)."""
    return patches[near.flatten()].view(*near.shape, patches.n_entries)


__all__ = ["refine", "refine_recording", "refine_rows"]
