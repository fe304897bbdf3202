"""Real fluorescence noise and colour pictures by the public command, beside BM3D."""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from skimage.restoration import estimate_sigma

from benchmarks.command import truvae
from benchmarks.peers import bm3d
from benchmarks.report import OUT, publish, table
from benchmarks.series import Record, seeds, series
from benchmarks.series import add_arguments as add_series
from truvae.experiments import add_noise
from truvae.io import Picture, read_picture, to_dtype, write_picture
from truvae.metrics import psnr, ssim

COLOUR = "castle_lossless"
_CROP = (slice(100, 356), slice(30, 286))  # of COLOUR: 256 x 256 pixels of castle and forest
_SIGMA = 25.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0", epochs=None)
    parser.add_argument("--cases", default=None, help="names; default: all microscopy and colour")
    parser.add_argument("--methods", default="balanced,best,bm3d")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Restore what has not been restored yet, and write the table."""
    OUT.mkdir(exist_ok=True)
    files = sorted((options.data / "microscopy").glob("*_noisy.png"))
    names = [file.name.removesuffix("_noisy.png") for file in files]
    cases = options.cases.split(",") if options.cases else [*names, COLOUR]
    rows = []
    for case in cases:
        for method in options.methods.split(","):
            keys = [{"case": case, "method": method, "seed": seed}
                    for seed in (seeds(options) if case == COLOUR else [0])]  # fmt: skip
            runs = series("microscopy", keys, partial(restore, options=options), options)
            gains = runs[0].get("noise_gain") or []
            rows.append([case, method, str(len(runs)), mean(runs, "psnr_noisy"),
                         mean(runs, "psnr"), mean(runs, "ssim", ".3f"), mean(runs, "took", ".0f"),
                         mean(runs, "sigma"), runs[0].get("noise") or "",
                         ", ".join(f"{gain:.3g}" for gain in gains)])  # fmt: skip
    header = ["picture", "method", "draws", "dB before", "dB", "SSIM", "seconds", "sigma told",
              "noise", "gain"]  # fmt: skip
    text = (
        "Microscopy: real noise, 512 x 512 pixels of 8 bit, against the mean of many frames. "
        f"{COLOUR}: a crop of 256 x 256 with white noise of {_SIGMA:g}, seeds "
        f"{options.seeds}. BM3D takes the noise level that scikit-image estimates (microscopy), or "
        f"the true one (colour, each channel on its own). {runs[-1]['machine']}."
    )
    publish("microscopy", f"{text}\n\n{table(header, rows)}")


def mean(runs: list[Record], key: str, form: str = ".2f") -> str:
    """Return a cell of the table."""
    values = [run[key] for run in runs if run.get(key) is not None]
    return f"{np.mean(values):{form}}" if values else ""


def restore(case: str, method: str, seed: int, *, options: argparse.Namespace) -> Record:
    """Restore one picture by one method; keep it to look at."""
    clean, noisy, source, flags = material(options, case, seed)
    stem = f"{case}-{seed}-{method}"
    if method == "bm3d":
        return beside(stem, clean, noisy, _SIGMA if case == COLOUR else None)
    done = truvae("denoise", source, stem, *flags, "--quality", method, "--seed", seed,
                  "--threads", options.threads)  # fmt: skip
    kept = ("psnr_noisy", "psnr", "ssim", "sigma", "sigma_source", "noise", "noise_gain",
            "noise_variance", "peak_memory_mb")  # fmt: skip
    return {key: done[key] for key in kept} | {"took": done["seconds"]}


def material(
    options: argparse.Namespace, case: str, seed: int
) -> tuple[Picture, np.ndarray, Path, list[object]]:
    """Return the clean picture, the noisy one, and the file and flags that the command takes."""
    if case != COLOUR:
        folder: Path = options.data / "microscopy"
        reference = folder / f"{case}_clean.png"
        source = folder / f"{case}_noisy.png"
        clean, noisy = read_picture(reference), read_picture(source)
        return clean, noisy.data, source, ["--reference", reference]
    whole = read_picture(options.data / "images" / f"{COLOUR}.png")
    clean = Picture(whole.data[_CROP], channels=True)
    path = OUT / f"{COLOUR}-crop.png"
    write_picture(path, clean)
    noisy = add_noise(clean.data, _SIGMA, seed)
    write_picture(
        OUT / f"{COLOUR}-{seed}-noisy.png", Picture(to_dtype(noisy, np.uint8), channels=True)
    )
    return clean, noisy, path, ["--add-noise", _SIGMA]


def beside(stem: str, clean: Picture, noisy: np.ndarray, sigma: float | None) -> Record:
    """Run BM3D with the noise level, or what scikit-image estimates."""
    channels = np.moveaxis(np.atleast_3d(noisy).astype(float), 2, 0)
    levels = [sigma or float(estimate_sigma(channel)) for channel in channels]
    values, took = bm3d(noisy, levels)
    write_picture(OUT / f"{stem}.png", Picture(values, channels=clean.channels))
    return {"psnr_noisy": psnr(clean.data, noisy), "psnr": psnr(clean.data, values),
            "ssim": ssim(clean.data, values, channels=clean.channels), "took": took,
            "sigma": float(np.mean(levels))}  # fmt: skip
