"""Denoise pictures by the public command, beside BM3D on the same noise."""

import argparse
import json
import os
import statistics
from pathlib import Path

from benchmarks.command import truvae
from benchmarks.peers import bm3d
from benchmarks.report import OUT, machine, publish, table
from truvae.experiments import add_noise
from truvae.io import read_picture
from truvae.metrics import psnr

# PSNR in dB of House at sigma 15, 25, 50 as the paper prints it (Fig. 3E).
PAPER = {("house", 15): 34.27, ("house", 25): 32.65, ("house", 50): 29.98}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    data = os.environ.get("TRUVAE_DATA", "../shared/data")
    parser.add_argument("--pictures", default="house,cameraman", help="names or files")
    parser.add_argument("--sigmas", default="15,25,50")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--quality", default="balanced", help="fast,balanced,best")
    parser.add_argument("--data", type=Path, default=Path(data), help="or $TRUVAE_DATA")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--name", default="denoise", help="section of RESULTS.md")
    parser.add_argument("--no-bm3d", action="store_true")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run what has not been run yet, and write the table."""
    OUT.mkdir(exist_ok=True)
    rows = []
    for picture in options.pictures.split(","):
        for sigma in map(float, options.sigmas.split(",")):
            cells = [Path(picture).stem, f"{sigma:g}"]
            seeds = [int(seed) for seed in options.seeds.split(",")]
            for quality in options.quality.split(","):
                runs = [ours(options, picture, sigma, seed, quality) for seed in seeds]
                rows.append([*cells, quality, *summary(runs), *beside(picture, sigma)])
            if not options.no_bm3d:
                runs = [beside_bm3d(options, picture, sigma, seed) for seed in seeds]
                rows.append([*cells, "BM3D, told sigma", *summary(runs), "", ""])
    header = ["picture", "sigma", "method", "dB (sd)", "seconds, median", "sigma told",
              "peak MB", "paper dB", "gain"]  # fmt: skip
    for row in rows:
        if row[7]:
            row[8] = f"{float(row[3].split()[0]) - float(row[7]):+.2f}"
    text = f"Seeds {options.seeds}, default settings of each quality. {machine()}."
    publish(options.name, f"{text}\n\n{table(header, rows)}")


def beside(picture: str, sigma: float) -> list[str]:
    """Return the paper's figure, where there is one."""
    paper = PAPER.get((Path(picture).stem, int(sigma)))
    return [f"{paper:.2f}" if paper else "", ""]


def summary(runs: list[dict]) -> list[str]:
    """Return the cells of a row: mean and spread over the seeds."""
    levels = [run["psnr"] for run in runs]
    spread = statistics.stdev(levels) if len(levels) > 1 else 0.0
    sigmas = [run["sigma"] for run in runs if run["sigma"] is not None]
    memory = [run["peak_memory_mb"] for run in runs if run["peak_memory_mb"]]
    return [
        f"{statistics.mean(levels):.2f}" + (f" ({spread:.2f})" if len(levels) > 1 else ""),
        f"{statistics.median(run['seconds'] for run in runs):.0f}",
        f"{statistics.mean(sigmas):.2f}" if sigmas else "",
        f"{max(memory):.0f}" if memory else "",
    ]


def locate(options: argparse.Namespace, picture: str) -> Path:
    """Return the file of a picture given by name or path."""
    path = Path(picture)
    return path if path.suffix else options.data / "images" / f"{picture}.png"


def ours(options: argparse.Namespace, picture: str, sigma: float, seed: int, quality: str) -> dict:
    """Run the public command in a process of its own; keep the restored picture."""
    stem = f"{Path(picture).stem}-{sigma:g}-{seed}-{quality}"
    record = truvae("denoise", locate(options, picture), stem, "--add-noise", sigma, "--seed", seed,
                    "--quality", quality, "--device", options.device)  # fmt: skip
    with (OUT / "denoise.jsonl").open("a") as file:
        file.write(json.dumps(record | {"machine": machine()}) + "\n")
    return record


def beside_bm3d(options: argparse.Namespace, picture: str, sigma: float, seed: int) -> dict:
    """Run BM3D on the same noisy picture, told the noise level."""
    clean = read_picture(locate(options, picture)).data
    restored, seconds = bm3d(add_noise(clean, sigma, seed), [sigma])
    return {"psnr": psnr(clean, restored), "seconds": seconds, "sigma": None,
            "peak_memory_mb": None}  # fmt: skip
