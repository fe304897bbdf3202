"""What is checked of arrays and options before any work: each error says what would be right."""

import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from truvae.errors import InputError

Array = npt.NDArray[Any]

# Sizes of values that can be squared, and more, in floating point.
_TINY, HUGE = 1e-30, 1e30
# Noise over what values span that is too much; where it is cut off it may be more than they span.
_LOUDEST = 10
# The fewest samples of a recording to learn from.
_FEWEST = 64


def check_sigma(sigma: Any, values: Array, what: str) -> None:
    """Raise an `InputError` unless a level of noise, if it is given, can be that of values.

    >>> check_sigma(25, np.array([0.1, 0.9]), "recording")
    Traceback (most recent call last):
    truvae.errors.InputError: sigma is in units of the recording, whose values span 0.8: not 25
    """
    if sigma is None:
        return
    if not isinstance(sigma, Real) or not 0 < float(sigma) <= HUGE:
        raise InputError(
            f"sigma must be above 0 and at most {HUGE:g}, in units of the {what}, not {sigma}"
        )
    known = values[np.isfinite(values)]
    span = float(np.ptp(known)) if known.size else 0.0
    if 0 < span * _LOUDEST < float(sigma):
        raise InputError(
            f"sigma is in units of the {what}, whose values span {span:.3g}: not {float(sigma):g}"
        )


def unmasked(values: npt.ArrayLike) -> Array:
    """Return a plain array; what a masked array of NumPy masks is missing, so that it becomes NaN.

    >>> unmasked(np.ma.masked_equal([1, -1, 3], -1))
    array([ 1., nan,  3.])
    """
    array = np.asarray(values)
    unknown = np.asarray(np.ma.getmask(values))  # one False where there is no mask
    if array.dtype.kind not in "iuf" or not unknown.any():
        return array
    return _without(array, unknown)


def _without(array: Array, unknown: Array) -> Array:
    """Return numbers as float64 with NaN where they are `unknown`, same shape or fewer channels."""
    return np.where(unknown, np.nan, array.astype(np.float64))


def frames_of(image: npt.ArrayLike, channel_axis: int | None) -> tuple[Array, int | None]:
    """Return a picture or a stack of them as float64 frames (F, R, C, K), and which axis of `image`
    holds the channels.

    Raises
    ------
    InputError
        If it is no picture, or has no such axis.

    Warns
    -----
    UserWarning
        If the last of three axes looks like colour channels, and nothing was said of it.
    """
    array = unmasked(image)
    _check_numbers(array, "a picture")
    if array.size == 0:
        raise InputError(f"the picture has no known pixel: there are no values in {array.shape}")
    channel_axis = _channel_axis(array, channel_axis)
    picture = array.astype(np.float64, copy=False)
    if channel_axis is not None:
        picture = np.moveaxis(picture, channel_axis, -1)
    else:
        picture = picture[..., None]
    if picture.ndim < 3:
        raise InputError(
            f"a picture has rows and columns, and one more axis if there is a channel_axis; "
            f"this array has shape {array.shape}"
        )
    frames: Array = picture.reshape(-1, *picture.shape[-3:])
    return frames, channel_axis


def _check_numbers(array: Array, what: str) -> None:
    if array.dtype == object or not np.issubdtype(array.dtype, np.number):
        raise InputError(f"{what} holds integers or floats, not {array.dtype} values")
    if np.iscomplexobj(array):
        raise InputError(f"{what} holds integers or floats, not complex values")


def _channel_axis(array: Array, channel_axis: int | None) -> int | None:
    if channel_axis is not None:
        _check_axis(array, channel_axis)
        return channel_axis
    if _looks_coloured(array):
        warnings.warn(
            f"the last axis of shape {array.shape} is taken for colour channels: say "
            "channel_axis=-1 if it is",
            stacklevel=5,
        )
        return -1
    return None


def _check_axis(array: Array, channel_axis: int) -> None:
    if not -array.ndim <= channel_axis < array.ndim:
        raise InputError(f"there is no channel_axis {channel_axis} in shape {array.shape}")


def _looks_coloured(array: Array) -> bool:
    return array.ndim == 3 and array.shape[-1] in (3, 4)


def check_frames(frames: Array) -> None:
    """Raise an `InputError` if frames (F, R, C, K), NaN where missing, cannot be learned from.

    Some of them may be constant. People count frames from 1.
    """
    if np.isinf(frames).any():
        raise InputError("the picture has infinite values; mark missing pixels as NaN")
    n_frames, n_channels = len(frames), frames.shape[3]
    for f, k in np.argwhere(np.isnan(frames).all((1, 2))):
        where = f" in frame {f + 1}" if n_frames > 1 else ""
        where += f" in channel {k}" if n_channels > 1 else ""
        raise InputError(f"the picture has no known pixel{where}: all values are missing")
    low, high = np.nanmin(frames, (1, 2)), np.nanmax(frames, (1, 2))
    if are_constant(frames).all():
        where = f" in each of {n_frames} frames" if n_frames > 1 else ""
        which = " of frame 1" if n_frames > 1 else ""
        raise InputError(
            f"the picture is constant{where} (all known pixels{which} are {low[0, 0]:g}): there is "
            "nothing to learn from"
        )
    _check_sizes("picture", low, high)


def are_constant(frames: Array) -> Array:
    """Return which of frames (F, R, C, K) hold nothing but one value in each channel, (F,) bool."""
    constant: Array = (np.nanmin(frames, (1, 2)) == np.nanmax(frames, (1, 2))).all(1)
    return constant


def _check_sizes(what: str, low: npt.ArrayLike, high: npt.ArrayLike) -> None:
    """Check the least and greatest values, of each part."""
    low, high = np.asarray(low), np.asarray(high)
    with np.errstate(over="ignore"):
        spread, largest = (high - low).max(), max(-low.min(), high.max())
    if 0 < spread < _TINY or largest > HUGE:
        raise InputError(
            f"the values of the {what} lie within {spread:g} of each other and reach "
            f"{largest:g}: scale them to between {_TINY:g} and {HUGE:g}"
        )


def masked(image: npt.ArrayLike, mask: npt.ArrayLike | None, channel_axis: int | None) -> Array:
    """Return an array of floats with NaN where `mask` is true.

    Raises
    ------
    InputError
        If the mask has another shape than the picture, the picture without its channel axis, or one
        frame without it.
    """
    array = unmasked(image)
    _check_numbers(array, "a picture")
    if mask is None:
        return array
    unknown = np.asarray(mask) != 0
    axis = -1 if channel_axis is None and _looks_coloured(array) else channel_axis
    if axis is not None:
        _check_axis(array, axis)
    pixels = array.shape if axis is None else tuple(np.delete(array.shape, axis))
    if unknown.shape not in (array.shape, pixels, pixels[-2:]):
        raise InputError(
            f"the mask has shape {np.shape(mask)}, the picture {array.shape}: they must be equal, "
            "but for the channels"
        )
    if axis is not None and unknown.shape != array.shape:
        unknown = np.expand_dims(np.broadcast_to(unknown, pixels), axis)
    return _without(array, np.broadcast_to(unknown, array.shape))


def recording_of(y: npt.ArrayLike, sample_rate: float) -> Array:
    """Return a recording as float64 (n, K), NaN where missing.

    Raises
    ------
    InputError
        If it is no recording, or cannot be learned from.
    """
    array = unmasked(y)
    if not isinstance(sample_rate, Real) or not 0 < sample_rate < np.inf:
        raise InputError(f"sample_rate must be above 0 (samples a second), not {sample_rate!r}")
    _check_numbers(array, "a recording")
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
    _check_samples(recording)
    return recording


def _check_samples(recording: Array) -> None:
    if np.isinf(recording).any():
        raise InputError("the recording has infinite values; mark missing samples as NaN")
    lost = np.isnan(recording).all(0)
    if lost.any():
        where = f" of channel {int(lost.argmax())}" if recording.shape[1] > 1 else ""
        raise InputError(f"the recording has no known sample{where}: all of it is missing")
    if (np.nanmax(recording, 0) == np.nanmin(recording, 0)).all():
        raise InputError(
            f"the recording is silent (all known samples are {np.nanmax(recording):g}): there is "
            "nothing to restore"
        )
    _check_sizes("recording", np.nanmin(recording), np.nanmax(recording))


def masked_recording(y: npt.ArrayLike, mask: npt.ArrayLike | None) -> Array:
    """Return a recording (n,) or (n, K) of floats with NaN where a mask, (n,) or of the same shape,
    is true.

    Raises
    ------
    InputError
        If the mask has another shape.
    """
    array = unmasked(y)
    _check_numbers(array, "a recording")
    if mask is None:
        return array
    unknown = np.asarray(mask) != 0
    if unknown.ndim == 1 and array.ndim == 2:
        unknown = unknown[:, None]
    same = unknown.ndim == array.ndim and len(unknown) == len(array)
    if not same or unknown.shape[-1] not in (1, array.shape[-1]):
        raise InputError(
            f"the mask has shape {np.shape(mask)}, the recording {array.shape}: they must be "
            "equal, but for the channels"
        )
    return _without(array, unknown)


def check_table(estimator: Any, X: npt.ArrayLike, reset: bool) -> Array:
    """Return a table (n_samples, n_features) of floats, NaN where missing.

    Parameters
    ----------
    estimator
        The estimator of scikit-learn that gets it.
    X
        The table; what a masked array masks is missing.
    reset
        Whether the estimator shall remember what features it has, or has them already.

    Raises
    ------
    ValueError
        If it is no such table, or has other features.
    InputError
        If nothing is known of a feature that is to be learned.
    """
    from sklearn.utils.validation import validate_data

    if isinstance(X, np.ma.MaskedArray):  # else the names of columns stay
        kind = X.dtype if X.dtype.kind == "f" else np.float64
        X = np.ma.filled(X.astype(kind), np.nan)
    table: Array = validate_data(
        estimator, X, reset=reset, dtype=(np.float64, np.float32), ensure_all_finite="allow-nan"
    )
    if reset and (empty := np.isnan(table).all(0)).any():
        raise InputError(f"feature {int(empty.argmax())} has no value: all of them are missing")
    _check_sizes("table", np.nanmin(table, initial=np.inf), np.nanmax(table, initial=-np.inf))
    return table


def check_patch_size(size: int, shape: tuple[int, ...]) -> None:
    """Raise an `InputError` if a picture (R, C) or (R, C, K) is smaller than a patch."""
    if size > min(shape[:2]):
        raise InputError(
            f"a picture of {shape[0]} x {shape[1]} pixels is smaller than a patch of "
            f"{size} x {size}: give a larger picture or a smaller patch size"
        )


def check_seed(random_state: Any) -> None:
    """Raise an `InputError` if a seed is no whole number."""
    if not isinstance(random_state, Integral):
        raise InputError(f"random_state must be a whole number, not {random_state!r}")


def device_called(name: str) -> torch.device:
    """Return the device called `name`; "auto" takes a GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise InputError(f"no device {name!r}: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device was found: use the device cpu or auto")
    return torch.device(name)


__all__ = [
    "HUGE",
    "are_constant",
    "check_frames",
    "check_patch_size",
    "check_seed",
    "check_sigma",
    "check_table",
    "device_called",
    "frames_of",
    "masked",
    "masked_recording",
    "recording_of",
    "unmasked",
]
