"""Gaps in a recording: found where it was damaged, and filled from what surrounds them."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from truvae.settings import check_choice

Array = npt.NDArray[Any]

REPAIRS = ("clipping", "dropouts")
# Seconds around a gap that tell its spectrum.
_REACH = 0.25
# What is known on each side of a gap and says how it goes on: seconds at least, in units of the
# gap, and samples at most.
_SIDE, _SIDES, _MOST = 0.008, 1.5, 2000
# Seconds of a gap that are filled at a time, from both its ends.
_AT_ONCE = 0.05
# White noise over the power of the surroundings: a spectrum of few lines alone is singular.
_FLOOR = 1e-6
# Gaps of so many samples are drawn as lines at first, and how often all are filled.
_SHORT, _ROUNDS = 4, 2
# Gaps longer than this, in seconds, are told: what is in them is not heard.
_LONG_GAP = 0.05
# So many samples in a row at the highest or lowest level were clipped; so many seconds of zeros
# were lost.
_CLIPPED, _DROPPED = 3, 0.001
# Share of the samples that may be clipped at one level: more is what there is between sounds.
_MOST_CLIPPED = 0.8


def damaged_samples(y: Array, repairs: Sequence[str], sample_rate: float) -> Array:
    """Return where a recording (n, K) was damaged, (n, K), true where samples are lost.

    Parameters
    ----------
    y
        The recording.
    repairs
        "clipping" for three samples or more in a row at the highest or lowest level that there is,
        unless it is 0 or most samples have it, "dropouts" for exact zeros for a millisecond or
        more, but not at the ends.
    sample_rate
        Samples a second.

    Examples
    --------
    >>> y = np.array([0.2, 0.9, 0.9, 0.9, 0.1, -0.4])[:, None]
    >>> damaged_samples(y, ["clipping"], 16_000)[:, 0].tolist()
    [False, True, True, True, False, False]
    """
    for repair in repairs:
        check_choice("repair", repair, REPAIRS)
    lost = np.zeros(y.shape, dtype=bool)
    for k, x in enumerate(y.T):
        if x.min() == x.max():
            continue  # a silent channel is whole
        if "clipping" in repairs:
            for level in (x.max(), x.min()):
                reached = x == level
                if level != 0 and reached.mean() <= _MOST_CLIPPED:
                    _mark(lost[:, k], reached, _CLIPPED)
        if "dropouts" in repairs:
            zeros = x == 0
            sound = np.flatnonzero(~zeros)
            if len(sound):
                zeros[: sound[0]] = zeros[sound[-1] :] = False
            _mark(lost[:, k], zeros, max(2, round(_DROPPED * sample_rate)))
    return lost


def beyond_clipping(restored: Array, y: Array) -> Array:
    """Return a repaired recording in which no sample that was clipped lies within the level that it
    was clipped at: the sound was louder there.

    Parameters
    ----------
    restored
        The recording with its clipped samples filled in, (n, K).
    y
        The recording as it was.

    Examples
    --------
    >>> y = np.array([0.2, 0.9, 0.9, 0.9, 0.1])[:, None]
    >>> beyond_clipping(np.array([0.2, 0.8, 1.1, 1.0, 0.1])[:, None], y)[:, 0].tolist()
    [0.2, 0.9, 1.1, 1.0, 0.1]
    """
    clipped = damaged_samples(y, ["clipping"], 1.0)
    louder = np.where(y == y.max(0), np.maximum(restored, y), np.minimum(restored, y))
    return np.where(clipped, louder, restored)


def _mark(lost: Array, marked: Array, shortest: int) -> None:
    """Mark the runs of at least so many samples as lost."""
    for start, end in runs(marked):
        if end - start >= shortest:
            lost[start:end] = True


def tell_of_long_gaps(recording: Array, sample_rate: float) -> None:
    """Warn that what fills long gaps of a recording (n, K) is a guess."""
    longest = longest_gap(recording) / sample_rate
    if longest > _LONG_GAP:
        warnings.warn(
            f"gaps are up to {longest:.2g} s long: beyond {_LONG_GAP:g} s what fills them is "
            "plausible, not what was there",
            stacklevel=2,
        )


def fill_gaps(
    recording: Array,
    sample_rate: float,
    go_on: Callable[[float], bool] = lambda progress: True,
) -> Array:
    """Fill the gaps of a recording, channel by channel.

    A gap and its surroundings count as one draw of a stationary Gaussian process with the
    autocovariance of a quarter of a second on either side: the expected values of what is missing,
    given what is known on both sides, interpolate all tones at once. Autoregressive interpolation
    (Janssen, Veldhuis and Vries 1986, doi:10.1109/TASSP.1986.1164824) does the same with a
    covariance of few parameters.

    Parameters
    ----------
    recording
        (n, K), NaN where missing; each channel has a known sample.
    sample_rate
        Samples a second.
    go_on
        Told the progress in [0, 1] before each gap or part of a long one, and asked whether to fill
        it; what is not filled any more is what a first guess, by lines and means, or the round
        before made of it.

    Returns
    -------
    The recording without gaps, known samples as they are.

    Examples
    --------
    >>> clean = np.sin(np.arange(8000) * 0.1)[:, None]
    >>> damaged = clean.copy()
    >>> damaged[4000:4300] = np.nan
    >>> bool(np.abs(fill_gaps(damaged, 16_000) - clean).max() < 0.05)
    True
    """
    filled, missing = recording.copy(), np.isnan(recording)
    done, total = 0, _ROUNDS * np.count_nonzero(missing)

    def goes_on(n_samples: int) -> bool:
        nonlocal done
        done += n_samples
        return go_on((done - n_samples) / total)

    for k in range(recording.shape[1]):
        pilot = _first_guess(recording[:, k], missing[:, k])
        for _ in range(_ROUNDS):
            pilot = _filled_once(recording[:, k], pilot, sample_rate, goes_on)
        filled[:, k] = pilot
    return filled


def _filled_once(
    x: Array, pilot: Array, sample_rate: float, goes_on: Callable[[int], bool]
) -> Array:
    """Return samples (n,) with their gaps filled, given how they were filled before, for as long as
    it goes on; that is asked with the number of samples to fill next.
    """
    x = x.copy()
    for first, last in _portions(x, sample_rate):
        if not goes_on(int(np.isnan(x[first:last]).sum())):
            break
        x[first:last] = _expected(x, pilot, first, last, sample_rate)
    return np.where(np.isnan(x), pilot, x)


def _first_guess(x: Array, missing: npt.NDArray[np.bool_]) -> Array:
    """Fill single samples by straight lines, and long gaps by the mean."""
    known = np.flatnonzero(~missing)
    guess = np.interp(np.arange(len(x)), known, x[known])
    for start, end in runs(missing):
        if end - start > _SHORT:
            guess[start:end] = x[known].mean()
    return guess


def longest_gap(recording: Array) -> int:
    """Return the samples of the longest gap of a recording (n, K), NaN where missing.

    >>> longest_gap(np.array([[1.0], [np.nan], [np.nan], [2.0]]))
    2
    """
    lengths = [end - start for x in recording.T for start, end in runs(np.isnan(x))]
    return max(lengths, default=0)


def runs(marked: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Return first and last + 1 of each run of marked samples (n,).

    >>> runs(np.array([True, False, True, True]))
    [(0, 1), (2, 4)]
    """
    edges = np.flatnonzero(np.diff(marked, prepend=False, append=False))
    return [(int(start), int(end)) for start, end in edges.reshape(-1, 2)]


def _portions(x: Array, sample_rate: float) -> Iterator[tuple[int, int]]:
    """Yield first and last + 1 of what to fill together, while the samples x (n,) are filled in.

    Long gaps are filled from both ends inward, near ones together.
    """
    most, near = max(2, round(_AT_ONCE * sample_rate)), max(1, round(_SIDE * sample_rate))
    done = 0
    for start, end in runs(np.isnan(x)):
        from_left = start > 0
        while max(start, done) < end:
            start = max(start, done)
            if end - start <= most:
                done = max(end, min(len(x), start + near))
                yield start, done
            elif from_left:
                yield start, start + most // 2
                start += most // 2
            else:
                yield end - most // 2, end
                end -= most // 2
            from_left = start > 0 and (not from_left or end == len(x))


def _expected(x: Array, pilot: Array, first: int, last: int, sample_rate: float) -> Array:
    """Return the samples from `first` to `last`, those expected where they are missing.

    `pilot` is the recording as it was filled before.
    """
    from scipy.linalg import cho_factor, cho_solve

    reach = round(_REACH * sample_rate)
    around = pilot[max(0, first - reach) : last + reach]
    mean = around.mean()
    side = min(_MOST, round(max(_SIDE * sample_rate, _SIDES * (last - first))))
    start = max(0, first - side)
    window = x[start : last + side] - mean
    known = np.isfinite(window)
    covariance = _autocovariance(around - mean, len(window))
    if covariance[0] > 0:
        covariance[0] *= 1 + _FLOOR
        system = _toeplitz(covariance)
        factor = cho_factor(system[np.ix_(known, known)].T, overwrite_a=True)
        weights = cho_solve(factor, window[known])
        window[~known] = system[np.ix_(~known, known)] @ weights
    expected: Array = np.nan_to_num(window[first - start : last - start]) + mean
    return np.where(np.isnan(x[first:last]), expected, x[first:last])


def _toeplitz(covariance: Array) -> Array:
    """Return the covariances of samples (n, n), given them by lag (n,), as a view.

    >>> _toeplitz(np.array([3, 2, 1])).tolist()
    [[3, 2, 1], [2, 3, 2], [1, 2, 3]]
    """
    both = np.concatenate([covariance[:0:-1], covariance])
    view: Array = np.lib.stride_tricks.sliding_window_view(both, len(covariance))
    return view[::-1]


def _autocovariance(x: Array, n_lags: int) -> Array:
    """Return the autocovariance of samples (n,) at lags from 0: (n_lags,), positive definite."""
    from scipy.fft import irfft, next_fast_len, rfft

    size = next_fast_len(len(x) + n_lags, real=True)
    products: Array = irfft(np.abs(rfft(x, size)) ** 2, size)[:n_lags]
    return products / len(x)


__all__ = [
    "REPAIRS",
    "beyond_clipping",
    "damaged_samples",
    "fill_gaps",
    "longest_gap",
    "runs",
    "tell_of_long_gaps",
]
