"""Seconds of an epoch against N, H, S and D (App. B.3 and B.4): linear or better."""

import argparse
import statistics
from dataclasses import replace
from functools import partial

import numpy as np
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

# What is varied beside N, around H = 200, 100 hidden units, S = 64, patches of 12 x 12 pixels and
# the least N.
CASES = (
    [{"n_latents": n} for n in (100, 200, 500, 1000)]
    + [{"n_states": n} for n in (32, 64, 128)]
    + [{"side": n} for n in (6, 8, 12, 16)]
)
MIDDLE = {"n_latents": 200, "n_states": 64, "side": 12}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0", epochs=3)
    parser.add_argument("--sizes", default="10000,31000,100000,316000,1000000", help="N")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure what has not been measured yet, and write the table."""
    sizes = [int(n) for n in options.sizes.split(",")]
    middle = MIDDLE | {"n_data": min(sizes)}
    varied = CASES + [{"n_data": n} for n in sizes]
    cases = [dict(t) for t in {tuple((middle | case).items()) for case in varied}]
    keys = [
        case | {"seed": seed, "epochs": options.epochs}
        for case in sorted(cases, key=lambda case: tuple(case.values())[::-1])
        for seed in seeds(options)
    ]
    records = series("scaling", keys, partial(train, options=options), options)
    rows, lines, exponents = [], {}, []
    for name, label in (("n_data", "N"), ("n_latents", "H"), ("n_states", "S"), ("side", "D")):
        line = [r for r in records if all(r[k] == middle[k] for k in middle if k != name)]
        line.sort(key=lambda record: record[name])
        places = np.array([r[name] ** (2 if name == "side" else 1) for r in line])
        seconds = np.array([r["seconds_per_epoch"] for r in line])
        lines[label] = ((places / places[0]).tolist(), (seconds / seconds[0]).tolist())
        exponents.append(f"{label} {np.polyfit(np.log(places), np.log(seconds), 1)[0]:.2f}")
        for r, size, *ratios in zip(line, places, *lines[label], strict=True):
            rows.append([label, str(size), f"{r['seconds_per_epoch']:.2f}",
                         *(f"{ratio:.2f}" for ratio in ratios), f"{r['active']:.1f}"])  # fmt: skip
    most = max(max(ratios) for ratios, _ in lines.values())
    lines["linear"] = ([1, most], [1, most])
    curves(OUT / "scaling.png", lines, "size ratio", "time ratio", log=True)
    header = ["varied", "size", "s per epoch", "size ratio", "time ratio", "active latents"]
    text = (
        f"Around H = {MIDDLE['n_latents']}, 100 hidden units, S = {MIDDLE['n_states']}, D = "
        f"{MIDDLE['side'] ** 2}, N = {min(sizes)}; whitened natural patches, no two of one place, "
        f"fit-randflip 5/4/1, batches of 32; median of {options.epochs} epochs after a first one. "
        "Time grows as a power of the size with exponents of (least squares of the logarithms): "
        f"{', '.join(exponents)}. The paper: linear in H, and 49 to 75 s from S = 64 to 128. "
        f"Seeds {options.seeds}. {records[-1]['machine']}."
    )
    publish("scaling", f"{text}\n\n{table(header, rows)}")


def train(
    n_latents: int,
    n_states: int,
    side: int,
    n_data: int,
    seed: int,
    epochs: int,
    *,
    options: argparse.Namespace,
) -> Record:
    """Time the epochs of one size, without the first one, which warms up."""
    x, g = natural.distinct_patches(options, n_data, side), torch.Generator().manual_seed(seed)
    recipe = replace(
        preset("paper:patches").recipe, n_latents=n_latents, hidden=(100,), n_states=n_states,
        search=(Evolution(5, 4, 1, fitness),), epochs=1 + epochs, sigma2=None,
    )  # fmt: skip
    model = untrained(recipe, x.shape[1], float(x.var()), g)
    population = recipe.states(len(x), g)
    chunks = ShuffledChunks(len(x), recipe.group)
    done = list(recipe.train(model, population, x, chunks, g))
    return {
        "seconds_per_epoch": statistics.median(epoch.seconds for epoch in done[1:]),
        "active": done[-1].active_latents,
    }
