"""Noise that was smoothed, so that neighbouring pixels share it, by the public command."""

import argparse
from functools import partial
from itertools import product

import numpy as np
from scipy.ndimage import convolve

from benchmarks.command import truvae
from benchmarks.denoise import SIX, locate
from benchmarks.peers import bm3d_by_spectrum
from benchmarks.report import OUT, publish, table
from benchmarks.series import Record, seeds, series
from benchmarks.series import add_arguments as add_series
from truvae.io import Picture, read_picture, write_picture
from truvae.metrics import psnr

# The mean of 2 x 2 pixels, as after interpolation by half a pixel, and a wider bell.
KERNELS = {"square": np.ones((2, 2)), "bell": np.outer([1, 2, 1], [1, 2, 1])}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0", epochs=None)
    parser.add_argument("--pictures", default=SIX, help="names or files (default: %(default)s)")
    parser.add_argument("--kernels", default="square,bell")
    parser.add_argument("--sigmas", default="25")
    parser.add_argument("--methods", default="fast,balanced,bm3d,fast as white noise")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Restore what has not been restored yet, and write the table."""
    lists = (options.kernels, options.sigmas, options.pictures, options.methods)
    rows = []
    for kernel, sigma, picture, method in product(*(each.split(",") for each in lists)):
        keys = [{"picture": picture, "kernel": kernel, "noise": float(sigma), "method": method,
                 "seed": seed} for seed in seeds(options)]  # fmt: skip
        runs = series("smoothed", keys, partial(restore, options=options), options)
        cells = [f"{np.mean([run[key] for run in runs]):.2f}" for key in ("before", "psnr")]
        told = [f"{run['sigma']:.1f}" for run in runs if run.get("sigma")]
        shared = [f"{run['shared']:.2f}" for run in runs if run.get("shared")]
        took = f"{np.median([run['took'] for run in runs]):.0f}"
        rows.append(
            [picture, kernel, sigma, method, *cells, took, ", ".join(told), ", ".join(shared)]
        )
    text = (
        "White noise, smoothed by a mean of 2 x 2 pixels (square) or by the weights 1, 2, 1 both "
        "ways (bell), then scaled to sigma; nothing is rounded or cut off. Seeds "
        f"{options.seeds}; BM3D is told the spectrum of the noise. {runs[-1]['machine']}."
    )
    header = ["picture", "noise", "sigma", "method", "dB before", "dB", "seconds", "sigma told",
              "correlation told"]  # fmt: skip
    publish("smoothed", f"{text}\n\n{table(header, rows)}")


def restore(
    picture: str, kernel: str, noise: float, method: str, seed: int, *, options: argparse.Namespace
) -> Record:
    """Restore one picture by one method."""
    path = locate(options, picture)
    clean = read_picture(path).data
    weights = KERNELS[kernel] / np.sqrt(np.square(KERNELS[kernel]).sum())
    wide = np.random.default_rng(seed).normal(0, noise, [n + 8 for n in clean.shape])
    noisy = clean + convolve(wide, weights)[4:-4, 4:-4]
    before = psnr(clean, noisy)
    if method == "bm3d":
        powers = np.abs(np.fft.fft2(weights, clean.shape)) ** 2
        restored, took = bm3d_by_spectrum(noisy, noise**2 * clean.size * powers)
        return {"before": before, "psnr": psnr(clean, restored), "took": took}
    quality, _, white = method.partition(" as ")
    stem = f"{path.stem}-{kernel}-{noise:g}-{seed}"
    source = OUT / f"{stem}.tif"
    write_picture(source, Picture(noisy.astype(np.float32)))
    told = truvae("denoise", source, f"{stem}-{method.replace(' ', '-')}", "--reference", path,
                  "--seed", seed, "--quality", quality, "--threads", options.threads, "--noise",
                  "gaussian" if white else "auto", suffix=".tif")  # fmt: skip
    shared = told["noise_correlation"] and float(np.max(told["noise_correlation"]))
    return {"before": before, "psnr": told["psnr"], "sigma": told["sigma"], "shared": shared,
            "took": told["seconds"]}  # fmt: skip
