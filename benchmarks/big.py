"""Large pictures by the public command, beside their pieces restored one by one."""

import argparse
import math
from functools import partial

import numpy as np

from benchmarks.command import truvae
from benchmarks.plots import curves
from benchmarks.report import OUT, publish, table
from benchmarks.series import Record, seeds, series
from benchmarks.series import add_arguments as add_series
from truvae.experiments import add_noise
from truvae.io import read_picture
from truvae.metrics import psnr

_PIECE = 256
_SIGMA = 25.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0", epochs=None)
    parser.add_argument("--sides", default="512,1024,2048", help="in pixels, or ROWSxCOLUMNS")
    parser.add_argument("--pieces", type=int, default=16, help="how many to restore one by one")
    parser.add_argument("--quality", default="balanced")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Restore what has not been restored yet, and write the table and the drawing."""
    OUT.mkdir(exist_ok=True)
    pieces = cut(options)
    rows, done = [], []
    for side in options.sides.split(","):
        shape = [int(n) // _PIECE for n in (side.split("x") * 2)[:2]]
        n = math.prod(shape)
        compared = np.unique(np.linspace(0, min(n, len(pieces)) - 1, options.pieces).astype(int))
        for seed in seeds(options):
            key = {"shape": shape, "quality": options.quality, "seed": seed}
            (big,) = series("big", [key], partial(mosaic, pieces=pieces, options=options), options)
            keys = [{"piece": int(i), "quality": options.quality, "seed": seed} for i in compared]
            alone = series("big-pieces", keys, partial(piece, pieces=pieces, options=options),
                           options)  # fmt: skip
            done.append(big)
            together = np.mean([big["pieces"][i] for i in compared])
            apart = np.mean([record["psnr"] for record in alone])
            rows.append([" x ".join(str(_PIECE * k) for k in shape), f"{big['psnr']:.2f}",
                         f"{together:.2f}", f"{apart:.2f}", f"{together - apart:+.2f}",
                         str(len(compared)), f"{big['took']:.0f}",
                         f"{1e3 * big['took'] / (n * _PIECE**2):.3f}", str(big["n_trained"]),
                         f"{big['seconds_per_epoch']:.1f}", f"{big['peak_mb']:.0f}"])  # fmt: skip
    done.sort(key=lambda record: record["n_data"])
    sizes = [record["n_data"] / 1e6 for record in done]
    lines = {name: (sizes, [record[key] for record in done])
             for name, key in (("all", "took"), ("an epoch", "seconds_per_epoch"))}  # fmt: skip
    curves(OUT / "big.png", lines, "million patches", "seconds")
    header = ["pixels", "dB", "dB of pieces", "restored alone", "difference", "pieces", "seconds",
              "ms per pixel", "trained on", "s per epoch", "peak MB"]  # fmt: skip
    text = (
        f"Mosaics of pieces of {_PIECE} x {_PIECE} pixels of the shared pictures, white noise of "
        f"{_SIGMA:g}, quality {options.quality}, seeds {options.seeds}, {options.threads} threads. "
        "The pieces that were restored alone too have the same noise there, and each models of its "
        f"own; dB are means over them. {done[-1]['machine']}."
    )
    publish("big", f"{text}\n\n{table(header, rows)}")


def cut(options: argparse.Namespace) -> list[np.ndarray]:
    """Return pieces of grey pictures, those of one picture far from each other."""
    images, patches = options.data / "images", options.data / "patches"
    files = [images / f"{name}.png" for name in ("house", "cameraman", "monarch", "kate")]
    files += [*sorted(patches.glob("*.tif")), patches / "natural_1024x1536.tiff"]
    pieces = []
    for picture in map(grey, files):
        rows, columns = (n // _PIECE * _PIECE for n in picture.shape)
        blocks = picture[:rows, :columns].reshape(-1, _PIECE, columns // _PIECE, _PIECE)
        pieces += [*blocks.swapaxes(1, 2).reshape(-1, _PIECE, _PIECE)]
    # From House on, in an order in which the first few are of many pictures.
    return [pieces[i] for i in [0, *(np.random.default_rng(0).permutation(len(pieces) - 1) + 1)]]


def grey(file) -> np.ndarray:
    """Read a picture as grey levels of 8 bit, the brightest being 255 where there were 16."""
    picture = read_picture(file)
    data = picture.data.astype(float)
    if picture.channels:
        data = data.mean(-1)
    return np.round(data * min(1, 255 / data.max())).astype(np.uint8)


def mosaic(
    shape: list[int],
    quality: str,
    seed: int,
    *,
    pieces: list[np.ndarray],
    options: argparse.Namespace,
) -> Record:
    """Restore as many pieces as one picture; those of very large ones come again, and again."""
    rows, columns = shape
    chosen = [i % len(pieces) for i in range(rows * columns)]
    noisy = [add_noise(pieces[i], _SIGMA, seed + k) for k, i in enumerate(chosen)]
    stem = f"big-{rows * _PIECE}x{columns * _PIECE}-{seed}-{quality}"
    record = restore(stem, joined([pieces[i] for i in chosen], rows), joined(noisy, rows), seed,
                     quality, options)  # fmt: skip
    restored = np.load(OUT / f"{stem}.npy").reshape(rows, _PIECE, columns, _PIECE)
    parts = restored.swapaxes(1, 2).reshape(-1, _PIECE, _PIECE)
    levels = [psnr(pieces[i], part) for i, part in zip(chosen, parts, strict=True)]
    return record | {"pieces": levels}


def piece(
    piece: int,
    quality: str,
    seed: int,
    *,
    pieces: list[np.ndarray],
    options: argparse.Namespace,
) -> Record:
    """Restore one piece alone."""
    clean = pieces[piece]
    stem = f"big-piece-{piece}-{seed}-{quality}"
    return restore(stem, clean, add_noise(clean, _SIGMA, seed + piece), seed, quality, options)


def joined(pieces: list[np.ndarray], rows: int) -> np.ndarray:
    """Return pieces as one picture, row by row."""
    grid = np.stack(pieces).reshape(rows, -1, _PIECE, _PIECE)
    return grid.swapaxes(1, 2).reshape(rows * _PIECE, -1)


def restore(
    stem: str,
    clean: np.ndarray,
    noisy: np.ndarray,
    seed: int,
    quality: str,
    options: argparse.Namespace,
) -> Record:
    """Restore a picture in a process of its own."""
    np.save(OUT / f"{stem}-clean.npy", clean)
    np.save(OUT / f"{stem}-noisy.npy", noisy)
    record = truvae("denoise", OUT / f"{stem}-noisy.npy", stem, "--reference",
                    OUT / f"{stem}-clean.npy", "--seed", seed, "--quality", quality,
                    "--threads", options.threads, suffix=".npy")  # fmt: skip
    kept = ("psnr", "n_data", "n_trained", "seconds_per_epoch", "trust_in_dct", "sigma")
    return {key: record[key] for key in kept} | {
        "took": record["seconds"],
        "peak_mb": record["peak_memory_mb"],
    }
