"""The level of noise by what is left of it in places where it was cut off.

A dark background that was subtracted from a fluorescence picture is black, but for the pixels that
noise lifted above. How many these are and how bright tells where the background would lie and how
strong the noise is.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from truvae.patches import Patches

# Share of the patches, those with the fewest pixels within the range, that tell of noise, and the
# fewest patches to choose them from.
_DARKEST, _FEWEST = 0.05, 1000
# Pixels whose mean is nearly symmetrically distributed.
_MANY = 8
# By what factor pairs of pixels may exceed the expected ones, and by how many standard deviations.
_MORE, _DOUBT = 1.1, 1.5
# The least share of the pixels at the end, how far beyond it noise-free values may lie, in units of
# sigma, and between what factors their mean square may be that of the tail of a normal variable.
_LEAST, _FARTHEST, _ALIKE = 1e-3, 2.2, (0.85, 1.2)
# Limits of sigma: in steps of values that are whole numbers, and in ranges of the picture, less
# where few pixels tell it.
_STEPS, _RANGE, _RANGE_OF_FEW = 1.5, 0.5, 0.3


def variance_at_end(patches: Patches, end: float, sign: int) -> float:
    """Estimate the variance of white noise that was cut off at an end of the range.

    A flat patch of D pixels, each of which is within the range with probability p, has n of them
    there with probability P(n), and P(n + 1) (n + 1) = P(n) (D - n) p / (1 - p) whatever n is. So
    those patches tell p that have the fewest, in which there is nothing but noise; p tells where
    they lie, and the mean of these pixels the level. Patches that lie beyond as a whole, as black
    borders do, tell nothing; nor do pixels that lie together, as those of lines on a page do, or
    that are not distributed like the tail of a normal variable, as counts and stars are.

    Parameters
    ----------
    patches
        Patches without gaps.
    end, sign
        The least value and 1, or the greatest one and -1.

    Returns
    -------
    The variance; infinite where that cannot be told.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> picture = (3 * torch.randn(64, 64, generator=g) - 2).clamp(min=0)
    >>> picture[:9, :9] += 100  # something bright on a dark background
    >>> round(variance_at_end(Patches(picture, 8), 0.0, 1) ** 0.5)
    3
    """
    found = _within(patches, end, sign)
    n, size = found.marked.sum(1), patches.n_entries
    counts = n.bincount(minlength=size + 1)[1:].cpu().double()
    most = int((counts.cumsum(0) < _DARKEST * counts.sum()).sum()) + 1
    at_end = 1 - float(n.double().mean()) / size
    if at_end < _LEAST or counts.sum() < _FEWEST or most >= size:
        return math.inf
    fewest = torch.arange(1.0, most + 1, dtype=torch.float64)
    odds = (fewest + 1) @ counts[1 : most + 1] / ((size - fewest) @ counts[:most])
    share = float(odds / (1 + odds))
    some = found.marked[(n > 0) & (n <= most + 1)]
    if not 0 < share < 1 or _lie_together(some if share < 0.5 else ~some, patches):
        return math.inf
    few = (n > 0) & (n <= most)
    sums, squares = found.sums[few], found.squares[few].sum()
    overall = float(sums.sum() / n[few].sum())
    mean = float(mean_of_evenly_scattered(sums / n[few])) if most > _MANY else overall
    normal = NormalDist()
    place = -normal.inv_cdf(share)  # of the end, from the noise-free value
    tail = normal.pdf(place) / share  # the mean above it, of a normal variable
    sigma = mean / (tail - place)
    expected = (1 + place**2 - place * tail) / (tail - place) ** 2
    spread = float(squares / n[few].sum()) / overall**2 / expected
    if spread < _ALIKE[0] or (most <= _MANY and spread > _ALIKE[1]):
        return math.inf  # counts, stars and dots
    largest = (_RANGE if most > _MANY else _RANGE_OF_FEW) * found.range
    possible = 2 * _STEPS * found.half <= sigma <= largest
    return sigma**2 if possible and place <= _FARTHEST else math.inf


def mean_of_evenly_scattered(x: Tensor) -> Tensor:
    """Return the mean of those values (n,) that scatter evenly: the largest are left out until the
    mean of the others is no more than their median.

    Examples
    --------
    >>> float(mean_of_evenly_scattered(torch.tensor([2.0, 1.0, 3.0, 9.0, 100.0])))
    2.0
    """
    x = x.sort().values
    order = torch.arange(len(x), device=x.device)
    even = (x.cumsum(0) / (order + 1) <= x[order // 2]).nonzero()[:, 0]
    return x[: int(even[-1]) + 1].mean()  # the least one is even


class _Within(NamedTuple):
    """What patches have within the range of a picture, of which one end is looked at."""

    marked: Tensor
    """(B, D), which pixels lie within it."""
    sums: Tensor
    """(B,), how far these lie from the end, and the sums of the squares of that."""
    squares: Tensor
    half: float
    """Half of the step from the end to the next value: of whole numbers, those that were rounded to
    the end lay up to so far away."""
    range: float


def _within(patches: Patches, end: float, sign: int) -> _Within:
    """Return what lies within the range, seen from one end of it."""
    steps = (sign * (block - end) for block in patches.blocks())
    half = min(float(step.where(step > 0, math.inf).min()) for step in steps) / 2
    parts, largest = [], 0.0
    for block in patches.blocks():
        distance = (sign * (block - end) - half).clamp(min=0)
        largest = max(largest, float(distance.max()))
        totals = (x.sum(1, dtype=torch.float64) for x in (distance, distance.square()))
        parts.append((distance > 0, *totals))
    marked, sums, squares = (torch.cat(part) for part in zip(*parts, strict=True))
    return _Within(marked, sums, squares, half, largest)


def _lie_together(marked: Tensor, patches: Patches) -> bool:
    """Say whether marked pixels of patches (B, D) are beside each other more often than by chance.

    Overlapping patches see the same pairs: D times fewer are independent.
    """
    squares = marked.view(-1, patches.n_channels, *patches.sides)
    neighbours = (
        (squares[..., 1:], squares[..., :-1]),
        (squares[..., 1:, :], squares[..., :-1, :]),
    )
    pairs = sum(int((one & other).sum()) for one, other in neighbours)
    places = sum(one[0].numel() for one, _ in neighbours)
    n, size = marked.sum(1).double(), patches.n_entries
    expected = float((n * (n - 1)).sum()) * places / (size * (size - 1))
    return pairs > (_MORE + _DOUBT * math.sqrt(size / max(expected, 1e-9))) * expected


__all__ = ["mean_of_evenly_scattered", "variance_at_end"]
