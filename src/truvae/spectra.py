"""What spectra of short stretches of a recording tell: how much noise there is, and where."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float64]

# Seconds of the windows of a spectrogram. Of the stretches that noise is estimated from, and how
# many coefficients are in each of their bands: long ones see between the partials of a chord.
_STRETCH, _STRETCHES, _BAND = 0.032, (0.032, 0.128), 16
# Share of the coefficients of a band that are independent, given the shape of the stretches.
_FREE = 0.69
# Share of samples equal to the one before from which on the rest are events in silence, no noise.
_SILENT = 0.95
# Lengths in seconds of the windows of a spectral look, each with a step of a fraction of it.
_LENGTHS, _STEPS = (0.016, 0.032, 0.064, 0.128, 0.256), 8
# How much more a window counts that leaves less of the noise: by this power of what it leaves.
_SELECTION = 8
_LEAST_LEFT = 1e-3
# Windows of which spectra are held at a time.
_BLOCK = 1 << 10


def noise_floor(recording: Array, sample_rate: float) -> Array:
    """Estimate the standard deviation of white noise in each channel of a recording, (K,).

    The energies of short stretches in bands of frequency scatter evenly around the variance of
    the noise where there is no signal. The largest ones are left out until the mean of the rest is
    no more than their median (the principle by which Chen, Zhu and Heng 2015,
    doi:10.1109/ICCV.2015.62, find the noise of pictures), but for the skewness of a chi-squared
    variable. Short stretches see between sudden sounds and long ones between the partials of
    sustained ones: the lower of the two levels counts.

    Parameters
    ----------
    recording
        (n, K), NaN where missing: stretches with gaps are left out, and those of one value. Where
        nearly all samples of the others equal the one before, or no stretch is complete, the level
        is 0.
    sample_rate
        Samples a second.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> tone = np.sin(np.arange(32_000) * 0.1)[:, None]
    >>> noise_floor(tone + rng.normal(0, 0.1, (32_000, 1)), 16_000).round(2)
    array([0.1])
    """
    sizes = {max(1, round(seconds * sample_rate / _BAND)) * _BAND for seconds in _STRETCHES}
    lengths = sorted({min(size, len(recording)) for size in sizes})
    return np.array([_floor(x, lengths) for x in recording.T])


def _floor(x: Array, lengths: Sequence[int]) -> float:
    """Return the lowest level of the noise in stretches of some lengths of samples (n,); 0 where
    there are none.
    """
    if _is_silent(x, lengths[0]):
        return 0.0
    x = x - np.nanmean(x)  # large offsets would leak into all bands
    energies = [_energies(x, length) for length in lengths]
    return min((_level(kind) for kind in energies if len(kind)), default=0.0)


def _is_silent(x: Array, length: int) -> bool:
    """Say whether nearly all samples (n,), NaN where missing, equal the one before, in those
    stretches of a length that vary: around what was recorded there may be any number of zeros.
    """
    steps = np.diff(x)
    starts = np.arange(0, len(steps), length)
    equal, known = (np.add.reduceat(each, starts) for each in (steps == 0, np.isfinite(steps)))
    varies = equal < known
    return bool(equal[varies].sum() >= _SILENT * known[varies].sum())


def _energies(x: Array, length: int) -> Array:
    """Return the mean squares in bands of the spectra of half-overlapping stretches of samples
    (n,), NaN where missing, in ascending order.
    """
    from scipy.fft import dct

    stretches = np.lib.stride_tricks.sliding_window_view(x, length)[:: max(1, length // 2)]
    kept = np.flatnonzero(np.ptp(stretches, 1) > 0)  # the peak to peak of a gap is NaN
    if not len(kept):
        return np.zeros(0)
    # Loud partials would leak from stretches that are cut off.
    shape = np.sqrt(2) * np.sin(np.pi * (np.arange(length) + 0.5) / length)
    band = min(_BAND, length)
    n_bands = length // band
    energies = []
    for rows in np.array_split(kept, math.ceil(len(kept) / _BLOCK)):
        spectra = dct(stretches[rows] * shape, norm="ortho", axis=1)
        squares = np.square(spectra[:, : n_bands * band]).reshape(-1, band)
        energies.append(squares.mean(1))
    return np.sort(np.concatenate(energies))


def _level(energies: Array) -> float:
    """Return the level of the noise in ascending energies; that of all where these are none."""
    order = np.arange(len(energies))
    means = np.cumsum(energies) / (order + 1)
    median_of_mean = (
        1 - 2 / (9 * _BAND * _FREE)
    ) ** 3  # of a chi-squared variable (Wilson-Hilferty)
    even = np.flatnonzero(means * median_of_mean <= energies[order // 2])
    return float(np.sqrt(means[even[-1] if len(even) else -1]))


def spectrogram(x: Array, sample_rate: float, n_columns: int) -> Array:
    """Return the power spectral density of a signal over time, (frequencies, columns).

    Parameters
    ----------
    x
        (n,), NaN where missing: these samples count as zero.
    sample_rate
        Samples a second.
    n_columns
        Into how many parts time is divided, if there are so many samples; what is known of a part
        is the mean over windows of 32 ms around it, NaN where nothing is.

    Returns
    -------
    Densities in squared units of the signal for each Hz, at frequencies from 0 to half the sample
    rate.

    Examples
    --------
    >>> tone = np.sin(np.arange(16_000) * 2 * np.pi / 8)  # 2 kHz
    >>> density = spectrogram(tone, 16_000, 10)
    >>> density.shape, density.argmax(0).tolist() == [64] * 10  # of 256 times 31.25 Hz
    ((257, 10), True)
    """
    length = min(max(2, 2 * round(_STRETCH * sample_rate / 2)), len(x))
    step, shape = max(1, length // 2), np.hanning(length + 1)[:-1]
    scale = 2 / (sample_rate * np.square(shape).sum())
    ends = length // 2, length - 1 - length // 2
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ends, "reflect"), length)
    edges = np.linspace(0, len(x), min(n_columns, len(x)) + 1).astype(int)
    columns = []
    for first, end in pairwise(edges):
        part = windows[first:end:step]
        part = part[np.isfinite(part).any(1)]
        powers = np.square(np.abs(np.fft.rfft(np.nan_to_num(part) * shape)))
        columns.append(powers.mean(0) * scale if len(part) else np.full(length // 2 + 1, np.nan))
    return np.stack(columns, 1)


@torch.no_grad()
def spectral_look(
    noisy: Tensor, estimate: Tensor, sigma: float, sample_rate: float
) -> tuple[Tensor, Tensor]:
    """Restore a recording once more, given a first estimate of it, by the spectra of the estimate.

    Each coefficient of the spectrum of a window keeps the share p / (p + noise) of a Wiener
    filter, with p the power of the estimate there: the second step of BM3D (Dabov et al. 2007,
    doi:10.1109/TIP.2007.901238), in windows of several lengths at once. Sustained tones are few
    coefficients of a long window, and sudden sounds of a short one: where a window leaves less of
    the noise, it counts more.

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
    The second estimate, same shape, and its variance where the first one is right.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> clean = torch.sin(torch.arange(8000.0) * 0.1)[:, None]
    >>> noisy = clean + 0.3 * torch.randn(8000, 1, generator=g)
    >>> second, _ = spectral_look(noisy, noisy, 0.3, 16_000)
    >>> bool((second - clean).square().mean() < (noisy - clean).square().mean() / 2)
    True
    """
    sums = torch.zeros(3, *noisy.shape, dtype=torch.float64, device=noisy.device)
    lengths = {round(seconds * sample_rate / _STEPS) * _STEPS for seconds in _LENGTHS}
    for length in sorted(lengths & {*range(_STEPS, len(noisy) + 1)}) or [_STEPS]:
        restored, left = _windowed(noisy, estimate, sigma, length)
        trust = left.clamp(min=_LEAST_LEFT).pow(-_SELECTION)
        sums += trust * torch.stack([restored, left * sigma**2, torch.ones_like(left)])
    restored, variance = sums[:2] / sums[2]
    return restored, variance


def _windowed(noisy: Tensor, estimate: Tensor, sigma: float, length: int) -> tuple[Tensor, Tensor]:
    """Return the estimate by windows of one length and the share of the noise it leaves, (n, K)."""
    step, n = length // _STEPS, len(noisy)
    # Beyond both ends the recording goes on as its mirror image, so that all of it is well covered.
    inner = length - step
    ends = (inner, inner + -n % step)
    mirrored = [
        torch.nn.functional.pad(x.T[None], ends, mode="reflect")[0] for x in (noisy, estimate)
    ]
    frames = [x.unfold(1, length, step) for x in mirrored]
    shape = torch.hann_window(length, device=noisy.device)
    square = shape.square()
    noise = sigma**2 * float(square.sum())
    sums = torch.zeros(3, *mirrored[0].shape, dtype=torch.float64, device=noisy.device)
    offsets = torch.arange(length, device=noisy.device)
    for rows in torch.arange(frames[0].shape[1], device=noisy.device).split(_BLOCK):
        data, pilot = (torch.fft.rfft(x[:, rows] * shape) for x in frames)
        power = pilot.abs().square()
        gain = power / (power + noise)
        kept = torch.fft.irfft(data * gain, length) * shape
        left = gain.mean(2, keepdim=True) * square
        place = (rows[:, None] * step + offsets).flatten()
        for part, values in zip(sums, (kept, left, square.expand_as(left)), strict=True):
            part.index_add_(1, place, values.flatten(1).double())
    restored, left, weight = sums[:, :, inner : inner + n]
    return (restored / weight).T, (left / weight).T


__all__ = ["noise_floor", "spectral_look", "spectrogram"]
