"""Series of runs, stored as they end: a broken-off series goes on where it stopped."""

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import OUT, machine

Record = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser, seeds: str, epochs: int | None) -> None:
    """Declare the options that all series share."""
    parser.add_argument("--seeds", default=seeds)
    parser.add_argument("--epochs", type=int, default=epochs, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data", type=Path, default=data_folder(), help="or $TRUVAE_DATA")
    parser.add_argument("--fresh", action="store_true", help="do not use stored runs")


def data_folder() -> Path:
    """Return the folder with real pictures and recordings."""
    return Path(os.environ.get("TRUVAE_DATA", "../shared/data"))


def seeds(options: argparse.Namespace) -> list[int]:
    """Return the seeds asked for."""
    return [int(seed) for seed in options.seeds.split(",")]


def read(path: Path) -> list[Record]:
    """Return the stored records; a line that was cut off does not count."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


def series(
    name: str, keys: Iterable[Record], run: Callable[..., Record], options: argparse.Namespace
) -> list[Record]:
    """Run `run(**key)` for every key that is not stored yet; return all records, key and machine
    included.
    """
    torch.set_num_threads(options.threads)
    OUT.mkdir(exist_ok=True)
    path = OUT / f"{name}.jsonl"
    stored = read(path)
    records = []
    for key in keys:
        done = [r for r in stored if all(r.get(part) == key[part] for part in key)]
        if done and not options.fresh:
            records.append(done[-1])
            continue
        start = time.perf_counter()
        record = key | run(**key)
        record |= {"seconds": time.perf_counter() - start, "machine": machine()}
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(*(f"{part}={key[part]}" for part in key), f"{record['seconds']:.1f} s", flush=True)
        records.append(record)
    return records
