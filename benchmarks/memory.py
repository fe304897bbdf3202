"""Highest memory of the public command with settings of the paper, beside torch alone."""

import argparse
import re
import subprocess
import sys
from functools import partial

from benchmarks.command import truvae
from benchmarks.denoise import locate
from benchmarks.report import publish, table
from benchmarks.series import Record, seeds, series
from benchmarks.series import add_arguments as add_series
from truvae.presets import preset as preset_called

_SIGMA = 50
# ru_maxrss would count what the parent held when it started the process; this does not.
_BARE = "import torch; torch.set_num_threads({}); print(open('/proc/self/status').read())"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0", epochs=2)
    parser.add_argument("--picture", default="house", help="name or file")
    parser.add_argument("--preset", default="paper:denoise-house-50")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure what has not been measured yet, and write the table."""
    kept = ("picture", "preset", "epochs", "threads")
    keys = [{k: vars(options)[k] for k in kept} | {"seed": seed} for seed in seeds(options)]
    records = series("memory", keys, partial(measure, options=options), options)
    row = preset_called(options.preset)
    recipe = row.recipe
    sizes = "-".join(map(str, (recipe.n_latents, *recipe.hidden, row.patch_size**2)))
    text = (
        f"`truvae denoise {locate(options, options.picture).name} --add-noise {_SIGMA} --preset "
        f"{options.preset}`: {sizes}, S = {recipe.n_states}, batches of {recipe.minibatch}, "
        f"{records[0]['n_data']} patches, {options.epochs} epochs, {options.threads} threads. "
        "Highest resident size, and that of an interpreter that has imported torch and done "
        f"nothing else; MB of 2^20 bytes, GB of 10^9. {records[-1]['machine']}."
    )
    header = ["seed", "peak MB", "torch alone, MB", "above it, GB", "s per epoch", "s in all"]
    rows = [
        [str(r["seed"]), f"{r['peak_mb']:.0f}", f"{r['bare_mb']:.0f}",
         f"{(r['peak_mb'] - r['bare_mb']) * 2**20 / 1e9:.2f}", f"{r['seconds_per_epoch']:.1f}",
         f"{r['took']:.0f}"] for r in records
    ]  # fmt: skip
    publish("memory", f"{text}\n\n{table(header, rows)}")


def measure(
    picture: str, preset: str, epochs: int, threads: int, seed: int, *, options: argparse.Namespace
) -> Record:
    """Run the public command, and torch alone, each in a process of its own."""
    record = truvae("denoise", locate(options, picture), f"memory-{seed}", "--add-noise", _SIGMA,
                    "--preset", preset, "--epochs", epochs, "--seed", seed, "--threads", threads,
                    "--device", "cpu")  # fmt: skip
    return {
        "n_data": record["n_data"],
        "peak_mb": record["peak_memory_mb"],
        "bare_mb": bare(threads),
        "seconds_per_epoch": record["seconds_per_epoch"],
        "took": record["seconds"],
    }


def bare(threads: int) -> float:
    """Return the highest resident size, in MB, of an interpreter that has imported torch."""
    command = [sys.executable, "-c", _BARE.format(threads)]
    status = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024
