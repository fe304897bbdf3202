"""House with the settings of the paper (Fig. 3): ELBO and PSNR over epochs and seconds."""

import argparse
import json
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from benchmarks import denoise
from benchmarks.models import restored, untrained
from benchmarks.plots import curves
from benchmarks.report import OUT, machine, publish, table
from benchmarks.series import Record, seeds, series
from benchmarks.series import add_arguments as add_series
from truvae.chunks import ShuffledChunks
from truvae.io import read_picture
from truvae.metrics import psnr
from truvae.patches import Patches
from truvae.presets import preset as preset_called
from truvae.proposals import SELECTIONS

# PSNR in dB after 500 epochs and active latents as the paper prints them.
PAPER = {
    "paper:denoise-house-15": (15, 34.27, 5.98),
    "paper:denoise-house-25": (25, 32.65, 4.47),
    "paper:denoise-house-50": (50, 29.98, 1.65),
    "paper:denoise-house-50-64": (50, 29.61, None),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0", epochs=100)
    parser.add_argument("--presets", default=",".join(PAPER))
    parser.add_argument("--selections", default="fitness,released")
    parser.add_argument("--every", type=int, default=10, help="epochs between measurements")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train what has not been trained yet, draw the curves, and write the table."""
    keys = [
        {"preset": name, "selection": selection, "seed": seed, "epochs": options.epochs}
        for name in options.presets.split(",")
        for selection in options.selections.split(",")
        for seed in seeds(options)
    ]
    records = series("paper-house", keys, partial(train, options=options), options)
    levels = sorted({PAPER[record["preset"]][0] for record in records})
    ours = series(
        "paper-house-ours",
        [{"sigma": level, "seed": seed} for level in levels for seed in seeds(options)],
        partial(defaults, options=options),
        options,
    )
    draw(records, ours)
    header = ["settings", "parents", "seed", "epochs", "dB, truvae", "dB, paper (500 epochs)", "F",
              "sigma", "active", "active, paper", "s per epoch", "s in all"]  # fmt: skip
    text = (
        "The paper's settings, and our defaults (`truvae denoise`, sigma not told) on the same "
        f"noise. {records[-1]['machine']}."
    )
    rows = [row(record) for record in records] + [our_row(record) for record in ours]
    publish("paper-house", f"{text}\n\n{table(header, rows)}")


def draw(records: list[Record], ours: list[Record]) -> None:
    """Draw PSNR and ELBO over epochs and seconds."""
    for value, label in (("psnr", "PSNR in dB"), ("elbo", "ELBO, nats per patch")):
        for unit in ("epoch", "second"):
            lines = {}
            for record in records:
                # The first epoch, with sigma2 = 0.01 for values up to 255, has no scale.
                points = record["curve"][1:]
                name = f"{record['preset'].removeprefix('paper:')} {record['selection']}"
                lines[name] = ([p[unit] for p in points], [p[value] for p in points])
            if (value, unit) == ("psnr", "second"):
                for record in ours:
                    lines[f"ours, sigma {record['sigma']}"] = (
                        [record["seconds"]],
                        [record["psnr"]],
                    )
            curves(OUT / f"paper-house-{value}-{unit}s.png", lines, f"{unit}s", label)


def defaults(sigma: int, seed: int, *, options: argparse.Namespace) -> Record:
    """Run the public command with its defaults."""
    done = denoise.ours(options, "house", sigma, seed, "balanced")
    return {"told": done["sigma"], **{k: done[k] for k in ("psnr", "epochs", "active_latents")}}


def our_row(record: Record) -> list[str]:
    """Return the cells of a run with our defaults."""
    return [
        f"ours, noise of {record['sigma']}",
        "",
        str(record["seed"]),
        str(record["epochs"]),
        f"{record['psnr']:.2f}",
        "",
        "",
        f"{record['told']:.2f}",
        f"{record['active_latents']:.2f}",
        "",
        "",
        f"{record['seconds']:.0f}",
    ]


def row(record: Record) -> list[str]:
    """Return the cells of one run."""
    _, level, active = PAPER[record["preset"]]
    last = record["curve"][-1]
    return [
        record["preset"],
        record["selection"],
        str(record["seed"]),
        str(last["epoch"]),
        f"{last['psnr']:.2f}",
        f"{level:.2f}",
        f"{last['elbo']:.2f}",
        f"{last['sigma']:.2f}",
        f"{last['active']:.2f}",
        str(active or ""),
        f"{record['seconds_per_epoch']:.1f}",
        f"{last['second']:.0f}",
    ]


def train(
    preset: str, selection: str, seed: int, epochs: int, *, options: argparse.Namespace
) -> Record:
    """Train one model, measuring the restored picture now and then."""
    level = PAPER[preset][0]
    clean = read_picture(options.data / "images" / "house.png").data
    noisy = clean + np.random.default_rng(seed).normal(0, level, clean.shape)
    row = preset_called(preset)
    settings = replace(row.recipe.select(SELECTIONS[selection]), epochs=epochs)
    size = row.patch_size
    patches = Patches(torch.as_tensor(noisy, dtype=torch.float32), size)
    g = torch.Generator().manual_seed(seed)
    model = untrained(settings, size**2, float(noisy.var()), g)
    population = settings.states(len(patches), g)
    chunks = ShuffledChunks(len(patches), settings.group)
    curve, spent = [], 0.0
    for epoch in settings.train(model, population, patches, chunks, g):
        spent += epoch.seconds
        done = epoch.index + 1
        if done % options.every and done not in (1, 2, 5, epochs):
            continue
        # A generator of its own, so that looking does not change the training.
        look = torch.Generator().manual_seed(seed)
        picture = restored(model, population, patches, chunks, look)
        point = {"epoch": done, "second": spent, "psnr": psnr(clean, picture), "elbo": epoch.elbo,
                 "sigma": epoch.sigma, "active": epoch.active_latents}  # fmt: skip
        curve.append(point)
        print(preset, selection, json.dumps(point), file=sys.stderr, flush=True)
        (OUT / f"paper-house-{preset.split(':')[1]}-{selection}-{seed}.json").write_text(
            json.dumps({"curve": curve, "machine": machine()})
        )
    return {"curve": curve, "seconds_per_epoch": spent / epochs}
