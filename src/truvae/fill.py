"""Looks at an incomplete picture until hidden pixels say that it gets no better.

A few known pixels are hidden from the model and from the looks. How well an estimate predicts them
is its error at the missing ones: it chooses the noise level that looks reckon with, the size of
their patches and when to stop, and needs no clean picture.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from truvae.ranks import ALONE, Ranks
from truvae.refine import refine

# Share of the known pixels that are hidden; how many are of a small picture, but no more than so
# large a share; and the fewest that can judge.
_SHARE, _MANY, _MOST, _FEWEST = 0.02, 250, 0.1, 64
# Median of the absolute value of a normal variable.
_NORMAL_MEDIAN = 0.6745
# By how much the level of noise falls from one look to the next, unless the errors of the hidden
# pixels are nearly as large as it: then it is real.
_COOLING, _REAL = 0.5, 0.8
# So many hidden pixels tell that for sure. By what share the error of fewer is less without noise,
# times the root of their number, if there is none.
_SURE, _CLEARLY = 600, 0.8
# The lowest level, in units of the spread of the picture.
_LEAST = 1e-3
# The least share by which the error of the hidden pixels falls if a look pays, and how many looks
# in turn may not pay.
_GAIN, _PATIENCE = 1e-3, 3
# Standard deviation besides the nearest patches, in units of the spread of the picture.
_SPARE = 0.01
_NEAR = 64
# Looks at the end that see the hidden pixels too.
_LAST = 2


@dataclass(frozen=True)
class Hidden:
    """Known pixels that are kept from the model, to judge its estimates by."""

    mask: Tensor
    """Which entries of the picture are hidden: (R, C) or (R, C, K), boolean."""
    values: Tensor
    """Their values, (n,)."""

    @classmethod
    def draw(cls, image: Tensor, generator: torch.Generator) -> "Hidden":
        """Draw 2 % of the known pixels, of small pictures up to 10 %, all channels of each; none if
        these are too few to judge.

        Parameters
        ----------
        image
            The picture (R, C) or (R, C, K), NaN where missing.
        """
        known = image.isfinite()
        n_known = int((known if image.ndim == 2 else known.any(2)).sum())
        share = max(_SHARE, min(_MOST, _MANY / max(1, n_known)))
        pixels = torch.rand(image.shape[:2], generator=generator, device=image.device) < share
        mask = known & (pixels if image.ndim == 2 else pixels[..., None])
        hidden = cls(mask, image[mask])
        return hidden if hidden.n_pixels >= _FEWEST else cls.none(image)

    @classmethod
    def none(cls, image: Tensor) -> "Hidden":
        """Hide nothing."""
        return cls(torch.zeros_like(image, dtype=torch.bool), image[:0].flatten())

    def __len__(self) -> int:
        """Return how many entries are hidden."""
        return len(self.values)

    @property
    def n_pixels(self) -> int:
        """Number of pixels with hidden entries."""
        return int((self.mask if self.mask.ndim == 2 else self.mask.any(2)).sum())

    @property
    def are_few(self) -> bool:
        """Whether they do not tell for sure if there is noise, though some are hidden."""
        return 0 < self.n_pixels < _SURE

    def away(self, image: Tensor) -> Tensor:
        """Return the picture without the hidden entries."""
        return image.masked_fill(self.mask, torch.nan) if len(self) else image

    def rmse(self, estimate: Tensor) -> float | None:
        """Return the root of the mean squared error of an estimate at the hidden entries; None if
        nothing is hidden.
        """
        if not len(self):
            return None
        return float((estimate[self.mask] - self.values).square().mean().sqrt())

    def noise(self, estimate: Tensor) -> float:
        """Return the most noise that there can be, by the errors where the estimate is good.

        It is the median absolute error, scaled to the standard deviation of Gaussian errors: edges,
        where errors are those of the estimate, hardly count. Infinite if nothing is hidden.
        """
        if not len(self):
            return math.inf
        return float((estimate[self.mask] - self.values).abs().median()) / _NORMAL_MEDIAN


class Filled(NamedTuple):
    """An estimate of an incomplete picture, in units of its spread."""

    estimate: Tensor
    sigma: float
    """The level of noise that it was made with."""
    size: int
    """Side of the patches that it was made with."""
    looks: int
    rmse: float | None
    """Its error at the hidden pixels; None without any."""


_Look = Callable[[Filled, float, int, float, float], Filled]


def settle(
    image: Tensor,
    estimate: Tensor,
    hidden: Hidden,
    *,
    sigma: float,
    real: float,
    known: bool,
    sizes: Sequence[int],
    looks: int,
    go_on: Callable[[float], bool],
    ranks: Ranks = ALONE,
) -> Filled:
    """Look at an incomplete picture again and again, with less and less noise.

    Models of white noise take the detail that they miss for noise, much of it where there is none.
    So each look reckons with less noise than the one before, and that with the least error at the
    hidden pixels is the best. Where these say that there is noise indeed, it has its real level;
    where they are few, less noise is tried too.

    Parameters
    ----------
    image
        The picture in units of its spread, (R, C) or (R, C, K), NaN where missing.
    estimate
        Its first estimate, made without the hidden pixels.
    hidden
        The judge.
    sigma
        The level of noise to begin with; if it is `known`, it is kept.
    real
        The level that there is if there is noise indeed: where nothing is hidden, there is.
    sizes
        Sides of patches to choose from at the first look; none for no look.
    looks
        The most looks; the last ones of them see the hidden pixels too.
    go_on
        Asked again and again, with the number of looks taken and the share of the present one; the
        one during which it says False does not count. It need not ask other ranks.
    ranks
        Processes that share each look.
    """
    first = Filled(estimate, sigma, sizes[0] if sizes else 0, 0, hidden.rmse(estimate))
    most = max(0, looks - _LAST)
    # A poor estimate errs as if there was noise, and few pixels err by chance.
    both = not known and hidden.are_few
    held = known or both or not len(hidden) or hidden.noise(estimate) > _REAL * sigma

    def look(
        hidden: Hidden, before: Filled, sigma: float, size: int, taken: float, part: float = 1.0
    ) -> Filled:
        """Look at the picture once more; `part` is the share of a look that this one counts for."""

        def told(done: float) -> bool:
            return go_on(taken + done * part)

        return _look(hidden, image, before, sigma, size, told, ranks)

    def settled(before: Filled, start: float, cools: bool) -> tuple[Filled, bool]:
        share = 0.5 if both else 1.0

        def one(last: Filled, sigma: float, size: int, taken: float, part: float) -> Filled:
            return look(hidden, last, sigma, size, start + taken * share, part * share)

        return _settled(one, before, cools, sizes if len(hidden) else sizes[:1], most)

    level = real if held and not known else sigma
    best, over = settled(first._replace(sigma=level), 0.0, not held)
    if both and not over:
        cooled, over = settled(first, most / 2, True)
        margin = _CLEARLY / math.sqrt(hidden.n_pixels)
        if (cooled.rmse or 0.0) < (best.rmse or 0.0) * (1 - margin):
            best = cooled
    everything = Hidden.none(image)
    for taken in range(most, 0 if over else looks):  # now with the hidden pixels in their places
        after = look(everything, best, best.sigma, best.size, taken)
        if after is best:
            break
        best = after._replace(rmse=best.rmse)
    return best


def _settled(
    look: _Look, before: Filled, cools: bool, sizes: Sequence[int], most: int
) -> tuple[Filled, bool]:
    """Look until it gets no better; return the best, the last one where nothing is hidden, and
    whether looking was broken off.
    """
    best = last = before
    while last.looks < most and last.looks - best.looks < _PATIENCE:
        level = max(_COOLING * last.sigma, _LEAST) if cools else last.sigma
        choice = sizes if last.looks == 0 else [last.size]
        found, part = [], 1 / len(choice)
        for i, size in enumerate(choice):
            found.append(look(last, level, size, last.looks + i * part, part))
            if found[-1] is last:  # it was broken off, on any rank
                return best, True
        last = min(found, key=lambda each: each.rmse or 0.0)
        if last.rmse is None or last.rmse < (best.rmse or 0.0) * (1 - _GAIN):
            best = last
    return best, False


def _look(
    hidden: Hidden,
    image: Tensor,
    before: Filled,
    sigma: float,
    size: int,
    go_on: Callable[[float], bool],
    ranks: Ranks,
) -> Filled:
    """Look once more, without the hidden pixels, and judge what comes of it by them; return what
    was before if `go_on` ends it.
    """
    after = refine(
        hidden.away(image),
        before.estimate,
        sigma,
        size,
        n_near=_NEAR,
        spare=_SPARE,
        go_on=go_on,
        ranks=ranks,
    )
    if after is before.estimate:
        return before
    estimate = after.to(image)
    return Filled(estimate, sigma, size, before.looks + 1, hidden.rmse(estimate))


def nearest_known(image: Tensor) -> Tensor:
    """Fill the missing values of a picture (R, C) or (R, C, K) with the nearest known ones.

    >>> nearest_known(torch.tensor([[1.0, torch.nan, torch.nan, 5.0]]))
    tensor([[1., 1., 5., 5.]])
    """
    missing = ~image.isfinite()
    if not missing.any():
        return image
    from scipy.ndimage import distance_transform_edt

    filled = image.clone()
    for channel, gaps in zip(
        filled.view(*image.shape[:2], -1).unbind(2),
        missing.view(*image.shape[:2], -1).unbind(2),
        strict=True,
    ):
        nearest = distance_transform_edt(
            gaps.cpu().numpy(), return_distances=False, return_indices=True
        )
        row, column = torch.as_tensor(nearest, device=image.device).long()
        channel.copy_(channel[row, column])
    return filled


__all__ = ["Filled", "Hidden", "nearest_known", "settle"]
