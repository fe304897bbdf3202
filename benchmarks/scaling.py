"""Seconds of an epoch against H, S and D (App. B.3 and B.4): linear or better."""

import argparse
import statistics
from dataclasses import replace
from functools import partial

import torch

from benchmarks import natural
from benchmarks.models import untrained
from benchmarks.plots import curves
from benchmarks.report import OUT, publish, table
from benchmarks.series import Record, seeds, series
from benchmarks.series import add_arguments as add_series
from truvae import Evolution, preset
from truvae.chunks import ShuffledChunks
from truvae.proposals import fitness

# What is varied, around H = 200, 100 hidden units, S = 64 and patches of 12 x 12 pixels.
CASES = (
    [{"n_latents": n} for n in (100, 200, 500, 1000)]
    + [{"n_states": n} for n in (32, 64, 128)]
    + [{"side": n} for n in (6, 8, 12, 16)]
)
MIDDLE = {"n_latents": 200, "n_states": 64, "side": 12}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0", epochs=4)
    parser.add_argument("--n-data", type=int, default=8192)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure what has not been measured yet, and write the table."""
    cases = [dict(t) for t in {tuple((MIDDLE | case).items()) for case in CASES}]
    keys = [
        case | {"seed": seed, "epochs": options.epochs, "n_data": options.n_data}
        for case in sorted(cases, key=lambda case: tuple(case.values()))
        for seed in seeds(options)
    ]
    records = series("scaling", keys, partial(train, options=options), options)
    rows, lines = [], {}
    for name, label in (("n_latents", "H"), ("n_states", "S"), ("side", "D")):
        line = [r for r in records if all(r[k] == MIDDLE[k] for k in MIDDLE if k != name)]
        line.sort(key=lambda record: record[name])
        base = line[0]
        lines[label] = (
            [r[name] / base[name] for r in line],
            [r["seconds_per_epoch"] / base["seconds_per_epoch"] for r in line],
        )
        for r in line:
            size, least = (x[name] ** (2 if name == "side" else 1) for x in (r, base))
            rows.append([label, str(size), f"{r['seconds_per_epoch']:.2f}", f"{size / least:.2f}",
                         f"{r['seconds_per_epoch'] / base['seconds_per_epoch']:.2f}",
                         f"{r['active']:.1f}"])  # fmt: skip
    lines["D"] = ([ratio**2 for ratio in lines["D"][0]], lines["D"][1])
    lines["linear"] = ([1, 10], [1, 10])
    curves(OUT / "scaling.png", lines, "size ratio", "time ratio")
    header = ["varied", "size", "s per epoch", "size ratio", "time ratio", "active latents"]
    text = (
        f"Around H = {MIDDLE['n_latents']}, 100 hidden units, S = {MIDDLE['n_states']}, D = "
        f"{MIDDLE['side'] ** 2}; {options.n_data} whitened natural patches, fit-randflip 5/4/1, "
        f"batches of 32; median of {options.epochs} epochs. The paper: linear in H, and 49 to 75 s "
        f"from S = 64 to 128. {records[-1]['machine']}."
    )
    publish("scaling", f"{text}\n\n{table(header, rows)}")


def train(
    n_latents: int,
    n_states: int,
    side: int,
    seed: int,
    epochs: int,
    n_data: int,
    *,
    options: argparse.Namespace,
) -> Record:
    """Time the epochs of one size."""
    x, g = natural.patches(options, n_data, side), torch.Generator().manual_seed(seed)
    recipe = replace(
        preset("paper:patches").recipe, n_latents=n_latents, hidden=(100,), n_states=n_states,
        search=(Evolution(5, 4, 1, fitness),), epochs=epochs, sigma2=None,
    )  # fmt: skip
    model = untrained(recipe, x.shape[1], float(x.var()), g)
    population = recipe.states(len(x), g)
    chunks = ShuffledChunks(len(x), recipe.group)
    done = list(recipe.train(model, population, x, chunks, g))
    return {
        "seconds_per_epoch": statistics.median(epoch.seconds for epoch in done),
        "active": done[-1].active_latents,
    }
