"""A restoration that is killed again and again and resumed, beside one that is left in peace."""

import argparse
import random
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from skimage import data

from benchmarks.report import publish, table
from benchmarks.series import Record, series
from benchmarks.series import add_arguments as add_series
from truvae.experiments import add_noise

SIGMA = 25.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0", epochs=None)
    parser.add_argument("--size", type=int, default=256, help="side of the picture")
    parser.add_argument("--kills", type=int, default=20)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Restore the picture in the three ways, compare the files, and write the table."""
    key = {"size": options.size, "kills": options.kills, "threads": options.threads}
    (found,) = series("interrupted", [key], restore, options)
    text = (
        f"{options.size} x {options.size} pixels of scikit-image's camera, sigma {SIGMA:g}, two "
        f"models of {_epochs(options.kills)} epochs, {options.threads} threads. One run was killed "
        f"(SIGKILL) {found['killed']} times, each time at a random moment after one more epoch, "
        "and resumed; its result is that of the run without checkpoints, byte for byte. "
        f"{found['machine']}."
    )
    header = ["", "seconds", "checkpoint, MB"]
    rows = [["no checkpoints", f"{found['plain']:.1f}", ""],
            ["with checkpoints", f"{found['saving']:.1f}", f"{found['bytes'] / 1e6:.1f}"],
            ["killed and resumed", f"{found['interrupted']:.1f}", ""]]  # fmt: skip
    publish("interrupted", f"{text}\n\n{table(header, rows)}")


def restore(size: int, kills: int, threads: int) -> Record:
    """Restore the picture without checkpoints, with them, and with kills; time all three."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "in.npy", add_noise(data.camera()[30:, 110:][:size, :size], SIGMA, 0))
        command = partial(_command, folder, _epochs(kills), threads)
        seconds = {}
        for way, arguments in [("plain", []), ("saving", ["--checkpoint", folder / "states"])]:
            start = time.perf_counter()
            subprocess.run(command(way, *arguments), check=True, capture_output=True)
            seconds[way] = time.perf_counter() - start
        n_bytes = sum(path.stat().st_size for path in (folder / "states").iterdir())
        start, rng = time.perf_counter(), random.Random(0)
        resumed = command("resumed", "--checkpoint", folder / "killed", "--resume")
        one_epoch = seconds["plain"] / (2 * _epochs(kills))
        delays = [rng.uniform(0, one_epoch) for _ in range(kills)]
        killed = sum(_killed(resumed, n + 1, delay) for n, delay in enumerate(delays))
        subprocess.run(resumed, check=True, capture_output=True)
        seconds["interrupted"] = time.perf_counter() - start
        files = {(folder / f"{way}.npy").read_bytes() for way in ("plain", "saving", "resumed")}
    if len(files) > 1:
        raise SystemExit("the results differ")
    return seconds | {"bytes": n_bytes, "killed": killed}


def _epochs(kills: int) -> int:
    """Return the epochs of each of the two models, so that each process does one more of them."""
    return -(-kills // 2)


def _command(
    folder: Path, epochs: int, threads: int, stem: str, *arguments: str | Path
) -> list[str]:
    files = [folder / "in.npy", "-o", folder / f"{stem}.npy"]
    options = ["-v", "--threads", threads, "--epochs", epochs, *arguments]
    return [sys.executable, "-m", "truvae", "denoise", *map(str, [*files, *options])]


def _killed(command: list[str], n_epochs: int, delay: float) -> bool:
    """Kill the command some time after it told of so many epochs; return False if it was done."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as p:
        told = 0
        while told < n_epochs and (line := p.stderr.readline()):
            told += line.count("epoch ")
        time.sleep(delay)
        p.kill()
    return p.wait() < 0
