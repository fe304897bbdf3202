"""Bars that avoid each other (Fig. 9 and 10): does a model with exact E-step learn which?"""

import argparse
from dataclasses import replace

import numpy as np
import torch

from benchmarks.bars import N_DATA, OUR_SETTINGS
from benchmarks.models import singletons, untrained
from benchmarks.plots import curves, tiles
from benchmarks.report import OUT, publish, table
from benchmarks.series import Record, seeds, series
from benchmarks.series import add_arguments as add_series
from truvae import Exhaustive, datasets, preset
from truvae.chunks import ShuffledChunks

DISCOURAGED = [(0, 1), (6, 7)]
SETTINGS = {
    "paper": {},
    "ours": OUR_SETTINGS | {"search": (Exhaustive(),), "peak_rate": 0.1},
}
ALLOWED = [(), (0,), (7,), (2,), (4,), (2, 3), (0, 2), (1, 6)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0,1,2,3,4,5,6,7,8,9", epochs=200)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train what has not been trained yet, draw curves and samples, and write the table."""
    keys = [
        {"settings": settings, "seed": seed, "epochs": options.epochs}
        for settings in SETTINGS
        for seed in seeds(options)
    ]
    records = series("correlated-bars", keys, train, options)
    groups = {name: [r for r in records if r["settings"] == name] for name in SETTINGS}
    best = {name: max(runs, key=above) for name, runs in groups.items()}
    for name, runs in groups.items():
        lines = {f"seed {r['seed']}": (list(range(1, len(r["elbo"]) + 1)), r["elbo"]) for r in runs}
        path = OUT / f"correlated-bars-{name}"
        curves(path.with_name(f"{path.name}-elbo.png"), lines, "epoch", "ELBO, nats")
        shown = np.array([best[name]["data"], best[name]["samples"]]).reshape(-1, 4, 4)
        tiles(path.with_name(f"{path.name}-samples.png"), shown, 16)
    columns = [best[name]["inferred"] for name in SETTINGS]
    true = next(iter(best.values()))["true"]
    rows = [
        [name, *(f"{value:.2f}" for value in values)]
        for name, *values in zip(names(), *columns, true, strict=True)
    ]
    text = (
        "Log-likelihoods in nats of noise-free pictures, by the run whose ELBO is highest above "
        "the exact log-likelihood of its data, and by the truth. Paper: discouraged pairs about "
        f"-184, others 17 to 19. 8-8-16, N = {N_DATA}, exact E-step, {options.epochs} epochs, "
        f"seeds {options.seeds}; each draws data of its own. {records[-1]['machine']}.\n\n"
    )
    text += "\n".join(summary(name, groups[name], best[name]) for name in SETTINGS)
    header = ["bars", *(f"inferred, {name}" for name in SETTINGS), "true"]
    publish("correlated-bars", f"{text}\n\n{table(header, rows)}")


def summary(name: str, runs: list[Record], best: Record) -> str:
    """Say in a line what came of one kind of settings."""
    separated = sum(gap(record) > 150 for record in runs)
    reached = sum(above(record) > -0.1 for record in runs)
    return (
        f"- {name}: ELBO of the best run {best['elbo'][-1]:.3f}, exact {best['truth']:.3f}; its "
        f"discouraged pairs are {gap(best):.0f} nats or more below the mean of the others. Of "
        f"{len(runs)} runs {reached} reach the exact log-likelihood to 0.1 nats, {separated} have "
        "both pairs more than 150 nats below."
    )


def above(record: Record) -> float:
    """Return by how much the ELBO is above the exact log-likelihood of the data."""
    return record["elbo"][-1] - record["truth"]


def names() -> list[str]:
    """Return names of the noise-free pictures."""
    pairs = [f"{a} and {b}, discouraged" for a, b in DISCOURAGED]
    return pairs + [" and ".join(map(str, active)) or "none" for active in ALLOWED]


def gap(record: Record) -> float:
    """Return by how much the likelier discouraged pair is below the mean of the others."""
    n = len(DISCOURAGED)
    return float(np.mean(record["inferred"][n:]) - max(record["inferred"][:n]))


def train(settings: str, seed: int, epochs: int) -> Record:
    """Train with the exact E-step on data of its own."""
    truth, g = datasets.correlated_bars(), torch.Generator().manual_seed(seed)
    _, x = truth.sample(N_DATA, g)
    recipe = replace(preset("paper:bars-correlated").recipe, epochs=epochs, **SETTINGS[settings])
    model = untrained(recipe, x.shape[1], float(x.var()), g)
    population = recipe.states(len(x), g)
    chunks = ShuffledChunks(len(x), recipe.group)
    elbo = [epoch.elbo for epoch in recipe.train(model, population, x, chunks, g)]
    fields = singletons(datasets.bars(8))
    clean = torch.stack([fields[list(active)].sum(0) for active in DISCOURAGED + ALLOWED])
    return {
        "elbo": elbo,
        "truth": float(truth.log_likelihood(x).mean()),
        "inferred": model.log_likelihood(clean).tolist(),
        "true": truth.log_likelihood(clean).tolist(),
        "data": x[:32].tolist(),
        "samples": model.sample(32, g)[1].tolist(),
    }
