"""Drawings of the benchmarks."""

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

from truvae.plots import fields  # noqa: E402

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
    """Draw small pictures (n, rows, columns) or (n, rows, columns, 3) as a grid."""
    axes = fields(pictures, n_columns=columns, symmetric=symmetric)
    axes.figure.savefig(path, dpi=150)
    plt.close(axes.figure)
