"""The pictures of the documentation's gallery, before and after, from scikit-image's own."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from skimage import data, transform

from benchmarks.command import truvae
from benchmarks.report import FOLDER, OUT, publish, table
from benchmarks.series import Record, seeds, series
from benchmarks.series import add_arguments as add_series
from truvae.experiments import add_noise
from truvae.io import Picture, read_picture, to_dtype, write_picture

IMAGES = FOLDER.parent / "docs" / "images"
_SIDE = 192
_ZOOM, _GAP = 2, 8


class Case(NamedTuple):
    """One row of the gallery."""

    clean: np.ndarray
    damage: Callable[[np.ndarray, int], np.ndarray]
    """From the clean picture and a seed to the damaged one, NaN where missing, not rounded."""
    task: str


def cases() -> dict[str, Case]:
    """Return the rows by name."""
    return {
        "colour": Case(_crop(data.chelsea(), 60, 120), _noisy, "denoise"),
        "missing": Case(_crop(data.astronaut(), 20, 130), _dropped, "inpaint"),
        "scratches": Case(_crop(data.coins(), 60, 20), _scratched, "inpaint"),
        "photons": Case(_crop(data.cell(), 270, 310), _counted, "denoise"),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0", epochs=None)
    parser.add_argument("--quality", default="balanced")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Restore what has not been restored yet, and write the table."""
    keys = [{"case": case, "quality": options.quality, "seed": seed}
            for case in cases() for seed in seeds(options)]  # fmt: skip
    runs = series("gallery", keys, partial(restore, options=options), options)
    rows = [[r["case"], f"{r['psnr_noisy']:.2f}" if r["psnr_noisy"] else "", f"{r['psnr']:.2f}",
             f"{r['ssim']:.3f}", f"{r['took']:.0f}", r["noise"]] for r in runs]  # fmt: skip
    text = (
        f"Pieces of {_SIDE} x {_SIDE} pixels of pictures that ship with scikit-image; quality "
        f"{options.quality}, seeds {options.seeds}. {runs[-1]['machine']}."
    )
    header = ["picture", "dB before", "dB", "SSIM", "seconds", "noise"]
    publish("gallery", f"{text}\n\n{table(header, rows)}")


def restore(case: str, quality: str, seed: int, *, options: argparse.Namespace) -> Record:
    """Restore one picture by the public command, and draw it for the gallery."""
    clean, damage, task = cases()[case]
    damaged = damage(clean, seed)
    colour = clean.ndim == 3
    given, reference = OUT / f"gallery-{case}-given.tiff", OUT / f"gallery-{case}-clean.tiff"
    write_picture(given, Picture(damaged.astype(np.float32), channels=colour))
    write_picture(reference, Picture(clean.astype(np.float32), channels=colour))
    done = truvae(
        task,
        given,
        f"gallery-{case}",
        *("--reference", reference, "--quality", quality),
        *("--seed", seed, "--threads", options.threads),
        suffix=".tiff",
    )
    restored = read_picture(OUT / f"gallery-{case}.tiff").data
    pair = np.concatenate([_shown(damaged), _gap(damaged), _shown(restored)], 1)
    write_picture(IMAGES / f"gallery-{case}.png", Picture(pair, channels=True))
    kept = ("psnr_noisy", "psnr", "ssim", "sigma", "noise")
    return {key: done[key] for key in kept} | {"took": done["seconds"]}


def _crop(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    return picture[row : row + _SIDE, column : column + _SIDE]


def _noisy(clean: np.ndarray, seed: int) -> np.ndarray:
    """Add noise of standard deviation 25."""
    return add_noise(clean, 25.0, seed)


def _dropped(clean: np.ndarray, seed: int) -> np.ndarray:
    """Take away seven of ten pixels."""
    drawn = np.random.default_rng(seed).random(clean.shape[:2]) < 0.7
    return np.where(drawn[..., None], np.nan, clean)


def _scratched(clean: np.ndarray, seed: int) -> np.ndarray:
    """Write over the picture with a printed text."""
    letters = transform.resize(data.text(), (_SIDE, 448 * _SIDE // 172))[:, :_SIDE] < 0.3
    return np.where(letters, np.nan, clean)


def _counted(clean: np.ndarray, seed: int) -> np.ndarray:
    """Count photons, 20 in the brightest places, with noise of the camera."""
    rng = np.random.default_rng(seed)
    photons = 20.0 * clean / clean.max()
    return (rng.poisson(photons) + rng.normal(0, 0.5, clean.shape)) * clean.max() / 20


def _shown(values: np.ndarray) -> np.ndarray:
    """Return a picture in 8 bit and colour, twice as large, magenta where it is missing."""
    missing = np.isnan(values)
    grey = np.atleast_3d(to_dtype(np.where(missing, 0, values), np.uint8))
    rgb = np.broadcast_to(grey, (*grey.shape[:2], 3)).copy()
    rgb[np.atleast_3d(missing).all(2)] = (255, 0, 255)
    return rgb.repeat(_ZOOM, 0).repeat(_ZOOM, 1)


def _gap(values: np.ndarray) -> np.ndarray:
    return np.full((_ZOOM * len(values), _GAP, 3), 255, np.uint8)
