"""The page that shows what was done to a picture, and what was learned."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from truvae import plots
from truvae.io import to_dtype
from truvae.pages import (
    Drawing,
    View,
    activity,
    added,
    check_alike,
    check_report,
    training,
    write_page,
)

if TYPE_CHECKING:
    from truvae.results import Result

Array = npt.NDArray[Any]

# Most generative fields that are drawn.
_MOST_FIELDS = 64
# Percentiles of the restored picture between which pictures of other than 8 bit are shown.
_STRETCH = (0.1, 99.9)
_MISSING = (255, 0, 255)


def write_report(
    path: str | os.PathLike[str],
    result: "Result",
    before: npt.ArrayLike,
    record: Mapping[str, Any],
    *,
    channel_axis: int | None = None,
) -> None:
    """Write an HTML page that shows a restoration, complete in itself: it loads nothing.

    It holds the picture before and after, the record, the course of the training, and the
    generative fields and activity of the latents of `result.model`. The same run gives the same
    page but for what was measured of it, seconds and memory.

    Parameters
    ----------
    path
        The page, which must end in .html; it appears complete or not at all.
    result
        What `truvae.denoise` or `truvae.inpaint` returned with ``return_result=True``.
    before
        The picture that it was made from, same shape, in the same units; NaN where missing. Of
        several frames the first is shown.
    record
        Names and values for the table, as `truvae denoise --json` prints them; all are optional.
    channel_axis
        The axis of colour channels, the last one by default if there are any.

    Raises
    ------
    InputError
        If the page cannot be written to `path`, or the shapes differ.

    Examples
    --------
    >>> import tempfile, truvae
    >>> noisy = np.random.default_rng(0).normal(100, 20, (24, 24))
    >>> result = truvae.denoise(noisy, epochs=2, return_result=True)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_report(f"{folder}/page.html", result, noisy, {"sigma": result.sigma})
    """
    path = Path(path)
    check_report(path)
    check_alike("picture", np.shape(before), result.restored.shape)
    if channel_axis is None and len(result.sigma_channels) > 1 and result.restored.ndim > 2:
        channel_axis = -1  # as `denoise` took it
    view = _view(result.restored, np.asarray(before), channel_axis)
    write_page(path, view, _drawings(result), record)


def _view(restored: Array, before: Array, channel_axis: int | None) -> View:
    """Return before and after as 8-bit pictures, grey or RGB, and what to say of them."""
    after, told = _plane(restored, channel_axis)
    before, _ = _plane(before, channel_axis)
    missing = np.isnan(before)
    before = np.where(missing, 0, before)
    if restored.dtype == np.uint8:
        shown = to_dtype(before, np.uint8), after
    else:
        low, high = np.percentile(after.astype(float), _STRETCH)
        shown = _stretched(before, low, high), _stretched(after, low, high)
        told.append(f"Both are shown with black at {low:.5g} and white at {high:.5g}.")
    if missing.any():
        shown = _marked(shown[0], missing), shown[1]
        told.append("Missing pixels are magenta in the picture before.")
    if missing.ndim == 3 and (missing.any(-1) & ~missing.all(-1)).any():
        told.append("Where only some channels are missing, these are shown as zero.")
    return View("picture", *shown, told)


def _plane(array: Array, channel_axis: int | None) -> tuple[Array, list[str]]:
    """Return what is shown of a picture or stack, (R, C) or (R, C, 3), and what that leaves out."""
    array = array[..., None] if channel_axis is None else np.moveaxis(array, channel_axis, -1)
    frames = array.reshape(-1, *array.shape[-3:])
    told = [f"The first of {len(frames)} frames is shown."] if len(frames) > 1 else []
    n_channels = array.shape[-1]
    if n_channels == 3:
        return frames[0], told
    if n_channels > 1:
        told.append(f"The first of {n_channels} channels is shown.")
    return frames[0, ..., 0], told


def _stretched(values: Array, low: float, high: float) -> Array:
    """Show `low` as black and `high` as white."""
    scale = 255 / (high - low) if high > low else 1.0
    return to_dtype((values.astype(float) - low) * scale, np.uint8)


def _marked(shown: Array, missing: Array) -> Array:
    """Colour the pixels of an 8-bit picture that are missing altogether."""
    if shown.ndim == 2:
        shown, missing = np.stack([shown] * 3, -1), missing[..., None]
    return np.where(missing.all(-1, keepdims=True), np.array(_MISSING, np.uint8), shown)


def _drawings(result: "Result") -> list[Drawing]:
    """Return what was learned: the training, the fields and the use of the latents."""
    drawn, n_latents = generative_fields(result), result.model.n_latents
    peaks = np.abs(drawn).max(tuple(range(1, drawn.ndim)))
    units = "units of the picture" if result.noise is None else "standard deviations of the noise"
    units += " of the whitened picture" if result.spectra is not None else ""
    caption = (
        f"What one active latent adds to a patch: {len(drawn)} of {n_latents}, most used first. "
        f"Each is scaled by its largest magnitude, from {peaks.min():.3g} to {peaks.max():.3g} "
        f"{units}; grey is zero."
    )
    fields: Drawing = 4.2, lambda figure: plots.fields(drawn, ax=figure.add_subplot()), caption
    return [*training(result.history, "patch"), fields, activity(result.model)]


def generative_fields(result: "Result") -> Array:
    """Return what single active latents add to a patch, at most 64, the most used ones first.

    Returns
    -------
    (n, P, P), or (n, P, P, 3) in colour, in units of the picture, or of the stabilised picture
    where noise depends on the signal, or the whitened one where it is correlated. Channels of other
    numbers lie below each other.
    """
    size, n_channels = result.settings.patch_size, len(result.spread)
    patches = added(result.model, _MOST_FIELDS).reshape(-1, n_channels, size, size)
    fields: Array = patches * result.spread[:, None, None]
    if result.turn is not None:
        fields = np.einsum("nkij,ck->ncij", fields, result.turn.axes)
        n_channels = fields.shape[1]
    if n_channels == 3:
        return np.moveaxis(fields, 1, -1)
    return fields.reshape(len(fields), n_channels * size, size)


__all__ = ["generative_fields", "write_report"]
