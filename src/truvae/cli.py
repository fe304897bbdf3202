"""The command line: parse, call the public functions, write."""

import io
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from truvae import __version__, batch, torchrun
from truvae.errors import InputError, RankError
from truvae.model_commands import COMMANDS
from truvae.options import RUN_OPTIONS, finite, numbers, one_of, with_options
from truvae.signals import StopSignals
from truvae.threads import wait_without_spinning

_START = time.perf_counter()
_FAILED, _BAD_INPUT = 1, 2
_DEMO_SIGMA = 25.0
# Commands that several processes work on together.
_TOGETHER = ("denoise", "inpaint", "fit")


def _repairs(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    """Parse "clipping,dropouts"."""
    known = ("clipping", "dropouts")
    chosen = None if value is None else tuple(value.split(","))
    if chosen is not None and not {*chosen} <= {*known}:
        raise click.BadParameter(f"{value!r} is not one of {', '.join(known)}, or both")
    return chosen


_RUN_OPTIONS = [
    one_of("--quality", "fast balanced best", "balanced", "How much time to take."),
    click.option(
        "--time-budget",
        type=click.FloatRange(min=0, min_open=True),
        callback=finite,
        metavar="SECONDS",
        help="Finish within this time, everything included; for each file.",
    ),
    click.option(
        "--memory-limit",
        type=click.FloatRange(min=0, min_open=True),
        callback=finite,
        metavar="GB",
        help="For pictures: memory to use at most; half of what the machine has if not given.",
    ),
    *RUN_OPTIONS,
    click.option(
        "--report",
        metavar="FILE",
        help="Write a page (.html) with the input before and after, and what was learned; "
        "a folder if there are several IN.",
    ),
    click.option(
        "--save-model",
        metavar="DIR",
        help="Save the model of the patches (the first of its kind) as a folder.",
    ),
]
_CHECKPOINT_OPTIONS = [
    click.option(
        "--checkpoint",
        metavar="DIR",
        help="Save everything to a folder after each epoch, so that --resume can go on from there.",
    ),
    click.option(
        "--resume",
        is_flag=True,
        help="Go on from the --checkpoint; start where it holds nothing yet.",
    ),
]
_MODEL_OPTIONS = [
    one_of(
        "--noise",
        "auto gaussian poisson-gaussian correlated",
        "auto",
        "White noise of one level, noise that grows with the signal (cameras, microscopes), or "
        "noise that neighbouring pixels share (after smoothing or interpolation).",
    ),
    one_of(
        "--stack",
        "frames shared",
        "frames",
        "Frames of a stack: each on its own, or one set of models for all, and frames nearby help.",
    ),
    one_of(
        "--covariance",
        "auto isotropic dct",
        "auto",
        "Models: the paper's (isotropic), with a covariance for each state (dct), or both.",
    ),
    one_of(
        "--channels",
        "joint separate",
        "joint",
        "Channels of a recording: what they have in common and differ in, or each on its own.",
    ),
    click.option(
        "--repair",
        callback=_repairs,
        metavar="WHAT[,WHAT]",
        help="Of a recording: take clipping, dropouts (runs of zeros) or both for missing.",
    ),
    click.option(
        "--preset",
        metavar="NAME",
        help="A row of the paper's Table 1: paper:denoise-..., paper:inpaint-..., paper:audio",
    ),
    click.option(
        "--selection",
        metavar="LAW",
        help="With a preset: how parents are drawn; fitness (the paper's), released, ...",
    ),
    click.option(
        "--sigma",
        type=float,
        help="Noise level in input units (full scale of a recording is 1), only if known; else it "
        "is found.",
    ),
    click.option("--patch-size", type=int, metavar="P", help="Patches are P x P pixels."),
    click.option("--latents", "n_latents", type=int, metavar="H", help="Binary latents."),
    click.option("--hidden", callback=numbers, metavar="N[,N]", help="Units of hidden layers."),
    click.option("--states", "n_states", type=int, metavar="S", help="States of each patch."),
    click.option("--epochs", type=int, metavar="E", help="Passes through all patches."),
]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="truvae")
@click.pass_context
def app(context: click.Context) -> None:
    """Restore noisy pictures and recordings, blind: no clean data, no training set, no noise level.

    And learn binary codes of the rows of a table: fit, encode, reconstruct, score, sample, info.

    Started by torchrun, denoise, inpaint and fit work in several processes together.
    """
    command = context.invoked_subcommand
    if torchrun.size() > 1 and command not in _TOGETHER:
        raise InputError(f"{command} works in one process: leave torchrun out")


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
        "--jobs",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        metavar="N",
        help="Files to restore at a time, each in a process with its share of the --threads.",
    ),
    click.option(
        "--skip-existing",
        is_flag=True,
        help="Leave out files whose output exists; of several, those interrupted have none.",
    ),
    click.option(
        "--shared-model",
        is_flag=True,
        help="Pictures of one shape and type: restore them together, as the frames of a stack.",
    ),
    click.option(
        "--reference", metavar="FILE", help="The clean picture, to measure the result with."
    ),
    click.option(
        "--add-noise",
        type=click.FloatRange(min=0, min_open=True),
        callback=finite,
        metavar="S",
        help="For experiments: IN is clean; Gaussian noise of standard deviation S, in the units "
        "of --sigma, is added first.",
    ),
]


@app.command()
@with_options([*_FILE_OPTIONS, *_RUN_OPTIONS, *_CHECKPOINT_OPTIONS, *_MODEL_OPTIONS])
def denoise(inputs: tuple[str, ...], output: str, **options: Any) -> int:
    """Remove the noise from pictures and stacks (PNG, JPEG, TIFF or NPY), grey or colour, and from
    recordings (WAV, FLAC or OGG).

    IN are files, folders, or quoted patterns such as 'scans/**/*.tif'. The extension of OUT decides
    its format; the type of the pixels stays that of IN. Pixels that are NaN are missing, and filled
    in.
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
@with_options([*_RUN_OPTIONS, *_CHECKPOINT_OPTIONS, *_MODEL_OPTIONS])
def inpaint(inputs: tuple[str, ...], output: str, **options: Any) -> int:
    """Fill in what is missing of pictures and recordings; what is known stays as it is.

    Pixels or samples that are NaN are missing, and those told by one of --mask, --missing-value
    and --drop; of recordings also what --repair finds.
    """
    given = [name for name in ("mask", "missing_value", "drop") if options[name] is not None]
    if len(given) > 1:
        raise InputError("give one of --mask, --missing-value and --drop, not several")
    if options["invert_mask"] and options["mask"] is None:
        raise InputError("--invert-mask goes with a --mask: give one, or leave it out")
    if options["drop_per"] != "pixel" and options["drop"] is None:
        raise InputError("--drop-per value goes with --drop: give that too, or leave it out")
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

    from truvae.experiments import add_noise
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
    with StopSignals(options["quiet"]) as stop:
        return batch.restore_all([batch.Task(clean, after, options)], _START, stop)


def _all_files(inputs: tuple[str, ...], output: str, options: dict[str, Any]) -> int:
    """Restore one file or many; return the exit status."""
    how = {name: options.pop(name) for name in ("jobs", "skip_existing", "shared_model")}
    pairs, several = batch.pair(inputs, output), batch.are_several(inputs)
    targets = [target for _, target in pairs]
    if torchrun.rank() > 0:  # rank 0 tells
        options |= {"quiet": True, "verbose": False}
    pages = _pages(options["report"], several, targets)
    # Pictures that share a model have one folder for it, and one checkpoint.
    apart, n = several and not how["shared_model"], len(targets)
    owners = targets if apart else targets[:1]
    models = _models(options["save_model"], apart, owners) * (n // len(owners))
    saves = _checkpoints(options["checkpoint"], options["resume"], apart, owners)
    saves *= n // len(owners)
    if both := {*models} & {*saves} - {None}:
        raise InputError(
            f"{both.pop()} is given for a checkpoint and a model: give each a folder of its own"
        )
    tasks = [
        batch.Task(
            source, target, options | {"report": page, "save_model": model, "checkpoint": states}
        )
        for (source, target), page, model, states in zip(pairs, pages, models, saves, strict=True)
    ]
    with StopSignals(options["quiet"]) as stop:
        return batch.restore_all(tasks, _START, stop, **how)


def _pages(report: str | None, several: bool, targets: list[Path]) -> list[Path | None]:
    """Return where the report of each output goes."""
    if report is None:
        return [None] * len(targets)
    from truvae.pages import check_report

    return _beside(
        "reports", Path(report), several, [f"{t.stem}.html" for t in targets], check_report
    )


def _models(folder: str | None, several: bool, targets: list[Path]) -> list[Path | None]:
    """Return where the model of each output goes."""
    if folder is None:
        return [None] * len(targets)
    from truvae.saving import check_folder

    return _beside("models", Path(folder), several, [t.stem for t in targets], check_folder)


def _checkpoints(
    folder: str | None, resume: bool, several: bool, targets: list[Path]
) -> list[Path | None]:
    """Return where the states of the restoration of each output go."""
    if folder is None:
        if resume:
            raise InputError("--resume goes with a --checkpoint: give one, or leave it out")
        return [None] * len(targets)
    from truvae.checkpoint import check_checkpoint

    check = partial(check_checkpoint, resume=resume)
    return _beside("checkpoints", Path(folder), several, [t.stem for t in targets], check)


def _beside(
    what: str, given: Path, several: bool, names: list[str], check: Callable[[Path], None]
) -> list[Path | None]:
    """Return where to write beside the outputs: as given or, of several, into a folder."""
    if several and not given.is_dir():
        raise InputError(
            f"several {what} go to a folder, and {given} is not one: give an existing folder"
        )
    places = [given / name if several else given for name in names]
    batch.check_distinct(places)
    for place in places:
        check(place)
    return [*places]


for command in COMMANDS:
    app.add_command(command)


def _print_any_name() -> None:
    """Escape what stdout cannot encode, as stderr does: not every file name is text."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and exit status 2."""
    wait_without_spinning()
    _print_any_name()
    try:
        status = app(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        status = _BAD_INPUT
    except (click.ClickException, InputError, OSError) as error:
        torchrun.let_first_tell()
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        print(f"truvae: error: {' '.join(message.split())}", file=sys.stderr)
        status = _BAD_INPUT
    except RankError as error:
        if torchrun.rank() == 0:
            print(f"truvae: error: {error}", file=sys.stderr)
        status = _FAILED
    except (KeyboardInterrupt, click.Abort):
        status = 130
    sys.exit(status or 0)


if __name__ == "__main__":
    main()
