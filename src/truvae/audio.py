"""Restoration of recordings: what the library and the command line call."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from truvae.audio_job import Fit, Sound, SoundSettings, restore_sound
from truvae.checks import device_called
from truvae.errors import InputError
from truvae.gaps import fill_gaps, longest_gap, runs
from truvae.model import Model
from truvae.presets import preset as preset_called
from truvae.proposals import SELECTIONS
from truvae.settings import QUALITIES, check_choice
from truvae.spectra import noise_floor
from truvae.training import Clock, Epoch
from truvae.units import Units, rms

Array = npt.NDArray[Any]

CHANNELS = ("joint", "separate")
REPAIRS = ("clipping", "dropouts")
# Models, epochs and further looks.
_EFFORT = {"fast": (1, 4, 2), "balanced": (1, 10, 3), "best": (3, 16, 3)}
# Seconds of a window, and windows from its beginning to its end.
_WINDOW, _HOPS = 0.025, 50
# The fewest samples to learn from, and the most in a window.
_FEWEST, _MOST = 64, 1200
# Least noise that is reckoned with, over the spread of the recording: less is beyond float32.
_LEAST_NOISE = 1e-3
# Gaps longer than this, in seconds, are told: what is in them is not heard.
_LONG_GAP = 0.05
# So many samples in a row at the highest or lowest level were clipped; so many zeros were lost.
_CLIPPED, _DROPPED = 3, 0.001


@dataclass(frozen=True)
class AudioResult:
    """A restored recording and how it came about; all values in the units of the input."""

    restored: Array
    """The restored recording: shape and dtype of the input."""
    sample_rate: float
    """Samples a second."""
    sigma: float
    """Standard deviation of the noise; of several channels its rms."""
    sigma_source: str
    """"given", "estimated" from the noise floor, or "learned" with a preset."""
    sigma_channels: tuple[float, ...]
    """The same for each channel."""
    elbo: float | None
    """Mean over the windows of the lower bound F_n in nats (Eq. 5), by `model`; None if no model
    was needed."""
    history: list[Epoch]
    """One record for each epoch, run after run."""
    model: Model | None
    """The first model, of windows of `(x - offset) / spread`; None if none was needed."""
    offset: Array
    """(K,), mean of each channel; 0 with a preset."""
    spread: Array
    """(K,), standard deviation of the recording; with a preset its peak."""
    settings: SoundSettings
    """The settings of the models."""
    looks: int
    """How often the recording was looked at again."""
    epochs: int
    """Passes through the windows in the training of `model`."""
    n_data: int
    """Number of windows."""
    missing: float
    """Share of the samples that were missing."""
    device: str
    """Where it was computed."""

    @property
    def active_latents(self) -> float | None:
        """Expected number of active latents of a window: the sum of pi."""
        return None if self.model is None else float(self.model.prior.pi.sum())


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
    on_progress: Callable[[float], None] = lambda progress: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    should_stop: Callable[[], bool] = lambda: False,
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
        "joint" for windows of all channels together, "separate" for models of each channel.
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
    on_progress, on_epoch, should_stop
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
    overrides = {"patch_size": patch_size, "n_latents": n_latents, "hidden": hidden,
                 "n_states": n_states, "epochs": epochs}  # fmt: skip
    recording = _recording(y, sample_rate)
    check_choice("quality", quality, QUALITIES)
    check_choice("covariance", covariance, ("auto", "isotropic", "dct"))
    check_choice("channels", channels, CHANNELS)
    if sigma is not None and not 0 < sigma < np.inf:
        raise InputError(f"sigma must be above 0, in units of the recording, not {sigma:g}")
    settings, n_models, looks = _plan(
        len(recording), sample_rate, quality, covariance, preset, selection, overrides
    )
    where, clock = device_called(device), Clock(time_budget, on_progress, should_stop)
    parts = [recording] if channels == "joint" else np.split(recording, recording.shape[1], 1)
    results = [
        _restored(part, settings, n_models, looks, sample_rate, sigma, preset is not None,
                  where, random_state, clock.part(index, len(parts)), on_epoch)
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
        All others of `truvae.denoise_audio`; most have an effect with `denoise` only.

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
    damaged = _masked(np.asarray(y), mask)
    missing = np.isnan(damaged)
    if not missing.any():
        raise InputError(
            "nothing is missing: give a mask that is not zero where samples are unknown, or mark "
            "unknown samples as NaN"
        )
    result: AudioResult
    if denoise:
        found: Any = denoise_audio(damaged, sample_rate=sample_rate, return_result=True, **options)
        result = replace(found, restored=_as(found.restored, np.asarray(y).dtype))
    else:
        result = _filled(damaged, np.asarray(y), missing, sample_rate, options)
    return result if return_result else result.restored


def damaged_samples(y: Array, repairs: Sequence[str], sample_rate: float) -> Array:
    """Return where a recording (n, K) was damaged, (n, K), true where samples are lost.

    Parameters
    ----------
    y
        The recording.
    repairs
        "clipping" for three samples or more in a row at the highest or lowest level that there is,
        "dropouts" for exact zeros for a millisecond or more, but not at the ends.
    sample_rate
        Samples a second.

    Examples
    --------
    >>> y = np.array([0.2, 0.9, 0.9, 0.9, 0.1, -0.4])[:, None]
    >>> damaged_samples(y, ["clipping"], 16_000)[:, 0].tolist()
    [False, True, True, True, False, False]
    """
    for repair in repairs:
        check_choice("repair", repair, REPAIRS)
    lost = np.zeros(y.shape, dtype=bool)
    for k, x in enumerate(y.T):
        if "clipping" in repairs:
            for level in (x.max(), x.min()):
                _mark(lost[:, k], x == level, _CLIPPED)
        if "dropouts" in repairs:
            zeros = x == 0
            sound = np.flatnonzero(~zeros)
            if len(sound):
                zeros[: sound[0]] = zeros[sound[-1] :] = False
            _mark(lost[:, k], zeros, max(2, round(_DROPPED * sample_rate)))
    return lost


def _mark(lost: Array, marked: Array, shortest: int) -> None:
    """Mark the runs of at least so many samples as lost."""
    for start, end in runs(marked):
        if end - start >= shortest:
            lost[start:end] = True


def _recording(y: npt.ArrayLike, sample_rate: float) -> Array:
    """Return a recording as float64 (n, K), NaN where missing."""
    array = np.asarray(y)
    if not 0 < sample_rate < np.inf:
        raise InputError(f"sample_rate must be above 0 (samples a second), not {sample_rate:g}")
    if array.dtype == object or not np.issubdtype(array.dtype, np.number):
        raise InputError(f"a recording holds integers or floats, not {array.dtype} values")
    if np.iscomplexobj(array):
        raise InputError("a recording holds integers or floats, not complex values")
    if array.ndim not in (1, 2) or array.size == 0:
        raise InputError(
            f"a recording has shape (samples,) or (samples, channels), not {array.shape}"
        )
    if array.ndim == 2 and array.shape[0] < array.shape[1]:
        raise InputError(
            f"a recording has shape (samples, channels), and {array.shape} has more channels than "
            "samples: transpose it"
        )
    if len(array) < _FEWEST:
        raise InputError(
            f"the recording has only {len(array)} samples: {_FEWEST} or more are needed"
        )
    recording: Array = array.astype(np.float64).reshape(len(array), -1)
    if np.isinf(recording).any():
        raise InputError("the recording has infinite values; mark missing samples as NaN")
    lost = np.isnan(recording).all(0)
    if lost.any():
        where = f" of channel {int(lost.argmax())}" if recording.shape[1] > 1 else ""
        raise InputError(f"the recording has no known sample{where}: all of it is missing")
    if (np.nanmax(recording, 0) == np.nanmin(recording, 0)).all():
        raise InputError(
            f"the recording is silent (all samples are {np.nanmax(recording):g}): there is nothing "
            "to restore"
        )
    return recording


def _masked(y: Array, mask: npt.ArrayLike | None) -> Array:
    """Return a recording of floats with NaN where the mask is true."""
    if mask is None:
        return y
    unknown = np.asarray(mask) != 0
    if unknown.ndim == 1 and y.ndim == 2:
        unknown = unknown[:, None]
    if (
        unknown.shape[0] != y.shape[0]
        or unknown.ndim != y.ndim
        or (unknown.shape[-1] not in (1, y.shape[-1]))
    ):
        raise InputError(
            f"the mask has shape {np.shape(mask)}, the recording {y.shape}: they must be equal, "
            "but for the channels"
        )
    return np.where(unknown, np.nan, y.astype(np.float64))


def _plan(
    n: int,
    sample_rate: float,
    quality: str,
    covariance: str,
    preset: str | None,
    selection: str | None,
    overrides: dict[str, Any],
) -> tuple[SoundSettings, int, int]:
    """Return the settings of the models, how many there are, and how many looks follow."""
    window = max(8, min(round(_WINDOW * sample_rate), _MOST, n // 4))
    if preset is not None:
        recipe = preset_called(preset).recipe
        if preset != "paper:audio":
            raise InputError(f"the preset {preset} is not for recordings: take paper:audio")
        if selection is not None:
            check_choice("selection", selection, tuple(SELECTIONS))
            recipe = recipe.select(SELECTIONS[selection])
        chosen = SoundSettings(**vars(recipe), patch_size=min(400, n // 4), hop=1,
                               covariance="isotropic", most=1 << 62, doubt=np.inf)  # fmt: skip
        n_models, looks = 1, 0
    else:
        if selection is not None:
            raise InputError("a selection goes with a preset: give one, or leave selection out")
        n_models, n_epochs, looks = _EFFORT[quality]
        isotropic = covariance == "isotropic"
        chosen = SoundSettings(
            n_latents=200 if isotropic else 64,
            hidden=(512,) if isotropic else (128,),
            n_states=32 if isotropic else 16,
            epochs=n_epochs,
            group=256 if isotropic else 128,
            minibatch=32,
            peak_rate=0.005 if isotropic else 0.01,
            covariance="isotropic" if isotropic else "dct",
            patch_size=window,
            hop=max(1, window // _HOPS),
            doubt=0.02,
        )
        looks = 0 if isotropic else looks
    settings = cast(SoundSettings, chosen.override(overrides))
    if overrides["patch_size"] is not None:
        if not 8 <= settings.patch_size <= n:
            raise InputError(
                f"a window of {settings.patch_size} samples does not suit a recording of {n}: "
                f"patch size must be between 8 and {n}"
            )
        if preset is None:
            settings = replace(settings, hop=max(1, settings.patch_size // _HOPS))
    return settings, 1 if overrides["epochs"] is not None else n_models, looks


def _restored(
    recording: Array,
    settings: SoundSettings,
    n_models: int,
    looks: int,
    sample_rate: float,
    sigma: float | None,
    paper: bool,
    device: torch.device,
    seed: int,
    clock: Clock,
    on_epoch: Callable[[Epoch], None],
) -> AudioResult:
    """Restore channels (n, K) together; constant ones stay as they are."""
    missing = np.isnan(recording)
    whole = _without_gaps(recording, sample_rate)
    constant = whole.max(0) == whole.min(0)
    frames = whole[None, None][..., ~constant]
    told = _noise(recording[:, ~constant], whole[:, ~constant], sample_rate)
    levels = told if sigma is None else np.full(len(told), sigma)
    scale = float(np.abs(whole).max()) if paper else None
    units = Units.of(frames, None, scale)
    units = units if paper else units.balanced(levels)
    sound = Sound(
        units.standardise(frames, device)[0, 0],
        sample_rate,
        max(rms(levels / units.spread), _LEAST_NOISE),
        sigma is not None,
    )
    history: list[Epoch] = []

    def tell(epoch: Epoch, entries: Tensor) -> None:
        history.append(units.record(epoch, entries))
        on_epoch(history[-1])

    generator = torch.Generator(device).manual_seed(seed)
    estimate, fit, looks = restore_sound(sound, settings, n_models, looks, generator, clock, tell)
    restored = whole.copy()
    restored[:, ~constant] = units.restore(estimate[None, None])[0, 0]
    learned = settings.covariance == "isotropic" and sigma is None
    channels = np.zeros(len(constant))
    channels[~constant] = units.sigma(fit.model.noise.sigma) if learned else levels
    return _result(restored, channels, "learned" if learned else
                   "estimated" if sigma is None else "given", settings, sample_rate,
                   missing, str(device), fit, looks, history, units)  # fmt: skip


def _result(
    restored: Array,
    sigma_channels: Array,
    source: str,
    settings: SoundSettings,
    sample_rate: float,
    missing: Array,
    device: str,
    fit: Fit | None = None,
    looks: int = 0,
    history: Sequence[Epoch] = (),
    units: Units | None = None,
) -> AudioResult:
    """Put together what there is to tell."""
    nothing = np.zeros(0)
    return AudioResult(
        restored=restored,
        sample_rate=sample_rate,
        sigma=rms(sigma_channels),
        sigma_source=source,
        sigma_channels=tuple(float(level) for level in sigma_channels),
        elbo=None if fit is None or units is None else units.bound(fit.bound, fit.entries),
        history=[*history],
        model=None if fit is None else fit.model,
        offset=nothing if units is None else units.offset,
        spread=nothing if units is None else units.spread,
        settings=settings,
        looks=looks,
        epochs=0 if fit is None else fit.epochs,
        n_data=0 if fit is None else fit.n_data,
        missing=float(missing.mean()),
        device=device,
    )


def _joined(results: Sequence[AudioResult], like: Array) -> AudioResult:
    """Put channels side by side, in shape and type of the input."""
    restored = np.concatenate([result.restored for result in results], 1).reshape(like.shape)
    levels = tuple(level for result in results for level in result.sigma_channels)
    bounds = [result.elbo for result in results if result.elbo is not None]
    return replace(
        results[0],
        restored=_as(restored, like.dtype),
        sigma=rms(levels),
        sigma_channels=levels,
        elbo=float(np.mean(bounds)) if bounds else None,
        history=[epoch for result in results for epoch in result.history],
        missing=float(np.mean([result.missing for result in results])),
        n_data=sum(result.n_data for result in results),
    )


def _filled(
    damaged: Array, like: Array, missing: Array, sample_rate: float, options: dict[str, Any]
) -> AudioResult:
    """Fill the gaps and leave the rest as it is."""
    recording = _recording(damaged, sample_rate)
    whole = _without_gaps(recording, sample_rate).reshape(like.shape)
    restored = np.where(missing, _as(whole, like.dtype), like)
    settings, _, _ = _plan(len(recording), sample_rate, "fast", "auto", None, None,
                           {"patch_size": None, "epochs": None})  # fmt: skip
    levels = _noise(recording, whole.reshape(recording.shape), sample_rate)
    options.get("on_progress", lambda progress: None)(1.0)
    return _result(restored, levels, "estimated", settings, sample_rate, missing, "cpu")


def _noise(recording: Array, whole: Array, sample_rate: float) -> Array:
    """Estimate the noise of each channel (n, K), from the filled one if gaps are everywhere."""
    levels = noise_floor(recording, sample_rate)
    return np.where(levels > 0, levels, noise_floor(whole, sample_rate))


def _without_gaps(recording: Array, sample_rate: float) -> Array:
    """Fill the gaps, and warn of long ones."""
    longest = longest_gap(recording) / sample_rate
    if longest > _LONG_GAP:
        warnings.warn(
            f"gaps are up to {longest:.2g} s long: beyond {_LONG_GAP:g} s what fills them is "
            "plausible, not what was there",
            stacklevel=2,
        )
    return fill_gaps(recording, sample_rate) if longest else recording


def _as(values: Array, dtype: np.dtype[Any]) -> Array:
    """Return values in another type, rounded and clipped to its range if it holds integers."""
    if np.issubdtype(dtype, np.integer):
        limits = np.iinfo(dtype)
        return np.clip(np.rint(values), limits.min, limits.max).astype(dtype)
    return values.astype(dtype)


__all__ = [
    "CHANNELS",
    "REPAIRS",
    "AudioResult",
    "damaged_samples",
    "denoise_audio",
    "inpaint_audio",
]
