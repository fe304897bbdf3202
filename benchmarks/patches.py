"""Natural patches (Fig. 12): does a deeper decoder rise above binary sparse coding?"""

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import natural
from benchmarks.models import singletons, trained, untrained
from benchmarks.plots import curves, tiles
from benchmarks.report import OUT, publish, table
from benchmarks.series import Record, seeds, series
from benchmarks.series import add_arguments as add_series
from truvae import Gaussian, Model, Population, preset
from truvae.chunks import ShuffledChunks
from truvae.decoders import deepen
from truvae.model import Bernoulli
from truvae.recipes import Recipe

SIZE = 16
STAGES = ("linear", "linear, goes on", "300-300-256, goes on")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0", epochs=100)
    parser.add_argument("--more", type=int, default=100, help="epochs from the common start")
    parser.add_argument("--n-data", type=int, default=100_000)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train what has not been trained yet, draw curves and fields, and write the table."""
    x = natural.patches(options, options.n_data, SIZE)
    keys = [
        {"stage": stage, "seed": seed, "n_data": options.n_data, "epochs": options.epochs,
         "more": options.more * (stage != "linear")}
        for seed in seeds(options)
        for stage in STAGES
    ]  # fmt: skip
    records = series("patches", keys, partial(train, x=x), options)
    lines = {}
    for record in records[: len(STAGES)]:
        first = options.epochs * bool(record["more"])
        lines[record["stage"]] = (
            [first + i + 1 for i in range(len(record["elbo"]))],
            record["elbo"],
        )
        fields = np.array(record["fields"]).reshape(-1, SIZE, SIZE)
        name = record["stage"].replace(", goes on", "-on").replace(" ", "-")
        tiles(OUT / f"patches-{name}.png", fields, 25, symmetric=True)
    curves(OUT / "patches-elbo.png", lines, "epoch", "ELBO, nats per patch")
    header = ["decoder", "seed", "epochs", "ELBO", "active latents", "sigma", "s per epoch"]
    rows = [
        [
            record["stage"],
            str(record["seed"]),
            str(record["epochs"] + record["more"]),
            f"{record['elbo'][-1]:.2f}",
            f"{record['active']:.1f}",
            f"{record['sigma']:.3f}",
            f"{record['seconds_per_epoch']:.1f}",
        ]
        for record in records
    ]
    text = (
        "Paper: after 100 epochs of the linear model, 300-300-256 from identity layers rises above "
        f"it; active latents 20.3 and 28.5. N = {len(x)} whitened patches of 16 x 16 pixels, H = "
        "300, the search of the paper; the linear decoder in closed form. "
        f"{records[-1]['machine']}."
    )
    publish("patches", f"{text}\n\n{table(header, rows)}")


def recipes(epochs: int, deep: bool) -> Recipe:
    """Return how the linear or the deep model is trained."""
    paper = replace(preset("paper:patches").recipe, epochs=epochs)
    if deep:
        return paper
    # The closed form takes no steps, so that large groups cost nothing.
    return replace(paper, hidden=(), closed_form=True, minibatch=256, group=256)


def train(stage: str, seed: int, n_data: int, epochs: int, more: int, *, x: torch.Tensor) -> Record:
    """Train the linear model, or go on from where it ended."""
    g = torch.Generator().manual_seed(seed)
    deep = stage.startswith("300")
    recipe = recipes(more or epochs, deep)
    path = OUT / f"patches-{n_data}-{epochs}-{seed}.pt"
    if more:
        model, population = start(path, deep)
    else:
        model = untrained(recipe, x.shape[1], float(x.var()), g)
        population = recipe.states(len(x), g)
    chunks = ShuffledChunks(len(x), recipe.group)
    record = trained(recipe, model, population, x, chunks, g, stage)
    if not more:
        torch.save(
            {"decoder": model.decoder.state_dict(), "pi": model.prior.pi,
             "sigma2": model.noise.sigma2, "words": population.words},
            path,
        )  # fmt: skip
    with torch.no_grad():
        fields = singletons(model) - model.decode_dense(torch.zeros(1, model.n_latents))
    return record | {"fields": fields.tolist()}


def start(path: Path, deep: bool) -> tuple[Model, Population]:
    """Return the trained linear model, with identity layers put below its outputs if `deep`."""
    saved = torch.load(path)
    n_observables, n_latents = saved["decoder"]["first.weight"].shape
    decoder = recipes(1, deep=False).decoder(n_observables, torch.Generator())
    decoder.load_state_dict(saved["decoder"])
    model = Model(
        Bernoulli(saved["pi"]), deepen(decoder) if deep else decoder, Gaussian(saved["sigma2"])
    )
    words = saved["words"]
    return model, Population(words, torch.zeros(words.shape[:2]))
