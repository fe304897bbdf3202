"""Drawings of the benchmarks."""

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

Line = tuple[list[float], list[float]]


def curves(path: Path, lines: dict[str, Line], x: str, y: str, level: float | None = None) -> None:
    """Draw named lines, and a dashed level."""
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, (places, values) in lines.items():
        axes.plot(places, values, label=name, marker="o" if len(places) == 1 else None)
    if level is not None:
        axes.axhline(level, color="black", linestyle="--")
    axes.set(xlabel=x, ylabel=y)
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
    """Draw small pictures (n, rows, columns) or (n, rows, columns, 3) as a grid.

    With `symmetric`, each is scaled by its largest magnitude, and grey is zero.
    """
    n, height, width = pictures.shape[:3]
    rows = -(-n // columns)
    if symmetric:
        peak = np.abs(pictures).max((1, 2), keepdims=True)
        pictures = pictures / np.where(peak > 0, peak, 1) / 2 + 0.5
    canvas = np.ones((rows * (height + 1), columns * (width + 1), *pictures.shape[3:]))
    for i, picture in enumerate(pictures):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        canvas[top : top + height, left : left + width] = picture
    limits = {"vmin": 0, "vmax": 1} if symmetric else {}
    figure, axes = plt.subplots(
        figsize=(min(12, columns * 0.6), min(16, rows * 0.6)), layout="constrained"
    )
    axes.imshow(canvas, cmap="gray", interpolation="nearest", **limits)
    axes.set_axis_off()
    figure.savefig(path, dpi=150)
    plt.close(figure)
