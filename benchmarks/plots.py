"""Drawings of the benchmarks."""

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

from truvae.plots import fields  # noqa: E402

Line = tuple[list[float], list[float]]


def curves(
    path: Path,
    lines: dict[str, Line],
    x: str,
    y: str,
    level: float | None = None,
    log: bool = False,
) -> None:
    """Draw named lines, and a dashed level; over logarithmic axes if so told."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, (places, values) in lines.items():
        axes.plot(places, values, label=name, marker="o" if len(places) == 1 else None)
    if level is not None:
        axes.axhline(level, color="black", linestyle="--")
    axes.set(xlabel=x, ylabel=y)
    if log:
        axes.set(xscale="log", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def points(path: Path, places: dict[str, tuple[float, float]], x: str, y: str) -> None:
    """Draw named points over a logarithmic axis."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, place in places.items():
        axes.plot(*place, marker="o", linestyle="", label=name)
    axes.set(xlabel=x, ylabel=y, xscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def boxes(path: Path, groups: dict[str, list[float]], y: str) -> None:
    """Draw a box for each group of values."""
    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    axes.boxplot(list(groups.values()), tick_labels=list(groups), showmeans=True)
    axes.tick_params(axis="x", rotation=40)
    axes.set(ylabel=y)
    axes.grid(alpha=0.3, axis="y")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def tiles(path: Path, pictures: np.ndarray, columns: int, symmetric: bool = False) -> None:
    """Draw small pictures (n, rows, columns) or (n, rows, columns, 3) as a grid."""
    axes = fields(pictures, n_columns=columns, symmetric=symmetric)
    axes.figure.savefig(path, dpi=150)
    plt.close(axes.figure)


def spectrograms(path: Path, sounds: dict[str, np.ndarray], sample_rate: int) -> None:
    """Draw named recordings (n,) side by side, over a range of 80 dB that all share."""
    figure, axes = plt.subplots(
        1, len(sounds), figsize=(4.5 * len(sounds), 3.5), sharey=True, layout="constrained"
    )
    top = max(float(np.abs(values).max()) for values in sounds.values()) or 1.0
    for place, (name, values) in zip(axes, sounds.items(), strict=True):
        # A little noise, far below the range shown, so that silence has a logarithm too.
        floor = 1e-7 * top * np.random.default_rng(0).normal(size=len(values))
        *_, image = place.specgram(values + floor, 512, sample_rate, noverlap=384, mode="magnitude",
                                   scale="dB", cmap="magma")  # fmt: skip
        image.set_clim(*(20 * np.log10(top) + np.array([-100, -20])))
        place.set(title=name, xlabel="seconds")
    axes[0].set(ylabel="Hz")
    figure.colorbar(image, ax=axes, label="dB")
    figure.savefig(path, dpi=100)
    plt.close(figure)
