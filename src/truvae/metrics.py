"""Quality of a restored picture or recording against a clean one."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from truvae.errors import InputError

Array = npt.NDArray[Any]

_FRAME = 0.032  # seconds, for the segmental SNR; frames overlap by half
_LIMITS = (-10.0, 35.0)  # dB: beyond them, frames sound alike
_SILENT = 40.0  # dB below the loudest frame
# Rows whose similarity is measured at a time: it takes a dozen numbers for each pixel.
_BAND = 512


def data_range(reference: Array) -> float:
    """Return the peak value that PSNR and SSIM refer to.

    The range of the type for integers; for floats 1 if all values lie in [0, 1], else the
    reference's own range.

    >>> data_range(np.zeros((2, 2), np.uint16))
    65535.0
    """
    if np.issubdtype(reference.dtype, np.integer):
        limits = np.iinfo(reference.dtype)
        return float(limits.max) - float(limits.min)
    low, high = float(np.nanmin(reference)), float(np.nanmax(reference))
    return 1.0 if low >= 0 and high <= 1 else high - low


def psnr(reference: Array, estimate: Array) -> float:
    """Return the peak signal-to-noise ratio in dB over all known pixels of the reference.

    It is NaN if the reference is a constant float picture, which has no peak.

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> round(psnr(np.zeros((4, 4), np.uint8), np.full((4, 4), 25.0)), 2)
    20.17
    """
    _check_shapes(reference, estimate)
    error = float(np.nanmean(np.square(estimate - reference.astype(float))))
    if not error:
        return math.inf
    peak = data_range(reference)
    return 10 * math.log10(peak**2 / error) if peak else math.nan


def ssim(reference: Array, estimate: Array, *, channels: bool = False) -> float:
    """Return the structural similarity of pictures (doi:10.1109/TIP.2003.819861), a mean of frames.

    With scikit-image's defaults: a window of 7 x 7 pixels, or less in smaller pictures.

    Parameters
    ----------
    reference, estimate
        (..., rows, columns), and one more axis with `channels`.
    channels
        Whether the last axis is colour channels, whose similarity is averaged.

    Returns
    -------
    At most 1; NaN of pictures with fewer than three rows or columns, where no window fits.

    Raises
    ------
    InputError
        If the shapes differ.
    """
    _check_shapes(reference, estimate)
    picture = reference.shape[-3 if channels else -2 :]
    window, peak = min(7, *picture[:2]), data_range(reference)
    window = window - 1 + window % 2
    if window < 3:
        return math.nan
    frames = zip(reference.reshape(-1, *picture), estimate.reshape(-1, *picture), strict=True)
    return float(np.mean([_ssim(*pair, peak, window, channels) for pair in frames]))


def _ssim(one: Array, other: Array, peak: float, window: int, channels: bool) -> float:
    """Return the similarity of two pictures, by bands of rows that share all but one window's."""
    from skimage.metrics import structural_similarity

    n = len(one) - window + 1  # rows of windows
    total = 0.0
    for first in range(0, n, _BAND):
        last = min(first + _BAND, n)
        total += (last - first) * structural_similarity(
            *(x[first : last + window - 1].astype(float) for x in (one, other)),
            data_range=peak,
            win_size=window,
            channel_axis=-1 if channels else None,
        )
    return total / n


def snr(reference: Array, estimate: Array) -> float:
    """Return the signal-to-noise ratio in dB over all known samples of all channels.

    10 log10(sum reference^2 / sum (reference - estimate)^2). It is NaN if the reference is silent.

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> round(snr(np.array([3.0, -3.0]), np.array([3.3, -3.3])), 6)
    20.0
    """
    _check_shapes(reference, estimate)
    known = ~np.isnan(reference)
    clean = reference[known].astype(float)
    signal, error = _energy(clean), _energy(clean - estimate[known])
    if not signal:
        return math.nan
    return 10 * math.log10(signal / error) if error else math.inf


def segmental_snr(reference: Array, estimate: Array, sample_rate: float) -> float:
    """Return the mean SNR in dB of frames of 32 ms that overlap by half.

    The SNR of a frame is clamped to [-10, 35] dB (J. Hansen and B. Pellom, "An effective quality
    evaluation protocol for speech enhancement algorithms", ICSLP 1998). Frames more than 40 dB
    below the loudest, the range that STOI takes for speech (doi:10.1109/TASL.2011.2114881), are
    left out. It is NaN if the reference is silent.

    Parameters
    ----------
    reference, estimate
        (n,) or (n, channels). Shorter ones than 32 ms are one frame.
    sample_rate
        Samples a second.

    Raises
    ------
    InputError
        If the shapes differ.

    Examples
    --------
    >>> clean = np.sin(np.arange(16000) / 9)
    >>> round(segmental_snr(clean, 1.1 * clean, 16_000), 6)
    20.0
    >>> segmental_snr(clean, clean, 16_000)
    35.0
    """
    _check_shapes(reference, estimate)
    signal = _frame_energies(reference, sample_rate)
    error = _frame_energies(reference - estimate.astype(float), sample_rate)
    if not signal.any():
        return math.nan
    heard = signal > 10 ** (-_SILENT / 10) * signal.max()
    with np.errstate(divide="ignore"):
        levels = 10 * np.log10(signal[heard] / error[heard])
    return float(np.clip(levels, *_LIMITS).mean())


def _frame_energies(values: Array, sample_rate: float) -> Array:
    """Return the energy of each frame and channel of (n,) or (n, channels)."""
    length = min(len(values), max(1, round(_FRAME * sample_rate)))
    frames = np.lib.stride_tricks.sliding_window_view(values.astype(float), length, axis=0)
    return np.asarray((frames[:: max(1, length // 2)] ** 2).sum(-1))


def _energy(values: Array) -> float:
    return float((values**2).sum())


def _check_shapes(reference: Array, estimate: Array) -> None:
    if reference.shape != estimate.shape:
        raise InputError(
            f"the reference has shape {reference.shape}, the estimate {estimate.shape}: "
            "they must be equal"
        )


__all__ = ["data_range", "psnr", "segmental_snr", "snr", "ssim"]
