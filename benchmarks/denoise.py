"""Denoise pictures by the public command, beside other methods on the same noise."""

import argparse
import math
import statistics
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

from benchmarks.command import truvae
from benchmarks.peers import bm3d, non_local_means, total_variation
from benchmarks.plots import points
from benchmarks.report import OUT, publish, table
from benchmarks.series import Record, seeds, series
from benchmarks.series import add_arguments as add_series
from truvae.experiments import add_noise
from truvae.io import read_picture
from truvae.metrics import psnr

SIX = "house,cameraman,monarch,airplane,boat,barbara"
CBM3D = "CBM3D, told sigma"  # of colour; the others are of grey
PEERS: dict[str, Callable] = {
    "BM3D, told sigma": bm3d,
    "non-local means, told sigma": non_local_means,
    "total variation": total_variation,
    CBM3D: bm3d,
}
# PSNR in dB at sigma 15, 25, 50 as others print it, on draws of their own: the paper (Fig. 3E), and
# Table II of doi:10.1109/TIP.2017.2662206 for WNNM and DnCNN-S, trained on clean pictures. Of these
# House by WNNM was compared with another paper that prints it; the others are to be checked.
PUBLISHED = {
    "TVAE, as published": {"house": (34.27, 32.65, 29.98)},
    "WNNM, as published": {
        "house": (35.13, 33.22, 30.33), "cameraman": (32.17, 29.64, 26.45),
        "monarch": (32.71, 29.84, 26.32), "airplane": (31.39, 28.69, 25.42),
        "boat": (32.27, 30.03, 26.97), "barbara": (33.60, 31.24, 27.79),
    },
    "DnCNN-S, as published": {
        "house": (34.97, 33.06, 30.00), "cameraman": (32.61, 30.18, 27.03),
        "monarch": (33.09, 30.28, 26.78), "airplane": (31.70, 29.13, 25.87),
        "boat": (32.42, 30.21, 27.20), "barbara": (32.64, 30.00, 26.22),
    },
}  # fmt: skip
LEVELS = (15.0, 25.0, 50.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0,1,2", epochs=None)
    parser.add_argument("--pictures", default=SIX, help="names or files (default: %(default)s)")
    parser.add_argument("--sigmas", default="15,25,50")
    parser.add_argument("--quality", default="fast,balanced,best")
    parser.add_argument("--name", default="denoise", help="section of RESULTS.md")
    parser.set_defaults(run=run, peers=[name for name in PEERS if name != CBM3D])


def run(options: argparse.Namespace) -> None:
    """Run what has not been run yet; write the table and the drawing."""
    methods = [*(quality for quality in options.quality.split(",") if quality), *options.peers]
    sigmas = [float(sigma) for sigma in options.sigmas.split(",")]
    pictures = options.pictures.split(",")
    rows, done = [], {}
    for sigma, picture in product(sigmas, pictures):
        cells = [Path(picture).stem, f"{sigma:g}"]
        for method in methods:
            keys = [{"picture": picture, "noise": sigma, "method": method, "seed": seed}
                    for seed in seeds(options)]  # fmt: skip
            records = series("denoise", keys, partial(restore, options=options), options)
            done[sigma, picture, method] = records
            rows.append([*cells, method, *summary(records), kinds(records)])
        for name, level in published(picture, sigma):
            rows.append([*cells, name, f"{level:.2f}", *[""] * 4])
    for sigma in sigmas:
        drawing(OUT / f"{options.name}-{sigma:g}.png", sigma, pictures, methods, done)
    rows += means(sigmas, pictures, methods, done)
    header = [
        "picture",
        "sigma",
        "method",
        "dB (sd)",
        "seconds",
        "sigma told",
        "peak MB",
        "model; looks",
    ]
    text = (
        f"Means over seeds {options.seeds}; seconds are medians; default settings of each quality. "
        f"Both models: with so much trust in dct. {machines(done)}"
    )
    publish(options.name, f"{text}\n\n{table(header, rows)}")


def restore(
    picture: str, noise: float, method: str, seed: int, *, options: argparse.Namespace
) -> Record:
    """Restore one picture by one method."""
    if method not in PEERS:
        told = ours(options, picture, noise, seed, method)
        kept = ("psnr", "sigma", "covariances", "trust_in_dct", "looks", "peak_memory_mb")
        return {name: told[name] for name in kept} | {"took": told["seconds"]}
    clean = read_picture(locate(options, picture)).data
    restored, seconds = PEERS[method](add_noise(clean, noise, seed), noise)
    return {"psnr": psnr(clean, restored), "took": seconds}


def ours(
    options: argparse.Namespace, picture: str, noise: float, seed: int, quality: str
) -> Record:
    """Run the public command in a process of its own; keep the restored picture."""
    path = locate(options, picture)
    stem = f"{path.stem}-{noise:g}-{seed}-{quality}"
    return truvae("denoise", path, stem, "--add-noise", noise, "--seed", seed, "--quality", quality,
                  "--threads", options.threads)  # fmt: skip


def locate(options: argparse.Namespace, picture: str) -> Path:
    """Return the file of a picture given by name or path."""
    path = Path(picture)
    return path if path.suffix else options.data / "images" / f"{picture}.png"


def summary(records: list[Record]) -> list[str]:
    """Return cells: PSNR and its spread over the seeds, seconds, sigma told, MB."""
    levels = [record["psnr"] for record in records]
    spread = f" ({statistics.stdev(levels):.2f})" if len(levels) > 1 else ""
    sigmas = [record["sigma"] for record in records if record.get("sigma") is not None]
    memory = [record["peak_memory_mb"] for record in records if record.get("peak_memory_mb")]
    return [
        f"{statistics.mean(levels):.2f}{spread}",
        f"{statistics.median(record['took'] for record in records):.0f}",
        f"{statistics.mean(sigmas):.2f}" if sigmas else "",
        f"{max(memory):.0f}" if memory else "",
    ]


def kinds(records: list[Record]) -> str:
    """Return which models made pictures of ours, and in how many looks."""
    found = set()
    for record in records:
        if covariances := set(record.get("covariances", ())):
            both = f"both, {record['trust_in_dct']:.2f} dct"
            name = both if len(covariances) > 1 else covariances.pop()
            found.add(f"{name}; {record['looks']}")
    return " / ".join(sorted(found))


def published(picture: str, sigma: float) -> list[tuple[str, float]]:
    """Return what others print for a picture."""
    if sigma not in LEVELS:
        return []
    column = LEVELS.index(sigma)
    found = {name: figures.get(Path(picture).stem) for name, figures in PUBLISHED.items()}
    return [(name, figures[column]) for name, figures in found.items() if figures]


def means(sigmas: list[float], pictures: list[str], methods: list[str], done: dict) -> list:
    """Return the rows of the means over all pictures, for methods that have figures of all."""
    rows = []
    for sigma in sigmas:
        levels = {method: [statistics.mean(r["psnr"] for r in done[sigma, picture, method])
                           for picture in pictures] for method in methods}  # fmt: skip
        for picture in pictures:
            for name, level in published(picture, sigma):
                levels.setdefault(name, []).append(level)
        for name, of_pictures in levels.items():
            if len(of_pictures) == len(pictures):
                mean = f"{statistics.mean(of_pictures):.2f}"
                rows.append([f"mean of {len(pictures)}", f"{sigma:g}", name, mean, *[""] * 4])
    return rows


def drawing(path: Path, sigma: float, pictures: list[str], methods: list[str], done: dict) -> None:
    """Draw PSNR over seconds, both means over the pictures (of seconds the geometric one)."""
    places = {}
    for method in methods:
        records = [record for picture in pictures for record in done[sigma, picture, method]]
        seconds = math.exp(statistics.mean(math.log(record["took"]) for record in records))
        places[method] = seconds, statistics.mean(record["psnr"] for record in records)
    points(path, places, "seconds", f"PSNR in dB, mean, sigma {sigma:g}")


def machines(done: dict) -> str:
    """Return what the runs ran on; commits differ where a series was continued."""
    lines = {record["machine"] for records in done.values() for record in records}
    return " ".join(f"{line}." for line in sorted(lines))
