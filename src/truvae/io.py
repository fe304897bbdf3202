"""Pictures on disk: PNG, JPEG, TIFF and NPY, told apart by their content."""

import os
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from truvae.errors import InputError
from truvae.memory import check_fits

Array = npt.NDArray[Any]

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy")
_MAX_VALUES = 2**31  # more than this in one file is a damaged header or a trap
_NOT_FOR_USERS = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning)
_ACCEPTED = "PNG, JPEG, TIFF and NPY are accepted"
_KINDS = {"PNG": "png", "JPG": "jpeg", "JPEG": "jpeg", "TIF": "tiff", "TIFF": "tiff", "NPY": "npy"}
_FIRST_BYTES = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
    b"\x93NUMPY": "npy",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"RIFF": "WAV or WebP",
    b"\x00\x00\x00\x0cjP": "JPEG 2000",
}


@dataclass(frozen=True)
class Picture:
    """A picture, or a stack of them, as it was read: the file's own values, never stretched.

    >>> stack = Picture(np.zeros((2, 3, 64, 48)))
    >>> stack.n_frames, stack.frames().shape
    (6, (6, 64, 48))
    >>> stack.holding(stack.frames() + 1).data.shape
    (2, 3, 64, 48)
    """

    data: Array
    """(..., rows, columns) or (..., rows, columns, channels), native byte order, without alpha."""
    channels: bool = False
    """Whether the last axis of `data` is colour channels."""
    alpha: Array | None = None
    """(..., rows, columns), kept aside and written back unchanged."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """What `write_picture` carries over: resolution, colour profile, EXIF, axes, description."""
    notes: tuple[str, ...] = ()
    """One line for each conversion made on reading, for people."""

    @property
    def n_frames(self) -> int:
        """How many pictures it holds: 1 for a single picture."""
        return prod(self.data.shape[: self._leading])

    def frames(self) -> Array:
        """Return a view with all leading axes in one, (F, rows, columns[, channels])."""
        return self.data.reshape(self.n_frames, *self.data.shape[self._leading :])

    def holding(self, frames: Array) -> "Picture":
        """Return the same picture with other values, of the shape of `frames()`.

        Raises
        ------
        InputError
            If the shape is another one.
        """
        if frames.shape != self.frames().shape:
            raise InputError(
                f"the frames have shape {frames.shape}: {self.frames().shape} is needed"
            )
        return replace(self, data=frames.reshape(self.data.shape))

    @property
    def _leading(self) -> int:
        return self.data.ndim - (3 if self.channels else 2)


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Read PNG, JPEG, TIFF (ImageJ and OME too) or NPY; the values are never stretched.

    Palettes and CMYK become RGB, and `Picture.notes` says so. Pixels stay as they are stored: the
    EXIF orientation is carried, not applied. In an NPY with three axes or more, a last axis of 3 is
    colour and one of 4 colour and alpha; all other leading axes are frames.

    Raises
    ------
    InputError
        If the file is missing, damaged, too large or of another kind.
    """
    path = Path(path)
    reader = _readers()[_kind(path)]
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            picture = reader(path)
    except InputError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise _damaged(path, error) from error
    _check_data(path, picture.data)
    # Large pictures are fine; those that Pillow takes for a trap were an error above.
    told = [w for w in caught if not issubclass(w.category, _NOT_FOR_USERS)]
    messages = [" ".join(str(warning.message).split()) for warning in told]
    messages = [message for message in messages if not message.startswith("Image size")]
    return replace(picture, notes=(*picture.notes, *dict.fromkeys(messages)))


def read_plane(path: str | os.PathLike[str]) -> Picture:
    """Read one plane for use as a mask, (rows, columns); here an NPY may hold bools.

    A colour file gives bools: true where any colour channel is not zero, whatever its alpha. Bits
    of a TIFF count as they are stored, whatever colour they stand for.

    Raises
    ------
    InputError
        As `read_picture`, and if the file is a stack.
    """
    path = Path(path)
    if _kind(path) == "npy" and map_npy(path).dtype == bool:
        flags = map_npy(path)
        check_size(path, flags.shape, 1)
        picture = Picture(np.array(flags))
    else:
        picture = read_picture(path)
    if picture.data.ndim - picture.channels != 2:
        raise InputError(f"{path} is a stack of {picture.n_frames} frames: give a single picture")
    data, notes = picture.data, picture.notes
    if picture.channels:
        data = np.asarray(data.any(axis=-1))
    if picture.metadata.get("tiff", {}).get("white_bits"):
        data, notes = 255 - data, ("it shows white where its bits are 0: there it counts as zero",)
    if _kind(path) == "jpeg":
        notes += ("a JPEG changes values slightly, and near zero is not zero: better give a PNG",)
    return Picture(data, notes=notes)


def write_picture(path: str | os.PathLike[str], picture: Picture) -> tuple[str, ...]:
    """Write a picture in the format that the extension of `path` names; return notes for people.

    The file appears complete or not at all, and the same picture gives the same bytes. An NPY gets
    the alpha as its last channel; a TIFF gets the orientation, but nothing else of the EXIF data.
    The notes say what else the format could not carry.

    Raises
    ------
    InputError
        If `path` or the picture does not suit (see `check_output`).
    """
    path = Path(path)
    check_output(path, picture)
    with whole_file(path) as file:
        notes = _write(file, _format(path), picture)
    return (*notes, *_losses(_format(path), picture))


def as_written(path: Path, data: Array) -> Array:
    """Return what a picture with these values holds now that it was written: a JPEG other ones."""
    return read_picture(path).data if _format(path) == "jpeg" else data


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file that is written aside and appears at `path` complete, or not at all.

    Where `path` is a link, it appears where that points to; a file that it replaces leaves it its
    permissions.
    """
    place = _place(path)
    handle, temporary = tempfile.mkstemp(dir=place.parent, prefix=".truvae.")
    os.close(handle)
    try:
        with open(temporary, "w+b") as file:
            yield file
        mode = place.stat().st_mode if place.exists() else 0o666 & ~_umask()
        os.chmod(temporary, stat.S_IMODE(mode))
        os.replace(temporary, place)
    except BaseException:
        os.unlink(temporary)
        raise


def check_output(path: str | os.PathLike[str], picture: Picture | None = None) -> None:
    """Check, before the work begins, that `picture` can be written to `path`.

    Raises
    ------
    InputError
        If the extension is unknown, the folder is missing or closed, or the format of `path`
        cannot hold the picture.
    """
    path = Path(path)
    check_place(path)
    if path.suffix.lower() not in EXTENSIONS:
        raise InputError(
            f"cannot tell the format of {path}: its extension must be one of "
            f"{', '.join(EXTENSIONS)}"
        )
    problem = picture and _misfit(_format(path), picture)
    if problem:
        others = f"{path.stem}.npy" if _format(path) == "tiff" else f"{path.stem}.tiff or .npy"
        raise InputError(f"{problem}: write {others}")


def check_place(path: Path) -> None:
    """Check that a file can be written at `path`.

    Raises
    ------
    InputError
        If it is a folder, a device or a pipe, or read-only, or the folder that it lies in is
        missing or closed.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the name of a file in it")
    place = _place(path)
    if not place.parent.is_dir():
        raise InputError(f"the output folder {place.parent} does not exist: create it first")
    if not os.access(place.parent, os.W_OK):
        raise InputError(f"the output folder {place.parent} cannot be written: choose another one")
    if not place.exists():
        return
    mode = place.stat().st_mode
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is no regular file: give another output file")
    if not mode & 0o222:  # os.access would let root write it
        raise InputError(f"{path} is read-only: make it writable, or give another output file")


def check_source(path: Path, what: str) -> None:
    """Check, before it is opened, that `path` is no folder, nor anything else that is no file.

    A pipe or a device can be read but once, and opening it may take for ever.

    Raises
    ------
    InputError
        If it is; `what` was asked for.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: give a {what}")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is no regular file: save what comes from it, and give that file")


def check_apart(target: Path, source: Path, *others: str | None) -> None:
    """Raise an `InputError` if a file would be written in the place of what it is made from."""
    for path in (source, *others):
        if path is not None and target.exists() and Path(path).exists() and target.samefile(path):
            raise InputError(f"{target} is an input: give another output file")


def to_dtype(estimate: Array, dtype: npt.DTypeLike) -> Array:
    """Turn float estimates into `dtype`: integers are rounded and clipped to their range.

    >>> to_dtype(np.array([-3.0, 7.6, 300.0]), np.uint8)
    array([  0,   8, 255], dtype=uint8)
    """
    dtype = np.dtype(dtype)
    if not np.issubdtype(dtype, np.integer):
        return estimate.astype(dtype)
    limits = np.iinfo(dtype)
    estimate = np.asarray(estimate, np.float64)  # the limits of 32 bit are no float32
    # The largest 64-bit integers are no floats: clip to the nearest float below.
    high = np.nextafter(float(limits.max), 0) if dtype.itemsize == 8 else limits.max
    return np.clip(np.rint(estimate), limits.min, high).astype(dtype)


def split_alpha(values: Array, colours: int) -> tuple[Array, Array | None]:
    """Part (..., rows, columns, colours + 1) into values and alpha; one channel loses its axis."""
    if values.shape[-1] == 1:
        return values[..., 0], None
    if values.shape[-1] != colours + 1:
        return values, None
    data = values[..., 0] if colours == 1 else np.ascontiguousarray(values[..., :-1])
    return np.ascontiguousarray(data), np.ascontiguousarray(values[..., -1])


def join_alpha(picture: Picture) -> Array:
    """Return the values with the alpha, if there is one, as the last channel."""
    if picture.alpha is None:
        return picture.data
    data = picture.data if picture.channels else picture.data[..., None]
    return np.concatenate([data, picture.alpha[..., None]], axis=-1)


def check_size(path: Path, shape: tuple[int, ...], itemsize: int) -> None:
    """Refuse, before memory is taken, a file that is no picture or claims to be enormous.

    `itemsize` are the bytes of a value.
    """
    if len(shape) < 2:
        raise InputError(
            f"{path} has shape {shape}: a picture has two axes or more, rows and columns last"
        )
    if prod(shape) == 0:
        raise InputError(f"{path} has shape {shape}: it holds no values")
    if prod(shape) > _MAX_VALUES:
        raise InputError(
            f"{path} has shape {shape}: at most {_MAX_VALUES} values are read, crop or split it"
        )
    check_fits(path, shape, itemsize)


def _readers() -> dict[str, Callable[[Path], Picture]]:
    from truvae import io_raster, io_tiff

    return {
        "png": io_raster.read_png,
        "jpeg": io_raster.read_jpeg,
        "tiff": io_tiff.read_tiff,
        "npy": _read_npy,
    }


def _writers() -> dict[str, Callable[[BinaryIO, Picture], None]]:
    from truvae import io_raster, io_tiff

    return {
        "png": io_raster.write_png,
        "jpeg": io_raster.write_jpeg,
        "tiff": io_tiff.write_tiff,
        "npy": lambda file, picture: np.save(file, join_alpha(picture), allow_pickle=False),
    }


def _write(file: BinaryIO, kind: str, picture: Picture) -> list[str]:
    """Write the picture; without its metadata, and with a note, if they cannot be written."""
    writer = _writers()[kind]
    try:
        writer(file, picture)
    except OSError:
        raise
    except Exception as error:  # a damaged tag must not cost the work of an hour
        if not picture.metadata:
            raise
        file.seek(0)
        file.truncate()
        writer(file, replace(picture, metadata={}))
        return [f"the metadata could not be written and were left out: {error}"]
    return []


def _format(path: Path) -> str:
    return _KINDS[path.suffix[1:].upper()]


def _kind(path: Path) -> str:
    """Return "png", "jpeg", "tiff" or "npy" by the first bytes of the file."""
    check_source(path, "picture")
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if not start:
        raise InputError(f"{path} is empty")
    kind = next((kind for magic, kind in _FIRST_BYTES.items() if start.startswith(magic)), None)
    if kind is None:
        raise InputError(f"{path} is not a picture (it starts with {start!r}): {_ACCEPTED}")
    if kind not in _KINDS.values():
        raise InputError(f"{path} is a {kind} file, which is not supported yet: {_ACCEPTED}")
    return kind


def _damaged(path: Path, error: Exception) -> InputError:
    """Say in one line why a decoder gave up."""
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, MemoryError):
        return InputError(f"{path} is too large for the memory: crop or split it")
    if type(error).__name__ == "DecompressionBombError":
        return InputError(f"{path} is too large: {message.split(',')[0]}; crop or split it")
    return InputError(f"{path} is damaged or cut short: {message}")


def map_npy(path: Path) -> Array:
    """Map an NPY file, which reads no values yet.

    Raises
    ------
    InputError
        If it is damaged, none, or holds Python objects.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except Exception as error:
        if "Python objects" in str(error):
            raise InputError(f"{path} holds Python objects, not integers or floats") from None
        raise _damaged(path, error) from error


def _read_npy(path: Path) -> Picture:
    values = map_npy(path)
    _check_data(path, values)
    check_size(path, values.shape, values.dtype.itemsize)
    values = np.array(values, dtype=values.dtype.newbyteorder("="), order="C")
    if values.ndim < 3 or values.shape[-1] not in (3, 4):
        return Picture(values)
    data, alpha = split_alpha(values, 3)
    names = "red, green, blue" + (" and alpha" if alpha is not None else "")
    note = f"the last axis of {values.shape} was read as {names}"
    return Picture(data, channels=True, alpha=alpha, notes=(note,))


def _check_data(path: Path, data: Array) -> None:
    if data.dtype.kind not in "iuf":
        raise InputError(f"{path} holds {data.dtype} values: a picture holds integers or floats")


def _misfit(kind: str, picture: Picture) -> str | None:
    """Say why a format cannot hold a picture, or return None."""
    data, channels = picture.data, picture.data.shape[-1] if picture.channels else 1
    if picture.alpha is not None and picture.alpha.dtype != data.dtype:
        raise InputError(
            f"the alpha is {picture.alpha.dtype}, the values are {data.dtype}: both must be one"
        )
    if kind == "tiff" and (data.dtype.kind not in "iuf" or data.dtype.itemsize > 8):
        return f"a TIFF holds integers and floats up to 64 bit, not {data.dtype}"
    if kind in ("tiff", "npy"):
        return None
    if kind == "png" and data.dtype not in (np.uint8, np.uint16):
        return f"a PNG holds 8 or 16 bit integers, not {data.dtype}"
    if kind == "jpeg" and data.dtype != np.uint8:
        return f"a JPEG holds 8 bit integers, not {data.dtype}"
    if picture.n_frames != 1:
        return f"a {kind.upper()} holds one picture, not a stack of {picture.n_frames}"
    if channels not in (1, 3):
        return f"a {kind.upper()} holds grey or RGB, not {channels} channels"
    if kind == "jpeg" and max(data.shape) > 65500:
        return f"a JPEG holds at most 65500 rows and columns, not {data.shape}"
    return None


def _losses(kind: str, picture: Picture) -> list[str]:
    """Say what a format does not carry."""
    notes = []
    if kind == "jpeg":
        notes.append("a JPEG is lossy: the values change slightly")
        if picture.alpha is not None:
            notes.append("a JPEG holds no alpha: it was left out")
    if kind == "npy" and picture.alpha is not None:
        notes.append("the alpha was appended as the last channel")
    if kind == "npy" and picture.metadata:
        notes.append("an NPY holds values only: resolution, profile and the like were left out")
    tiff = picture.metadata.get("tiff", {})
    if kind == "png" and picture.alpha is not None and 1 in tiff.get("extrasamples", ()):
        notes.append("the colours are multiplied by the alpha, which a PNG cannot say")
    described = tiff.get("imagej") or (tiff.get("description") and tiff.get("kind") != "shaped")
    if kind in ("png", "jpeg") and described:
        notes.append(f"a {kind.upper()} holds no TIFF description: it was left out")
    return notes


def _place(path: Path) -> Path:
    """Return where a file lies that is written to `path`."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


__all__ = [
    "EXTENSIONS",
    "Picture",
    "check_apart",
    "check_output",
    "check_place",
    "check_source",
    "map_npy",
    "read_picture",
    "read_plane",
    "to_dtype",
    "whole_file",
    "write_picture",
]
