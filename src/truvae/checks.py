"""What is checked of arrays and options before any work: each error says what would be right."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from truvae.errors import InputError

Array = npt.NDArray[Any]


def checked(image: npt.ArrayLike) -> Array:
    """Return the picture as float64, or say what is wrong with it."""
    array = np.asarray(image)
    if array.dtype == object or not np.issubdtype(array.dtype, np.number):
        raise InputError(f"a picture holds integers or floats, not {array.dtype} values")
    if np.iscomplexobj(array):
        raise InputError("a picture holds integers or floats, not complex values")
    if array.ndim != 2:
        raise InputError(
            f"a grey picture has two axes (rows, columns), this array has shape {array.shape}"
        )
    picture = array.astype(np.float64)
    _check_values(picture)
    return picture


def _check_values(picture: Array) -> None:
    if np.isinf(picture).any():
        raise InputError("the picture has infinite values; mark missing pixels as NaN")
    if picture.size == 0 or np.isnan(picture).all():
        raise InputError("the picture has no known pixel: all values are NaN or there are none")
    if np.nanmax(picture) == np.nanmin(picture):
        raise InputError(
            f"the picture is constant (all known pixels are {np.nanmin(picture):g}): "
            "there is nothing to learn from"
        )


def check_patch_size(size: int, shape: tuple[int, ...]) -> None:
    """Raise an `InputError` if a picture of this shape is smaller than a patch."""
    if size > min(shape):
        raise InputError(
            f"a picture of {shape[0]} x {shape[1]} pixels is smaller than a patch of "
            f"{size} x {size}: give a larger picture or a smaller patch size"
        )


def device_called(name: str) -> torch.device:
    """Return the device called `name`; "auto" takes a GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise InputError(f"no device {name!r}: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device was found: use the device cpu or auto")
    return torch.device(name)


__all__ = ["check_patch_size", "checked", "device_called"]
