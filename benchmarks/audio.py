"""Denoise recordings by the public command, beside other methods (Fig. 16); or fill gaps."""

import argparse
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
import soxr

from benchmarks import sound_peers
from benchmarks.command import truvae
from benchmarks.plots import spectrograms
from benchmarks.report import OUT, publish, table
from benchmarks.series import Record, seeds, series
from benchmarks.series import add_arguments as add_series
from truvae.io_audio import Sound, read_sound, write_sound
from truvae.metrics import segmental_snr, snr

RATE = 16_000
SIGMA = 0.1
# Folder, and seconds from where to where: fixed places, where there is sound.
CASES = {"lj": ("ljspeech", 0.5, 2.5), "digits": ("sc09", 0.0, 1.0), "bach": ("bach", 0.5, 2.5)}
SPEECH = ("lj", "digits")
QUALITIES = ("fast", "balanced", "best")
PEERS = {
    "silence": sound_peers.silence,
    "spectral-subtraction": sound_peers.spectral_subtraction,
    "mmse-stsa": sound_peers.mmse_stsa,
    "wiener": sound_peers.wiener,
    "wiener-told": partial(sound_peers.wiener_told, sigma=SIGMA),
    "noisereduce": sound_peers.noise_reduce,
    "noisereduce-stationary": partial(sound_peers.noise_reduce, stationary=True),
}
FILLERS = {"linear": sound_peers.linear_fill, "burg": sound_peers.burg_fill}
# Gains in SNR and PESQ as the paper prints them (Fig. 16).
PAPER = {
    "spectral-subtraction": {"lj": "6.17 / 0.02", "digits": "8.14 / 0.05", "bach": "10.50"},
    "mmse-stsa": {"lj": "9.04 / 0.07", "digits": "8.84 / 0.18", "bach": "13.30"},
    **dict.fromkeys(QUALITIES, {"lj": "12.05 / 0.48", "digits": "15.11 / 0.34", "bach": "15.70"}),
}
GAPS, GAP = 4, 0.020  # in each excerpt; seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0", epochs=None)
    parser.add_argument("--cases", help="of lj, digits, bach; default: all, with --gaps bach")
    parser.add_argument("--methods", help=f"of {', '.join([*QUALITIES, *PEERS])}")
    parser.add_argument("--level", choices=("peak", "recorded"), default="peak",
                        help="clean clips scaled to a peak of 1, or as they are")  # fmt: skip
    parser.add_argument("--gaps", action="store_true", help="fill gaps instead")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Run what has not been run yet, and write the table."""
    if options.gaps:
        run_gaps(options)
    else:
        run_noise(options)


def run_noise(options: argparse.Namespace) -> None:
    rows = []
    for case in chosen(options.cases, CASES):
        for method in chosen(options.methods, ["balanced", *PEERS]):
            runs = series("audio", keys(options, case, method), partial(denoise, options=options),
                          options)  # fmt: skip
            rows.append([case, method, str(len(runs)), mean(runs, "snr_noisy"),
                         mean(runs, "gain", "+.2f"), mean(runs, "segmental"),
                         mean(runs, "gain_pesq", "+.2f"), mean(runs, "gain_pesq_nb", "+.2f"),
                         median(runs, "took"), mean(runs, "sigma", ".3f"),
                         PAPER.get(method, {}).get(case, "")])  # fmt: skip
    header = [
        "recordings",
        "method",
        "clips",
        "noisy dB",
        "gain dB",
        "segmental dB",
        "gain PESQ",
        "gain PESQ, narrow band",
        "seconds, median",
        "sigma told",
        "paper: gain dB / PESQ",
    ]
    levels = "scaled to a peak of 1" if options.level == "peak" else "at their recorded level"
    text = (
        f"Noise of sigma {SIGMA} on clips of 16 kHz {levels}: means. The paper drew other clips "
        "and does not tell their level, on which gains depend; its DCDAP gained 8.51 / 0.20, "
        f"11.02 / 0.06 and 10.40. Seeds {options.seeds}. {runs[-1]['machine']}."
    )
    name = "audio" if options.level == "peak" else "audio-recorded"
    publish(name, f"{text}\n\n{table(header, rows)}")


def run_gaps(options: argparse.Namespace) -> None:
    rows = []
    for case in chosen(options.cases, ["bach"]):
        for method in chosen(options.methods, ["balanced", *FILLERS]):
            runs = series("audio-gaps", keys(options, case, method),
                          partial(fill, options=options), options)  # fmt: skip
            levels = [run["snr"] for run in runs]
            rows.append([case, method, str(GAPS * len(runs)), mean(runs, "snr"),
                         f"{min(levels):.2f} to {max(levels):.2f}",
                         median(runs, "took")])  # fmt: skip
    header = ["recordings", "method", "gaps", "dB in the gaps", "least and most of a clip",
              "seconds, median"]  # fmt: skip
    text = (
        f"{GAPS} gaps of {1000 * GAP:g} ms in each clip of 2 s at 16 kHz, nothing else damaged. "
        f"SNR over the samples in the gaps, mean of clips. Seeds {options.seeds}. "
        f"{runs[-1]['machine']}."
    )
    publish("audio-gaps", f"{text}\n\n{table(header, rows)}")


def keys(options: argparse.Namespace, case: str, method: str) -> list[Record]:
    """Return a key for each clip and draw."""
    clips = sorted(path.stem for path in (options.data / "audio" / CASES[case][0]).glob("*.wav"))
    if not clips:
        raise SystemExit(f"no recordings in {options.data / 'audio' / CASES[case][0]}")
    return [{"case": case, "clip": clip, "level": options.level, "method": method, "seed": seed,
             "epochs": options.epochs} for clip in clips for seed in seeds(options)]  # fmt: skip


def denoise(
    case: str,
    clip: str,
    level: str,
    method: str,
    seed: int,
    epochs: int | None,
    *,
    options: argparse.Namespace,
) -> Record:
    """Add noise to one clip and remove it by one method; keep what there is to hear and to see."""
    source, clean = clean_clip(options, case, clip, level)
    noisy = clean + np.random.default_rng(seed).normal(0, SIGMA, (len(clean), 1))[:, 0]
    stem = f"audio-{level}-{clip}-{seed}-{method}"
    if method in QUALITIES:
        done = ours("denoise", source, stem, method, seed, epochs, options,
                    "--add-noise", SIGMA)  # fmt: skip
        restored = read_sound(OUT / f"{stem}.wav").data[:, 0]
    else:
        restored, done = other(PEERS[method], noisy)
        keep(stem, restored)
    keep(f"audio-{level}-{clip}-{seed}-noisy", noisy)
    spectrograms(OUT / f"{stem}.png", {"clean": clean, "noisy": noisy, method: restored}, RATE)
    return done | quality(case, clean, noisy, restored)


def fill(
    case: str,
    clip: str,
    level: str,
    method: str,
    seed: int,
    epochs: int | None,
    *,
    options: argparse.Namespace,
) -> Record:
    """Cut gaps into one clip and fill them by one method."""
    _, clean = clean_clip(options, case, clip, level)
    missing = gaps(len(clean), seed)
    damaged = np.where(missing, np.nan, clean)
    stem = f"audio-gaps-{level}-{clip}-{seed}"
    source = keep(f"{stem}-damaged", damaged)
    if method in QUALITIES:
        done = ours("inpaint", source, f"{stem}-{method}", method, seed, epochs, options)
        filled = read_sound(OUT / f"{stem}-{method}.wav").data[:, 0]
    else:
        filled, done = other(FILLERS[method], damaged)
        keep(f"{stem}-{method}", filled)
    pictures = {"clean": clean, "gaps": np.nan_to_num(damaged), method: filled}
    spectrograms(OUT / f"{stem}-{method}.png", pictures, RATE)
    return done | {"snr": snr(clean[missing], filled[missing])}


def ours(
    task: str,
    source: Path,
    stem: str,
    method: str,
    seed: int,
    epochs: int | None,
    options: argparse.Namespace,
    *arguments: object,
) -> Record:
    """Run the public command in a process of its own."""
    how = ["--epochs", epochs] if epochs else []
    done = truvae(task, source, stem, *arguments, "--quality", method, *how, "--seed", seed,
                  "--threads", options.threads, suffix=".wav")  # fmt: skip
    return {"took": done["seconds"], "sigma": done["sigma"],
            "peak_memory_mb": done["peak_memory_mb"]}  # fmt: skip


def other(method: sound_peers.Method, values: np.ndarray) -> tuple[np.ndarray, Record]:
    """Run another method."""
    start = time.perf_counter()
    restored = method(values, RATE)
    return restored, {"took": time.perf_counter() - start, "sigma": None, "peak_memory_mb": None}


def clean_clip(
    options: argparse.Namespace, case: str, clip: str, level: str
) -> tuple[Path, np.ndarray]:
    """Cut one clip out, (n,), at 16 kHz; it is kept as the WAV that the command gets."""
    folder, start, end = CASES[case]
    sound = read_sound(options.data / "audio" / folder / f"{clip}.wav")
    values = soxr.resample(sound.data[:, 0], sound.sample_rate, RATE)
    values = values[round(start * RATE) : round(end * RATE)]
    if level == "peak":
        values = values / np.abs(values).max()
    path = keep(f"audio-{level}-{clip}", values)
    return path, read_sound(path).data[:, 0]


def gaps(length: int, seed: int) -> np.ndarray:
    """Return where samples are missing: one gap in each of equal parts, not near their ends."""
    generator, size = np.random.default_rng(seed), round(GAP * RATE)
    part, margin = length // GAPS, round(0.1 * RATE)
    missing = np.zeros(length, bool)
    for i in range(GAPS):
        start = i * part + generator.integers(margin, part - margin - size)
        missing[start : start + size] = True
    return missing


def quality(case: str, clean: np.ndarray, noisy: np.ndarray, restored: np.ndarray) -> Record:
    """Measure; PESQ is for speech, and silence has none."""
    before, after = snr(clean, noisy), snr(clean, restored)
    found = {"snr_noisy": before, "snr": after, "gain": after - before,
             "segmental": segmental_snr(clean, restored, RATE)}  # fmt: skip
    if case in SPEECH and restored.any():
        for name, band in {"gain_pesq": "wb", "gain_pesq_nb": "nb"}.items():
            found[name] = sound_peers.delta_pesq(clean, noisy, restored, RATE, band)
    return found


def keep(stem: str, values: np.ndarray) -> Path:
    """Write a recording to listen to."""
    path: Path = OUT / f"{stem}.wav"
    write_sound(path, Sound(values[:, None], RATE, subtype="FLOAT"))
    return path


def chosen(option: str | None, default: Iterable[str]) -> list[str]:
    return option.split(",") if option else list(default)


def mean(runs: list[Record], name: str, form: str = ".2f") -> str:
    """Return a cell; empty if no run has the figure."""
    values = [run[name] for run in runs if run.get(name) is not None]
    return format(np.nanmean(values), form) if values else ""


def median(runs: list[Record], name: str) -> str:
    return f"{np.median([run[name] for run in runs]):.3g}"
