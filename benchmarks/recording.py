"""Long recordings by the public command: seconds, memory and SNR."""

import argparse
from functools import partial

import numpy as np
import soxr

from benchmarks.command import truvae
from benchmarks.report import OUT, publish, table
from benchmarks.series import Record, seeds, series
from benchmarks.series import add_arguments as add_series
from truvae.io_audio import Sound, read_sound, write_sound

_SIGMA = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0", epochs=None)
    parser.add_argument("--lengths", default="60", help="in seconds")
    parser.add_argument("--rate", type=int, default=16_000, help="samples a second")
    parser.add_argument("--quality", default="balanced")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Restore what has not been restored yet, and write the table."""
    keys = [
        {"length": int(length), "rate": options.rate, "quality": options.quality, "seed": seed}
        for length in options.lengths.split(",")
        for seed in seeds(options)
    ]
    records = series("recording", keys, partial(restore, options=options), options)
    rows = [
        [str(r["length"]), str(r["rate"]), r["quality"], str(r["seed"]), f"{r['snr_noisy']:.2f}",
         f"{r['snr']:.2f}", f"{r['sigma']:.4f}", f"{r['took']:.0f}", f"{r['peak_mb']:.0f}"]
        for r in records
    ]  # fmt: skip
    header = ["seconds of sound", "samples a second", "quality", "seed", "noisy dB", "dB",
              "sigma told", "seconds", "peak MB"]  # fmt: skip
    text = (
        "The shared excerpts of Bach one after the other, again and again if they are too few, "
        f"each scaled to a peak of 1; noise of {_SIGMA:g}, {options.threads} threads. "
        f"{records[-1]['machine']}."
    )
    publish("recording", f"{text}\n\n{table(header, rows)}")


def restore(
    length: int, rate: int, quality: str, seed: int, *, options: argparse.Namespace
) -> Record:
    """Restore one recording by the public command."""
    OUT.mkdir(exist_ok=True)
    clean = OUT / f"recording-{length}-{rate}.wav"
    write_sound(clean, Sound(joined(options, length, rate), rate, subtype="FLOAT"))
    told = truvae("denoise", clean, f"{clean.stem}-{quality}-{seed}", "--add-noise", _SIGMA,
                  "--seed", seed, "--quality", quality, "--threads", options.threads,
                  suffix=".wav")  # fmt: skip
    kept = {name: told[name] for name in ("snr", "snr_noisy", "sigma")}
    return kept | {"took": told["seconds"], "peak_mb": told["peak_memory_mb"]}


def joined(options: argparse.Namespace, length: int, rate: int) -> np.ndarray:
    """Return so many seconds of music, (n, 1)."""
    parts = []
    for file in sorted((options.data / "audio" / "bach").glob("*.wav")):
        sound = read_sound(file)
        part = soxr.resample(sound.data[:, 0], sound.sample_rate, rate)
        parts.append(part / np.abs(part).max())
    music = np.concatenate(parts)
    return np.resize(music, length * rate)[:, None]
