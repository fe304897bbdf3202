"""Restoration of recordings: what the library and the command line call."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import partial
from inspect import signature
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from truvae.audio_components import denoised
from truvae.audio_settings import SoundWishes
from truvae.channels import Split, noise_of
from truvae.checkpoint import Checkpoint, State, checkpoint_of
from truvae.checks import (
    check_seed,
    check_sigma,
    device_called,
    masked_recording,
    recording_of,
)
from truvae.clock import Clock, check_budget
from truvae.errors import InputError
from truvae.gaps import fill_gaps, tell_of_long_gaps
from truvae.io import to_dtype
from truvae.ranks import ALONE, Ranks
from truvae.results import AudioResult
from truvae.settings import Settings
from truvae.training import Epoch
from truvae.units import rms

Array = npt.NDArray[Any]

# Share of the filling of gaps in the progress, where models follow, and in the time left.
_FILLING, _TIME_TO_FILL = 0.1, 0.5


def denoise_audio(
    y: npt.ArrayLike,
    *,
    sample_rate: float,
    channels: str = "joint",
    quality: str = "balanced",
    covariance: str = "auto",
    preset: str | None = None,
    selection: str | None = None,
    sigma: float | None = None,
    patch_size: int | None = None,
    n_latents: int | None = None,
    hidden: Sequence[int] | None = None,
    n_states: int | None = None,
    epochs: int | None = None,
    time_budget: float | None = None,
    device: str = "auto",
    random_state: int = 0,
    checkpoint: str | PathLike[str] | None = None,
    resume: bool = False,
    on_progress: Callable[[float], None] = lambda progress: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    should_stop: Callable[[], bool] = lambda: False,
    ranks: Ranks = ALONE,
    return_result: bool = False,
) -> Array | AudioResult:
    """Remove the noise from one recording, given nothing but the recording.

    Parameters
    ----------
    y
        The noisy recording, (n,) or (n, channels), integers or floats in any units. NaN marks
        missing samples; they are filled in.
    sample_rate
        Samples a second.
    channels
        "joint" to restore what channels have in common and what they differ in, each by models of
        its own; "separate" for models of each channel, as if it was a recording of its own.
    quality
        "fast", "balanced" or "best": how much time to take.
    covariance
        "isotropic" for the model of the paper and nothing else, "auto" or "dct" for states with a
        covariance of their own and further looks at the recording.
    preset
        "paper:audio" to do what the paper did (Fig. 16); it takes hours.
    selection
        With a preset: another law by which parents are drawn, "released" for that of the authors'
        released code.
    sigma
        Standard deviation of the noise in units of `y`, only if it is known.
    patch_size, n_latents, hidden, n_states, epochs
        Override what is chosen: samples of a window, binary latents, units of each hidden layer of
        the decoder, variational states of each window, passes through the windows.
    time_budget
        Seconds that the call may take; training is shortened to keep it.
    device
        "auto", "cpu" or "cuda".
    random_state
        Seed of all randomness: the same seed gives the same samples on the same machine.
    checkpoint
        A new or empty folder, in which everything is saved once gaps are filled, and after each
        epoch.
    resume
        Go on from what the checkpoint holds, from the start if that is nothing; see
        `truvae.denoise`.
    on_progress, on_epoch, should_stop, ranks
        As for `truvae.denoise`.
    return_result
        Return an `AudioResult` instead of the array.

    Returns
    -------
    The restored recording, same shape and dtype; or an `AudioResult` that holds it.

    Raises
    ------
    InputError
        If the recording or an option makes no sense. It is a ValueError.

    References
    ----------
    App. B.7 of doi:10.1007/978-3-031-26409-2_22.

    Examples
    --------
    >>> import numpy as np
    >>> clean = np.sin(np.arange(4000) * 0.2)
    >>> noisy = clean + np.random.default_rng(0).normal(0, 0.3, 4000)
    >>> restored = denoise_audio(noisy, sample_rate=16_000, epochs=2)
    >>> bool(np.std(restored - clean) < np.std(noisy - clean) / 3)
    True
    """
    wishes = SoundWishes(
        channels=channels,
        quality=quality,
        covariance=covariance,
        preset=preset,
        selection=selection,
        sigma=sigma,
        patch_size=patch_size,
        n_latents=n_latents,
        hidden=hidden,
        n_states=n_states,
        epochs=epochs,
    )
    recording, where = recording_of(y, sample_rate), device_called(device)
    check_sigma(sigma, recording, "recording")
    check_seed(random_state)
    check_budget(time_budget)
    clock = Clock(time_budget, on_progress, should_stop).of(ranks)
    run = _run(wishes, sample_rate, random_state, where, time_budget)
    saves = checkpoint_of(checkpoint, resume, recording, run, ranks)
    parts = [recording] if channels == "joint" else np.split(recording, recording.shape[1], 1)
    results = [
        _restored(part, wishes, sample_rate, where, random_state,
                  saves if channels == "joint" else saves.part(f"channel-{index + 1}"),
                  clock.part(index, len(parts)), on_epoch, ranks)
        for index, part in enumerate(parts)
    ]  # fmt: skip
    result = _joined(results, np.asarray(y))
    return result if return_result else result.restored


def inpaint_audio(
    y: npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
    *,
    sample_rate: float,
    denoise: bool = False,
    return_result: bool = False,
    **options: Any,
) -> Array | AudioResult:
    """Fill in what is missing of a recording, given nothing but the rest of it.

    Gaps follow from the spectrum of their surroundings (`truvae.gaps`). Without `denoise`, no model
    is trained: known samples stay as they are.

    Parameters
    ----------
    y
        The recording, as for `truvae.denoise_audio`; NaN marks missing samples.
    mask
        True, or not zero, where samples are unknown: (n,) for all channels, or the shape of `y`.
    sample_rate
        Samples a second.
    denoise
        Whether to remove noise too, from the whole recording.
    return_result
        Return an `AudioResult` instead of the array.
    **options
        All others of `truvae.denoise_audio`; most have an effect with `denoise` only, and are
        checked in any case.

    Returns
    -------
    The recording without gaps, same shape and dtype; or an `AudioResult` that holds it.

    Raises
    ------
    InputError
        If nothing is missing, or everything, or the recording or an option makes no sense.

    Examples
    --------
    >>> import numpy as np
    >>> clean = np.sin(np.arange(8000) * 0.2)
    >>> mask = np.zeros(8000, bool)
    >>> mask[4000:4300] = True
    >>> whole = inpaint_audio(clean, mask, sample_rate=16_000)
    >>> bool(np.abs(whole - clean).max() < 0.05)
    True
    """
    like = np.asarray(y)
    damaged = masked_recording(y, mask)
    missing = np.isnan(damaged)
    if not missing.any():
        raise InputError(
            "nothing is missing: give a mask that is not zero where samples are unknown, or mark "
            "unknown samples as NaN"
        )
    call = signature(denoise_audio).bind(
        damaged, sample_rate=sample_rate, return_result=True, **options
    )
    result: AudioResult
    if denoise:
        found: Any = denoise_audio(*call.args, **call.kwargs)
        result = replace(found, restored=to_dtype(found.restored, like.dtype))
    else:
        call.apply_defaults()
        result = _only_filled(recording_of(damaged, sample_rate), sample_rate, call.arguments)
        filled = to_dtype(result.restored.reshape(like.shape), like.dtype)
        result = replace(result, restored=np.where(missing, filled, like))
    return result if return_result else result.restored


def untouched(
    y: npt.ArrayLike, *, sample_rate: float, return_result: bool = True, **options: Any
) -> AudioResult:
    """Return a recording of which nothing is missing as it is, and what `inpaint_audio` tells."""
    call = signature(denoise_audio).bind(y, sample_rate=sample_rate, **options)
    call.apply_defaults()
    result = _only_filled(recording_of(y, sample_rate), sample_rate, call.arguments)
    return replace(result, restored=np.asarray(y))


def _only_filled(recording: Array, sample_rate: float, options: dict[str, Any]) -> AudioResult:
    """Fill the gaps of a recording (n, K) and leave the rest as it is; check all other options."""
    wishes = SoundWishes(**{field.name: options[field.name] for field in fields(SoundWishes)})
    (settings,) = wishes.plan(recording, sample_rate).models
    where, ranks = device_called(options["device"]), options["ranks"]
    check_sigma(wishes.sigma, recording, "recording")
    check_seed(options["random_state"])
    check_budget(options["time_budget"])
    clock = Clock(*(options[name] for name in ("time_budget", "on_progress", "should_stop")))
    run = _run(wishes, sample_rate, options["random_state"], where, clock.budget)
    saves = checkpoint_of(options["checkpoint"], options["resume"], recording, run, ranks)
    result, _ = _filled(recording, wishes, settings, sample_rate, saves, clock.of(ranks), ranks)
    clock.on_progress(1)
    return result


def _run(
    wishes: SoundWishes, sample_rate: float, seed: int, device: torch.device, budget: float | None
) -> dict[str, Any]:
    """Return what the result depends on beside the recording."""
    return {**vars(wishes), "sample_rate": sample_rate, "seed": seed, "device": str(device),
            "time_budget": budget is not None}  # fmt: skip


def _restored(
    recording: Array,
    wishes: SoundWishes,
    sample_rate: float,
    device: torch.device,
    seed: int,
    saves: Checkpoint,
    clock: Clock,
    on_epoch: Callable[[Epoch], None],
    ranks: Ranks,
) -> AudioResult:
    """Restore channels (n, K) together; constant ones stay as they are."""
    plan = wishes.plan(recording, sample_rate)
    (settings,) = plan.models
    filling = clock.without(clock.left() * (1 - _TIME_TO_FILL)).span(0, _FILLING)
    filled, whole = _filled(recording, wishes, settings, sample_rate, saves, filling, ranks)
    _tell_of_no_noise(filled)
    if not whole:  # a resumed run fills them better: what follows here is not of that
        saves = Checkpoint()
    split = ranks.first(lambda: _split(recording, filled, wishes.sigma))
    if not split.levels.any():
        clock.on_progress(1)
        return filled
    clock = clock.span(_FILLING if filled.missing else 0, 1)

    def seeded() -> torch.Generator:
        return torch.Generator(device).manual_seed(seed)

    return denoised(filled, split, plan, seeded, saves, clock, on_epoch, ranks)


def _tell_of_no_noise(filled: AudioResult) -> None:
    """Warn of channels that vary, and are left as they are."""
    clean = (np.array(filled.sigma_channels) == 0) & (np.ptp(filled.restored, 0) > 0)
    if clean.any():
        what = "the recording" if clean.all() else f"{clean.sum()} of {len(clean)} channels"
        warnings.warn(
            f"no noise was found in {what}: it stays as it is; if there is noise, give sigma",
            stacklevel=2,
        )


def _split(recording: Array, filled: AudioResult, sigma: float | None) -> Split:
    """Split the channels (n, K) that hold noise, NaN where missing, into components."""
    levels = np.array(filled.sigma_channels)
    return Split.of(recording, filled.restored, levels, sigma, filled.sample_rate)


def _filled(
    recording: Array,
    wishes: SoundWishes,
    settings: Settings,
    sample_rate: float,
    saves: Checkpoint,
    clock: Clock,
    ranks: Ranks,
) -> tuple[AudioResult, bool]:
    """Fill the gaps of channels (n, K), as far as there is time for it, and tell their noise;
    return whether there was time for all, too.
    """
    in_time = True

    def go_on(progress: float) -> bool:
        nonlocal in_time
        in_time = clock.go_on(progress) and in_time
        return in_time

    def fill() -> State:  # all ranks do, so that all can stop
        whole = fill_gaps(recording, sample_rate, go_on)
        return State({}, {"whole": torch.from_numpy(whole)})

    whole = recording
    if np.isnan(recording).any():
        tell_of_long_gaps(recording, sample_rate)
        state = saves.once("filled", clock, fill, is_whole=lambda: in_time)
        whole = state.tensors["whole"].numpy().copy()
    if not in_time and not clock.should_stop():
        warnings.warn(
            "there was no time to fill all gaps well: more time fills them better",
            stacklevel=2,
        )
    told = partial(_without_models, recording, whole, wishes, settings, sample_rate)
    return ranks.first(told), in_time


def _without_models(
    recording: Array, whole: Array, wishes: SoundWishes, settings: Settings, sample_rate: float
) -> AudioResult:
    """Tell of channels (n, K) that are filled, and of their noise."""
    levels = noise_of(recording, whole, sample_rate, wishes.sigma)
    return AudioResult(
        restored=whole,
        sample_rate=sample_rate,
        sigma=rms(levels),
        sigma_source="estimated" if wishes.sigma is None else "given",
        sigma_channels=tuple(levels.tolist()),
        elbo=None,
        history=[],
        model=None,
        components=np.zeros((whole.shape[1], 0)),
        offset=np.zeros(0),
        spread=np.zeros(0),
        settings=settings,
        covariances=[],
        looks=0,
        epochs=0,
        n_data=0,
        missing=float(np.isnan(recording).mean()),
        device="cpu",
    )


def _joined(results: Sequence[AudioResult], like: Array) -> AudioResult:
    """Put channels side by side, in shape and type of the input."""
    restored = np.concatenate([result.restored for result in results], 1).reshape(like.shape)
    levels = tuple(level for result in results for level in result.sigma_channels)
    return replace(
        AudioResult.together(results),
        restored=to_dtype(restored, like.dtype),
        sigma=rms(levels),
        sigma_channels=levels,
        missing=float(np.mean([result.missing for result in results])),
    )


__all__ = ["denoise_audio", "inpaint_audio"]
