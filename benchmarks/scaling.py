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
from truvae.settings import choose

# What is varied around H = 200, 100 hidden units, S = 64 and patches of 12 x 12 pixels.
CASES = (
    [{"n_latents": n} for n in (100, 200, 500, 1000)]
    + [{"n_states": n} for n in (32, 64, 128)]
    + [{"side": n} for n in (6, 8, 12, 16)]
)
MIDDLE = {"n_latents": 200, "n_states": 64, "side": 12}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0", epochs=3)
    parser.add_argument("--n-data", type=int, default=10_000, help="where others are varied")
    parser.add_argument("--sizes", default="10000,31000,100000,316000,1000000", help="N")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure what has not been measured yet, and write the table."""
    cases = [dict(t) for t in {tuple((MIDDLE | case).items()) for case in CASES}]
    keys = [
        case | {"n_data": options.n_data, "seed": seed, "epochs": options.epochs}
        for case in sorted(cases, key=lambda case: tuple(case.values()))
        for seed in seeds(options)
    ]
    records = series("scaling", keys, partial(train, options=options), options)
    sizes = [int(n) for n in options.sizes.split(",")]
    keys = [{"n_data": n, "seed": seed, "epochs": options.epochs}
            for n in sizes for seed in seeds(options)]  # fmt: skip
    series_of = {"N": ("n_data", series("growth", keys, partial(grow, options=options), options))}
    for name, label in (("n_latents", "H"), ("n_states", "S"), ("side", "D")):
        line = [r for r in records if all(r[k] == MIDDLE[k] for k in MIDDLE if k != name)]
        series_of[label] = name, sorted(line, key=lambda record, name=name: record[name])
    rows, lines, exponents = [], {}, []
    for label, (name, line) in series_of.items():
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
        "H, S and D around "
        f"{MIDDLE['n_latents']}, {MIDDLE['n_states']} and {MIDDLE['side'] ** 2} with 100 hidden "
        f"units, {options.n_data} whitened natural patches, fit-randflip 5/4/1, batches of 32, as "
        "the paper has it; N with the settings for white noise of a picture of 256 x 256 pixels, "
        f"7 x 7 patches and shared pools of near ones. Medians of {options.epochs} epochs after a "
        "first one. Time grows as a power of the size with exponents of (least squares of the "
        f"logarithms): {', '.join(exponents)}. The paper: linear in H, and 49 to 75 s from S = 64 "
        f"to 128. Seeds {options.seeds}. {records[-1]['machine']}."
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


def grow(n_data: int, seed: int, epochs: int, *, options: argparse.Namespace) -> Record:
    """Time the epochs of a model for pictures, on so many patches."""
    isotropic = choose((256, 256), 0.4, "balanced").models[0]
    settings = replace(isotropic, epochs=1 + epochs)
    g = torch.Generator().manual_seed(seed)
    x = natural.distinct_patches(options, n_data, settings.patch_size)
    model = untrained(settings, x.shape[1], float(x.var()), g)
    # Whitened patches have no leading components: the first entries are as good as any.
    chunks = settings.chunks(n_data, x[:, :48])
    done = list(settings.train(model, settings.states(n_data, g), x, chunks, g))
    return {
        "seconds_per_epoch": statistics.median(epoch.seconds for epoch in done[1:]),
        "active": done[-1].active_latents,
    }
