"""PNG and JPEG, through Pillow; PNG in 16-bit colour, which Pillow reads as 8 bit, in full."""

import io
import struct
import zlib
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from truvae.io import Array, Picture, join_alpha, split_alpha
from truvae.memory import MOST_DEFLATED, check_fits, check_stored

_JPEG_OPTIONS = {"quality": 95, "subsampling": 0}
_GREY_ALPHA = 4  # a colour type in the header of a PNG, like 2 (RGB) and 6 (RGB and alpha)
_GREY, _DEEP_COLOUR = 0, (2, _GREY_ALPHA, 6)
_SAMPLES = {2: 3, _GREY_ALPHA: 2, 6: 4}
_MOST_PIXELS = 1024  # from one byte of a JPEG: it takes a bit or more for 64 values of each colour


def read_png(path: Path) -> Picture:
    """Read a PNG of any depth and colour type; 1, 2 and 4 bit become 8 bit."""
    with path.open("rb") as file:
        columns, rows, depth, colour_type = struct.unpack(">IIBB", file.read(26)[16:])
    width = columns * depth * _SAMPLES.get(colour_type, 1) // 8
    check_stored(path, f"{rows} rows of {width} bytes", rows * width, MOST_DEFLATED)
    if depth in (2, 4) and colour_type == _GREY:
        picture = _read(path, "PNG")
        note = f"{depth} bit values were multiplied by {255 // (2**depth - 1)} (uint8)"
        return replace(picture, notes=(*picture.notes, note))
    if depth != 16 or colour_type not in _DEEP_COLOUR:
        return _read(path, "PNG")
    with Image.open(path, formats=["PNG"]) as image:
        _check_memory(path, image, 2)
        metadata, notes = _metadata(image), _left_out(image)
    data, alpha = split_alpha(*_deep_colour(path, colour_type))
    return Picture(data, colour_type != _GREY_ALPHA, alpha, metadata, tuple(notes))


def read_jpeg(path: Path) -> Picture:
    """Read a JPEG in grey, RGB or CMYK; the EXIF orientation is carried, not applied."""
    with Image.open(path, formats=["JPEG"]) as image:
        rows, columns = image.height, image.width
    check_stored(path, f"{rows} x {columns} pixels", rows * columns, _MOST_PIXELS)
    return _read(path, "JPEG")


def write_png(file: BinaryIO, picture: Picture) -> None:
    """Write grey or RGB, with or without alpha, in 8 or 16 bit."""
    values = _single(picture, join_alpha(picture))
    options = _options(picture.metadata)
    if values.dtype == np.uint16 and values.ndim == 3:
        file.write(_deep_png(values, **options))
    else:
        Image.fromarray(values).save(file, format="PNG", **options)


def write_jpeg(file: BinaryIO, picture: Picture) -> None:
    """Write grey or RGB of 8 bit, with little loss and no subsampled colours."""
    image = Image.fromarray(_single(picture, picture.data))
    image.save(file, format="JPEG", **_JPEG_OPTIONS, **_options(picture.metadata))


def resolution_in_dpi(metadata: dict[str, Any]) -> tuple[float, float] | None:
    """Return dots per inch, from a PNG or JPEG or from the tags of a TIFF, or None.

    >>> resolution_in_dpi({"resolution": ((100, 1), (50, 1)), "resolutionunit": 3})
    (254.0, 127.0)
    """
    if "dpi" in metadata:
        x, y = metadata["dpi"]
        return x, y
    factor = {2: 1.0, 3: 2.54}.get(metadata.get("resolutionunit", 1))
    if factor is None or any(0 in ratio for ratio in metadata["resolution"]):
        return None
    x, y = (factor * ratio[0] / ratio[1] for ratio in metadata["resolution"])
    return x, y


def orientation(metadata: dict[str, Any]) -> int:
    """Return the EXIF orientation: 1 for upright."""
    exif = Image.Exif()
    exif.load(metadata.get("exif", b""))
    return int(exif.get(0x0112, 1))


def exif_of_orientation(value: int) -> bytes:
    """Return EXIF data that holds an orientation only.

    >>> orientation({"exif": exif_of_orientation(6)})
    6
    """
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def _read(path: Path, kind: str) -> Picture:
    with Image.open(path, formats=[kind]) as image:
        _check_memory(path, image, 4 if image.mode.startswith("I") else 1)
        metadata, notes = _metadata(image), _left_out(image)
        values, more = _values(image)
    if "CMYK" in "".join(more):
        metadata.pop("icc_profile", None)  # it tells how to print inks, not what RGB means
    if values.ndim == 2:
        return Picture(values, metadata=metadata, notes=(*notes, *more))
    data, alpha = split_alpha(values, 3 if values.shape[-1] > 2 else 1)
    return Picture(data, data.ndim == 3, alpha, metadata, (*notes, *more))


def _check_memory(path: Path, image: Image.Image, itemsize: int) -> None:
    """Refuse, before it is decoded, a picture that does not fit into memory."""
    check_fits(path, (image.height, image.width, len(image.getbands())), itemsize)


def _values(image: Image.Image) -> tuple[Array, list[str]]:
    """Decode; what is neither grey nor RGB becomes so."""
    if image.mode.startswith("I"):
        return np.array(image).astype(np.uint16), []
    if image.mode == "1":
        return np.array(image.convert("L")), ["1 bit values became 0 and 255 (uint8)"]
    if image.mode == "P":
        mode = "RGBA" if "transparency" in image.info else "RGB"
        return np.array(image.convert(mode)), [f"the palette was converted to {mode}"]
    if image.mode == "CMYK":
        note = "CMYK was converted to RGB, without its colour profile"
        return np.array(image.convert("RGB")), [note]
    return np.array(image), []


def _left_out(image: Image.Image) -> list[str]:
    """Say what of the file is not read."""
    notes = []
    if "transparency" in image.info and image.mode != "P":
        notes.append("one colour is marked as transparent: the mark was left out")
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"only the first of its {frames} pictures was read")
    return notes


def _metadata(image: Image.Image) -> dict[str, Any]:
    image.load()  # in a PNG, EXIF data may follow the values
    found = {k: image.info[k] for k in ("icc_profile", "exif") if image.info.get(k)}
    dpi = tuple(float(value) for value in image.info.get("dpi", ()))
    if len(dpi) == 2 and all(isfinite(value) and value > 0 for value in dpi):
        found["dpi"] = dpi
    return found


def _options(metadata: dict[str, Any]) -> dict[str, Any]:
    """Turn metadata into the options of Pillow's `save`."""
    options = {name: metadata[name] for name in ("icc_profile", "exif") if name in metadata}
    dpi = resolution_in_dpi(metadata)
    return options | ({"dpi": dpi} if dpi else {})


def _single(picture: Picture, values: Array) -> Array:
    """Return (rows, columns[, channels]) without axes of length one."""
    rows, columns = picture.frames().shape[1:3]
    values = np.ascontiguousarray(values).reshape(rows, columns, -1)
    return values[..., 0] if values.shape[-1] == 1 else values


def _deep_colour(path: Path, colour_type: int) -> tuple[Array, int]:
    """Read 16-bit colour, (rows, columns, samples), and how many of the samples are colours.

    Pillow keeps one byte of two, but lets us choose which: the first ("16B") or the second ("16L").
    """
    if colour_type == _GREY_ALPHA:  # two samples of two bytes fit into four of one byte
        return _decoded(path, "RGBA").view(">u2").astype(np.uint16), 1
    mode = "RGB" if colour_type == 2 else "RGBA"
    high, low = _decoded(path, f"{mode};16B"), _decoded(path, f"{mode};16L")
    return high.astype(np.uint16) << 8 | low, 3


def _decoded(path: Path, raw_mode: str) -> Array:
    image: Any
    with Image.open(path, formats=["PNG"]) as image:
        image.tile = [(*image.tile[0][:3], raw_mode)]
        return np.array(image)


def _deep_png(
    values: Array,
    icc_profile: bytes | None = None,
    exif: bytes | None = None,
    dpi: tuple[float, float] | None = None,
) -> bytes:
    """Encode (rows, columns, 2, 3 or 4) in 16 bit, which Pillow cannot write."""
    rows, columns, samples = values.shape
    colour_type = {2: _GREY_ALPHA, 3: 2, 4: 6}[samples]
    png = io.BytesIO()
    png.write(b"\x89PNG\r\n\x1a\n")
    png.write(_chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 16, colour_type, 0, 0, 0)))
    if icc_profile:
        png.write(_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(icc_profile)))
    if dpi:
        per_metre = [round(value / 0.0254) for value in dpi]
        png.write(_chunk(b"pHYs", struct.pack(">IIB", *per_metre, 1)))
    if exif:
        png.write(_chunk(b"eXIf", exif.removeprefix(b"Exif\0\0")))
    png.write(_chunk(b"IDAT", zlib.compress(_filtered(values))))
    png.write(_chunk(b"IEND", b""))
    return png.getvalue()


def _filtered(values: Array) -> bytes:
    """Return the rows as big-endian bytes, each as the difference to the row above (filter 2)."""
    rows = np.ascontiguousarray(values, ">u2").reshape(len(values), -1).view(np.uint8)
    difference = np.diff(rows, axis=0, prepend=np.zeros_like(rows[:1]))
    return np.insert(difference, 0, 2, axis=1).tobytes()


def _chunk(name: bytes, content: bytes) -> bytes:
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


__all__ = [
    "exif_of_orientation",
    "orientation",
    "read_jpeg",
    "read_png",
    "resolution_in_dpi",
    "write_jpeg",
    "write_png",
]
