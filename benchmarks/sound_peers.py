"""Other methods, on the recordings that ours gets: (n,) float, one channel.

All filters work on frames of 32 ms (Hann's square root for analysis and synthesis) that overlap by
three quarters, and but for `wiener_told` they estimate the noise themselves, by the tracker of
Gerkmann and Hendriks. What the literature leaves open was chosen by the SNR on the very clips that
they are judged by, in their favour.
"""

import warnings
from collections.abc import Callable

import numpy as np
from scipy.signal import ShortTimeFFT, lfilter, windows
from scipy.special import i0e, i1e

Method = Callable[[np.ndarray, int], np.ndarray]
Gain = Callable[[np.ndarray, np.ndarray], np.ndarray]

FRAME, HOP = 0.032, 0.008  # seconds
FLOOR = 10**-2.5  # the least a priori SNR, -25 dB
# Weight of the last frame in the a priori SNR: Ephraim and Malah's 0.98; for Wiener's gain 0.96
# brought more on speech (8.3 dB instead of 7.7), for theirs less (7.3 instead of 7.6).
DIRECTED, DIRECTED_WIENER = 0.98, 0.96
AR_ORDER, AR_CONTEXT = 400, 0.1  # coefficients; seconds on each side of a gap


# --- Noise ----------------------------------------------------------------------------------


def silence(noisy: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return zeros: what a method must beat."""
    return np.zeros_like(noisy)


def spectral_subtraction(noisy: np.ndarray, sample_rate: int) -> np.ndarray:
    """Subtract the noise geometrically (Lu and Loizou 2008, doi:10.1016/j.specom.2008.01.003).

    Its gain, the ratio of two sines in the triangle of noisy, clean and noise amplitudes, is by the
    law of sines sqrt(xi / gamma). The a posteriori SNR is limited to 20 and smoothed by 0.6.
    """
    transform, spectrum = analysed(noisy, sample_rate)
    noise = tracked_noise(np.abs(spectrum) ** 2)
    gains = np.empty(noise.shape)
    gamma, clean = np.ones(len(noise)), np.zeros(len(noise))
    for t in range(noise.shape[1]):
        power = np.abs(spectrum[:, t]) ** 2
        gamma = 0.6 * gamma + 0.4 * np.minimum(power / noise[:, t], 20)
        xi = DIRECTED * clean / noise[:, t] + (1 - DIRECTED) * (np.sqrt(gamma) - 1) ** 2
        gains[:, t] = np.sqrt(np.minimum(np.maximum(xi, FLOOR) / gamma, 1))
        clean = gains[:, t] ** 2 * power
    return transform.istft(gains * spectrum, k1=len(noisy))


def mmse_stsa(noisy: np.ndarray, sample_rate: int) -> np.ndarray:
    """Estimate amplitudes by least mean squares (Ephraim and Malah 1984).

    doi:10.1109/TASSP.1984.1164453, eq. 7, with the decision-directed a priori SNR.
    """
    return filtered(noisy, sample_rate, stsa_gain, DIRECTED)


def wiener(noisy: np.ndarray, sample_rate: int) -> np.ndarray:
    """Filter by xi / (1 + xi), with the decision-directed a priori SNR."""
    return filtered(noisy, sample_rate, wiener_gain, DIRECTED_WIENER)


def wiener_told(noisy: np.ndarray, sample_rate: int, sigma: float) -> np.ndarray:
    """Filter as `wiener`, told the variance of the white noise."""
    return filtered(noisy, sample_rate, wiener_gain, DIRECTED_WIENER, sigma)


def noise_reduce(noisy: np.ndarray, sample_rate: int, stationary: bool = False) -> np.ndarray:
    """Run package noisereduce by its defaults, in its default or its stationary mode."""
    from noisereduce import reduce_noise

    return reduce_noise(noisy, sample_rate, stationary=stationary)


def stsa_gain(xi: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    v = xi / (1 + xi) * gamma
    bessel = (1 + v) * i0e(v / 2) + v * i1e(v / 2)  # both with the factor exp(-v / 2)
    return np.sqrt(np.pi * v) / (2 * gamma) * bessel


def wiener_gain(xi: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    return xi / (1 + xi)


def filtered(
    noisy: np.ndarray, sample_rate: int, gain: Gain, directed: float, sigma: float | None = None
) -> np.ndarray:
    """Multiply the spectrum by a gain of the a priori and a posteriori SNR, frame by frame."""
    transform, spectrum = analysed(noisy, sample_rate)
    if sigma is None:
        noise = tracked_noise(np.abs(spectrum) ** 2)
    else:
        noise = np.full(spectrum.shape, sigma**2 * (transform.win**2).sum())
    restored, clean = np.empty_like(spectrum), np.zeros(len(spectrum))
    for t in range(spectrum.shape[1]):
        gamma = np.clip(np.abs(spectrum[:, t]) ** 2 / noise[:, t], 1e-6, 1e3)
        xi = directed * clean / noise[:, t] + (1 - directed) * np.maximum(gamma - 1, 0)
        restored[:, t] = gain(np.maximum(xi, FLOOR), gamma) * spectrum[:, t]
        clean = np.abs(restored[:, t]) ** 2
    return transform.istft(restored, k1=len(noisy))


def analysed(noisy: np.ndarray, sample_rate: int) -> tuple[ShortTimeFFT, np.ndarray]:
    """Return the transform and the spectrum, (frequencies, frames)."""
    window = np.sqrt(windows.hann(round(FRAME * sample_rate), sym=False))
    transform = ShortTimeFFT(window, round(HOP * sample_rate), sample_rate)
    return transform, transform.stft(noisy)


def tracked_noise(power: np.ndarray) -> np.ndarray:
    """Return the noise power of each frequency and frame, unbiased under speech.

    Gerkmann and Hendriks 2012, doi:10.1109/TASL.2011.2180896: speech is present or not with equal
    probability, 15 dB above the noise if it is. Theirs follows changing noise and starts in a
    pause; our noise is steady and our clips have no pause, so that it starts white, at the level of
    the quieter frequencies, is smoothed by 0.98 (less lost 3 dB on sustained notes), and has no
    safeguard against jumps.
    """
    xi = 10**1.5
    # A quantile q of exponential powers is -log(1 - q) times their mean.
    means = np.quantile(power, 0.2, axis=1) / -np.log(0.8)
    noise, levels = np.full(len(power), np.quantile(means, 0.3)), np.empty_like(power)
    for t, frame in enumerate(power.T):
        ratio = np.minimum(frame / noise * xi / (1 + xi), 200)
        presence = 1 / (1 + (1 + xi) * np.exp(-ratio))
        noise = 0.98 * noise + 0.02 * (presence * noise + (1 - presence) * frame)
        levels[:, t] = noise
    return levels


# --- Gaps -----------------------------------------------------------------------------------


def linear_fill(damaged: np.ndarray, sample_rate: int) -> np.ndarray:
    """Fill NaN by straight lines."""
    places, missing = np.arange(len(damaged)), np.isnan(damaged)
    return np.interp(places, places[~missing], damaged[~missing])


def burg_fill(damaged: np.ndarray, sample_rate: int) -> np.ndarray:
    """Fill NaN by linear prediction from both sides, cross-faded by a raised cosine.

    Models by Burg's method of order 400 (gaps of 20 ms in piano music, dB: 6.5 with order 100, 9.6
    with 200, 11.1 with 400, 10.8 with 533) from up to 0.1 s beside the gap (0.25 s: 10.7), as in
    Kauppinen and Roth, J. Audio Eng. Soc. 50(12), 2002.
    """
    filled, edges = damaged.copy(), np.flatnonzero(np.diff(np.isnan(damaged).astype(int))) + 1
    gaps = edges.reshape(-1, 2)  # no gap touches an end
    limits = [0, *edges, len(damaged)]
    for i, (start, end) in enumerate(gaps):
        context = round(AR_CONTEXT * sample_rate)
        before = damaged[max(limits[2 * i], start - context) : start]
        after = damaged[end : min(limits[2 * i + 3], end + context)]
        length = end - start
        fade = np.cos(np.pi / 2 * (np.arange(length) + 0.5) / length) ** 2
        forth, back = continued(before, length), continued(after[::-1], length)[::-1]
        filled[start:end] = fade * forth + (1 - fade) * back
    return filled


def continued(context: np.ndarray, length: int) -> np.ndarray:
    """Predict what follows."""
    coefficients = burg(context, min(AR_ORDER, len(context) // 3))
    # The state of the all-pole filter, from its last outputs; its input is zero from there.
    history = context[: -len(coefficients) : -1]
    state = [-(coefficients[k:] @ history[: len(coefficients) - k])
             for k in range(1, len(coefficients))]  # fmt: skip
    return lfilter([1.0], coefficients, np.zeros(length), zi=np.array(state))[0]


def burg(values: np.ndarray, order: int) -> np.ndarray:
    """Return the coefficients 1, a_1..a_order of the prediction error filter by Burg's method."""
    forward, backward, coefficients = values[1:], values[:-1], np.ones(1)
    for _ in range(order):
        energy = forward @ forward + backward @ backward
        reflection = -2 * (forward @ backward) / (energy or 1)
        padded = np.append(coefficients, 0)
        coefficients = padded + reflection * padded[::-1]
        forward, backward = (
            forward[1:] + reflection * backward[1:],
            backward[:-1] + reflection * forward[:-1],
        )
    return coefficients


# --- Quality --------------------------------------------------------------------------------


def delta_pesq(
    clean: np.ndarray, noisy: np.ndarray, restored: np.ndarray, sample_rate: int, band: str = "wb"
) -> float:
    """Return the gain in perceived quality of speech (ITU-T P.862.2, or P.862 with band "nb").

    NaN and a warning where the package fails, as on silence.
    """
    from pesq import PesqError, pesq

    try:
        return pesq(sample_rate, clean, restored, band) - pesq(sample_rate, clean, noisy, band)
    except (PesqError, ValueError) as error:
        warnings.warn(f"PESQ failed: {error!r}", stacklevel=2)
        return float("nan")
