"""Noise that grows with brightness: its law from one picture, and transforms that even it out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]

# Below sqrt(3/2) the closed form of the inverse is past its zero, the value of no events at all.
_LEAST = math.sqrt(1.5)
# Share of the patches of like brightness, the smoothest ones, that the noise is measured on.
_SMOOTH = 0.3
# Most bins of brightness; fewest bins, and patches in each, that can tell a line.
_MOST_BINS, _FEWEST_BINS, _PATCHES_PER_BIN = 16, 4, 100
# Of larger pictures every second patch, or every third, and so on, both ways.
_MOST_PATCHES = 1 << 18
# A bin is clipped where a larger share of its pixels lie at one end of the picture's values.
_CLIPPED = 0.02
# Relative error of a bin's variance with any number of patches.
_MODEL_ERROR = 0.05
# Most that a bin below the line costs; one above it costs 1.
_COST_BELOW = 4
# Of the least-squares fit, whose weights depend on the line.
_REFINEMENTS = 5
# What it takes to call noise signal-dependent: a change of its deviation, and of standard errors.
_LEAST_CHANGE, _LEAST_T = 1.3, 5


@dataclass(frozen=True)
class PoissonGaussian:
    """Noise whose variance is a straight line in the mean: counted events and white noise.

    Of x = gain * Poisson + N(offset, read^2) the variance is gain * mean + read^2 - gain * offset;
    only this line can be told from pictures, and it is all that the transform needs.

    Parameters
    ----------
    gain
        Slope of the line: units of the picture per event, at least 0.
    variance
        Variance at mean 0, in squared units of the picture; below 0 where a large offset was
        added, above 0 where `gain` is 0.

    Raises
    ------
    ValueError
        If `gain` is negative or not finite, or both are 0.

    Examples
    --------
    >>> noise = PoissonGaussian(gain=2.0, variance=9.0)
    >>> noise.sigma(np.array([0.0, 8.0]))
    array([3., 5.])
    >>> noise.inverse(noise.forward(np.array([100.0, 200.0]))).round()  # E[f(x)] < f(E[x])
    array([101., 201.])
    """

    gain: float
    variance: float

    def __post_init__(self) -> None:
        """Check the parameters."""
        if not (0 <= self.gain < math.inf and math.isfinite(self.variance)):
            raise ValueError(f"gain must be >= 0 and both finite: {self.gain}, {self.variance}")
        if self.gain == 0 and self.variance <= 0:
            raise ValueError(f"without gain the variance must be above 0, not {self.variance}")

    @property
    def _base(self) -> float:
        """Root of the transform's argument at 0, or 0 where that lies outside its domain."""
        return math.sqrt(max(self.variance + 0.375 * self.gain**2, 0.0))

    @property
    def _shift(self) -> float:
        """What is added to x before the rest of the inverse, in units of the picture."""
        inside = self.variance + 0.375 * self.gain**2 > 0
        return 0.375 * self.gain if inside else -self.variance / self.gain

    def forward(self, x: Array) -> Array:
        """Return values whose noise has a standard deviation of 1: the Anscombe transform.

        The generalised transform, 2 / gain * sqrt(gain x + 3/8 gain^2 + variance) (Starck, Murtagh
        and Bijaoui 1998, ISBN 0-521-59914-9), less its value at 0 where it has one: so it becomes
        x / sqrt(variance) as the gain vanishes.

        Parameters
        ----------
        x
            Noisy values of any shape, NaN where missing. Those below the domain are raised to its
            end. The deviation is 1 within 5 % from 2 events on, and within 1 % from 10.
        """
        base = self._base
        root = np.sqrt(np.maximum(self.gain * x + 0.375 * self.gain**2 + self.variance, 0))
        if base > 0:
            floor = -(base**2) / self.gain if self.gain else -math.inf
            return np.asarray(2 * np.maximum(x, floor) / (root + base))
        return np.asarray(2 / self.gain * root)

    def inverse(self, y: Array) -> Array:
        """Return the means of data whose transformed values have the means `y`.

        The closed form of the exact unbiased inverse (Makitalo and Foi 2013,
        doi:10.1109/TIP.2012.2202675), not the algebraic inverse of `forward`, which is biased.

        Parameters
        ----------
        y
            Means of transformed values, as a denoiser returns them; any shape, NaN stays.

        Returns
        -------
        array
            In the units of the picture, at least the mean of no events. The bias is
            below 0.05 gains at any number of events and any read noise (by simulation).
        """
        base, gain = self._base, self.gain
        least = _LEAST - 2 * base / gain if gain else -math.inf
        y = np.maximum(y, least)
        # 1 / D, with D the transform as published; it vanishes with the gain.
        d = gain / (gain * y + 2 * base)
        tail = math.sqrt(1.5) / 4 * d - 11 / 8 * d**2 + 5 / 8 * math.sqrt(1.5) * d**3
        return np.asarray(y * base + gain * (y**2 / 4 - 0.125 + tail) + self._shift)

    def sigma(self, mean: Array) -> Array:
        """Return the noise's standard deviation where the noise-free values are `mean`."""
        return np.asarray(np.sqrt(np.maximum(self.gain * mean + self.variance, 0)))

    @classmethod
    def estimate(cls, picture: Array) -> PoissonGaussian:
        """Estimate the noise from the noisy picture alone.

        Patches are sorted into bins by their mean. The noise of a bin is that of the high
        frequencies (DCT) of those patches that are smoothest at low frequencies: for white noise
        the choice does not favour patches with weak noise. A line is then fitted that most bins
        lie on and few lie below, for texture only ever adds.

        Parameters
        ----------
        picture
            (rows, columns), NaN where missing. Noise that is correlated between pixels is
            underestimated, all brightnesses alike.

        Raises
        ------
        ValueError
            If the picture is not of two axes, or has no observed pixel.

        Examples
        --------
        >>> rng = np.random.default_rng(0)
        >>> clean = np.linspace(20, 200, 128) + np.zeros((128, 1))
        >>> picture = 2.0 * rng.poisson(clean / 2) + rng.normal(0, 5, clean.shape)
        >>> noise = PoissonGaussian.estimate(picture)
        >>> round(noise.gain, 1), noise.sigma(np.array([100.0])).round()  # sqrt(2 * 100 + 5**2)
        (2.0, array([15.]))
        """
        return _fit(_measure(picture))[0]


def is_signal_dependent(picture: Array) -> bool:
    """Tell whether the noise of a picture clearly grows with brightness: stabilising then pays.

    So it is where the noise's standard deviation differs by a factor of 1.3 or more between the
    dark and the bright end, most bins of brightness agree with one line, and its slope is five
    times its standard error or more. The smaller the picture, the more it takes.

    Parameters
    ----------
    picture
        (rows, columns), NaN where missing.

    Raises
    ------
    ValueError
        If the picture is not of two axes, or has no observed pixel.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> clean = np.linspace(20, 200, 128) + np.zeros((128, 1))
    >>> is_signal_dependent(rng.poisson(clean)), is_signal_dependent(rng.normal(clean, 10))
    (True, False)
    """
    bins = _measure(picture)
    noise, agree = _fit(bins)
    sigma = noise.sigma(bins.mean)
    if sigma.max() < _LEAST_CHANGE * sigma.min() or agree.mean() <= 0.5:
        return False
    weight = agree / (noise.gain * bins.mean + noise.variance) ** 2
    spread = float((weight * (bins.mean - np.average(bins.mean, weights=weight)) ** 2).sum())
    return noise.gain * math.sqrt(spread) >= _LEAST_T * bins.error


@dataclass(frozen=True)
class _Bins:
    """The variance of the noise at several brightnesses."""

    mean: Array
    variance: Array
    error: float
    """Relative standard error of the variances."""


def _measure(picture: Array) -> _Bins:
    """Measure the noise of a picture (rows, columns), NaN where missing, in bins of brightness."""
    picture = np.asarray(picture, dtype=np.float64)
    if picture.ndim != 2 or not np.isfinite(picture).any():
        raise ValueError(f"not a picture (rows, columns) with observed pixels: {picture.shape}")
    values = np.unique(picture[np.isfinite(picture)])
    n_patches, groups = _groups(picture)
    found = [_smooth_noise(group) for group in groups]
    if not found:  # hardly a pixel has neighbours: nothing tells noise from signal
        return _Bins(values[:1], np.nanvar(picture, keepdims=True)[0] + _tiny(values), 1.0)
    mean, variance = np.array([(patches.mean(), v) for patches, v in found]).T
    variance += _tiny(values)
    # Each patch brings about one value that the others do not share.
    error = _MODEL_ERROR + math.sqrt(2 * len(found) / (_SMOOTH * n_patches))
    whole = ~np.array([_is_clipped(patches, values) for patches, _ in found])
    if whole.sum() >= _FEWEST_BINS:
        return _Bins(mean[whole], variance[whole], error)
    use = whole if whole.any() else np.ones_like(whole)
    return _Bins(mean[use].mean(keepdims=True), np.median(variance[use], keepdims=True), error)


def _tiny(values: Array) -> float:
    """Return a variance that no picture of these values would show, but above 0."""
    return max(1e-7 * float(np.abs(values).max()), 1e-30) ** 2


def _groups(picture: Array) -> tuple[int, Iterator[Array]]:
    """Return how many patches are used, and these in groups (n, P, P) of growing brightness.

    P is the largest that enough patches have without a gap, or 2.
    """
    largest = 8 if min(picture.shape) >= 128 else 4
    order = np.empty(0, dtype=np.intp)
    view = np.empty((0, 1, 1, 1))
    for size in range(min(largest, *picture.shape), 1, -1):
        view = sliding_window_view(picture, (size, size))
        step = math.ceil(math.sqrt(view.shape[0] * view.shape[1] / _MOST_PATCHES))
        view = view[::step, ::step]
        means = view.mean((2, 3)).ravel()
        order = np.argsort(means)[: np.isfinite(means).sum()]
        if len(order) >= _FEWEST_BINS * _PATCHES_PER_BIN:
            break
    n_bins = min(max(len(order) // _PATCHES_PER_BIN, _FEWEST_BINS), _MOST_BINS, len(order))
    parts = np.array_split(order, n_bins) if n_bins else []
    return len(order), (view[part // view.shape[1], part % view.shape[1]] for part in parts)


def _smooth_noise(patches: Array) -> tuple[Array, float]:
    """Return the smoothest of patches (n, P, P), and the variance of white noise in them.

    The rule is that of `truvae.levels` for principal axes, on cosines: the largest
    variances are left out until the mean of the rest is no more than their median.
    """
    from scipy.fft import dctn

    coefficients = dctn(patches, axes=(1, 2), norm="ortho")
    size = patches.shape[1]
    frequency = np.add.outer(np.arange(size), np.arange(size))
    texture = (coefficients[:, (frequency > 0) & (frequency <= size // 2)] ** 2).sum(1)
    smooth = texture <= np.quantile(texture, _SMOOTH)
    variances = np.sort((coefficients[smooth][:, frequency > size // 2] ** 2).mean(0))
    means = np.cumsum(variances) / np.arange(1, len(variances) + 1)
    medians = np.array([np.median(variances[: n + 1]) for n in range(len(variances))])
    return patches[smooth], float(means[np.flatnonzero(means <= medians).max()])


def _is_clipped(patches: Array, values: Array) -> bool:
    """Tell whether pixels pile up at either end of the picture's sorted values.

    Low counts, too, have many pixels at the least value, but then many at the next one.
    """
    ends = [(values[0], values[:2][-1]), (values[-1], values[-2:][0])]
    shares = [((patches == end).mean(), (patches == near).mean()) for end, near in ends]
    return any(at_end > max(_CLIPPED, 2 * near) for at_end, near in shares)


def _fit(bins: _Bins) -> tuple[PoissonGaussian, NDArray[np.bool_]]:
    """Fit the line to bins; return it, and which bins agree with it."""
    variance = _search(bins)
    agree = np.abs(bins.variance / variance - 1) < 2 * bins.error
    for _ in range(_REFINEMENTS):
        weight = agree / variance**2
        gain, intercept = _least_squares(bins, weight)
        variance = gain * bins.mean + intercept
        if variance.min() <= 0:
            gain, intercept = 0.0, float(np.average(bins.variance, weights=weight))
            break
    return PoissonGaussian(gain, intercept), agree


def _search(bins: _Bins) -> Array:
    """Return the best line through one bin (flat) or two, as its variances at the bins' means.

    Texture can raise a bin above the line by any amount, at a cost of 1; nothing but scatter
    takes one below it.
    """
    i, j = np.triu_indices(len(bins.mean), 1)
    width, rise = bins.mean[j] - bins.mean[i], bins.variance[j] - bins.variance[i]
    i, slope = i[width > 0], rise[width > 0] / width[width > 0]
    sloped = bins.variance[i, None] + slope[:, None] * (bins.mean - bins.mean[i, None])
    sloped = sloped[(slope > 0) & (sloped > 0).all(1)]
    lines = np.concatenate([np.repeat(bins.variance[:, None], len(bins.mean), 1), sloped])
    excess = (bins.variance / lines - 1) / (2 * bins.error)
    cost = np.minimum(excess**2, np.where(excess > 0, 1, _COST_BELOW)).sum(1)
    return np.asarray(lines[cost.argmin()])


def _least_squares(bins: _Bins, weight: Array) -> tuple[float, float]:
    """Return gain, at least 0, and intercept of the weighted least-squares line."""
    centre, level = (float(np.average(v, weights=weight)) for v in (bins.mean, bins.variance))
    spread = float((weight * (bins.mean - centre) ** 2).sum())
    joint = float((weight * (bins.mean - centre) * (bins.variance - level)).sum())
    gain = joint / spread if joint > 0 and spread > 0 else 0.0
    return gain, level - gain * centre


__all__ = ["PoissonGaussian", "is_signal_dependent"]
