"""Pages that show what was done to an input, and what was learned: one HTML file for itself."""

import base64
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from truvae import plots
from truvae.errors import InputError
from truvae.io import check_place, whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from truvae.model import Model
    from truvae.training import Epoch

Array = npt.NDArray[Any]
Drawing = tuple[float, Callable[["Figure"], Any], str]
"""A figure: its height in inches, what draws it, and its caption."""

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


@dataclass(frozen=True)
class View:
    """What a page shows of an input and its restoration."""

    what: str
    """A "picture" or a "recording"."""
    before: Array
    """8-bit pixels (R, C), or (R, C, 3) in colour."""
    after: Array
    """The same, with as many rows and columns."""
    notes: Sequence[str]
    """What to say of them."""
    sounds: Sequence[bytes] = ()
    """WAV files before and after, to be played."""


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


def check_alike(what: str, before: tuple[int, ...], after: tuple[int, ...]) -> None:
    """Raise an `InputError` if an input and its restoration have different shapes."""
    if before != after:
        raise InputError(
            f"the {what} has shape {before}, the restored one {after}: they must be equal"
        )


def write_page(
    path: Path, view: View, drawings: Sequence[Drawing], record: Mapping[str, Any]
) -> None:
    """Write a page; it appears complete or not at all.

    Parameters
    ----------
    path
        The page, as `check_report` wants it.
    view
        What is shown at the top.
    drawings
        What was learned, in turn.
    record
        Names and values for the table, all optional.
    """
    height, width = view.after.shape[:2]
    template = Template(files("truvae").joinpath("report.html").read_text("utf-8"))
    page = template.substitute(
        title=html.escape(Path(str(record.get("input", f"A {view.what}"))).name),
        what=view.what,
        facts=_facts(record),
        width=width,
        height=height,
        before=_png(view.before),
        after=_png(view.after),
        players=_players(view.sounds),
        notes=_notes([*view.notes, *(record.get("notes") or ())]),
        learned=_learned(drawings),
        rows=_rows(record),
    )
    with whole_file(path) as file:
        file.write(page.encode(errors="replace"))  # not every file name is text


def training(history: "Sequence[Epoch]", datum: str) -> list[Drawing]:
    """Return the drawing of the training on patches or windows, if there was any."""
    caption = f"Training: lower bound (ELBO) of a {datum}, and standard deviation of the noise."
    # Stopped at once, it is empty.
    return [(4.2, lambda figure: plots.history(history, figure), caption)] if history else []


def activity(model: "Model") -> Drawing:
    """Return the drawing of the use of the latents."""
    pi = model.prior.pi.cpu().numpy()
    return 3.0, lambda figure: plots.activity(pi, figure.add_subplot()), "Use of the latents."


def single_latents(model: "Model", most: int) -> "Tensor":
    """Return what a decoder says of the state with no active latent, and of those with one, at most
    so many, the most used first: (n + 1, any).
    """
    import torch

    pi = model.prior.pi
    states = torch.eye(len(pi)).to(pi)[pi.argsort(descending=True, stable=True)[:most]]
    with torch.no_grad():
        return model.decode_dense(torch.cat([torch.zeros_like(states[:1]), states]))


def added(model: "Model", most: int) -> Array:
    """Return what single active latents add to the mean of a data point, (n, D), see
    `single_latents`.
    """
    means = model.noise.mean(single_latents(model, most))
    fields: Array = (means[1:] - means[0]).cpu().numpy()
    return fields


def _png(picture: Array) -> str:
    """Return an 8-bit picture as the address of itself."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return _address("image/png", file.getvalue())


def _address(kind: str, data: bytes) -> str:
    """Return the content of a file as the address of itself."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _players(sounds: Sequence[bytes]) -> str:
    """Return a player for each of the sounds before and after, if there are any."""
    player = '<figure>\n<audio controls src="{}"></audio>\n<figcaption>{}</figcaption>\n</figure>\n'
    players = "".join(
        player.format(_address("audio/wav", sound), name)
        for sound, name in zip(sounds, ("Before", "After"), strict=False)
    )
    return f'<div class="plots">\n{players}</div>\n' if players else ""


def _facts(record: Mapping[str, Any]) -> str:
    """Return what matters most of a record, as far as it tells."""
    facts = {}
    for name in ("psnr", "snr"):
        if record.get(name) is not None:
            before = record.get(f"{name}_noisy")
            change = "" if before is None else f"{before:.2f} → "
            facts[name.upper()] = f"{change}{record[name]:.2f} dB"
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


def _learned(drawings: Sequence[Drawing]) -> str:
    """Return the part of the page that shows what was learned, if anything was."""
    import matplotlib.style

    with matplotlib.style.context(["default", _STYLE]):
        figures = "".join(_figure(*drawing) for drawing in drawings)
    return f'<h2>What was learned</h2>\n<div class="plots">\n{figures}</div>\n' if figures else ""


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


__all__ = [
    "Drawing",
    "View",
    "activity",
    "added",
    "check_alike",
    "check_report",
    "single_latents",
    "training",
    "write_page",
]
