"""CIFAR-10 with the paper's four decoders (Fig. 15), on the pictures that there are."""

import argparse
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from benchmarks.models import singletons, trained, untrained
from benchmarks.plots import tiles
from benchmarks.report import OUT, publish, table
from benchmarks.series import Record, seeds, series
from benchmarks.series import add_arguments as add_series
from truvae import preset
from truvae.chunks import ShuffledChunks
from truvae.training import posterior

# Lower bounds that the paper prints, for the whole data set and about 500 epochs.
PAPER = {"32-512": 1649, "50-500-500": 1831, "1024-256-512": 2044, "1024-512": 2893}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0", epochs=20)
    parser.add_argument("--decoders", default=",".join(PAPER))
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train what has not been trained yet, draw reconstructions, and write the table."""
    x = np.load(options.data / "cifar10" / "cifar10_partial_lossless.npz")["x_train"]
    data = torch.as_tensor(x.reshape(len(x), -1) / 255, dtype=torch.float32)
    keys = [
        {"decoder": name, "seed": seed, "epochs": options.epochs}
        for name in options.decoders.split(",")
        for seed in seeds(options)
    ]
    records = series("cifar", keys, partial(train, x=data), options)
    rows = []
    for r in records:
        rows.append([r["decoder"], str(r["seed"]), str(r["epochs"]), f"{r['elbo'][-1]:.0f}",
                     str(PAPER[r["decoder"]]), f"{r['psnr']:.2f}",
                     f"{r['active']:.2f} of {r['decoder'].split('-')[0]}",
                     f"{r['seconds_per_epoch']:.1f}"])  # fmt: skip
        shown = np.array([r["data"], r["reconstructions"], r["fields"]]).reshape(-1, 32, 32, 3)
        tiles(OUT / f"cifar-{r['decoder']}.png", shown.clip(0, 1), 16)
    header = ["decoder", "seed", "epochs", "F", "F, paper", "dB of the reconstruction", "active",
              "s per epoch"]  # fmt: skip
    text = (
        f"{len(data)} training pictures in [0, 1], of the 50000 of the paper; LeakyReLU, "
        "sigmoid outputs, one cycle of the learning rate in the epochs given. Drawn: data, their "
        f"reconstructions, and what single active latents stand for. {records[-1]['machine']}."
    )
    publish("cifar", f"{text}\n\n{table(header, rows)}")


def train(decoder: str, seed: int, epochs: int, *, x: torch.Tensor) -> Record:
    """Train one decoder."""
    recipe = preset(f"paper:cifar-{decoder}").recipe
    recipe = replace(recipe, epochs=epochs, cycle=min(recipe.cycle, epochs))
    g = torch.Generator().manual_seed(seed)
    model = untrained(recipe, x.shape[1], float(x.var()), g)
    population = recipe.states(len(x), g)
    chunks = ShuffledChunks(len(x), recipe.group)
    record = trained(recipe, model, population, x, chunks, g, decoder)
    means = torch.empty_like(x)
    for part in posterior(model, population, x, chunks, (), g):
        means[part.rows] = part.mean
    order = model.prior.pi.argsort(descending=True)[:16]
    return record | {
        "psnr": float(-10 * (means - x).square().mean().log10()),
        "data": x[:16].tolist(),
        "reconstructions": means[:16].tolist(),
        "fields": singletons(model)[order].tolist(),
    }
