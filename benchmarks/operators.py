"""Reliability of the ways to search (Fig. 11): how near does training come to the likelihood?"""

import argparse
from dataclasses import replace

import numpy as np

from benchmarks.bars import fit
from benchmarks.plots import boxes
from benchmarks.report import OUT, publish, table
from benchmarks.series import Record, seeds, series
from benchmarks.series import add_arguments as add_series
from truvae import Evolution, GradientFlips, Neighbours, Random, datasets, preset
from truvae.proposals import Proposal

# 20 new states for each data point and epoch; with neighbours, also those of the batch.
OPERATORS: dict[str, tuple[Proposal, ...]] = {
    "random": (Random(20),),
    **{
        name: (Evolution.named(name, 5, 4),)
        for name in (
            "fit-randflip",
            "rand-randflip",
            "fit-cross-randflip",
            "rand-cross-randflip",
            "released-randflip",
            "softmax-randflip",
        )
    },
    "gradient flips": (GradientFlips(5, 4),),
    "fit-randflip, neighbours": (Evolution.named("fit-randflip", 5, 4), Neighbours()),
}
SIZES = {"6-8-9": (6, "paper:bars-6-fit-randflip"), "8-8-16": (8, "paper:bars-8-fit-randflip")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0,1,2,3,4,5,6,7,8,9", epochs=200)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train what has not been trained yet, draw the boxes, and write the table."""
    keys = [
        {"size": size, "operators": name, "seed": seed, "epochs": options.epochs}
        for size in SIZES
        for name in OPERATORS
        for seed in seeds(options)
    ]
    records = series("operators", keys, train, options)
    rows = []
    for size in SIZES:
        groups = {
            name: [
                record["difference"]
                for record in records
                if (record["size"], record["operators"]) == (size, name)
            ]
            for name in OPERATORS
        }
        boxes(OUT / f"operators-{size}.png", groups, "(ELBO - log-likelihood) / |log-likelihood|")
        rows += [[size, name, *spread(values)] for name, values in groups.items()]
    header = ["decoder", "operators", "median", "quartiles", "best", "mean", "standard error",
              "within 5 %"]  # fmt: skip
    text = (
        "(ELBO of the last epoch - exact log-likelihood) / |log-likelihood|, 0 is best; the paper "
        f"shows the same as box plot. {options.epochs} epochs, seeds {options.seeds}; each seed "
        f"draws data of its own, the same for all operators. {records[-1]['machine']}."
    )
    publish("operators", f"{text}\n\n{table(header, rows)}")


def spread(values: list[float]) -> list[str]:
    """Return what there is to say of the runs of one kind."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return [
        f"{middle:.2f}",
        f"{low:.2f} to {high:.2f}",
        f"{max(values):.2f}",
        f"{np.mean(values):.2f}",
        f"{np.std(values, ddof=1) / len(values) ** 0.5:.2f}",
        f"{sum(abs(value) < 0.05 for value in values)} of {len(values)}",
    ]


def train(size: str, operators: str, seed: int, epochs: int) -> Record:
    """Train one model on bars."""
    n_bars, name = SIZES[size]
    recipe = replace(preset(name).recipe, search=OPERATORS[operators], epochs=epochs)
    record = fit(recipe, datasets.bars(n_bars), seed)
    difference = (record["elbo"][-1] - record["truth"]) / abs(record["truth"])
    return {"difference": difference, "elbo": record["elbo"][-1], "truth": record["truth"]}
