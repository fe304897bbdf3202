"""Fill in missing pixels by the public command, beside biharmonic inpainting (Fig. 5)."""

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
from skimage.restoration import inpaint_biharmonic

from benchmarks.command import truvae
from benchmarks.denoise import summary
from benchmarks.report import OUT, publish, table
from benchmarks.series import Record, seeds, series
from benchmarks.series import add_arguments as add_series
from truvae.io import Picture, read_picture, read_plane, to_dtype, write_picture
from truvae.metrics import psnr

# Picture, share of missing values (None: a mask tells), and dB as the paper prints them (Fig. 5).
CASES = {
    "house-50": ("house.png", 0.5, "38.56 (BPFA 38.02, DIP 39.16)"),
    "castle-50": ("castle.jpg", 0.5, "37.33 (BPFA 36.45, PLE 38.34)"),
    "castle-80": ("castle.jpg", 0.8, "28.93 (BPFA 29.12, PLE 30.3)"),
    "kate": ("kate.png", None, ""),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0,1,2", epochs=None)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument(
        "--methods", default="balanced,best,biharmonic", help="a quality, preset, biharmonic"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Fill in what has not been filled in yet, and write the table."""
    rows = []
    for case in options.cases.split(","):
        for method in options.methods.split(","):
            if case == "kate" and method == "preset":
                continue
            draws = [0] if case == "kate" else seeds(options)
            keys = [{"case": case, "method": method, "seed": seed, "epochs": options.epochs}
                    for seed in draws]  # fmt: skip
            runs = series("inpainting", keys, partial(fill, options=options), options)
            errors = [r["held_out_rmse"] for r in runs if r.get("held_out_rmse") is not None]
            level, seconds, sigma, memory = summary(
                [run | {"seconds": run["took"]} for run in runs]
            )
            rows.append([case, method, str(len(runs)), level, seconds, sigma,
                         f"{np.mean(errors):.2f}" if errors else "", memory,
                         CASES[case][2]])  # fmt: skip
    if not rows:
        raise SystemExit("there is no preset for this picture: choose others")
    header = ["picture", "method", "draws", "dB (sd)", "seconds, median", "sigma told",
              "error at hidden pixels", "peak MB", "paper dB"]  # fmt: skip
    text = (
        "Missing per pixel (House) and per value of each channel (Castle, a JPEG), PSNR over all "
        "pixels, as the paper counts. Kate: a real mask of text over a clean photograph. Seeds "
        f"{options.seeds}. {runs[-1]['machine']}."
    )
    publish("inpainting", f"{text}\n\n{table(header, rows)}")


def fill(
    case: str, method: str, seed: int, epochs: int | None, *, options: argparse.Namespace
) -> Record:
    """Fill in one draw by one method; keep the damaged and the restored picture."""
    file, share, _ = CASES[case]
    source = options.data / "images" / file
    mask = options.data / "images" / "kate_mask.png"
    clean = read_picture(source)
    missing = read_plane(mask).data == 0 if share is None else dropped(clean, share, seed)
    show(f"inpaint-{case}-{seed}-damaged", clean, np.where(spread(missing, clean), 0, clean.data))
    stem = f"inpaint-{case}-{seed}-{method}"
    if method == "biharmonic":
        return biharmonic(stem, clean, missing)
    how = ["--preset", f"paper:inpaint-{case}"] if method == "preset" else ["--quality", method]
    how += ["--epochs", epochs] if epochs else []
    if share is None:
        what = ["--mask", mask, "--invert-mask", "--reference", source]
    else:
        what = ["--drop", share, "--drop-per", "value" if clean.channels else "pixel"]
    done = truvae("inpaint", source, stem, *what, *how, "--seed", seed,
                  "--threads", options.threads)  # fmt: skip
    kept = ("psnr", "ssim", "sigma", "sigma_source", "held_out_rmse", "looks", "peak_memory_mb")
    return {key: done[key] for key in kept} | {"took": done["seconds"]}


def dropped(clean: Picture, share: float, seed: int) -> np.ndarray:
    """Draw what is missing: each value of each channel on its own (DESIGN: `--drop-per value`)."""
    return np.random.default_rng(seed).random(clean.data.shape) < share


def spread(missing: np.ndarray, clean: Picture) -> np.ndarray:
    """Give a mask of pixels the shape of the picture."""
    whole = missing.ndim < clean.data.ndim
    return np.broadcast_to(missing[..., None] if whole else missing, clean.data.shape)


def biharmonic(stem: str, clean: Picture, missing: np.ndarray) -> Record:
    """Run scikit-image's biharmonic inpainting (doi:10.1137/16M1081919) channel by channel."""
    start = time.perf_counter()
    whole, unknown = np.atleast_3d(clean.data), np.atleast_3d(spread(missing, clean))
    planes = [
        inpaint_biharmonic(np.where(gaps, 0, plane) / 255.0, gaps)
        for plane, gaps in zip(channels(whole), channels(unknown), strict=True)
    ]
    filled = to_dtype(255 * np.stack(planes, -1).reshape(clean.data.shape), clean.data.dtype)
    took = time.perf_counter() - start
    show(stem, clean, filled)
    return {"psnr": psnr(clean.data, filled), "sigma": None, "peak_memory_mb": None, "took": took}


def channels(values: np.ndarray) -> np.ndarray:
    """Return the channels (K, R, C) of (R, C, K), each in its own memory."""
    return np.ascontiguousarray(np.moveaxis(values, 2, 0))


def show(stem: str, clean: Picture, values: np.ndarray) -> None:
    """Keep a picture to look at."""
    path: Path = OUT / f"{stem}.png"
    write_picture(path, Picture(values, channels=clean.channels))
