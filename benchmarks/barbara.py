"""Barbara with noise of 25 and the paper's two decoders (Fig. 4)."""

import argparse
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from benchmarks.models import restored, singletons, trained, untrained
from benchmarks.plots import tiles
from benchmarks.report import OUT, publish, table
from benchmarks.series import Record, seeds, series
from benchmarks.series import add_arguments as add_series
from truvae import preset
from truvae.chunks import ShuffledChunks
from truvae.io import read_picture, write_picture
from truvae.metrics import psnr
from truvae.patches import Patches

# F, PSNR in dB and active latents that the paper prints.
PAPER = {"50-500-500": (47.98, 30.03, 2.64), "256-256-512": (46.86, 29.96, 2.28)}
SIGMA, SIZE, SCALE = 25, 8, 255.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0", epochs=10)
    parser.add_argument("--decoders", default=",".join(PAPER))
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train what has not been trained yet, draw singleton means, and write the table."""
    keys = [
        {"decoder": name, "seed": seed, "epochs": options.epochs}
        for name in options.decoders.split(",")
        for seed in seeds(options)
    ]
    records = series("barbara", keys, partial(train, options=options), options)
    rows = []
    for r in records:
        bound, level, active = PAPER[r["decoder"]]
        rows.append([r["decoder"], str(r["seed"]), str(r["epochs"]), f"{r['elbo'][-1]:.2f}",
                     f"{bound}", f"{r['psnr']:.2f}", f"{level}", f"{r['active']:.2f}",
                     f"{active}", f"{r['sigma'] * SCALE:.2f}",
                     f"{r['seconds_per_epoch']:.0f}"])  # fmt: skip
        fields = np.array(r["fields"]).reshape(-1, SIZE, SIZE)
        tiles(OUT / f"barbara-{r['decoder']}.png", fields, 25)
    header = ["decoder", "seed", "epochs", "F", "F, paper", "dB", "dB, paper", "active",
              "active, paper", "sigma", "s per epoch"]  # fmt: skip
    text = (
        "Patches in [0, 1]. The paper trains for 160 epochs (9.5 and 10.4 hours on a V100, "
        "213 and 234 s per epoch); here one cycle of the learning rate in the epochs given. "
        f"{records[-1]['machine']}."
    )
    publish("barbara", f"{text}\n\n{table(header, rows)}")


def train(decoder: str, seed: int, epochs: int, *, options: argparse.Namespace) -> Record:
    """Train one decoder and restore the picture."""
    clean = read_picture(options.data / "images" / "barbara.png").data
    noisy = clean + np.random.default_rng(seed).normal(0, SIGMA, clean.shape)
    recipe = preset(f"paper:denoise-barbara-{decoder}").recipe
    recipe = replace(recipe, epochs=epochs, cycle=min(recipe.cycle, epochs))
    g = torch.Generator().manual_seed(seed)
    patches = Patches(torch.as_tensor(noisy / SCALE, dtype=torch.float32), SIZE)
    model = untrained(recipe, SIZE**2, float((noisy / SCALE).var()), g)
    population = recipe.states(len(patches), g)
    chunks = ShuffledChunks(len(patches), recipe.group)
    record = trained(recipe, model, population, patches, chunks, g, decoder)
    picture = restored(model, population, patches, chunks, g, SCALE)
    write_picture(OUT / f"barbara-{decoder}-{seed}-restored.png", picture)
    return record | {"psnr": psnr(clean, picture), "fields": singletons(model).tolist()}
