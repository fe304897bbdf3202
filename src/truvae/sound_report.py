"""The page that shows, and plays, what was done to a recording, and what was learned."""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from truvae import plots
from truvae.io import to_dtype
from truvae.model import Model
from truvae.noise import DiagonalGaussian
from truvae.pages import (
    Drawing,
    View,
    activity,
    added,
    check_alike,
    check_report,
    single_latents,
    training,
    write_page,
)
from truvae.spectra import spectrogram

if TYPE_CHECKING:
    from truvae.results import AudioResult

Array = npt.NDArray[Any]

# Most channels that are shown and played, most values that are played, and most windows and spectra
# of latents that are drawn.
_MOST_CHANNELS, _MOST_PLAYED, _MOST_WINDOWS, _MOST_SPECTRA = 2, 6_000_000, 25, 64
# Most columns of a spectrogram, and the decibels from its darkest to its brightest colour.
_COLUMNS, _RANGE = 1000, 80.0
# Inches of the spectrogram of one channel, and pixels for an inch.
_SIZE, _DOTS = (9.0, 3.0), 130
_MISSING = "gray"


def write_sound_report(
    path: str | os.PathLike[str],
    result: "AudioResult",
    before: npt.ArrayLike,
    record: Mapping[str, Any],
) -> None:
    """Write an HTML page that shows the restoration of a recording, complete in itself.

    It holds spectrograms before and after, players if the recording is short, the record, the
    course of the training, and what single latents of `result.model` stand for. The same run gives
    the same page but for what was measured of it, seconds and memory.

    Parameters
    ----------
    path
        The page, which must end in .html; it appears complete or not at all.
    result
        What `truvae.denoise_audio` or `truvae.inpaint_audio` returned with ``return_result=True``.
    before
        The recording that it was made from, same shape, in the same units; NaN where missing. The
        first two channels are shown.
    record
        Names and values for the table, as `truvae denoise --json` prints them; all are optional.

    Raises
    ------
    InputError
        If the page cannot be written to `path`, or the shapes differ.

    Examples
    --------
    >>> import tempfile, truvae
    >>> noisy = np.random.default_rng(0).normal(0, 0.1, 1000)
    >>> result = truvae.denoise_audio(noisy, sample_rate=8000, epochs=1, return_result=True)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_sound_report(f"{folder}/page.html", result, noisy, {"sigma": result.sigma})
    """
    path = Path(path)
    check_report(path)
    check_alike("recording", np.shape(before), result.restored.shape)
    view = _view(result, np.asarray(before))
    write_page(path, view, _drawings(result), record)


def _view(result: "AudioResult", before: Array) -> View:
    """Return spectrograms and sounds before and after, and what to say of them."""
    after, sample_rate = result.restored, result.sample_rate
    n_channels = 1 if before.ndim == 1 else before.shape[1]
    told = [
        "Spectrograms: power spectral density (colour, in dB below the highest) over time and "
        "frequency."
    ]
    if n_channels > _MOST_CHANNELS:
        told.append(f"The first {_MOST_CHANNELS} of {n_channels} channels are shown.")
    both = [x.reshape(-1, n_channels)[:, :_MOST_CHANNELS] for x in (before, after)]
    if np.isnan(both[0]).any():
        told.append(
            "Before, missing samples count as zero, which is heard as clicks and seen as columns; "
            "where nothing else is known the spectrogram is grey."
        )
    if result.model is None:
        gaps = ": gaps follow from the spectrum of what is around them" * (result.missing > 0)
        told.append(f"No model was needed{gaps}.")
    sounds, played = _sounds(both, sample_rate)
    shown = _spectrograms(both, sample_rate)
    return View("recording", *shown, [*told, *played], sounds)


def _sounds(both: Sequence[Array], sample_rate: float) -> tuple[list[bytes], list[str]]:
    """Return recordings before and after, (n, K), as WAV files in 16 bits, and what to say of them;
    none if they would make the page too large.
    """
    import soundfile

    n, n_channels = both[0].shape
    longest = _MOST_PLAYED // n_channels
    if n > longest:
        return [], [
            f"There are no players: the recording takes {n / sample_rate:.0f} s, and a page holds "
            f"up to {longest / sample_rate:.0f} s at its sample rate and number of channels."
        ]
    values = np.nan_to_num(np.stack(both).astype(float))
    full = max(float(np.abs(values).max()), 1.0)  # files are in units of full scale as they are
    sounds = []
    for levels in to_dtype(values / full * 2**15, np.int16):
        file = io.BytesIO()
        soundfile.write(file, levels, max(1, round(sample_rate)), "PCM_16", format="WAV")
        sounds.append(file.getvalue())
    return sounds, [f"Full scale of the players is {full:.5g}."] if full > 1 else []


def _spectrograms(both: Sequence[Array], sample_rate: float) -> tuple[Array, Array]:
    """Return pictures (R, C, 3) of recordings before and after, (n, K), in one scale."""
    powers = np.stack(
        [
            [spectrogram(x - np.nanmean(x), sample_rate, _COLUMNS) for x in recording.T]
            for recording in both
        ]
    )
    highest = max(float(np.nanmax(powers)), np.finfo(float).tiny)
    levels = 10 * np.log10(np.maximum(powers / highest, 10 ** (-_RANGE / 10)))
    seconds = len(both[0]) / sample_rate
    before, after = (_drawn(channels, seconds, sample_rate) for channels in levels)
    return before, after


def _drawn(levels: Array, seconds: float, sample_rate: float) -> Array:
    """Draw the levels of channels (K, frequencies, columns) below each other: (R, C, 3)."""
    import matplotlib.style
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colours = colormaps["magma"].with_extremes(bad=_MISSING)
    n_channels = len(levels)
    with matplotlib.style.context("default"):
        size = (_SIZE[0], _SIZE[1] * n_channels)
        figure = Figure(figsize=size, dpi=_DOTS, layout="constrained")
        axes = figure.subplots(n_channels, squeeze=False, sharex=True)[:, 0]
        for ax, channel in zip(axes, levels, strict=True):
            image = ax.imshow(
                channel,
                cmap=colours,
                vmin=-_RANGE,
                vmax=0,
                origin="lower",
                aspect="auto",
                extent=(0, seconds, 0, sample_rate / 2000),
            )
            ax.set_ylabel("frequency, kHz")
        axes[-1].set_xlabel("time, s")
        figure.colorbar(image, ax=axes, label="dB")
        canvas: Any = FigureCanvasAgg(figure)
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _drawings(result: "AudioResult") -> list[Drawing]:
    """Return what was learned, if there is a model: the training, what single latents stand for,
    and their use.
    """
    if result.model is None:
        return []
    model, noise = result.model, result.model.noise
    if isinstance(noise, DiagonalGaussian):
        single = _spectra(result, model, noise)
    else:
        single = _windows(result, model)
    return [*training(result.history, "window"), single, activity(model)]


def _windows(result: "AudioResult", model: Model) -> Drawing:
    """Draw what single active latents add to a window."""
    drawn = generative_windows(model, result.spread[0])  # of the loudest component
    peaks = np.abs(drawn).max(1)
    caption = (
        f"What one active latent adds to a window of {_milliseconds(result)}: {len(drawn)} of "
        f"{model.n_latents}, most used first. Each is scaled by its largest magnitude, from "
        f"{peaks.min():.3g} to {peaks.max():.3g} units of the recording."
    )
    return 4.2, lambda figure: plots.windows(drawn, figure.add_subplot()), caption


def _spectra(result: "AudioResult", model: Model, noise: DiagonalGaussian) -> Drawing:
    """Draw what single active latents make of the spectrum of a window."""
    outputs, highest = single_latents(model, _MOST_SPECTRA), result.sample_rate / 2
    levels = generative_spectra(noise, outputs)
    caption = (
        f"By how much one active latent raises (red) or lowers (blue) the power spectrum of a "
        f"window of {_milliseconds(result)}: {len(levels)} of {model.n_latents}, most used first."
    )
    return 4.2, lambda figure: plots.spectra(levels, highest, figure.add_subplot()), caption


def _milliseconds(result: "AudioResult") -> str:
    return f"{result.settings.patch_size / result.sample_rate * 1000:.3g} ms"


def generative_windows(model: Model, spread: float) -> Array:
    """Return what single active latents add to a window, at most 25, the most used ones first:
    (n, P), in units of the recording, of which `spread` is one standardised unit.
    """
    return added(model, _MOST_WINDOWS) * spread


def generative_spectra(noise: DiagonalGaussian, outputs: Tensor) -> Array:
    """Return by how many decibels states have more power than the first one in each coefficient of
    the cosine transform of a window, given decoder outputs (n + 1, any): (n, P).
    """
    mean, variance = noise.split(outputs)
    powers = (mean.square() + variance).cpu().numpy()
    levels: Array = 10 * np.log10(powers[1:] / powers[0])
    return levels


__all__ = ["generative_spectra", "generative_windows", "write_sound_report"]
