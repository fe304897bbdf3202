"""Restoration of pictures of any kind: what the library and the command line call."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from inspect import signature
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from truvae.checkpoint import Checkpoint, checkpoint_of
from truvae.checks import (
    are_constant,
    check_frames,
    check_patch_size,
    check_seed,
    check_sigma,
    device_called,
    frames_of,
    masked,
)
from truvae.clock import Clock, check_budget
from truvae.errors import InputError
from truvae.fill import nearest_known
from truvae.io import to_dtype
from truvae.job import Done, Job
from truvae.limits import GB, needed
from truvae.ranks import ALONE, Ranks
from truvae.results import Result
from truvae.settings import (
    OVERRIDES,
    SMALLEST_PATCH,
    STACKS,
    check_choice,
)
from truvae.training import Epoch
from truvae.units import Units, rms
from truvae.wishes import Wishes

Array = npt.NDArray[Any]


def denoise(
    image: npt.ArrayLike,
    *,
    channel_axis: int | None = None,
    noise: str = "auto",
    stack: str = "frames",
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
    memory_limit: float | None = None,
    device: str = "auto",
    random_state: int = 0,
    checkpoint: str | PathLike[str] | None = None,
    resume: bool = False,
    on_progress: Callable[[float], None] = lambda progress: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    should_stop: Callable[[], bool] = lambda: False,
    ranks: Ranks = ALONE,
    return_result: bool = False,
) -> Array | Result:
    """Remove the noise from one picture, given nothing but the picture.

    Parameters
    ----------
    image
        The noisy picture, integers or floats in any units: (rows, columns), and one more axis for
        colours, `channel_axis`. More axes before these are the frames of a stack. NaN marks missing
        values, as does the mask of a masked array; they are filled in.
    channel_axis
        The axis of colour channels, None for a grey picture. Patches are of all channels together;
        where these clearly share noise, of mixtures of them with independent noise.
    noise
        "gaussian" for white noise of one level (in each channel), "poisson-gaussian" for noise that
        grows with the signal, as that of cameras and microscopes: its gain and variance are
        estimated and the values made to have noise of one level (`truvae.stabilise`); "correlated"
        for noise of which neighbouring pixels share some, as after interpolation or smoothing: its
        spectrum is estimated and the picture made to have white noise (`truvae.whitening`), which
        may grow with the signal, too, where that is clear. "auto" decides for these, or both, where
        the noise is clearly of their kind.
    stack
        "frames" to restore each frame of a stack on its own, and leave constant ones as they are;
        "shared" to fit models to patches of all frames, and in complete stacks to look for similar
        patches in the three frames before and after, too: much faster, and better if the frames
        are alike or small.
    quality
        "fast", "balanced" or "best": how much time to take. "best" also finds which further looks
        suit the picture (`truvae.looks`).
    covariance
        "isotropic" for the model of the paper and nothing else, "dct" for models whose states have
        a covariance of their own, "auto" to combine both as the picture needs it, or the latter
        alone in colour, above 512 x 512 pixels and where noise is correlated. All but "isotropic"
        look at the picture again (`truvae.refine`).
    preset
        The name of a row of the paper's Table 1, "paper:denoise-..." (`truvae.presets`), to do what
        the paper did; quality and covariance then have no effect.
    selection
        With a preset: another law by which parents are drawn, "released" for that of the authors'
        released code.
    sigma
        Standard deviation of the noise in units of `image`, only if it is known; it is learned
        or estimated otherwise. All channels have it; where noise is correlated, it is the rms of
        theirs, whose ratios are estimated.
    patch_size, n_latents, hidden, n_states, epochs
        Override what is chosen from the size of the picture and its noise: side of the patches in
        pixels, binary latents, units of each hidden layer of the decoder, variational states of
        each patch, passes through the patches (of one model of each kind).
    time_budget
        Seconds that the call may take; training is shortened to keep it, and frames of a stack that
        it does not reach stay as they are.
    memory_limit
        GB (of 2^30 bytes) that the process may take; half of the memory of the machine if not
        given. With little, models of large pictures are trained on fewer patches.
    device
        "auto", "cpu" or "cuda".
    random_state
        Seed of all randomness: the same seed gives the same picture on the same machine.
    checkpoint
        A new or empty folder, in which everything is saved after each epoch.
    resume
        Go on from what the checkpoint holds, from the start if that is nothing. The picture is that
        of a run without interruption, bit for bit on the same machine with as many threads; with a
        time budget, the time used before counts.
    on_progress
        Called now and then with the progress of the training in [0, 1].
    on_epoch
        Called after each epoch with its record, in units of the input; when resumed, first with the
        records of the epochs before.
    should_stop
        Asked now and then; once it says True, training ends and the best so far is returned. Frames
        of a stack that were not begun stay as they are.
    ranks
        Processes that restore the picture together; see `truvae.ranks`. All call this with the same
        arguments, and get the same.
    return_result
        Return a `Result` instead of the array.

    Returns
    -------
    The restored picture, same shape, dtype and units; or a `Result` that holds it. Values are kept
    within the range of the type; floats may lie slightly beyond that of the input.

    Raises
    ------
    InputError
        If the picture or an option makes no sense. It is a ValueError.

    References
    ----------
    "Direct Evolutionary Optimization of Variational Autoencoders With Binary Latents",
    doi:10.1007/978-3-031-26409-2_22.

    Examples
    --------
    >>> import numpy as np
    >>> noisy = np.random.default_rng(0).normal(100, 20, (24, 24))
    >>> restored = denoise(noisy, epochs=2)
    >>> restored.shape, bool(restored.std() < noisy.std() / 2)
    ((24, 24), True)
    """
    options = dict(locals())
    result = _of_frames(options.pop("image"), options)
    return result if return_result else result.restored


def inpaint(
    image: npt.ArrayLike,
    mask: npt.ArrayLike | None = None,
    *,
    denoise: bool = False,
    channel_axis: int | None = None,
    return_result: bool = False,
    **options: Any,
) -> Array | Result:
    """Fill in what is missing of a picture, given nothing but the rest of it.

    Missing values are left out of every sum, as Eq. 16 of the paper has it. Some known pixels are
    hidden to judge estimates by how well they are predicted.

    Parameters
    ----------
    image
        The picture, as for `truvae.denoise`; NaN marks missing values.
    mask
        True, or not zero, where the picture is unknown: same shape, or without the channel axis; or
        (rows, columns) for all frames of a stack.
    denoise
        Whether to remove noise from the known values too; otherwise they stay as they are, and
        frames of a stack without gaps take no time, unless models are shared.
    channel_axis
        The axis of colour channels, None for a grey picture.
    return_result
        Return a `Result` instead of the array.
    **options
        All others of `truvae.denoise`.

    Returns
    -------
    The picture without gaps, same shape and dtype; or a `Result` that holds it.

    Raises
    ------
    InputError
        If nothing is missing, or everything, or the picture or an option makes no sense.

    Examples
    --------
    >>> import numpy as np
    >>> picture = np.add.outer(np.arange(24), np.arange(24))
    >>> mask = np.random.default_rng(0).random(picture.shape) < 0.3
    >>> filled = inpaint(picture, mask, epochs=2)
    >>> bool((filled == picture)[~mask].all()), bool(np.abs(filled - picture).max() < 12)
    (True, True)
    """
    damaged = masked(image, mask, channel_axis)
    missing = np.isnan(damaged)
    if not missing.any():
        raise InputError(
            "nothing is missing: give a mask that is not zero where the picture is unknown, or "
            "mark unknown values as NaN"
        )
    call = signature(_denoise).bind(damaged, channel_axis=channel_axis, **options)
    call.apply_defaults()
    result = _of_frames(call.arguments.pop("image"), call.arguments, complete_too=denoise)
    restored = to_dtype(result.restored, np.asarray(image).dtype)
    if not denoise:
        restored = np.where(missing, restored, np.asarray(image))
    result = replace(result, restored=restored)
    return result if return_result else result.restored


# `inpaint` has an option of this name.
_denoise: Callable[..., Any] = denoise


def _of_frames(
    image: npt.ArrayLike, options: Mapping[str, Any], complete_too: bool = True
) -> Result:
    """Restore the frames of a picture or stack by the options of `denoise`; those without gaps too,
    or only those with.
    """
    stack, seed, budget = (options[name] for name in ("stack", "random_state", "time_budget"))
    overrides = {name: options[name] for name in OVERRIDES}
    asked = {field.name: options[field.name] for field in fields(Wishes) if field.name in options}
    wishes = Wishes(**asked, overrides=overrides)
    wishes.check()
    check_choice("stack", stack, STACKS)
    where, ranks = device_called(options["device"]), options["ranks"]
    check_seed(seed)
    check_budget(budget)
    clock = Clock(budget, options["on_progress"], options["should_stop"]).of(ranks)
    frames, channel_axis = frames_of(image, options["channel_axis"])
    check_frames(frames)
    check_sigma(wishes.sigma, frames, "picture")
    check_patch_size(overrides["patch_size"] or SMALLEST_PATCH, frames.shape[1:])
    wishes = replace(wishes, n_frames=len(frames))
    run = {**wishes.options(), "stack": stack, "seed": seed, "device": str(where),
           "time_budget": budget is not None}  # fmt: skip
    resume = options["resume"]
    saves = checkpoint_of(options["checkpoint"], resume, frames, run, ranks)
    parts = [frames] if stack == "shared" else np.split(frames, len(frames))
    left = np.zeros(len(frames), bool)
    if stack == "frames":
        left, notes = _left_out(frames, complete_too)
        for note in notes:
            warnings.warn(note, stacklevel=3)
    begun = [index for index in range(len(parts)) if not left[index]]
    for index in begun:  # before the first takes its time
        name = f"frame {index + 1} of {len(parts)}: " if len(parts) > 1 else ""
        wishes.check_frames(parts[index], name)
    results: list[Result] = []
    for place, index in enumerate(begun):
        over = clock.left() <= 0 and not resume  # what was saved is there at once
        if results and (over or clock.should_stop()):
            late = begun[place:]
            warnings.warn(
                f"there was no time for {len(late)} of {len(parts)} frames: they are as they were",
                stacklevel=3,
            )
            results += [_as_it_is(parts[i], results[0]) for i in late]
            break
        time_left = clock.part(place, len(begun))
        states = saves if len(parts) == 1 else saves.part(f"frame-{index + 1}")
        done = _restored(
            parts[index], wishes, where, seed, states, time_left, options["on_epoch"], ranks
        )
        results.append(done)
    return _joined(results, frames, left, np.asarray(image), channel_axis)


def memory_needed(
    shape: tuple[int, ...],
    *,
    quality: str = "balanced",
    covariance: str = "auto",
    preset: str | None = None,
    memory_limit: float | None = None,
    **overrides: Any,
) -> float:
    """Return the GB (of 2^30 bytes) that a restoration takes at most, by a rough estimate.

    Parameters
    ----------
    shape
        Frames, rows, columns and channels.
    quality, covariance, preset, memory_limit, **overrides
        As for `truvae.denoise`; options that do not matter are ignored.

    Raises
    ------
    InputError
        If a memory limit is too low.

    Examples
    --------
    >>> memory_needed((1, 256, 256, 1)) < 1 < memory_needed((1, 8192, 2048, 1)) < 3
    True
    """
    known = {name: value for name, value in overrides.items() if name in OVERRIDES}
    wishes = Wishes(
        "auto", None, quality, covariance, preset, None, memory_limit, known, n_frames=shape[0]
    )
    return needed(wishes.plan(shape[1:], 0.5, True), shape) / GB


def _restored(
    frames: Array,
    wishes: Wishes,
    device: torch.device,
    seed: int,
    checkpoint: Checkpoint,
    clock: Clock,
    on_epoch: Callable[[Epoch], None],
    ranks: Ranks,
) -> Result:
    """Restore frames (F, R, C, K) by models that they share; constant channels stay as they are."""
    constant = np.nanmax(frames, (0, 1, 2)) == np.nanmin(frames, (0, 1, 2))
    varying = frames[..., ~constant]
    units, levels = ranks.first(lambda: wishes.units(varying))
    noise = units.noise
    complete = not np.isnan(varying).any()
    shape = (*frames.shape[1:3], len(levels))
    whitened = units.spectra is not None
    plan = wishes.plan(shape, rms(levels) / rms(units.spread), complete, whitened)
    for settings in plan.models:
        check_patch_size(settings.patch_size, frames.shape[1:])
    if plan.scale is not None:
        units = Units.of(varying, noise, plan.scale)
    elif complete:
        units = units.balanced(levels)
    told = rms(levels / units.spread)
    job = Job(varying, plan, units, told, wishes.sigma is not None, device, seed, checkpoint, ranks)
    result = _result(job.run(clock, on_epoch), frames, constant, units)
    if result.epochs > 0:
        return result
    warnings.warn(
        "there was no time to learn anything: the picture is as it was, but for its gaps",
        stacklevel=3,
    )
    return _as_it_is(frames, result)


def _result(done: Done, frames: Array, constant: Array, units: Units) -> Result:
    """Put together what there is to tell of frames, some of whose channels are constant."""
    restored = np.broadcast_to(np.nanmax(frames, (0, 1, 2)), frames.shape).copy()
    restored[..., ~constant] = done.restored
    sigmas = np.zeros(len(constant))
    sigmas[~constant] = units.sigma(done.sigma)
    rmse = done.held_out_rmse
    return Result(
        restored=restored,
        sigma=rms(sigmas[~constant]),
        sigma_source=done.sigma_source,
        sigma_channels=tuple(sigmas.tolist()),
        noise=units.noise,
        spectra=units.spectra,
        elbo=done.elbo,
        held_out_rmse=None if rmse is None else rms(units.sigma(rmse)),
        history=done.history,
        model=done.model,
        offset=units.offset,
        spread=units.spread,
        turn=units.turn,
        settings=done.settings,
        covariances=done.covariances,
        trust_in_dct=done.trust_in_dct,
        looks=done.looks,
        look_sizes=done.look_sizes,
        epochs=done.epochs,
        n_data=done.n_data,
        n_trained=done.n_trained,
        missing=float(np.isnan(frames).mean()),
        frames=len(frames),
        device=done.device,
    )


def _left_out(frames: Array, complete_too: bool) -> tuple[Array, list[str]]:
    """Return which frames (F, R, C, K) there is nothing to restore of, (F,) bool, and say so."""
    gaps, constant = np.isnan(frames).any((1, 2, 3)), are_constant(frames)
    complete = ~gaps & (not complete_too)
    blank, n = constant & ~complete, complete.sum()
    notes = [_left_blank(blank, bool((blank & gaps).any()))] if blank.any() else []
    if n > 0:
        notes.append(f"nothing is missing in {n} of {len(frames)} frames: they stay as they are")
    left = blank | complete
    if left.all():  # a result has a model of something
        left[constant.argmin()] = False
    return left, notes


def _left_blank(blank: Array, with_gaps: bool) -> str:
    """Say which frames are left as they are; people count them from 1."""
    numbers = [str(index + 1) for index in np.flatnonzero(blank)]
    rest = ", but for gaps, which get the same value" if with_gaps else ""
    if len(numbers) == 1:
        return f"frame {numbers[0]} of {len(blank)} is constant: it stays as it is{rest}"
    return f"frames {', '.join(numbers)} of {len(blank)} are constant: they stay as they are{rest}"


def _as_it_is(frames: Array, first: Result) -> Result:
    """Return frames as they are, but without gaps, with all else as told of the first one."""
    return replace(first, restored=_gapless(frames), history=[])


def _gapless(frames: Array) -> Array:
    """Return frames as they are, with the nearest known values in their gaps."""
    return np.stack([nearest_known(torch.as_tensor(frame)).numpy() for frame in frames])


def _joined(
    results: list[Result], frames: Array, left: Array, array: Array, channel_axis: int | None
) -> Result:
    """Put frames together into an array like the one they came from, those left as they are."""
    restored = np.concatenate([result.restored for result in results])
    if left.any():
        begun, restored = restored, np.empty_like(frames)
        restored[~left], restored[left] = begun, _gapless(frames[left])
    if channel_axis is None:
        restored = restored.reshape(array.shape)
    else:
        moved = np.moveaxis(np.empty(array.shape, np.uint8), channel_axis, -1).shape
        restored = np.moveaxis(restored.reshape(moved), -1, channel_axis)
    bounds = [result.elbo for result in results if result.elbo is not None]
    held_out = [result.held_out_rmse for result in results if result.held_out_rmse is not None]
    sigmas = np.sqrt(np.mean([np.square(result.sigma_channels) for result in results], 0))
    return replace(
        results[0],
        restored=to_dtype(restored, array.dtype),
        sigma=rms([result.sigma for result in results]),
        sigma_channels=tuple(sigmas.tolist()),
        elbo=float(np.mean(bounds)) if bounds else None,
        held_out_rmse=rms(held_out) if held_out else None,
        history=[epoch for result in results for epoch in result.history],
        n_data=sum(result.n_data for result in results),
        missing=float(np.isnan(frames).mean()),
        frames=len(frames),
    )


__all__ = ["denoise", "inpaint"]
