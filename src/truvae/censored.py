"""The level of noise by what is left of it in places where it was cut off.

A dark background that was subtracted from a fluorescence picture is black, but for the pixels that
noise lifted above. How many these are and how bright tells where the background would lie and how
strong the noise is.
"""

import math
from statistics import NormalDist

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


def variance_at_end(patches: Patches, end: float, sign: int) -> float:
    """Estimate the variance of white noise that was cut off at an end of the range.

    A flat patch of D pixels, each of which is within the range with probability p, has n of them
    there with probability P(n), and P(n + 1) (n + 1) = P(n) (D - n) p / (1 - p) whatever n is. So
    those patches tell p that have the fewest, in which there is nothing but noise; p tells where
    they lie, and the mean of these pixels the level. Patches that lie beyond as a whole, as black
    borders do, tell nothing; nor do pixels that lie together, as those of lines on a page do.

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
    >>> background = (3 * torch.randn(64, 64, generator=g) - 3).clamp(min=0)
    >>> round(variance_at_end(Patches(background, 8), 0.0, 1) ** 0.5)
    3
    """
    marked, excess = _within(patches, end, sign)
    n, size = marked.sum(1), patches.n_entries
    counts = n.bincount(minlength=size + 1)[1:].cpu().double()
    most = int((counts.cumsum(0) < _DARKEST * counts.sum()).sum()) + 1
    if counts.sum() < _FEWEST or most >= size:
        return math.inf
    fewest = torch.arange(1.0, most + 1, dtype=torch.float64)
    odds = (fewest + 1) @ counts[1 : most + 1] / ((size - fewest) @ counts[:most])
    share = float(odds / (1 + odds))
    some = marked[(n > 0) & (n <= most + 1)]
    if not 0 < share < 1 or _lie_together(some if share < 0.5 else ~some, patches):
        return math.inf
    few = (n > 0) & (n <= most)
    mean = _evenly(excess[few] / n[few]) if most > _MANY else excess[few].sum() / n[few].sum()
    normal = NormalDist()
    place = -normal.inv_cdf(share)  # of the end, from the noise-free value
    return (float(mean) / (normal.pdf(place) / share - place)) ** 2


def _within(patches: Patches, end: float, sign: int) -> tuple[Tensor, Tensor]:
    """Return which pixels of patches (B, D) lie within the range, and the sums of how far, (B,).

    Where values are whole numbers, what was rounded to the end lay up to half a step away.
    """
    steps = (sign * (block - end) for block in patches.blocks())
    half = min(float(step.where(step > 0, math.inf).min()) for step in steps) / 2
    marked, excess = [], []
    for block in patches.blocks():
        distance = sign * (block - end) - half
        marked.append(distance > 0)
        excess.append(distance.clamp(min=0).sum(1, dtype=torch.float64))
    return torch.cat(marked), torch.cat(excess)


def _evenly(x: Tensor) -> Tensor:
    """Return the mean of those values that scatter evenly: the largest are left out until it is no
    more than their median.
    """
    x = x.sort().values
    order = torch.arange(len(x), device=x.device)
    even = (x.cumsum(0) / (order + 1) <= x[order // 2]).nonzero()[:, 0]
    return x[: int(even[-1]) + 1].mean()  # the least one is even


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


__all__ = ["variance_at_end"]
