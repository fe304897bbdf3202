"""A stack of frames that share their models, beside one frame restored alone."""

import argparse
from functools import partial

import numpy as np

from benchmarks.command import truvae
from benchmarks.report import OUT, publish, table
from benchmarks.series import Record, seeds, series
from benchmarks.series import add_arguments as add_series
from truvae.experiments import add_noise
from truvae.io import Picture, read_picture, write_picture
from truvae.metrics import psnr

_FRAMES, _SIDE, _STEP, _SIGMA = 20, 256, 6, 25.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0", epochs=None)
    parser.add_argument("--quality", default="balanced")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Restore what has not been restored yet, and write the table."""
    OUT.mkdir(exist_ok=True)
    rows = []
    for seed in seeds(options):
        keys = [{"frames": n, "quality": options.quality, "seed": seed} for n in (1, _FRAMES)]
        one, all_of_them = series("stack", keys, partial(restore, options=options), options)
        rows.append([str(seed), f"{one['took']:.0f}", f"{all_of_them['took']:.0f}",
                     f"{all_of_them['took'] / one['took']:.2f}", f"{one['psnr'][0]:.2f}",
                     f"{all_of_them['psnr'][0]:.2f}", f"{np.mean(all_of_them['psnr']):.2f}",
                     f"{all_of_them['peak_mb']:.0f}"])  # fmt: skip
    header = ["seed", "one frame, s", "stack, s", "ratio", "frame 0 alone, dB",
              "frame 0 in the stack, dB", "all frames, dB", "peak MB"]  # fmt: skip
    text = (
        f"{_FRAMES} frames of {_SIDE} x {_SIDE} pixels of 16 bit that move over one picture "
        f"(patches/01.tif), {_STEP} pixels each, with white noise of {_SIGMA:g} levels of 8 bit; "
        f"--stack shared, quality {options.quality}. {all_of_them['machine']}."
    )
    publish("stack", f"{text}\n\n{table(header, rows)}")


def restore(frames: int, quality: str, seed: int, *, options: argparse.Namespace) -> Record:
    """Restore the first frames."""
    picture = read_picture(options.data / "patches" / "01.tif").data.astype(float)
    places = [_STEP * i for i in range(frames)]
    clean = np.stack([picture[i : i + _SIDE, i : i + _SIDE] for i in places])
    noisy = np.stack([add_noise(frame, _SIGMA, seed + i) for i, frame in enumerate(clean)])
    stem = f"stack-{frames}-{seed}-{quality}"
    stored = np.rint(128 * noisy + 8192).clip(0, 65535).astype(np.uint16)
    write_picture(OUT / f"{stem}-noisy.tif", Picture(stored if frames > 1 else stored[0]))
    record = truvae("denoise", OUT / f"{stem}-noisy.tif", stem, "--stack", "shared",
                    "--quality", quality, "--seed", seed, "--threads", options.threads,
                    suffix=".tif")  # fmt: skip
    restored = read_picture(OUT / f"{stem}.tif").data.reshape(clean.shape)
    levels = [
        psnr(one.round().astype(np.uint8), (found.astype(float) - 8192) / 128)
        for one, found in zip(clean, restored, strict=True)
    ]
    return {"took": record["seconds"], "psnr": levels, "peak_mb": record["peak_memory_mb"]}
