"""Pictures of what was learned, drawn by matplotlib, which is imported with the first of them.

Each function draws into axes that it is given, or into new ones of pyplot, and returns them.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from truvae.errors import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from truvae.training import Epoch

Array = npt.NDArray[Any]

# Inches for a tile of a grid, and the most that a grid takes.
_TILE, _LARGEST = 0.6, (12.0, 16.0)
# Share of a tile that curves take.
_INSIDE = 0.9
# Lines beyond this number get no legend: it would hide them.
_MOST_NAMED = 8
# Quantiles of the data points between which a band is drawn.
_BAND = (0.1, 0.9)


def fields(
    components: npt.ArrayLike,
    shape: tuple[int, ...] | None = None,
    n_columns: int | None = None,
    symmetric: bool = True,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw generative fields, or other small pictures, as a grid of tiles.

    Parameters
    ----------
    components
        The fields: (H, D), or (H, rows, columns), or (H, rows, columns, 3) in colour.
    shape
        (rows, columns) or (rows, columns, 3) of the fields in (H, D); square and grey if not given.
    n_columns
        Tiles beside each other; about as many as below each other if not given.
    symmetric
        Whether to scale each field by its largest magnitude, so that grey is zero. Otherwise grey
        fields share one scale from their lowest to their highest value, and colours are in [0, 1].
    ax
        Axes to draw into.

    Returns
    -------
    The axes; their image has one row or column between tiles, which is transparent.

    Raises
    ------
    InputError
        If there are no fields, or they do not have that shape. It is a ValueError.

    Examples
    --------
    >>> ax = fields(np.eye(4), n_columns=2)  # four fields of 2 x 2 pixels
    >>> ax.images[0].get_array().shape
    (5, 5)
    """
    pictures = _pictures(np.asarray(components, float), shape)
    n_columns = n_columns or math.ceil(math.sqrt(len(pictures)))
    limits = {"vmin": pictures.min(), "vmax": pictures.max()}
    if symmetric:
        pictures = _by_magnitude(pictures) / 2 + 0.5
        limits = {"vmin": 0.0, "vmax": 1.0}
    if ax is None:
        inches = (n_columns * _TILE, -(-len(pictures) // n_columns) * _TILE)
        ax = _new_axes(figsize=tuple(map(min, inches, _LARGEST)))
    # In vector graphics, only this keeps the pixels as they are.
    ax.imshow(_grid(pictures, n_columns), cmap="gray", interpolation="none", **limits)
    ax.set_axis_off()
    return ax


def windows(components: npt.ArrayLike, ax: "Axes | None" = None) -> "Axes":
    """Draw generative fields of recordings, or other short signals, as a grid of curves.

    Parameters
    ----------
    components
        (H, P), or (H, K, P) with K channels, which are drawn over each other; each component is
        scaled by its largest magnitude.
    ax
        Axes to draw into.

    Returns
    -------
    The axes; a tile is a unit wide and high, and a grey line is zero.

    Raises
    ------
    InputError
        If there are no components. It is a ValueError.

    Examples
    --------
    >>> ax = windows(np.sin(np.arange(30.0)).reshape(3, 10))
    >>> len(ax.lines)
    3
    """
    signals = np.asarray(components, float)
    if signals.size == 0 or signals.ndim not in (2, 3):
        raise InputError(f"there are no windows in an array of shape {signals.shape}")
    signals = signals.reshape(len(signals), -1, signals.shape[-1])
    signals = _by_magnitude(signals) * _INSIDE / 2
    n_columns = math.ceil(math.sqrt(len(signals)))
    if ax is None:
        ax = _new_axes(figsize=(6, 6))
    across = np.linspace((1 - _INSIDE) / 2, (1 + _INSIDE) / 2, signals.shape[2])
    for i, channels in enumerate(signals):
        row, column = divmod(i, n_columns)
        ax.hlines(-row, column + across[0], column + across[-1], color="gray", linewidth=0.4)
        for k, signal in enumerate(channels):
            ax.plot(column + across, signal - row, color=f"C{k % 10}", linewidth=0.7)
    ax.set_axis_off()
    return ax


def spectra(levels: npt.ArrayLike, highest: float, ax: "Axes | None" = None) -> "Axes":
    """Draw what latents make of a power spectrum, a row for each, raised red and lowered blue.

    Parameters
    ----------
    levels
        (H, F), decibels at F frequencies from 0 up.
    highest
        The highest frequency in Hz.
    ax
        Axes to draw into.

    Returns
    -------
    The axes.

    Raises
    ------
    InputError
        If the levels are not (H, F). It is a ValueError.

    Examples
    --------
    >>> spectra([[0.0, 3.0], [-2.0, 0.0]], 8000).images[0].get_clim()
    (-3.0, 3.0)
    """
    levels = np.asarray(levels, float)
    if levels.ndim != 2 or levels.size == 0:
        raise InputError(f"levels have shape (H, F), not {levels.shape}")
    if ax is None:
        ax = _new_axes(figsize=(6, 4))
    most = float(np.abs(levels).max()) or 1.0
    image = ax.imshow(
        levels,
        cmap="RdBu_r",
        vmin=-most,
        vmax=most,
        aspect="auto",
        interpolation="none",
        extent=(0, highest / 1000, len(levels) + 0.5, 0.5),
    )
    ax.set(xlabel="frequency, kHz", ylabel="latent, most used first")
    ax.figure.colorbar(image, ax=ax, label="dB")
    return ax


def history(epochs: "Sequence[Epoch]", figure: "Figure | None" = None) -> "Figure":
    """Draw the lower bound, and the noise level where there is one, over the epochs of training.

    Parameters
    ----------
    epochs
        Records of training, as `truvae.training.fit` yields them. Several runs may follow each
        other: each begins with index 0 and becomes a line of its own.
    figure
        Figure to draw into.

    Returns
    -------
    The figure: the ELBO in nats per data point and, unless it is NaN throughout, sigma in units
    of the data.

    Raises
    ------
    InputError
        If there are no epochs. It is a ValueError.

    Examples
    --------
    >>> from truvae.training import Epoch
    >>> runs = [Epoch(i, 1.0, -9.0 + i, 0.5, 2.0, 10, 1.0) for i in (0, 1, 2, 0, 1)]
    >>> [len(ax.lines) for ax in history(runs).axes]
    [2, 2]
    """
    runs = _runs(epochs)
    panels = {"ELBO, nats": [[epoch.elbo for epoch in run] for run in runs]}
    sigmas = [[epoch.sigma for epoch in run] for run in runs]
    if np.isfinite(np.concatenate(sigmas)).any():
        panels["sigma"] = sigmas
    if figure is None:
        from matplotlib import pyplot

        figure = pyplot.figure(figsize=(6, 2.5 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False, sharex=True)[:, 0]
    for ax, (name, lines) in zip(axes, panels.items(), strict=True):
        _draw_runs(ax, lines)
        ax.set_ylabel(name)
    axes[-1].set_xlabel("epoch")
    if 1 < len(runs) <= _MOST_NAMED:
        axes[0].legend(fontsize="small")
    return figure


def activity(pi: npt.ArrayLike, ax: "Axes | None" = None) -> "Axes":
    """Draw the probabilities of the latents, the most used first, on a logarithmic scale.

    Parameters
    ----------
    pi
        (H,), the probability of each latent to be active, as `Model.prior.pi`.
    ax
        Axes to draw into.

    Returns
    -------
    The axes; their title tells the sum, the expected number of active latents.

    Raises
    ------
    InputError
        If these are no probabilities. It is a ValueError.

    Examples
    --------
    >>> activity([0.1, 0.5, 0.2]).get_title()
    '0.80 of 3 latents active'
    """
    values = np.asarray(pi, float)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise InputError("pi must hold one probability in [0, 1] for each latent")
    values = np.sort(values)[::-1]
    if ax is None:
        ax = _new_axes(figsize=(6, 3))
    ax.plot(_ranks(values), values, marker=".")
    ax.set(
        yscale="log",
        xlabel="latent, most used first",
        ylabel="probability",
        title=f"{values.sum():.2f} of {len(values)} latents active",
    )
    ax.grid(alpha=0.3)
    return ax


def posterior_mass(responsibilities: npt.ArrayLike, ax: "Axes | None" = None) -> "Axes":
    """Draw how the posterior mass of data points spreads over their states, the best state first.

    Parameters
    ----------
    responsibilities
        (N, S), the posterior probabilities of the S states of each of N data points, in any order,
        as `Population.responsibilities`.
    ax
        Axes to draw into.

    Returns
    -------
    The axes, on a logarithmic scale: the mean over the data points, and a band that holds the
    middle 80 % of them.

    Raises
    ------
    InputError
        If the array is not (N, S). It is a ValueError.

    Examples
    --------
    >>> ax = posterior_mass([[0.25, 0.75], [0.95, 0.05]])
    >>> ax.lines[0].get_ydata().round(2).tolist()
    [0.85, 0.15]
    """
    mass = np.asarray(responsibilities, float)
    if mass.ndim != 2 or mass.size == 0:
        raise InputError(f"responsibilities have shape (N, S), not {mass.shape}")
    mass = np.sort(mass, 1)[:, ::-1]
    low, high = np.quantile(mass, _BAND, axis=0)
    if ax is None:
        ax = _new_axes(figsize=(6, 3))
    ranks = _ranks(mass[0])
    ax.plot(ranks, mass.mean(0), marker=".", label="mean")
    ax.fill_between(ranks, low, high, alpha=0.3, label="middle 80 % of the data points")
    # Tails run down to zero; a mass of far less than an even share hardly matters.
    ax.set(yscale="log", ylim=(min(1e-4, 0.01 / len(ranks)), 1.2))
    ax.set(xlabel="state, best first", ylabel="posterior mass")
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small")
    return ax


def _new_axes(**options: Any) -> "Axes":
    from matplotlib import pyplot

    return pyplot.figure(layout="constrained", **options).add_subplot()


def _by_magnitude(components: Array) -> Array:
    """Return components (H, ...), each over its largest magnitude."""
    peaks = np.abs(components).max(tuple(range(1, components.ndim)), keepdims=True)
    scaled: Array = components / np.where(peaks > 0, peaks, 1)
    return scaled


def _pictures(components: Array, shape: tuple[int, ...] | None) -> Array:
    """Return fields as (H, rows, columns) or (H, rows, columns, 3)."""
    if components.size == 0 or components.ndim < 2:
        raise InputError(f"there are no fields in an array of shape {components.shape}")
    if shape is None:
        side = math.isqrt(components.shape[1])
        shape = (side, side) if components.ndim == 2 else components.shape[1:]
    fits = math.prod(shape) == components[0].size
    if not fits or len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] != 3):
        raise InputError(
            f"fields of shape {components.shape[1:]} cannot be drawn as {shape}: give a shape "
            "(rows, columns) or (rows, columns, 3)"
        )
    return components.reshape(len(components), *shape)


def _grid(pictures: Array, n_columns: int) -> Array:
    """Lay pictures (H, rows, columns[, 3]) side by side, with what lies between transparent."""
    n, height, width = pictures.shape[:3]
    n_rows = -(-n // n_columns)
    size = (n_rows * (height + 1) - 1, n_columns * (width + 1) - 1)
    grid = np.full((*size, *pictures.shape[3:]), np.nan)
    for i, picture in enumerate(pictures):
        top, left = i // n_columns * (height + 1), i % n_columns * (width + 1)
        grid[top : top + height, left : left + width] = picture
    if grid.ndim == 2:
        return grid
    return np.concatenate([np.nan_to_num(grid), np.isfinite(grid[..., :1])], -1)


def _runs(epochs: "Sequence[Epoch]") -> "list[list[Epoch]]":
    """Part the records where their index starts again."""
    if not epochs:
        raise InputError("there are no epochs to draw")
    runs: list[list[Epoch]] = []
    for epoch in epochs:
        if not runs or epoch.index == 0:
            runs.append([])
        runs[-1].append(epoch)
    return runs


def _draw_runs(ax: "Axes", lines: list[list[float]]) -> None:
    """Draw the values of each run that has any."""
    for number, values in enumerate(lines, 1):
        if np.isfinite(values).any():
            marker = "o" if len(values) == 1 else None
            # Runs have their colour in all panels.
            color = f"C{(number - 1) % 10}"
            ax.plot(_ranks(values), values, marker=marker, color=color, label=f"run {number}")
    ax.locator_params(axis="x", integer=True)
    ax.grid(alpha=0.3)


def _ranks(values: Sequence[float] | Array) -> Array:
    return np.arange(1, len(values) + 1)


__all__ = ["activity", "fields", "history", "posterior_mass", "spectra", "windows"]
