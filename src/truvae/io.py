"""Pictures on disk: grey PNG, TIFF and NPY, told apart by their content."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from truvae.errors import InputError

Array = npt.NDArray[Any]

EXTENSIONS = (".png", ".tif", ".tiff", ".npy")
_ACCEPTED = "PNG, TIFF and NPY are accepted"
_COLOUR = "colour pictures are not supported yet: convert to grey first"
_FIRST_BYTES = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
    b"\x93NUMPY": "npy",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"RIFF": "WAV or WebP",
    b"\x00\x00\x00\x0cjP": "JPEG 2000",
}


@dataclass(frozen=True)
class Picture:
    """A picture as it was read."""

    data: Array
    """(rows, columns), the type of the file's pixels in native byte order."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """What `write_picture` carries over: resolution and colour profile, where the file has them."""


def read_picture(path: str | os.PathLike[str]) -> Picture:
    """Read a grey picture: PNG (8 or 16 bit), TIFF (integers or floats) or NPY (two axes).

    Raises
    ------
    InputError
        If the file is missing, damaged, of another kind, in colour or a stack.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], Picture]] = {
        "png": _read_png,
        "tiff": _read_tiff,
        "npy": _read_npy,
    }
    reader = readers[_kind(path)]
    try:
        picture = reader(path)
    except InputError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise InputError(f"{path} is damaged or cut short: {error}") from error
    _check_data(path, picture.data)
    return picture


def write_picture(
    path: str | os.PathLike[str], data: Array, metadata: dict[str, Any] | None = None
) -> None:
    """Write a grey picture in the format that the extension of `path` names.

    The file appears complete or not at all, and the same data gives the same bytes.

    Raises
    ------
    InputError
        If `path` or the type of the pixels does not suit.
    """
    path = Path(path)
    check_output(path, data)
    writers: dict[str, Callable[[BinaryIO, Array, dict[str, Any]], None]] = {
        ".png": _write_png,
        ".tif": _write_tiff,
        ".tiff": _write_tiff,
        ".npy": lambda file, array, _: np.save(file, array, allow_pickle=False),
    }
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        with open(temporary, "wb") as file:
            writers[path.suffix.lower()](file, data, metadata or {})
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def check_output(path: str | os.PathLike[str], data: Array | None = None) -> None:
    """Check, before the work begins, that `data` can be written to `path`.

    Raises
    ------
    InputError
        If the extension is unknown, the folder is missing or closed, or the type does not suit.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the name of a file in it")
    if path.suffix.lower() not in EXTENSIONS:
        raise InputError(
            f"cannot tell the format of {path}: its extension must be one of "
            f"{', '.join(EXTENSIONS)}"
        )
    if not path.parent.is_dir():
        raise InputError(f"the output folder {path.parent} does not exist: create it first")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"the output folder {path.parent} cannot be written: choose another one")
    if data is not None and path.suffix.lower() == ".png" and data.dtype not in _PNG_TYPES:
        raise InputError(
            f"a PNG holds 8 or 16 bit integers, not {data.dtype}: write {path.stem}.tiff or .npy"
        )


_PNG_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16))


def to_dtype(estimate: Array, dtype: npt.DTypeLike) -> Array:
    """Turn float estimates into `dtype`: integers are rounded and clipped to their range.

    >>> to_dtype(np.array([-3.0, 7.6, 300.0]), np.uint8)
    array([  0,   8, 255], dtype=uint8)
    """
    dtype = np.dtype(dtype)
    if not np.issubdtype(dtype, np.integer):
        return estimate.astype(dtype)
    limits = np.iinfo(dtype)
    # The largest 64-bit integers are no floats: clip to the nearest float below.
    high = np.nextafter(float(limits.max), 0) if dtype.itemsize == 8 else limits.max
    return np.clip(np.rint(estimate), limits.min, high).astype(dtype)


def _kind(path: Path) -> str:
    """Return "png", "tiff" or "npy" by the first bytes of the file."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: give a picture")
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
    if kind not in ("png", "tiff", "npy"):
        raise InputError(f"{path} is a {kind} file, which is not supported yet: {_ACCEPTED}")
    return kind


def _read_png(path: Path) -> Picture:
    from PIL import Image

    with Image.open(path, formats=["PNG"]) as image:
        if image.mode not in ("1", "L", "I", "I;16", "I;16B"):
            raise InputError(f"{path} has mode {image.mode}; {_COLOUR}")
        image.load()
        metadata: dict[str, Any] = {
            name: image.info[name] for name in ("dpi", "icc_profile") if name in image.info
        }
        wide = image.mode.startswith("I")
        data = np.array(image if wide else image.convert("L"))
    return Picture(data.astype(np.uint16 if wide else np.uint8), metadata)


def _write_png(file: BinaryIO, data: Array, metadata: dict[str, Any]) -> None:
    from PIL import Image

    options = {name: metadata[name] for name in ("dpi", "icc_profile") if name in metadata}
    Image.fromarray(np.ascontiguousarray(data)).save(file, format="PNG", **options)


def _read_tiff(path: Path) -> Picture:
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        if page.samplesperpixel > 1 or page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            raise InputError(f"{path} is in colour; {_COLOUR}")
        if len(tiff.pages) > 1:
            raise InputError(
                f"{path} is a stack of {len(tiff.pages)} frames; stacks are not supported yet: "
                "give one frame"
            )
        data = page.asarray()
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            raise InputError(f"{path} is stored with white as 0: convert it to black as 0 first")
        names = ("XResolution", "YResolution", "ResolutionUnit")
        tags = {name: page.tags[name].value for name in names if name in page.tags}
    return Picture(data.astype(data.dtype.newbyteorder("=")), _resolution(tags))


def _resolution(tags: dict[str, Any]) -> dict[str, Any]:
    """Turn TIFF tags into the options of `tifffile.imwrite`."""
    if "XResolution" not in tags or "YResolution" not in tags:
        return {}
    return {
        "resolution": (tags["XResolution"], tags["YResolution"]),
        "resolutionunit": int(tags.get("ResolutionUnit", 2)),
    }


def _write_tiff(file: BinaryIO, data: Array, metadata: dict[str, Any]) -> None:
    import tifffile

    options = {k: metadata[k] for k in ("resolution", "resolutionunit") if k in metadata}
    tifffile.imwrite(file, data, photometric="minisblack", metadata=None, software=False, **options)


def _read_npy(path: Path) -> Picture:
    data = np.load(path, allow_pickle=False)
    return Picture(data.astype(data.dtype.newbyteorder("=")))


def _check_data(path: Path, data: Array) -> None:
    """Check that the array is one grey picture."""
    if data.dtype.kind not in "iuf":
        raise InputError(f"{path} holds {data.dtype} values: a picture holds integers or floats")
    if data.ndim == 3 and data.shape[-1] in (3, 4):
        raise InputError(f"{path} has shape {data.shape}; {_COLOUR}")
    if data.ndim == 3:
        raise InputError(
            f"{path} has shape {data.shape}; stacks are not supported yet: give one frame"
        )
    if data.ndim != 2:
        raise InputError(
            f"{path} has shape {data.shape}: a grey picture has two axes, rows and columns"
        )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


__all__ = [
    "EXTENSIONS",
    "Picture",
    "check_output",
    "read_picture",
    "to_dtype",
    "write_picture",
]
