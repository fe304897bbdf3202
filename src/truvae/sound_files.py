"""One recording: read it, restore it, write the result, and say what was done."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from truvae import torchrun
from truvae.console import tell, with_progress
from truvae.errors import InputError
from truvae.experiments import Experiment, damage, dropped, finite, refuse
from truvae.io import check_apart
from truvae.io_audio import Sound, check_sound_output, holds_more, read_sound, write_sound
from truvae.records import concluded, described, save
from truvae.threads import use_threads

if TYPE_CHECKING:
    from truvae.results import AudioResult

Array = npt.NDArray[Any]

# Options that say nothing of a recording, and what they are if they were not given.
_OF_PICTURES = {"noise": "auto", "stack": "frames", "memory_limit": None}


def restore_sound_file(
    source: Path,
    target: Path,
    options: Mapping[str, Any],
    start: float,
    should_stop: Callable[[], bool],
) -> dict[str, Any]:
    """Restore one recording and return its record (the keys of `--json`).

    Parameters and errors are those of `files.restore_file`.
    """
    _check_options(options)
    sound = read_sound(source)
    check_sound_output(target, sound)
    check_apart(target, source, options["reference"], options.get("mask"))
    experiment = _experiment(sound, options)
    notes = [*sound.notes, *experiment.notes("recording"), *_unrepaired(experiment, options)]
    result, warned = _restore(experiment, sound, notes, options, start, should_stop)
    if torchrun.rank() > 0:
        return {"input": str(source)}
    result = replace(result, restored=_louder(result.restored, sound, options))
    written, loud = _beyond_full_scale(replace(sound, data=result.restored), sound, target, options)
    late = [*warned, *loud, *write_sound(target, written)]
    tell(late, options)
    result = replace(result, restored=read_sound(target).data)  # as it was written
    record = _describe(result, written, options) | _measure(experiment, sound, result, options)
    shape, notes = sound.data.shape, [*notes, *late]
    record |= concluded(source, target, shape, options, notes, start, should_stop())
    if options["report"]:
        from truvae.sound_report import write_sound_report

        write_sound_report(options["report"], result, experiment.seen, record)
    if options["save_model"]:
        units = {"sample_rate": result.sample_rate, "components": result.components.tolist()}
        save(options["save_model"], "sound", result, units)
    return record


def _check_options(options: Mapping[str, Any]) -> None:
    """Raise an `InputError` for options of pictures, or that ask for what there will not be."""
    refuse(options, _OF_PICTURES, "pictures", "recording")
    if options["save_model"] and not options.get("denoise", True):
        raise InputError(
            "gaps of a recording are filled without a model, so that there is none to save: add "
            "--denoise, or leave --save-model out"
        )


def _experiment(sound: Sound, options: Mapping[str, Any]) -> Experiment:
    """Damage the recording as asked, and find what to compare the result with."""
    missing = _missing(sound, options)
    incomplete = "drop" in options or missing.any()
    read = partial(_alike, sound, "reference")
    return damage(sound.data, missing if incomplete else None, options, "recording", read)


def _alike(sound: Sound, what: str, path: str) -> Array:
    """Return the samples of a file, which must be as long as the recording, at its rate."""
    read = read_sound(path)
    if read.sample_rate != sound.sample_rate:
        raise InputError(
            f"the {what} has {read.sample_rate} samples a second, the recording "
            f"{sound.sample_rate}: they must be equal"
        )
    other = read.data
    if len(other) != len(sound.data) or other.shape[1] not in (1, sound.data.shape[1]):
        raise InputError(
            f"the {what} has shape {other.shape}, the recording {sound.data.shape}: they must "
            "be equal"
        )
    return other


def _missing(sound: Sound, options: Mapping[str, Any]) -> Array:
    """Return where samples are missing, (n, K)."""
    data = sound.data
    missing = np.isnan(data)
    if options["repair"]:
        missing = missing | _repaired(sound, options["repair"])
    if options.get("mask") is not None:
        unknown = _alike(sound, "mask", options["mask"]) != 0
        missing = missing | (~unknown if options["invert_mask"] else unknown)
    if options.get("missing_value") is not None:
        missing = missing | (data == options["missing_value"]).all(1, keepdims=True)
    if options.get("drop") is not None:
        missing = missing | dropped((len(data), 1), data.shape, options)
    return np.asarray(missing)


def _repaired(sound: Sound, repairs: Sequence[str]) -> Array:
    """Return where samples are to be repaired, (n, K)."""
    from truvae.gaps import damaged_samples

    return damaged_samples(_known(sound.data), repairs, sound.sample_rate)


def _unrepaired(experiment: Experiment, options: Mapping[str, Any]) -> list[str]:
    """Say so where repairs were asked for, and there is nothing to repair."""
    if not options["repair"] or _is_damaged(experiment):
        return []
    return [f"no {' or '.join(options['repair'])} found: nothing is missing"]


def _is_damaged(experiment: Experiment) -> bool:
    return experiment.missing is not None and bool(experiment.missing.any())


def _known(data: Array) -> Array:
    """Return samples (n, K) with the mean where there are none."""
    missing = np.isnan(data)
    return np.where(missing, np.nanmean(data) if (~missing).any() else 0, data)


def _louder(restored: Array, sound: Sound, options: Mapping[str, Any]) -> Array:
    """Return restored samples (n, K), those that were clipped beyond the level of clipping, if that
    is known: noise that is removed may have been all that was beyond it.
    """
    if "clipping" not in (options["repair"] or ()) or options.get("denoise", True):
        return restored
    from truvae.gaps import beyond_clipping

    return beyond_clipping(restored, _known(sound.data))


def _beyond_full_scale(
    restored: Sound, sound: Sound, target: Path, options: Mapping[str, Any]
) -> tuple[Sound, list[str]]:
    """Return a recording as it can be written, and a note: what was clipped at full scale is louder
    where it is repaired, and integers cannot hold that.
    """
    if "clipping" not in (options["repair"] or ()) or holds_more(target, sound):
        return restored, []
    beyond = _repaired(sound, ["clipping"]) & (np.abs(restored.data) > 1)
    if not beyond.any():
        return restored, []
    peak = f"repaired samples reach {np.abs(restored.data[beyond]).max():.3g} of full scale"
    if target.suffix.lower() == ".wav":
        return replace(restored, subtype="FLOAT"), [f"{peak}: written as floats of 32 bit"]
    return restored, [f"{peak}, and are clipped again: write {target.stem}.wav to keep them"]


def _restore(
    experiment: Experiment,
    sound: Sound,
    notes: list[str],
    options: Mapping[str, Any],
    start: float,
    should_stop: Callable[[], bool],
) -> tuple["AudioResult", list[str]]:
    """Call `truvae.denoise_audio` or `inpaint_audio` with a progress bar; return warnings too.

    Where repairs were asked for, and there is nothing to repair, a recording is only denoised, or
    stays as it is.
    """
    use_threads(options["threads"])
    from truvae import audio

    chosen = {"sample_rate": sound.sample_rate, "channels": options["channels"]}
    call: Callable[..., Any]
    whole = bool(options["repair"]) and not _is_damaged(experiment)
    if whole and not options.get("denoise", True):
        call = partial(audio.untouched, experiment.damaged, **chosen)
    elif "drop" in options and not whole:  # truvae inpaint
        chosen |= {"denoise": options["denoise"]}
        call = partial(audio.inpaint_audio, experiment.damaged, experiment.missing, **chosen)
    else:
        call = partial(audio.denoise_audio, experiment.seen, **chosen)
    return with_progress(call, notes, options, start, should_stop)


def _describe(result: "AudioResult", sound: Sound, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was done and learned."""
    return described("sound", result, options) | {
        "sample_rate": sound.sample_rate,
        "channels": options["channels"],
        "format": sound.format,
        "subtype": sound.subtype,
        "noise": "gaussian",
        "noise_gain": None,
        "noise_correlation": None,
        "held_out_rmse": None,
        "psnr_noisy": None,
        "psnr": None,
        "ssim": None,
    }


def _measure(
    experiment: Experiment, sound: Sound, result: "AudioResult", options: Mapping[str, Any]
) -> dict[str, float | None]:
    """Return the quality of the recording as written, null without a reference."""
    if experiment.reference is None:
        return {"snr_noisy": None, "snr": None}
    from truvae.metrics import snr

    reference = np.broadcast_to(experiment.reference, result.restored.shape)
    before = np.nan_to_num(experiment.seen)  # silence where nothing is known
    if options["repair"]:  # what is to be repaired is there, and is heard
        before = np.where(_repaired(sound, options["repair"]), _known(experiment.damaged), before)
    return finite({"snr_noisy": snr(reference, before), "snr": snr(reference, result.restored)})


__all__ = ["restore_sound_file"]
