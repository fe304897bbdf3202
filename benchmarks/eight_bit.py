"""Noisy files of 8 bit, whose noise is cut off at 0 and 255, by the public command."""

import argparse
from functools import partial
from itertools import product

import numpy as np

from benchmarks.command import truvae
from benchmarks.denoise import SIX, locate
from benchmarks.peers import bm3d
from benchmarks.report import OUT, publish, table
from benchmarks.series import Record, seeds, series
from benchmarks.series import add_arguments as add_series
from truvae.experiments import add_noise
from truvae.io import Picture, read_picture, to_dtype, write_picture
from truvae.metrics import psnr


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0", epochs=None)
    parser.add_argument("--pictures", default=SIX, help="names or files (default: %(default)s)")
    parser.add_argument("--sigmas", default="25,50")
    parser.add_argument("--methods", default="fast,balanced,bm3d")
    parser.add_argument("--colours", action="store_true", help="grey stored as red, green and blue")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Restore what has not been restored yet, and write the table."""
    sigmas, pictures = options.sigmas.split(","), options.pictures.split(",")
    rows = []
    for sigma, picture in product(map(float, sigmas), pictures):
        for method in options.methods.split(","):
            keys = [{"picture": picture, "noise": sigma, "method": method,
                     "colours": options.colours, "seed": seed}
                    for seed in seeds(options)]  # fmt: skip
            runs = series("eight-bit", keys, partial(restore, options=options), options)
            cells = [f"{np.mean([run[key] for run in runs]):.2f}" for key in ("before", "psnr")]
            told = [f"{run['sigma']:.1f}" for run in runs if run.get("sigma")]
            took = f"{np.median([run['took'] for run in runs]):.0f}"
            rows.append([picture, f"{sigma:g}", method, *cells, took, ", ".join(told)])
    text = (
        "White noise, then rounded to whole numbers from 0 to 255 as in a file of 8 bit. Seeds "
        f"{options.seeds}; BM3D is told sigma, and is given grey. {runs[-1]['machine']}."
    )
    header = ["picture", "sigma", "method", "dB before", "dB", "seconds", "sigma told"]
    name = "eight bit" + ", grey as colours" * options.colours
    publish(name, f"{text}\n\n{table(header, rows)}")


def restore(
    picture: str,
    noise: float,
    method: str,
    colours: bool,
    seed: int,
    *,
    options: argparse.Namespace,
) -> Record:
    """Restore one picture by one method."""
    path = locate(options, picture)
    clean = read_picture(path).data
    noisy = to_dtype(add_noise(clean, noise, seed), np.uint8)
    before = psnr(clean, noisy)
    if method == "bm3d":
        restored, took = bm3d(noisy, noise)
        return {"before": before, "psnr": psnr(clean, restored), "took": took}
    if colours:
        clean, noisy = (np.repeat(x[..., None], 3, -1) for x in (clean, noisy))
    stem = f"{path.stem}-{noise:g}-{seed}-8-bit" + "-colours" * colours
    for name, data in (("noisy", noisy), ("clean", clean)):
        write_picture(OUT / f"{stem}-{name}.png", Picture(data, channels=colours))
    told = truvae("denoise", OUT / f"{stem}-noisy.png", f"{stem}-{method}", "--reference",
                  OUT / f"{stem}-clean.png", "--seed", seed, "--quality", method, "--threads",
                  options.threads)  # fmt: skip
    return {"before": before, "psnr": told["psnr"], "sigma": told["sigma"], "took": told["seconds"]}
