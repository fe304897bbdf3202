"""One file: read it, restore it, write the result, and say what was done."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from truvae import __version__
from truvae.console import caught, cost, progress_bar, tell
from truvae.errors import InputError
from truvae.io import Picture, check_output, read_picture, read_plane, to_dtype, write_picture
from truvae.io_audio import is_sound
from truvae.threads import use_threads

if TYPE_CHECKING:
    from truvae.restore import Result

Array = npt.NDArray[Any]

# Seconds of a time budget that go to starting the interpreter, measuring and writing the result.
_OVERHEAD = 1.5
# The same for drawing a report.
_REPORT_OVERHEAD = 3.0
# Values of a picture from which on it is told beforehand how much memory its restoration takes.
_LARGE = 1 << 20
# Options that are handed to `truvae.denoise` and `truvae.inpaint` as they are.
_PASSED_ON = (
    "quality",
    "noise",
    "stack",
    "covariance",
    "preset",
    "selection",
    "sigma",
    "patch_size",
    "n_latents",
    "hidden",
    "n_states",
    "epochs",
    "memory_limit",
    "device",
    "checkpoint",
    "resume",
)
_UNITS = {"picture": "pixels", "sound": "samples"}
# Options that say nothing of a picture, and what they are if they were not given.
_OF_SOUND = {"channels": "joint", "repair": None}


@dataclass(frozen=True)
class _Experiment:
    """What is restored, and what it is compared with."""

    damaged: Array
    """Shape of the picture's data; noise, where it was added, neither clipped nor rounded."""
    missing: Array | None
    """Same shape, true where values are missing; None for `truvae denoise`."""
    reference: Array | None
    """The clean picture, if there is one."""

    @property
    def seen(self) -> Array:
        """What is known of the picture, NaN where it is missing."""
        if self.missing is None:
            return self.damaged
        return np.where(self.missing, np.nan, self.damaged)


@dataclass(frozen=True)
class _Work:
    """A picture that is to be restored, and where the result goes."""

    source: Path
    target: Path
    options: Mapping[str, Any]
    picture: Picture
    experiment: _Experiment

    @staticmethod
    def begin(source: Path, target: Path, options: Mapping[str, Any]) -> "_Work":
        """Read the picture; check where the result goes before any work."""
        for name, default in _OF_SOUND.items():
            if options.get(name, default) != default:
                raise InputError(f"--{name} is for recordings: leave it out for a picture")
        picture = read_picture(source)
        check_output(target, picture)
        if target.exists() and target.samefile(source):
            raise InputError(f"{target} is the input: give another output file")
        return _Work(source, target, options, picture, _experiment(picture, options))

    @property
    def notes(self) -> list[str]:
        """What is to be told of the input."""
        return [*self.picture.notes, *_share(self.experiment.missing)]

    def finish(self, result: "Result", warned: list[str], start: float) -> dict[str, Any]:
        """Write the result and a report, and return the record."""
        picture, options = self.picture, self.options
        restored = to_dtype(result.restored, picture.data.dtype)
        late = [*warned, *write_picture(self.target, replace(picture, data=restored))]
        tell(late, options)
        record = _describe(result, options)
        record |= {"input": str(self.source), "output": str(self.target)}
        record |= {"shape": list(picture.data.shape)}
        record |= _measure(self.experiment, restored, picture.channels) | cost(start)
        record |= {"notes": [*self.notes, *late]}
        record |= {"report": options["report"] and str(options["report"])}
        record |= {"saved_model": options["save_model"] and str(options["save_model"])}
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
    if is_sound(source):
        from truvae.sound_files import restore_sound_file

        return restore_sound_file(source, target, options, start, should_stop)
    work = _Work.begin(source, target, options)
    channels = work.picture.channels
    result, warned = _restore(work.experiment, channels, work.notes, options, start, should_stop)
    record = work.finish(result, warned, start)
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
    for task in tasks:
        try:
            works.append(_Work.begin(*task))
        except (InputError, OSError) as error:
            records.append(failure(task[0], error))
    if not works:
        return records
    result, warned = _restore_alike(works, start, should_stop)
    for work, restored in zip(works, result.restored, strict=True):
        missing = float(np.isnan(work.experiment.seen).mean())
        part = replace(result, restored=restored, missing=missing)
        records.append(work.finish(part, warned if work is works[0] else [], start))
    if works[0].options["save_model"]:
        _save_model(works[0].options["save_model"], result)
    return records


def failure(source: Path, error: BaseException) -> dict[str, Any]:
    """Return the record of a file that could not be restored."""
    return {"input": str(source), "error": " ".join(str(error).split())}


def _restore_alike(
    works: Sequence[_Work], start: float, should_stop: Callable[[], bool]
) -> tuple["Result", list[str]]:
    """Restore pictures as if they were the frames of one stack."""
    _check_alike(works)
    damaged = np.stack([work.experiment.damaged for work in works])
    masks = [m for work in works if (m := work.experiment.missing) is not None]
    experiment = _Experiment(damaged, np.stack(masks) if masks else None, None)
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
    from truvae.saving import save_model

    config = {
        "kind": "restoration",
        "patch_size": result.settings.patch_size,
        "covariance": result.settings.covariance,
        "offset": result.offset.tolist(),
        "spread": result.spread.tolist(),
        "poisson_gaussian": result.noise and [[n.gain, n.variance] for n in result.noise],
        "elbo": result.elbo,
    }
    save_model(folder, result.model, config)


def add_noise(picture: Array, sigma: float, seed: int) -> Array:
    """Add Gaussian noise in input units, neither clipped nor rounded."""
    noisy: Array = picture + np.random.default_rng(seed).normal(0, sigma, picture.shape)
    return noisy


def _experiment(picture: Picture, options: Mapping[str, Any]) -> _Experiment:
    """Damage the picture as asked, and find what to compare the result with."""
    given = [name for name in ("add_noise", "drop") if options.get(name) is not None]
    reference = picture.data if given else None
    if options["reference"] is not None:
        if given:
            flag = "--" + given[0].replace("_", "-")
            raise InputError(f"{flag} takes IN as the clean picture: leave --reference out")
        reference = _reference(options["reference"], picture)
    damaged = picture.data
    if options["add_noise"] is not None:
        damaged = add_noise(damaged, options["add_noise"], options["seed"])
    missing = _missing(picture, options) if "drop" in options else None
    return _Experiment(damaged, missing, reference)


def _reference(path: str, picture: Picture) -> Array:
    reference = read_picture(path).data
    if reference.shape != picture.data.shape:
        raise InputError(
            f"the reference has shape {reference.shape}, the picture {picture.data.shape}: "
            "they must be equal"
        )
    return reference


def _missing(picture: Picture, options: Mapping[str, Any]) -> Array:
    """Return where values are missing, in the shape of the picture."""
    data = picture.data
    pixels = data.shape[:-1] if picture.channels else data.shape
    missing = np.isnan(data)
    if options["mask"] is not None:
        missing = missing | _spread(_mask(options, pixels), picture)
    if options["missing_value"] is not None:
        same = data == options["missing_value"]
        missing = missing | _spread(same.all(axis=-1) if picture.channels else same, picture)
    if options["drop"] is not None:
        shape = pixels if options["drop_per"] == "pixel" else data.shape
        drawn = np.random.default_rng(options["seed"]).random(shape) < options["drop"]
        missing = missing | _spread(drawn, picture)
    return np.asarray(missing)


def _mask(options: Mapping[str, Any], pixels: tuple[int, ...]) -> Array:
    """Read the mask: true where pixels are missing, in every frame."""
    mask = read_plane(options["mask"])
    if mask.shape != pixels[-2:]:
        raise InputError(
            f"the mask has shape {mask.shape}, the picture {pixels[-2:]}: they must be equal"
        )
    unknown = mask != 0
    return np.broadcast_to(~unknown if options["invert_mask"] else unknown, pixels)


def _spread(unknown: Array, picture: Picture) -> Array:
    """Give all channels of a pixel the same, where `unknown` tells of pixels."""
    whole = unknown.ndim < picture.data.ndim
    return np.broadcast_to(unknown[..., None] if whole else unknown, picture.data.shape)


def _share(missing: Array | None) -> list[str]:
    """Say how much is missing."""
    return [] if missing is None else [f"{missing.mean():.1%} of the picture is missing"]


def _memory(picture: Array, channels: bool, chosen: Mapping[str, Any]) -> list[str]:
    """Say what memory the restoration of a large picture takes."""
    if picture.size < _LARGE:
        return []
    from truvae.restore import memory_needed

    shape = picture.shape if channels else (*picture.shape, 1)
    size = memory_needed((math.prod(shape[:-3]), *shape[-3:]), **chosen)
    return [f"it takes up to {size:.1f} GB of memory; --memory-limit GB lowers that"]


def _restore(
    experiment: _Experiment,
    channels: bool,
    notes: list[str],
    options: Mapping[str, Any],
    start: float,
    should_stop: Callable[[], bool],
) -> tuple["Result", list[str]]:
    """Call `truvae.denoise` or `truvae.inpaint` with a progress bar; return warnings too."""
    budget, overhead = options["time_budget"], _OVERHEAD
    overhead += _REPORT_OVERHEAD if options["report"] else 0
    use_threads(options["threads"])
    from truvae import restore

    chosen = {name: options[name] for name in _PASSED_ON if options.get(name) is not None}
    notes = [*notes, *_memory(experiment.damaged, channels, chosen)]
    with progress_bar(notes, options) as (on_progress, on_epoch), caught() as messages:
        chosen |= {
            "channel_axis": -1 if channels else None,
            "time_budget": budget and max(budget - overhead - (time.perf_counter() - start), 1e-3),
            "random_state": options["seed"],
            "on_progress": on_progress,
            "on_epoch": on_epoch,
            "should_stop": should_stop,
            "return_result": True,
        }
        result: Any
        if experiment.missing is None:
            result = restore.denoise(experiment.damaged, **chosen)
        else:
            chosen |= {"denoise": options["denoise"]}
            result = restore.inpaint(experiment.damaged, experiment.missing, **chosen)
    return result, messages


def _describe(result: "Result", options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was done and learned."""
    settings, noise = result.settings, result.noise
    seconds = [epoch.seconds for epoch in result.history]
    return {
        "kind": "picture",
        "version": __version__,
        "seed": options["seed"],
        "preset": options.get("preset"),
        "covariance": options.get("covariance", "auto"),
        "covariances": result.covariances,
        "trust_in_dct": result.trust_in_dct,
        "looks": result.looks,
        "quality": options["quality"],
        "device": result.device,
        "frames": result.frames,
        "n_data": result.n_data,
        "n_trained": result.n_trained,
        "patch_size": settings.patch_size,
        "n_latents": settings.n_latents,
        "hidden": list(settings.hidden),
        "n_states": settings.n_states,
        "epochs": result.epochs,
        "elbo": result.elbo,
        "sigma": result.sigma,
        "sigma_source": result.sigma_source,
        "sigma_channels": list(result.sigma_channels),
        "noise": "gaussian" if noise is None else "poisson-gaussian",
        "noise_gain": None if noise is None else [channel.gain for channel in noise],
        "noise_variance": None if noise is None else [channel.variance for channel in noise],
        "active_latents": result.active_latents,
        "missing": result.missing,
        "held_out_rmse": result.held_out_rmse,
        "seconds_per_epoch": sum(seconds) / len(seconds) if seconds else None,
    }


def _measure(experiment: _Experiment, restored: Array, channels: bool) -> dict[str, float | None]:
    """Return the quality of the picture as written, null without a reference."""
    if experiment.reference is None:
        return {"psnr_noisy": None, "psnr": None, "ssim": None}
    from truvae.metrics import psnr, ssim

    values = {
        "psnr_noisy": psnr(experiment.reference, experiment.seen),
        "psnr": psnr(experiment.reference, restored),
        "ssim": ssim(experiment.reference, restored, channels=channels),
    }
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def summary(record: Mapping[str, Any]) -> str:
    """Return a record in one line for people."""
    parts = [record["output"], f"sigma {record['sigma']:.4g} ({record['sigma_source']})"]
    if record["noise_gain"] is not None:
        gains = ", ".join(f"{gain:.3g}" for gain in record["noise_gain"])
        parts.append(f"noise grows with the signal (gain {gains})")
    if record["missing"]:
        parts.append(f"{record['missing']:.1%} missing {_UNITS[record['kind']]} filled in")
    if record["held_out_rmse"] is not None:
        parts.append(f"error at hidden pixels {record['held_out_rmse']:.4g}")
    if record.get("snr") is not None:
        before = "" if record["snr_noisy"] is None else f"{record['snr_noisy']:.2f} -> "
        parts.append(f"SNR {before}{record['snr']:.2f} dB")
    if record["psnr"] is not None:
        before = "" if record["psnr_noisy"] is None else f"{record['psnr_noisy']:.2f} -> "
        parts.append(f"PSNR {before}{record['psnr']:.2f} dB")
    if record["ssim"] is not None:  # of an incomplete reference there is none
        parts.append(f"SSIM {record['ssim']:.3f}")
    n = len(record["covariances"])
    parts.append(f"{n} model{'s' * (n != 1)} in {record['seconds']:.1f} s")
    return "  ".join(parts)


__all__ = ["add_noise", "failure", "restore_file", "restore_together", "summary"]
