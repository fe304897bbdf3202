"""One recording: read it, restore it, write the result, and say what was done."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from truvae import __version__
from truvae.console import caught, cost, progress_bar, tell
from truvae.errors import InputError
from truvae.io_audio import Sound, check_sound_output, read_sound, write_sound
from truvae.threads import use_threads

if TYPE_CHECKING:
    from truvae.audio import AudioResult

Array = npt.NDArray[Any]

# Seconds of a time budget that go to starting the interpreter, measuring and writing the result.
_OVERHEAD = 1.5
# Options that are handed to `truvae.denoise_audio` and `truvae.inpaint_audio` as they are.
_PASSED_ON = ("channels", "quality", "covariance", "preset", "selection", "sigma", "patch_size",
              "n_latents", "hidden", "n_states", "epochs", "device")  # fmt: skip
# Options that say nothing of a recording, and what they are if they were not given.
_OF_PICTURES = {"noise": "auto", "stack": "frames", "report": None, "checkpoint": None}


@dataclass(frozen=True)
class _Experiment:
    """What is restored, and what it is compared with."""

    damaged: Array
    """(n, K); noise, where it was added, neither clipped nor rounded."""
    missing: Array | None
    """(n, K), true where samples are missing; None to remove noise alone."""
    reference: Array | None
    """The clean recording, if there is one."""

    @property
    def seen(self) -> Array:
        """What is known of the recording, NaN where it is missing."""
        return (
            self.damaged if self.missing is None else np.where(self.missing, np.nan, self.damaged)
        )


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
    if target.exists() and target.samefile(source):
        raise InputError(f"{target} is the input: give another output file")
    experiment = _experiment(sound, options)
    notes = [*sound.notes, *_share(experiment)]
    result, warned = _restore(experiment, sound, notes, options, start, should_stop)
    late = [*warned, *write_sound(target, replace(sound, data=result.restored))]
    tell(late, options)
    record = _describe(result, sound, options)
    record |= {"input": str(source), "output": str(target), "shape": list(sound.data.shape)}
    record |= _measure(experiment, read_sound(target).data) | cost(start)
    record |= {"notes": [*notes, *late], "report": None}
    record |= {"saved_model": options["save_model"] and str(options["save_model"])}
    if options["save_model"]:
        _save_model(options["save_model"], result)
    return record


def _check_options(options: Mapping[str, Any]) -> None:
    """Raise an `InputError` for options that are for pictures."""
    for name, default in _OF_PICTURES.items():
        if options.get(name, default) != default:
            flag = "--" + name.replace("_", "-")
            raise InputError(f"{flag} is for pictures: leave it out for a recording")


def _experiment(sound: Sound, options: Mapping[str, Any]) -> _Experiment:
    """Damage the recording as asked, and find what to compare the result with."""
    given = [name for name in ("add_noise", "drop") if options.get(name) is not None]
    reference = sound.data if given else None
    if options["reference"] is not None:
        if given:
            flag = "--" + given[0].replace("_", "-")
            raise InputError(f"{flag} takes IN as the clean recording: leave --reference out")
        reference = _alike(options["reference"], sound, "reference").data
    damaged = sound.data
    if options["add_noise"] is not None:
        rng = np.random.default_rng(options["seed"])
        damaged = damaged + rng.normal(0, options["add_noise"], damaged.shape)
    missing = _missing(sound, options)
    return _Experiment(damaged, missing if "drop" in options or missing.any() else None, reference)


def _alike(path: str, sound: Sound, what: str) -> Sound:
    """Read a recording that must be as long as another one."""
    other = read_sound(path)
    if len(other.data) != len(sound.data) or other.data.shape[1] not in (1, sound.data.shape[1]):
        raise InputError(
            f"the {what} has shape {other.data.shape}, the recording {sound.data.shape}: they must "
            "be equal"
        )
    return other


def _missing(sound: Sound, options: Mapping[str, Any]) -> Array:
    """Return where samples are missing, (n, K)."""
    data = sound.data
    missing = np.isnan(data)
    if options["repair"]:
        from truvae.gaps import damaged_samples

        known = np.where(missing, np.nanmean(data) if (~missing).any() else 0, data)
        missing = missing | damaged_samples(known, options["repair"], sound.sample_rate)
    if options.get("mask") is not None:
        unknown = _alike(options["mask"], sound, "mask").data != 0
        missing = missing | (~unknown if options["invert_mask"] else unknown)
    if options.get("missing_value") is not None:
        missing = missing | (data == options["missing_value"]).all(1, keepdims=True)
    if options.get("drop") is not None:
        shape = (len(data), 1) if options["drop_per"] == "pixel" else data.shape
        drawn = np.random.default_rng(options["seed"]).random(shape) < options["drop"]
        missing = missing | drawn
    return np.asarray(missing)


def _share(experiment: _Experiment) -> list[str]:
    """Say how much is missing."""
    missing = experiment.missing
    return [] if missing is None else [f"{missing.mean():.1%} of the recording is missing"]


def _restore(
    experiment: _Experiment,
    sound: Sound,
    notes: list[str],
    options: Mapping[str, Any],
    start: float,
    should_stop: Callable[[], bool],
) -> tuple["AudioResult", list[str]]:
    """Call `truvae.denoise_audio` or `inpaint_audio` with a progress bar; return warnings too."""
    use_threads(options["threads"])
    from truvae import audio

    budget = options["time_budget"]
    chosen = {name: options[name] for name in _PASSED_ON if options.get(name) is not None}
    with progress_bar(notes, options) as (on_progress, on_epoch), caught() as messages:
        left = budget and max(budget - _OVERHEAD - (time.perf_counter() - start), 1e-3)
        chosen |= {
            "sample_rate": sound.sample_rate,
            "time_budget": left,
            "random_state": options["seed"],
            "on_progress": on_progress,
            "on_epoch": on_epoch,
            "should_stop": should_stop,
            "return_result": True,
        }
        result: Any
        if "drop" in options:  # truvae inpaint
            chosen |= {"denoise": options["denoise"]}
            result = audio.inpaint_audio(experiment.damaged, experiment.missing, **chosen)
        else:
            result = audio.denoise_audio(experiment.seen, **chosen)
    return result, messages


def _save_model(folder: Path, result: "AudioResult") -> None:
    """Save the model of standardised windows, and how to come back from these."""
    if result.model is None:
        raise InputError("gaps were filled without a model: there is none to save; try --denoise")
    from truvae.saving import save_model

    config = {
        "kind": "sound",
        "patch_size": result.settings.patch_size,
        "covariance": result.settings.covariance,
        "sample_rate": result.sample_rate,
        "offset": result.offset.tolist(),
        "spread": result.spread.tolist(),
        "elbo": result.elbo,
    }
    save_model(folder, result.model, config)


def _describe(result: "AudioResult", sound: Sound, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was done and learned."""
    settings, seconds = result.settings, [epoch.seconds for epoch in result.history]
    return {
        "kind": "sound",
        "version": __version__,
        "seed": options["seed"],
        "preset": options["preset"],
        "covariance": options["covariance"],
        "covariances": [settings.covariance] if result.model is not None else [],
        "looks": result.looks,
        "quality": options["quality"],
        "device": result.device,
        "sample_rate": sound.sample_rate,
        "channels": options["channels"],
        "format": sound.format,
        "subtype": sound.subtype,
        "n_data": result.n_data,
        "patch_size": settings.patch_size,
        "n_latents": settings.n_latents,
        "hidden": list(settings.hidden),
        "n_states": settings.n_states,
        "epochs": result.epochs,
        "elbo": result.elbo,
        "sigma": result.sigma,
        "sigma_source": result.sigma_source,
        "sigma_channels": list(result.sigma_channels),
        "noise": "gaussian",
        "noise_gain": None,
        "active_latents": result.active_latents,
        "missing": result.missing,
        "held_out_rmse": None,
        "psnr_noisy": None,
        "psnr": None,
        "ssim": None,
        "seconds_per_epoch": sum(seconds) / len(seconds) if seconds else None,
    }


def _measure(experiment: _Experiment, restored: Array) -> dict[str, float | None]:
    """Return the quality of the recording as written, null without a reference."""
    if experiment.reference is None:
        return {"snr_noisy": None, "snr": None}
    from truvae.metrics import snr

    reference = np.broadcast_to(experiment.reference, restored.shape)
    before = np.nan_to_num(experiment.seen)  # silence where nothing is known
    values = {"snr_noisy": snr(reference, before), "snr": snr(reference, restored)}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


__all__ = ["restore_sound_file"]
