"""Two processes that train one model together, beside one: seconds per epoch, and F."""

import argparse
import json
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from skimage.data import camera

from benchmarks.report import publish, table
from benchmarks.series import Record, seeds, series
from benchmarks.series import add_arguments as add_series

SIGMA = 25.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0", epochs=8)
    parser.set_defaults(threads=1)
    parser.add_argument("--size", type=int, default=256, help="side of the picture")
    parser.add_argument("--ranks", default="1,2")
    parser.add_argument("--repeats", type=int, default=3)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Restore the picture with each number of ranks in turn, and write the table."""
    numbers = [int(n) for n in options.ranks.split(",")]
    keys = [
        {"repeat": repeat, "seed": seed, "ranks": n, "size": options.size,
         "epochs": options.epochs, "threads": options.threads}
        for repeat in range(options.repeats) for seed in seeds(options) for n in numbers
    ]  # fmt: skip
    records = series("ranks", keys, restore, options)
    of = partial(_of, records)
    first = numbers[0]
    rows = [
        [str(n), f"{of(n, 'seconds_per_epoch'):.2f}",
         f"{of(first, 'seconds_per_epoch') / of(n, 'seconds_per_epoch'):.2f}",
         f"{of(n, 'whole'):.1f}", f"{of(n, 'elbo'):.2f}",
         f"{of(n, 'elbo') / of(first, 'elbo') - 1:+.2%}", f"{of(n, 'sigma'):.2f}",
         f"{of(n, 'psnr'):.2f}"]
        for n in numbers
    ]  # fmt: skip
    header = ["ranks", "s per epoch", "times as fast", "s in all", "F, nats", "F, relative",
              "sigma", "PSNR, dB"]  # fmt: skip
    text = (
        f"{options.size} x {options.size} pixels of scikit-image's camera, sigma {SIGMA:g}, "
        f"`--covariance isotropic --patch-size 8`, {options.epochs} epochs, {options.threads} "
        f"threads for each rank; medians of {options.repeats} runs of each in turn, seeds "
        f"{options.seeds}. {records[-1]['machine']}."
    )
    publish("ranks", f"{text}\n\n{table(header, rows)}")


def restore(repeat: int, seed: int, ranks: int, size: int, epochs: int, threads: int) -> Record:
    """Restore the picture by the public command."""
    with TemporaryDirectory() as name:
        source, target = Path(name) / "in.npy", Path(name) / "out.npy"
        np.save(source, camera()[30:, 110:][:size, :size].astype(np.float32))
        several = ["torch.distributed.run", "--standalone", "--nproc-per-node", ranks, "-m"]
        options = ["--add-noise", SIGMA, "--covariance", "isotropic", "--patch-size", 8,
                   "--epochs", epochs, "--seed", seed, "--threads", threads]  # fmt: skip
        command = [sys.executable, "-m", *(several if ranks > 1 else []), "truvae", "denoise",
                   source, "-o", target, "--json", "-q", *options]  # fmt: skip
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    record = json.loads(done.stdout)
    kept = {key: record[key] for key in ("seconds_per_epoch", "elbo", "sigma", "psnr")}
    return kept | {"whole": record["seconds"]}


def _of(records: list[Record], ranks: int, value: str) -> float:
    """Return the median of a value over the runs with so many ranks."""
    return statistics.median(record[value] for record in records if record["ranks"] == ranks)
