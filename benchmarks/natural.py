"""Whitened patches of natural pictures: what several benchmarks train on."""

import argparse
from pathlib import Path

import numpy as np
import tifffile
import torch

from truvae import datasets


def pictures(folder: Path) -> list[np.ndarray]:
    """Return the natural pictures among the data."""
    return [tifffile.imread(file) for file in sorted((folder / "patches").glob("*.tif*"))]


def patches(options: argparse.Namespace, n: int, size: int) -> torch.Tensor:
    """Return `n` whitened patches, (n, size * size) float32."""
    x = datasets.whitened_patches(pictures(options.data), n, size, random_state=0)
    return torch.as_tensor(x, dtype=torch.float32)
