"""A page that shows what was done to a picture, and what was learned: one HTML file for itself."""

import base64
import html
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from truvae import plots
from truvae.errors import InputError
from truvae.io import check_place, to_dtype, whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from truvae.restore import Result

Array = npt.NDArray[Any]

# Most generative fields that are drawn.
_MOST_FIELDS = 64
# Percentiles of the restored picture between which pictures of other than 8 bit are shown.
_STRETCH = (0.1, 99.9)
_MISSING = (255, 0, 255)
# What differs from run to run.
_MEASURED = ("seconds", "seconds_per_epoch", "peak_memory_mb")
# Told beside the table.
_APART = ("notes",)
# Inches of a figure.
_WIDTH = 4.2
# Stands for the colour of the page's text, which the scheme of the reader decides.
_INK = "#010203"
_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "truvae",  # the same figure, the same file
    "legend.frameon": False,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK
    ),
}


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
        The axis of colour channels, None for a grey picture.

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
    if np.shape(before) != result.restored.shape:
        raise InputError(
            f"the picture has shape {np.shape(before)}, the restored one {result.restored.shape}: "
            "they must be equal"
        )
    page = _page(result, np.asarray(before), record, channel_axis)
    with whole_file(path) as file:
        file.write(page.encode(errors="replace"))  # not every file name is text


def check_report(path: Path) -> None:
    """Check, before the work begins, that a page can be written to `path`.

    Raises
    ------
    InputError
        If its name does not end in .html, or its folder is missing or closed.
    """
    check_place(path)
    if path.suffix.lower() != ".html":
        raise InputError(f"a report is a page, and {path} does not end in .html: let it do so")


def _page(
    result: "Result", before: Array, record: Mapping[str, Any], channel_axis: int | None
) -> str:
    (shown_before, shown_after), told = _pictures(result.restored, before, channel_axis)
    height, width = shown_after.shape[:2]
    template = Template(files("truvae").joinpath("report.html").read_text("utf-8"))
    return template.substitute(
        title=html.escape(Path(str(record.get("input", "A picture"))).name),
        facts=_facts(record),
        width=width,
        height=height,
        before=_png(shown_before),
        after=_png(shown_after),
        notes=_notes([*told, *record.get("notes", ())]),
        plots=_plots(result),
        rows=_rows(record),
    )


def _pictures(
    restored: Array, before: Array, channel_axis: int | None
) -> tuple[tuple[Array, Array], list[str]]:
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
    return shown, told


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


def _png(picture: Array) -> str:
    """Return an 8-bit picture as the address of itself."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _facts(record: Mapping[str, Any]) -> str:
    """Return what matters most of a record, as far as it tells."""
    facts = {}
    if record.get("psnr") is not None:
        before = record.get("psnr_noisy")
        facts["PSNR"] = ("" if before is None else f"{before:.2f} → ") + f"{record['psnr']:.2f} dB"
    if record.get("ssim") is not None:
        facts["SSIM"] = f"{record['ssim']:.3f}"
    if record.get("sigma") is not None:
        source = record.get("sigma_source")
        facts[f"Noise level sigma{f', {source}' if source else ''}"] = f"{record['sigma']:.4g}"
    if record.get("missing"):
        facts["Missing"] = f"{record['missing']:.1%}"
    if record.get("seconds") is not None:
        facts["Time"] = f"{record['seconds']:.1f} s"
    cell = "<div><dt>{}</dt><dd{}>{}</dd></div>\n"
    return "".join(
        cell.format(html.escape(name), _measured(name == "Time"), html.escape(value))
        for name, value in facts.items()
    )


def _notes(notes: Sequence[str]) -> str:
    lines = "".join(f"<li>{html.escape(note)}</li>\n" for note in notes)
    return f"<ul>\n{lines}</ul>\n" if lines else ""


def _rows(record: Mapping[str, Any]) -> str:
    """Return the rows of the table: all that a record has to tell."""
    return "".join(
        f'<tr><th scope="row">{html.escape(name.replace("_", " "))}</th>'
        f"<td{_measured(name in _MEASURED)}>{html.escape(_text(value))}</td></tr>\n"
        for name, value in record.items()
        if name not in _APART and value is not None
    )


def _measured(is_so: bool) -> str:
    """Mark what differs from run to run."""
    return ' class="measured"' if is_so else ""


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _plots(result: "Result") -> str:
    """Draw the training, the fields and the latents."""
    import matplotlib.style

    drawn, pi = generative_fields(result), result.model.prior.pi.cpu().numpy()
    peaks = np.abs(drawn).max(tuple(range(1, drawn.ndim)))
    units = "units of the picture" if result.noise is None else "standard deviations of the noise"
    training = "Training: lower bound (ELBO) of a patch, and standard deviation of the noise."
    fields = (
        f"What one active latent adds to a patch: {len(drawn)} of {len(pi)}, most used first. Each "
        f"is scaled by its largest magnitude, from {peaks.min():.3g} to {peaks.max():.3g} {units}; "
        "grey is zero."
    )
    figures: list[tuple[float, Callable[[Figure], Any], str]] = [
        (4.2, lambda figure: plots.fields(drawn, ax=figure.add_subplot()), fields),
        (3.0, lambda figure: plots.activity(pi, figure.add_subplot()), "Use of the latents."),
    ]
    if result.history:  # stopped at once, it is empty
        figures.insert(0, (4.2, lambda figure: plots.history(result.history, figure), training))
    with matplotlib.style.context(["default", _STYLE]):
        return "".join(_figure(*figure) for figure in figures)


def generative_fields(result: "Result") -> Array:
    """Return what single active latents add to a patch, at most 64, the most used ones first.

    Returns
    -------
    (n, P, P), or (n, P, P, 3) in colour, in units of the picture, or of the stabilised picture
    where noise depends on the signal. Channels of other numbers lie below each other.
    """
    import torch

    model, pi = result.model, result.model.prior.pi
    used = pi.argsort(descending=True, stable=True)[:_MOST_FIELDS]
    states = torch.eye(len(pi)).to(pi)[used]
    with torch.no_grad():
        outputs = model.decode_dense(torch.cat([torch.zeros_like(states[:1]), states]))
        means = model.noise.mean(outputs)
    size, n_channels = result.settings.patch_size, len(result.spread)
    added = (means[1:] - means[0]).cpu().numpy().reshape(-1, n_channels, size, size)
    fields: Array = added * result.spread[:, None, None]
    if n_channels == 3:
        return np.moveaxis(fields, 1, -1)
    return fields.reshape(len(fields), n_channels * size, size)


def _figure(height: float, draw: Callable[["Figure"], Any], caption: str) -> str:
    """Draw a figure of some height in inches as SVG within the page."""
    from matplotlib.figure import Figure

    figure, file = Figure(figsize=(_WIDTH, height), layout="constrained"), io.StringIO()
    draw(figure)
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    # A page knows the names of the format, and takes no prologue.
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", file.getvalue().partition("<svg")[2])
    svg = svg.replace(_INK, "currentColor")
    return f"<figure>\n<svg{svg}<figcaption>{html.escape(caption)}</figcaption>\n</figure>\n"


__all__ = ["check_report", "generative_fields", "write_report"]
