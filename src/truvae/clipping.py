"""Noise that was cut off: what lies beyond the range of a picture was written as its end.

Of a dark place with strong noise only the bright half of the noise is left, so that its mean is too
bright, and no average over places helps. What was cut off is known by its distribution: a value at
the end of the range is replaced by what it was on average, given an estimate of the noise-free
picture (the E-step for censored data, Dempster, Laird and Rubin 1977). See also Foi 2009,
doi:10.1016/j.sigpro.2009.04.035, who inverts the mean of clipped noise.
"""

from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

# Share of the values of a channel that lie at an end of its range if noise is cut off there.
_SHARE = 1e-3
# Pixels around a place, 5 x 5, whose mean is a first guess of what is there.
_AROUND = 5
# Means of noise that is cut off at 0, in units of its standard deviation, by the noise-free value.
_VALUES = np.linspace(0, 5, 501)
_MEANS = np.array([a * NormalDist().cdf(a) + NormalDist().pdf(a) for a in _VALUES])


def unclipped(images: Tensor, sigma: float | Tensor, estimate: Tensor | None = None) -> Tensor:
    """Return frames as if no noise had been cut off.

    Parameters
    ----------
    images
        Noisy frames (F, R, C, K); with an estimate they may have gaps, NaN.
    sigma
        Standard deviation of the noise before, above 0; of each channel, (K,), or of all.
    estimate
        An estimate of the noise-free frames, same shape; without one, a guess from the pixels
        around each.

    Returns
    -------
    The frames, with values beyond the range where they lay at an end of it. Where nothing else is
    around, as in black borders, they stay as they are: of noise about a half would be within.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> clipped = torch.randn(1, 32, 32, 1, generator=g).clamp(min=0)
    >>> [round(float(x.mean()), 1) for x in (clipped, unclipped(clipped, 1.0))]
    [0.4, 0.0]
    """
    for sign in (1, -1):
        guess = None if estimate is None else sign * estimate
        images = sign * _unclipped_below(sign * images, sigma, guess)
    return images


def clipped(estimate: Tensor, images: Tensor) -> Tensor:
    """Return an estimate of frames that does not go beyond the ends of the range of a channel at
    which noise was cut off: what lies beyond was not measured.

    Parameters
    ----------
    estimate
        An estimate of the noise-free frames (F, R, C, K).
    images
        The frames as they were given, same shape; NaN where missing.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> noisy = torch.randn(1, 32, 32, 1, generator=g).clamp(min=0)
    >>> float(clipped(noisy - 1, noisy).min())
    0.0
    """
    for sign in (1, -1):
        low, at_end = _cut_off_below(sign * images)
        bound = low.where(at_end.any((0, 1, 2)), -torch.inf)
        estimate = sign * torch.maximum(sign * estimate, bound.to(estimate))
    return estimate


def _cut_off_below(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the lower end of the range of each channel, (K,), and where noise is cut off at it."""
    low = images.nan_to_num(torch.inf).amin((0, 1, 2))
    at_end = images == low
    at_end &= at_end.double().mean((0, 1, 2)) > _SHARE
    return low, at_end & (_around(at_end.to(images)) < 1)


def _unclipped_below(images: Tensor, sigma: float | Tensor, estimate: Tensor | None) -> Tensor:
    """Return the same for the lower end of the range."""
    low, at_end = _cut_off_below(images)
    if not at_end.any():
        return images
    if estimate is None:
        values = _inverted((_around(images) - low) / sigma)
    else:
        values = ((estimate.to(images) - low) / sigma).clamp(min=0)
    # The mean of a normal distribution below 0.
    density = torch.exp(-values.square() / 2) / (2 * torch.pi) ** 0.5
    beyond = values - density / torch.special.ndtr(-values).clamp(min=1e-6)
    return torch.where(at_end, low + sigma * beyond.clamp(max=0), images)


def _inverted(means: Tensor) -> Tensor:
    """Return the noise-free values, 0 at least, of means of noise that is cut off at 0."""
    inner = np.interp(means.cpu().numpy(), _MEANS, _VALUES)
    return torch.where(means < _MEANS[-1], torch.as_tensor(inner).to(means), means)


def _around(x: Tensor) -> Tensor:
    """Return means of frames (F, R, C, K) around each pixel."""
    planes = x.permute(0, 3, 1, 2)
    means = avg_pool2d(planes, _AROUND, 1, _AROUND // 2, count_include_pad=False)
    return means.permute(0, 2, 3, 1)


def variance_left(share: float) -> float:
    """Return the variance of noise of variance 1 of which this share in [0, 1] was cut off at one
    end; of more than a half the noise-free values lie beyond, and it counts as one half.

    >>> variance_left(0.0), round(variance_left(0.5), 3)
    (1.0, 0.341)
    """
    if share <= 0:
        return 1.0
    normal = NormalDist()
    place = -normal.inv_cdf(min(share, 0.5))
    above, density = normal.cdf(place), normal.pdf(place)
    mean = place * above + density
    return (place**2 + 1) * above + place * density - mean**2


__all__ = ["clipped", "unclipped", "variance_left"]
