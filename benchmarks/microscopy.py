"""Real fluorescence noise by the public command, beside BM3D."""

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
from truvae.io import Picture, read_picture, write_picture
from truvae.metrics import psnr, ssim


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0", epochs=None)
    parser.add_argument("--cases", default=None, help="names; default: all")
    parser.add_argument("--methods", default="balanced,best,bm3d")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Restore what has not been restored yet, and write the table."""
    OUT.mkdir(exist_ok=True)
    files = sorted((options.data / "microscopy").glob("*_noisy.png"))
    names = [file.name.removesuffix("_noisy.png") for file in files]
    cases = options.cases.split(",") if options.cases else names
    rows = []
    for case in cases:
        for method in options.methods.split(","):
            drawn = [0] if method == "bm3d" else seeds(options)  # it draws nothing
            keys = [{"case": case, "method": method, "seed": seed} for seed in drawn]
            runs = series("microscopy", keys, partial(restore, options=options), options)
            gains = runs[0].get("noise_gain") or []
            rows.append([case, method, str(len(runs)), mean(runs, "psnr_noisy"),
                         mean(runs, "psnr"), mean(runs, "ssim", ".3f"), mean(runs, "took", ".0f"),
                         mean(runs, "sigma"), runs[0].get("noise") or "",
                         ", ".join(f"{gain:.3g}" for gain in gains)])  # fmt: skip
    header = ["picture", "method", "seeds", "dB before", "dB", "SSIM", "seconds", "sigma told",
              "noise", "gain"]  # fmt: skip
    text = (
        "Real noise, 512 x 512 pixels of 8 bit, against the mean of many frames. Seeds "
        f"{options.seeds}. BM3D takes the noise level that scikit-image estimates. "
        f"{runs[-1]['machine']}."
    )
    publish("microscopy", f"{text}\n\n{table(header, rows)}")


def mean(runs: list[Record], key: str, form: str = ".2f") -> str:
    """Return a cell of the table."""
    values = [run[key] for run in runs if run.get(key) is not None]
    return f"{np.mean(values):{form}}" if values else ""


def restore(case: str, method: str, seed: int, *, options: argparse.Namespace) -> Record:
    """Restore one picture by one method; keep it to look at."""
    folder: Path = options.data / "microscopy"
    source, reference = (folder / f"{case}_{kind}.png" for kind in ("noisy", "clean"))
    stem = f"{case}-{seed}-{method}"
    if method == "bm3d":
        return beside(stem, read_picture(reference), read_picture(source).data)
    done = truvae("denoise", source, stem, "--reference", reference, "--quality", method, "--seed",
                  seed, "--threads", options.threads)  # fmt: skip
    kept = ("psnr_noisy", "psnr", "ssim", "sigma", "sigma_source", "noise", "noise_gain",
            "noise_variance", "peak_memory_mb")  # fmt: skip
    return {key: done[key] for key in kept} | {"took": done["seconds"]}


def beside(stem: str, clean: Picture, noisy: np.ndarray) -> Record:
    """Run BM3D with the noise level that scikit-image estimates."""
    level = float(estimate_sigma(noisy.astype(float)))
    values, took = bm3d(noisy, level)
    write_picture(OUT / f"{stem}.png", Picture(values))
    return {"psnr_noisy": psnr(clean.data, noisy), "psnr": psnr(clean.data, values),
            "ssim": ssim(clean.data, values), "took": took, "sigma": level}  # fmt: skip
