"""One file: read it, restore it, write the result, and say what was done."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from truvae import torchrun
from truvae.console import given, tell, with_progress
from truvae.errors import InputError
from truvae.experiments import Experiment, damage, dropped, finite, refuse
from truvae.io import (
    Picture,
    as_written,
    check_apart,
    check_output,
    read_picture,
    read_plane,
    to_dtype,
    write_picture,
)
from truvae.io_audio import SOUND_EXTENSIONS, is_sound
from truvae.records import concluded, described, failure, save
from truvae.threads import use_threads

if TYPE_CHECKING:
    from truvae.results import Result

Array = npt.NDArray[Any]

# Values of a picture from which on it is told beforehand how much memory its restoration takes.
_LARGE = 1 << 20
# Options that are handed to `truvae.denoise` and `truvae.inpaint` beside those in common.
_PASSED_ON = ("noise", "stack", "memory_limit")
# Options that say nothing of a picture, and what they are if they were not given.
_OF_SOUND = {"channels": "joint", "repair": None}


@dataclass(frozen=True)
class _Work:
    """A picture that is to be restored, and where the result goes."""

    source: Path
    target: Path
    options: Mapping[str, Any]
    picture: Picture
    mask: Picture | None
    experiment: Experiment

    @staticmethod
    def begin(source: Path, target: Path, options: Mapping[str, Any], place: int = 0) -> "_Work":
        """Read the picture; check where the result goes before any work.

        Pictures that are restored together are damaged each in its own way, by their place.
        """
        refuse(options, _OF_SOUND, "recordings", "picture")
        picture = read_picture(source)
        check_output(target, picture)
        check_apart(target, source, options["reference"], options.get("mask"))
        drawn = {**options, "seed": [options["seed"], place]} if place else options
        mask = read_plane(options["mask"]) if options.get("mask") is not None else None
        experiment = _experiment(picture, mask, drawn)
        return _Work(source, target, options, picture, mask, experiment)

    @property
    def notes(self) -> list[str]:
        """What is to be told of the input."""
        of_mask = [f"the mask: {note}" for note in self.mask.notes] if self.mask else []
        return [*self.picture.notes, *of_mask, *self.experiment.notes("picture")]

    def finish(
        self, result: "Result", warned: list[str], start: float, interrupted: bool
    ) -> dict[str, Any]:
        """Write the result and a report, and return the record; of several ranks, rank 0 does."""
        picture, options = self.picture, self.options
        if torchrun.rank() > 0:
            return {"input": str(self.source)}
        restored = to_dtype(result.restored, picture.data.dtype)
        late = [*warned, *write_picture(self.target, replace(picture, data=restored))]
        tell(late, options)
        restored = as_written(self.target, restored)
        record = _describe(result, options)
        record |= _measure(self.experiment, restored, picture.channels)
        notes = [*self.notes, *late]
        shape = picture.data.shape
        record |= concluded(self.source, self.target, shape, options, notes, start, interrupted)
        if options["report"]:
            from truvae.report import write_report

            axis = -1 if picture.channels else None
            result, before = replace(result, restored=restored), self.experiment.seen
            write_report(options["report"], result, before, record, channel_axis=axis)
        return record


def restore_file(
    source: Path,
    target: Path,
    options: Mapping[str, Any],
    start: float,
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """Restore one file and return its record (the keys of `--json`).

    Parameters
    ----------
    source, target
        The file to read and the one to write.
    options
        Those of the command line, "report", "save_model" and "checkpoint" as paths or None; with
        "mask", "drop" and so on for `truvae inpaint`.
    start
        When the work began, by `time.perf_counter`.
    should_stop
        Asked now and then; once it says True, the best so far is written.

    Raises
    ------
    InputError
        If the file or an option makes no sense.
    """
    if is_sound(source) or source.suffix.lower() in SOUND_EXTENSIONS:
        from truvae.sound_files import restore_sound_file

        return restore_sound_file(source, target, options, start, should_stop)
    work = _Work.begin(source, target, options)
    channels = work.picture.channels
    result, warned = _restore(work.experiment, channels, work.notes, options, start, should_stop)
    record = work.finish(result, warned, start, should_stop())
    if options["save_model"]:
        _save_model(options["save_model"], result)
    return record


def restore_together(
    tasks: Sequence[tuple[Path, Path, Mapping[str, Any]]],
    start: float,
    should_stop: Callable[[], bool],
) -> list[dict[str, Any]]:
    """Restore pictures of one shape, type and kind with models that they share.

    Parameters
    ----------
    tasks
        For each picture what `restore_file` is told of it. Options but those for single files are
        the same for all.
    start, should_stop
        As for `restore_file`.

    Returns
    -------
    A record for each picture; what it tells of models, noise and patches is of all of them. Files
    that cannot be read or written have no part in it, and a record with "input" and "error" only.

    Raises
    ------
    InputError
        If an option makes no sense, or the pictures are of different shapes or types.
    """
    works, records = [], []
    for place, task in enumerate(tasks):
        try:
            _check_picture(task[0])
            works.append(_Work.begin(*task, place))
        except (InputError, OSError) as error:
            records.append(failure(task[0], error))
    if not works:
        return records
    result, warned = _restore_alike(works, start, should_stop)
    interrupted = should_stop()  # and not while the results are written
    for work, restored in zip(works, result.restored, strict=True):
        missing = float(np.isnan(work.experiment.seen).mean())
        part = replace(result, restored=restored, missing=missing)
        try:
            told = warned if work is works[0] else []
            records.append(work.finish(part, told, start, interrupted))
        except (InputError, OSError) as error:
            records.append(failure(work.source, error))
    if works[0].options["save_model"]:
        _save_model(works[0].options["save_model"], result)
    return records


def _check_picture(source: Path) -> None:
    """Raise an `InputError` for a recording."""
    if is_sound(source):
        raise InputError(f"{source} is a recording: --shared-model is for pictures")


def _restore_alike(
    works: Sequence[_Work], start: float, should_stop: Callable[[], bool]
) -> tuple["Result", list[str]]:
    """Restore pictures as if they were the frames of one stack."""
    _check_alike(works)
    damaged = np.stack([work.experiment.damaged for work in works])
    masks = [m for work in works if (m := work.experiment.missing) is not None]
    experiment = Experiment(damaged, np.stack(masks) if masks else None, None)
    notes = [*dict.fromkeys(note for work in works for note in work.notes)]
    options, channels = {**works[0].options, "stack": "shared"}, works[0].picture.channels
    return _restore(experiment, channels, notes, options, start, should_stop)


def _check_alike(works: Sequence[_Work]) -> None:
    """Raise an `InputError` for pictures that cannot share models."""
    kinds: dict[str, Path] = {}
    for work in works:
        data, channels = work.picture.data, work.picture.channels
        kinds.setdefault(f"{data.shape}{' in colour' * channels} of {data.dtype}", work.source)
    if len(kinds) > 1:
        (first, path), (second, other), *_ = kinds.items()
        raise InputError(
            f"a shared model is for pictures of one shape and type: {path} has shape {first}, "
            f"{other} {second}; give those that are alike"
        )


def _save_model(folder: Path, result: "Result") -> None:
    """Save the model of standardised patches, and how to come back from these."""
    if torchrun.rank() > 0:
        return
    noise = result.noise and [[n.gain, n.variance] for n in result.noise]
    turn = result.turn and {"axes": result.turn.axes.tolist(), "mean": result.turn.mean.tolist()}
    spectra = result.spectra and [spectrum.powers.tolist() for spectrum in result.spectra]
    more = {"poisson_gaussian": noise, "turn": turn, "noise_spectra": spectra}
    save(folder, "restoration", result, more)


def _experiment(picture: Picture, mask: Picture | None, options: Mapping[str, Any]) -> Experiment:
    """Damage the picture as asked, and find what to compare the result with."""
    missing = _missing(picture, mask, options) if "drop" in options else None
    read = partial(_reference, picture)
    return damage(picture.data, missing, options, "picture", read)


def _reference(picture: Picture, path: str) -> Array:
    reference = read_picture(path).data
    if reference.shape != picture.data.shape:
        raise InputError(
            f"the reference has shape {reference.shape}, the picture {picture.data.shape}: "
            "they must be equal"
        )
    types = {reference.dtype, picture.data.dtype}
    if all(t.kind in "iu" for t in types) and len({t.itemsize for t in types}) > 1:
        raise InputError(
            f"the reference holds {reference.dtype} values, the picture {picture.data.dtype}: give "
            "one of the same type"
        )
    return reference


def _missing(picture: Picture, mask: Picture | None, options: Mapping[str, Any]) -> Array:
    """Return where values are missing, in the shape of the picture."""
    data = picture.data
    pixels = data.shape[:-1] if picture.channels else data.shape
    missing = np.isnan(data)
    if mask is not None:
        unknown = _unknown(mask.data, pixels, options["invert_mask"])
        missing = missing | _spread(unknown, picture)
    if options["missing_value"] is not None:
        same = data == options["missing_value"]
        missing = missing | _spread(same.all(axis=-1) if picture.channels else same, picture)
    if options["drop"] is not None:
        missing = missing | _spread(dropped(pixels, data.shape, options), picture)
    return np.asarray(missing)


def _unknown(mask: Array, pixels: tuple[int, ...], inverted: bool) -> Array:
    """Return where pixels are missing by a mask, in every frame."""
    if mask.shape != pixels[-2:]:
        raise InputError(
            f"the mask has shape {mask.shape}, the picture {pixels[-2:]}: they must be equal"
        )
    return np.broadcast_to((mask == 0) if inverted else (mask != 0), pixels)


def _spread(unknown: Array, picture: Picture) -> Array:
    """Give all channels of a pixel the same, where `unknown` tells of pixels."""
    whole = unknown.ndim < picture.data.ndim
    return np.broadcast_to(unknown[..., None] if whole else unknown, picture.data.shape)


def _memory(picture: Array, channels: bool, options: Mapping[str, Any]) -> list[str]:
    """Say what memory the restoration of a large picture takes."""
    if picture.size < _LARGE:
        return []
    from truvae.restore import memory_needed

    shape = picture.shape if channels else (*picture.shape, 1)
    size = memory_needed((math.prod(shape[:-3]), *shape[-3:]), **options)
    return [f"it takes up to {size:.1f} GB of memory; --memory-limit GB lowers that"]


def _restore(
    experiment: Experiment,
    channels: bool,
    notes: list[str],
    options: Mapping[str, Any],
    start: float,
    should_stop: Callable[[], bool],
) -> tuple["Result", list[str]]:
    """Call `truvae.denoise` or `truvae.inpaint` with a progress bar; return warnings too."""
    use_threads(options["threads"])
    from truvae import restore

    notes = [*notes, *_memory(experiment.damaged, channels, options)]
    chosen = given(options, _PASSED_ON) | {"channel_axis": -1 if channels else None}
    if experiment.missing is None:
        call = partial(restore.denoise, experiment.damaged, **chosen)
    else:
        chosen |= {"denoise": options["denoise"]}
        call = partial(restore.inpaint, experiment.damaged, experiment.missing, **chosen)
    return with_progress(call, notes, options, start, should_stop)


def _describe(result: "Result", options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was done and learned."""
    noise = result.noise
    return described("picture", result, options) | {
        "trust_in_dct": result.trust_in_dct,
        "look_sizes": result.look_sizes,
        "frames": result.frames,
        "n_trained": result.n_trained,
        "noise": "gaussian" if noise is None else "poisson-gaussian",
        "noise_gain": None if noise is None else [channel.gain for channel in noise],
        "noise_correlation": result.spectra and [s.correlation for s in result.spectra],
        "noise_variance": None if noise is None else [channel.variance for channel in noise],
        "held_out_rmse": result.held_out_rmse,
    }


def _measure(experiment: Experiment, restored: Array, channels: bool) -> dict[str, float | None]:
    """Return the quality of the picture as written, null without a reference."""
    if experiment.reference is None:
        return {"psnr_noisy": None, "psnr": None, "ssim": None}
    from truvae.metrics import psnr, ssim

    measured = {
        "psnr_noisy": psnr(experiment.reference, experiment.seen),
        "psnr": psnr(experiment.reference, restored),
        "ssim": ssim(experiment.reference, restored, channels=channels),
    }
    return finite(measured)


__all__ = ["restore_file", "restore_together"]
