"""Whitened patches of natural pictures: what several benchmarks train on."""

import argparse
from pathlib import Path

import numpy as np
import tifffile
import torch

from truvae import datasets
from truvae.patches import Patches


def pictures(folder: Path) -> list[np.ndarray]:
    """Return the natural pictures among the data."""
    return [tifffile.imread(file) for file in sorted((folder / "patches").glob("*.tif*"))]


def patches(options: argparse.Namespace, n: int, size: int) -> torch.Tensor:
    """Return `n` whitened patches, (n, size * size) float32."""
    x = datasets.whitened_patches(pictures(options.data), n, size, random_state=0)
    return torch.as_tensor(x, dtype=torch.float32)


def distinct_patches(options: argparse.Namespace, n: int, size: int) -> torch.Tensor:
    """Return `n` whitened patches, no two of the same place, (n, size * size) float32.

    Single precision all along, so that a million take a few gigabytes at most.
    """
    g, parts = torch.Generator().manual_seed(0), []
    found = pictures(options.data)
    for picture, rows in zip(found, torch.arange(n).tensor_split(len(found)), strict=True):
        standard = (picture - picture.mean()) / picture.std()
        places = Patches(torch.as_tensor(standard, dtype=torch.float32), size)
        parts.append(places[torch.randperm(len(places), generator=g)[: len(rows)]])
    return torch.as_tensor(datasets.zca(torch.cat(parts).numpy()))
