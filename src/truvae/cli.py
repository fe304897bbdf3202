"""The command line: parse, call the public functions, write."""

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

import click

from truvae import __version__
from truvae.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt

    from truvae.restore import Result
    from truvae.training import Epoch

_START = time.perf_counter()
_SOME_FAILED, _BAD_INPUT = 1, 2
# Seconds of a time budget that go to starting the interpreter, measuring and writing the result.
_OVERHEAD = 1.5
_DEMO_SIGMA = 25.0
# Options that are handed to `truvae.denoise` as they are.
_PASSED_ON = (
    "quality",
    "covariance",
    "preset",
    "selection",
    "sigma",
    "patch_size",
    "n_latents",
    "hidden",
    "n_states",
    "epochs",
    "device",
)


def _finite(_: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{option.opts[0]} must be a finite number, not {value}")
    return value


def _numbers(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Parse "256,128"."""
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers like 256,128") from None


_RUN_OPTIONS = [
    click.option(
        "--quality",
        type=click.Choice(["fast", "balanced", "best"]),
        default="balanced",
        show_default=True,
        help="How much time to take.",
    ),
    click.option(
        "--time-budget",
        type=click.FloatRange(min=0, min_open=True),
        callback=_finite,
        metavar="SECONDS",
        help="Finish within this time, everything included.",
    ),
    click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True),
    click.option(
        "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True
    ),
    click.option("--threads", type=click.IntRange(min=1), help="CPU threads to use."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object per input."),
    click.option("-q", "--quiet", is_flag=True, help="No progress."),
    click.option("-v", "--verbose", is_flag=True, help="A line for every epoch."),
]
_MODEL_OPTIONS = [
    click.option(
        "--covariance",
        type=click.Choice(["auto", "isotropic", "dct"]),
        default="auto",
        show_default=True,
        help="Models: the paper's (isotropic), with a covariance for each state (dct), or both.",
    ),
    click.option(
        "--preset", metavar="NAME", help="A row of the paper's Table 1: paper:denoise-..."
    ),
    click.option(
        "--selection",
        metavar="LAW",
        help="With a preset: how parents are drawn; fitness (the paper's), released, ...",
    ),
    click.option(
        "--sigma", type=float, help="Noise level in input units, only if known; else learned."
    ),
    click.option("--patch-size", type=int, metavar="P", help="Patches are P x P pixels."),
    click.option("--latents", "n_latents", type=int, metavar="H", help="Binary latents."),
    click.option("--hidden", callback=_numbers, metavar="N[,N]", help="Units of hidden layers."),
    click.option("--states", "n_states", type=int, metavar="S", help="States of each patch."),
    click.option("--epochs", type=int, metavar="E", help="Passes through all patches."),
]


def _with(
    options: list[Callable[..., Any]],
) -> Callable[[Callable[..., int]], Callable[..., int]]:
    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="truvae")
def app() -> None:
    """Restore noisy pictures, blind: no clean data, no training set, no noise level needed."""


@app.command()
@click.argument("inputs", nargs=-1, required=True, metavar="IN...")
@click.option(
    "-o", "--output", required=True, metavar="OUT", help="A file; a folder if there are several IN."
)
@click.option("--reference", metavar="FILE", help="The clean picture, to measure the result with.")
@click.option(
    "--add-noise",
    type=click.FloatRange(min=0, min_open=True),
    callback=_finite,
    metavar="S",
    help="For experiments: IN is clean; Gaussian noise of standard deviation S is added first.",
)
@_with(_RUN_OPTIONS)
@_with(_MODEL_OPTIONS)
def denoise(inputs: tuple[str, ...], output: str, **options: Any) -> int:
    """Remove the noise from grey pictures (PNG, TIFF or NPY).

    The extension of OUT decides its format; the type of the pixels stays that of IN.
    """
    jobs = _jobs(inputs, output)
    with _StopSignals() as stop:
        done = [_reported(source, target, options, stop) for source, target in jobs]
    if stop.received:
        return 128 + stop.received
    if all(done):
        return 0
    return _BAD_INPUT if len(jobs) == 1 else _SOME_FAILED


@app.command()
@click.option(
    "-o", "--output", default=".", show_default=True, metavar="DIR", help="Folder for the pictures."
)
@_with([*_RUN_OPTIONS[1:]])
def demo(output: str, **options: Any) -> int:
    """Add noise to a picture that ships with scikit-image, and remove it.

    Writes clean.png, before.png and after.png. Takes less than two minutes.
    """
    from skimage.data import camera

    from truvae.io import check_output, to_dtype, write_picture

    folder = Path(output)
    clean, before, after = (folder / f"{name}.png" for name in ("clean", "before", "after"))
    check_output(after)
    picture = camera()[30:286, 110:366]
    write_picture(clean, picture)
    write_picture(
        before, to_dtype(_add_noise(picture, _DEMO_SIGMA, options["seed"]), picture.dtype)
    )
    options |= {"add_noise": _DEMO_SIGMA, "reference": None, "quality": "fast"}
    with _StopSignals() as stop:
        done = _reported(clean, after, options, stop)
    return 128 + stop.received if stop.received else 0 if done else _BAD_INPUT


def _jobs(inputs: tuple[str, ...], output: str) -> list[tuple[Path, Path]]:
    """Pair every input with its output: file to file, or several files and folders to a folder."""
    paths, out = [Path(name) for name in inputs], Path(output)
    if len(paths) == 1 and not paths[0].is_dir():
        return [(paths[0], out)]
    if not out.is_dir():
        raise InputError(
            f"several pictures go to a folder, and {output} is not one: give an existing folder"
        )
    files = [file for path in paths for file in _files(path)]
    if not files:
        raise InputError(f"no PNG, TIFF or NPY files in {' '.join(inputs)}")
    return [(file, out / file.name) for file in files]


def _files(path: Path) -> list[Path]:
    """Return the pictures in a folder, or the file itself."""
    from truvae.io import EXTENSIONS

    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.suffix.lower() in EXTENSIONS)


def _reported(source: Path, target: Path, options: dict[str, Any], stop: "_StopSignals") -> bool:
    """Restore a file and print the result or the error; return whether it went well."""
    if stop.received:
        return False
    try:
        record = _restore_file(source, target, options, stop)
    except (InputError, OSError) as error:
        record = {"input": str(source), "error": _one_line(error)}
        print(f"truvae: error: {record['error']}", file=sys.stderr)
    if options["as_json"]:
        print(json.dumps(record), flush=True)
    elif "error" not in record:
        print(_summary(record), flush=True)
    return "error" not in record


def _restore_file(
    source: Path, target: Path, options: dict[str, Any], stop: "_StopSignals"
) -> dict[str, Any]:
    """Restore one file and return its record (the keys of `--json`)."""
    start = _START if not stop.used else time.perf_counter()
    stop.used = True
    from truvae.io import check_output, read_picture, to_dtype, write_picture

    picture = read_picture(source)
    check_output(target, picture.data)
    if target.exists() and target.samefile(source):
        raise InputError(f"{target} is the input: give another output file")
    noisy, reference = _experiment(picture.data, options)
    result = _restore(noisy, options, start, stop)
    restored = to_dtype(result.restored, picture.data.dtype)
    write_picture(target, restored, picture.metadata)
    record = _describe(result, options)
    record |= {"input": str(source), "output": str(target), "shape": list(picture.data.shape)}
    return record | _measure(reference, noisy, restored) | _cost(start)


def _experiment(
    picture: "npt.NDArray[Any]", options: dict[str, Any]
) -> tuple["npt.NDArray[Any]", "npt.NDArray[Any] | None"]:
    """Return the noisy picture and, if there is one, the clean one."""
    from truvae.io import read_picture

    if options["add_noise"] is not None and options["reference"] is not None:
        raise InputError("--add-noise takes IN as the clean picture: leave --reference out")
    if options["add_noise"] is not None:
        return _add_noise(picture, options["add_noise"], options["seed"]), picture
    if options["reference"] is None:
        return picture, None
    reference = read_picture(options["reference"]).data
    if reference.shape != picture.shape:
        raise InputError(
            f"the reference has shape {reference.shape}, the picture {picture.shape}: "
            "they must be equal"
        )
    return picture, reference


def _add_noise(picture: "npt.NDArray[Any]", sigma: float, seed: int) -> "npt.NDArray[Any]":
    """Add Gaussian noise in input units, neither clipped nor rounded."""
    import numpy as np

    noisy: npt.NDArray[Any] = picture + np.random.default_rng(seed).normal(0, sigma, picture.shape)
    return noisy


def _restore(
    noisy: "npt.NDArray[Any]", options: dict[str, Any], start: float, stop: "_StopSignals"
) -> "Result":
    """Call `truvae.denoise` with the options of the command line and a progress bar."""
    budget = options["time_budget"]
    if options["threads"]:
        os.environ["OMP_NUM_THREADS"] = str(options["threads"])
    import torch

    from truvae.restore import denoise as restore

    if options["threads"]:
        torch.set_num_threads(options["threads"])
    with _progress_bar(options) as (on_progress, on_epoch):
        result = restore(
            noisy,
            **{name: options[name] for name in _PASSED_ON if options.get(name) is not None},
            time_budget=budget and max(budget - _OVERHEAD - (time.perf_counter() - start), 1e-3),
            random_state=options["seed"],
            on_progress=on_progress,
            on_epoch=on_epoch,
            should_stop=lambda: stop.received is not None,
            return_result=True,
        )
    return cast("Result", result)


@contextmanager
def _progress_bar(
    options: dict[str, Any],
) -> Iterator[tuple[Callable[[float], None], Callable[["Epoch"], None]]]:
    """Show progress on stderr: a bar, and with --verbose a line for every epoch."""
    from tqdm import tqdm

    shape = "{percentage:3.0f}% |{bar}| {elapsed}, {remaining} to go  {desc}"
    with tqdm(
        total=1.0,
        file=sys.stderr,
        disable=options["quiet"],
        leave=False,
        bar_format=shape,
        delay=1,  # bad input is told in one line, without a bar before it
    ) as bar:

        def on_progress(progress: float) -> None:
            bar.update(progress - bar.n)

        def on_epoch(epoch: "Epoch") -> None:
            line = (
                f"epoch {epoch.index + 1}  F {epoch.elbo:.2f}  sigma {epoch.sigma:.4g}  "
                f"active latents {epoch.active_latents:.2f}"
            )
            bar.set_description_str(line)
            if options["verbose"]:
                bar.write(f"{line}  {epoch.seconds:.1f} s", file=sys.stderr)

        yield on_progress, on_epoch


def _describe(result: "Result", options: dict[str, Any]) -> dict[str, Any]:
    """Return what was done and learned."""
    settings = result.settings
    seconds = [epoch.seconds for epoch in result.history]
    return {
        "kind": "picture",
        "seed": options["seed"],
        "preset": options.get("preset"),
        "covariance": options.get("covariance", "auto"),
        "covariances": result.covariances,
        "trust_in_dct": result.trust_in_dct,
        "looks": result.looks,
        "quality": options["quality"],
        "device": result.device,
        "n_data": result.n_data,
        "patch_size": settings.patch_size,
        "n_latents": settings.n_latents,
        "hidden": list(settings.hidden),
        "n_states": settings.n_states,
        "epochs": result.epochs,
        "elbo": result.elbo,
        "sigma": result.sigma,
        "sigma_source": result.sigma_source,
        "active_latents": result.active_latents,
        "missing": result.missing,
        "held_out_rmse": None,
        "seconds_per_epoch": sum(seconds) / len(seconds) if seconds else None,
    }


def _measure(
    reference: "npt.NDArray[Any] | None", noisy: "npt.NDArray[Any]", restored: "npt.NDArray[Any]"
) -> dict[str, float | None]:
    """Return the quality of the picture as written, null without a reference."""
    if reference is None:
        return {"psnr_noisy": None, "psnr": None, "ssim": None}
    from truvae.metrics import psnr, ssim

    values = {
        "psnr_noisy": psnr(reference, noisy),
        "psnr": psnr(reference, restored),
        "ssim": ssim(reference, restored),
    }
    return {name: value if abs(value) < float("inf") else None for name, value in values.items()}


def _cost(start: float) -> dict[str, float | None]:
    return {"seconds": time.perf_counter() - start, "peak_memory_mb": _peak_memory_mb()}


def _peak_memory_mb() -> float | None:
    """Return the highest resident size of this process, None where it cannot be told."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _summary(record: dict[str, Any]) -> str:
    """Return the result in one line for people."""
    parts = [
        record["output"],
        f"sigma {record['sigma']:.4g} ({record['sigma_source']})",
    ]
    if record["missing"]:
        parts.append(f"{record['missing']:.1%} missing pixels filled in")
    if record["psnr"] is not None:
        parts.append(f"PSNR {record['psnr_noisy']:.2f} -> {record['psnr']:.2f} dB")
        parts.append(f"SSIM {record['ssim']:.3f}")
    parts.append(f"{len(record['covariances'])} models in {record['seconds']:.1f} s")
    return "  ".join(parts)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


@dataclass
class _StopSignals:
    """The first Ctrl-C or SIGTERM asks the restoration to finish with what it has.

    The second Ctrl-C quits at once.
    """

    received: int | None = None
    used: bool = False
    """Whether a restoration has begun: the first one also pays for the start of the program."""

    def __enter__(self) -> "_StopSignals":
        self._before = {
            int(number): signal.signal(number, self._note)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
        signal.signal(number, self._before[number])


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit status 2."""
    try:
        status = app(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        status = _BAD_INPUT
    except (click.ClickException, InputError) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        print(f"truvae: error: {' '.join(message.split())}", file=sys.stderr)
        status = _BAD_INPUT
    except (KeyboardInterrupt, click.Abort):
        status = 130
    sys.exit(status or 0)


if __name__ == "__main__":
    main()
