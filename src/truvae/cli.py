"""The command line: parse, call the public functions, write."""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from truvae import __version__
from truvae.errors import InputError
from truvae.model_commands import COMMANDS
from truvae.options import RUN_OPTIONS, finite, numbers, one_of, with_options
from truvae.signals import StopSignals

_START = time.perf_counter()
_SOME_FAILED, _BAD_INPUT = 1, 2
_DEMO_SIGMA = 25.0


_RUN_OPTIONS = [
    one_of("--quality", "fast balanced best", "balanced", "How much time to take."),
    click.option(
        "--time-budget",
        type=click.FloatRange(min=0, min_open=True),
        callback=finite,
        metavar="SECONDS",
        help="Finish within this time, everything included.",
    ),
    click.option(
        "--memory-limit",
        type=click.FloatRange(min=0, min_open=True),
        callback=finite,
        metavar="GB",
        help="Memory to use at most; half of what the machine has if not given.",
    ),
    *RUN_OPTIONS,
    click.option(
        "--report",
        metavar="FILE",
        help="Write a page (.html) with the picture before and after, and what was learned; "
        "a folder if there are several IN.",
    ),
    click.option(
        "--save-model",
        metavar="DIR",
        help="Save the model of the patches (the first of its kind) as a folder.",
    ),
]
_MODEL_OPTIONS = [
    one_of(
        "--noise",
        "auto gaussian poisson-gaussian",
        "auto",
        "Noise of one level, or noise that grows with the signal (cameras, microscopes).",
    ),
    one_of(
        "--stack",
        "frames shared",
        "frames",
        "Frames of a stack: each with models of its own, or one set of models for all.",
    ),
    one_of(
        "--covariance",
        "auto isotropic dct",
        "auto",
        "Models: the paper's (isotropic), with a covariance for each state (dct), or both.",
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
    click.option("--hidden", callback=numbers, metavar="N[,N]", help="Units of hidden layers."),
    click.option("--states", "n_states", type=int, metavar="S", help="States of each patch."),
    click.option("--epochs", type=int, metavar="E", help="Passes through all patches."),
]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="truvae")
def app() -> None:
    """Restore noisy pictures, blind: no clean data, no training set, no noise level needed.

    And learn binary codes of the rows of a table: fit, encode, reconstruct, score, sample, info.
    """


_FILE_OPTIONS = [
    click.argument("inputs", nargs=-1, required=True, metavar="IN..."),
    click.option(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="A file; a folder if there are several IN.",
    ),
    click.option(
        "--reference", metavar="FILE", help="The clean picture, to measure the result with."
    ),
    click.option(
        "--add-noise",
        type=click.FloatRange(min=0, min_open=True),
        callback=finite,
        metavar="S",
        help="For experiments: IN is clean; Gaussian noise of standard deviation S is added first.",
    ),
]


@app.command()
@with_options([*_FILE_OPTIONS, *_RUN_OPTIONS, *_MODEL_OPTIONS])
def denoise(inputs: tuple[str, ...], output: str, **options: Any) -> int:
    """Remove the noise from pictures and stacks (PNG, JPEG, TIFF or NPY), grey or colour.

    The extension of OUT decides its format; the type of the pixels stays that of IN. Pixels that
    are NaN are missing, and filled in.
    """
    return _all_files(inputs, output, options)


@app.command()
@with_options(_FILE_OPTIONS)
@click.option("--mask", metavar="FILE", help="A picture that is not zero where IN is unknown.")
@click.option("--invert-mask", is_flag=True, help="The mask is zero where IN is unknown.")
@click.option(
    "--missing-value",
    type=float,
    callback=finite,
    metavar="V",
    help="Pixels with this value (in all channels) are unknown.",
)
@click.option(
    "--drop",
    type=click.FloatRange(min=0, max=1, min_open=True, max_open=True),
    callback=finite,
    metavar="FRACTION",
    help="For experiments: IN is whole; this share of it is taken away at random first.",
)
@one_of(
    "--drop-per",
    "pixel value",
    "pixel",
    "Drop whole pixels, or each value of each channel on its own.",
)
@click.option("--denoise", is_flag=True, help="Remove noise from the known pixels too.")
@with_options([*_RUN_OPTIONS, *_MODEL_OPTIONS])
def inpaint(inputs: tuple[str, ...], output: str, **options: Any) -> int:
    """Fill in what is missing of pictures; what is known stays as it is.

    Pixels that are NaN are missing, and those told by one of --mask, --missing-value and --drop.
    """
    given = [name for name in ("mask", "missing_value", "drop") if options[name] is not None]
    if len(given) > 1:
        raise InputError("give one of --mask, --missing-value and --drop, not several")
    if options["invert_mask"] and options["mask"] is None:
        raise InputError("--invert-mask goes with a --mask: give one, or leave it out")
    return _all_files(inputs, output, options)


@app.command()
@click.option(
    "-o", "--output", default=".", show_default=True, metavar="DIR", help="Folder for the pictures."
)
@with_options([*_RUN_OPTIONS[1:]])
def demo(output: str, **options: Any) -> int:
    """Add noise to a picture that ships with scikit-image, and remove it.

    Writes clean.png, before.png and after.png. Takes less than two minutes.
    """
    from skimage.data import camera

    from truvae.files import add_noise
    from truvae.io import Picture, check_output, to_dtype, write_picture

    folder = Path(output)
    clean, before, after = (folder / f"{name}.png" for name in ("clean", "before", "after"))
    check_output(after)
    (page,) = _pages(options["report"], False, [after])
    (model,) = _models(options["save_model"], False, [after])
    picture = camera()[30:286, 110:366]
    noisy = add_noise(picture, _DEMO_SIGMA, options["seed"])
    write_picture(clean, Picture(picture))
    write_picture(before, Picture(to_dtype(noisy, picture.dtype)))
    options |= {"add_noise": _DEMO_SIGMA, "reference": None, "quality": "fast"}
    options |= {"report": page, "save_model": model}
    with StopSignals() as stop:
        done = _reported(clean, after, options, stop)
    return 128 + stop.received if stop.received else 0 if done else _BAD_INPUT


def _all_files(inputs: tuple[str, ...], output: str, options: dict[str, Any]) -> int:
    """Restore one file after the other; return the exit status."""
    jobs = _jobs(inputs, output)
    several, targets = _several(inputs), [target for _, target in jobs]
    pages = _pages(options["report"], several, targets)
    models = _models(options["save_model"], several, targets)
    with StopSignals() as stop:
        done = [
            _reported(source, target, options | {"report": page, "save_model": model}, stop)
            for (source, target), page, model in zip(jobs, pages, models, strict=True)
        ]
    if stop.received:
        return 128 + stop.received
    if all(done):
        return 0
    return _BAD_INPUT if len(jobs) == 1 else _SOME_FAILED


def _jobs(inputs: tuple[str, ...], output: str) -> list[tuple[Path, Path]]:
    """Pair every input with its output: file to file, or several files and folders to a folder."""
    paths, out = [Path(name) for name in inputs], Path(output)
    if not _several(inputs):
        return [(paths[0], out)]
    if not out.is_dir():
        raise InputError(
            f"several pictures go to a folder, and {output} is not one: give an existing folder"
        )
    files = [file for path in paths for file in _files(path)]
    if not files:
        raise InputError(f"no PNG, JPEG, TIFF or NPY files in {' '.join(inputs)}")
    targets = [out / _lossless(file.name) for file in files]
    _check_distinct(targets)
    return list(zip(files, targets, strict=True))


def _several(inputs: tuple[str, ...]) -> bool:
    """Tell whether there may be several pictures, as in a folder."""
    return len(inputs) > 1 or Path(inputs[0]).is_dir()


def _check_distinct(targets: list[Path]) -> None:
    for target, count in Counter(targets).items():
        if count > 1:
            raise InputError(f"{count} of the inputs would be written to {target}: rename them")


def _pages(report: str | None, several: bool, targets: list[Path]) -> list[Path | None]:
    """Return where the report of each output goes."""
    if report is None:
        return [None] * len(targets)
    from truvae.report import check_report

    return _beside(
        "reports", Path(report), several, [f"{t.stem}.html" for t in targets], check_report
    )


def _models(folder: str | None, several: bool, targets: list[Path]) -> list[Path | None]:
    """Return where the model of each output goes."""
    if folder is None:
        return [None] * len(targets)
    from truvae.saving import check_folder

    return _beside("models", Path(folder), several, [t.stem for t in targets], check_folder)


def _beside(
    what: str, given: Path, several: bool, names: list[str], check: Callable[[Path], None]
) -> list[Path | None]:
    """Return where to write beside the outputs: as given or, of several, into a folder."""
    if several and not given.is_dir():
        raise InputError(
            f"several {what} go to a folder, and {given} is not one: give an existing folder"
        )
    places = [given / name if several else given for name in names]
    _check_distinct(places)
    for place in places:
        check(place)
    return [*places]


def _lossless(name: str) -> str:
    """Return the name of the output: a JPEG, which would add errors, becomes a PNG."""
    path = Path(name)
    return path.stem + ".png" if path.suffix.lower() in (".jpg", ".jpeg") else name


def _files(path: Path) -> list[Path]:
    """Return the pictures in a folder, or the file itself."""
    from truvae.io import EXTENSIONS

    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.suffix.lower() in EXTENSIONS)


def _reported(source: Path, target: Path, options: dict[str, Any], stop: "StopSignals") -> bool:
    """Restore a file and print the result or the error; return whether it went well."""
    if stop.received:
        return False
    from truvae.files import restore_file, summary

    start = time.perf_counter() if stop.used else _START
    stop.used = True
    try:
        record = restore_file(source, target, options, start, lambda: stop.received is not None)
    except (InputError, OSError) as error:
        record = {"input": str(source), "error": _one_line(error)}
        print(f"truvae: error: {record['error']}", file=sys.stderr)
    if options["as_json"]:
        print(json.dumps(record, allow_nan=False), flush=True)
    elif "error" not in record:
        print(summary(record), flush=True)
    return "error" not in record


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


for command in COMMANDS:
    app.add_command(command)


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit status 2."""
    try:
        status = app(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        status = _BAD_INPUT
    except (click.ClickException, InputError, OSError) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        print(f"truvae: error: {' '.join(message.split())}", file=sys.stderr)
        status = _BAD_INPUT
    except (KeyboardInterrupt, click.Abort):
        status = 130
    sys.exit(status or 0)


if __name__ == "__main__":
    main()
