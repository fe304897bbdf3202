"""TIFF through tifffile: grey, colour, stacks, ImageJ hyperstacks and OME-TIFF."""

import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree

import numpy as np
import tifffile
from PIL import Image, UnidentifiedImageError

from truvae.errors import InputError
from truvae.io import Array, Picture, check_size, join_alpha, split_alpha
from truvae.io_raster import exif_of_orientation, orientation, resolution_in_dpi
from truvae.memory import MOST_DEFLATED, check_stored

_ALPHA = (1, 2)  # associated and unassociated, of the tag ExtraSamples
_TAG_ORIENTATION, _TAG_PROFILE = 274, 34675
_SHORT, _UNDEFINED = 3, 7  # types of a tag
_WHITE_IS_0, _PALETTE, _SEPARATED = 0, 3, 5  # of the tag PhotometricInterpretation
_COUNTS = ("images", "channels", "slices", "frames")  # follow from the shape
_COLOURS = (2, _SEPARATED, 6)  # RGB, CMYK, YCbCr
# Bytes from one at most: uncompressed, LZW (rounded up), JPEG (the same, of 3 samples), deflate
# under both its names, PackBits.
_MOST_BYTES = {1: 1, 5: 4096, 7: 3072, 8: MOST_DEFLATED, 32946: MOST_DEFLATED, 32773: 64}
_MOST_PLANES = 10**6  # of an OME-TIFF


def read_tiff(path: Path) -> Picture:
    """Read the first series of a TIFF; all axes but rows, columns and samples are frames.

    Raises
    ------
    InputError
        If it holds several pictures of different shapes, too many values, colours that are
        neither grey, RGB, CMYK nor a palette, or a compression that cannot be decoded here.
    """
    with _messages() as messages, tifffile.TiffFile(path) as tiff:
        _check_chain(path, tiff)
        _check_planes(path, tiff)
        series = _main_series(path, tiff)
        page = series.keyframe
        check_size(path, series.shape, series.dtype.itemsize)
        _check_parts(path, page)
        _check_claim(path, series)
        stored_values = _decoded(path, series).transpose(_order(series.axes))
        values, notes = _grey_or_rgb(path, page, series.kind, stored_values)
        stored, more = _stored(tiff, series, stored_values, values)
        metadata = _metadata(page) | {"tiff": stored}
    notes = (*notes, *more, *messages[:3])
    if len(series.levels) > 1:
        notes += ("only the full resolution of the pyramid was read",)
    if "S" not in stored["axes"]:
        return Picture(np.ascontiguousarray(values), metadata=metadata, notes=notes)
    data, alpha = split_alpha(values, _colours(page))
    has_channels = data.ndim == values.ndim
    return Picture(np.ascontiguousarray(data), has_channels, alpha, metadata, notes)


def write_tiff(file: BinaryIO, picture: Picture) -> None:
    """Write a TIFF with the axes, description, resolution and profile that the picture carries."""
    if picture.channels and picture.data.shape[-1] == 1:
        picture = replace(picture, data=picture.data[..., 0], channels=False)
    values, stored = join_alpha(picture), picture.metadata.get("tiff", {})
    samples = picture.channels or picture.alpha is not None
    options = _tags(picture.metadata)
    if stored and len(stored["axes"]) == values.ndim and ("S" in stored["axes"]) == samples:
        axes = _samples_last(stored["axes"])
        # The inverse of what reading did.
        values = values.transpose(np.argsort(_order(axes)))
        options |= _description(stored, axes, values)
    else:
        axes = "YXS" if samples else "YX"
        # A description of the shape keeps leading axes apart and those of length one.
        options["metadata"] = {} if values.ndim - len(axes) > 1 or values.shape[0] == 1 else None
    if samples:
        options |= _sample_options(picture, stored, axes)
    elif "colormap" not in options:
        options["photometric"] = "minisblack"
    tifffile.imwrite(file, np.ascontiguousarray(values), software=False, **options)


@contextmanager
def _messages() -> Iterator[list[str]]:
    """Collect what tifffile logs, rather than have it printed."""
    found: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            message = " ".join(record.getMessage().split())
            if message not in found:
                found.append(message)

    logger, handler = logging.getLogger("tifffile"), Collect(logging.WARNING)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield found
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def _check_chain(path: Path, tiff: Any) -> None:
    """Refuse a chain of pages that comes back to one of them: tifffile may follow it for ever."""
    form, file = tiff.tiff, tiff.filehandle
    seen: set[int] = set()
    offset = tiff.pages.first.offset if tiff.pages else 0
    while 0 < offset < file.size:
        if offset in seen:
            raise InputError(f"{path} is damaged: after page {len(seen)} comes an earlier one")
        seen.add(offset)
        try:
            file.seek(offset)
            (n_tags,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
            file.seek(n_tags * form.tagsize, 1)
            (offset,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
        except (struct.error, OSError):  # tifffile tells, or reads what is there
            return


def _check_planes(path: Path, tiff: Any) -> None:
    """Refuse OME metadata that tell of more planes than any file has: tifffile lists them all."""
    if not tiff.is_ome:
        return
    try:
        root = ElementTree.fromstring(tiff.pages.first.description)
    except ElementTree.ParseError:  # tifffile goes on without
        return
    for element in root.iter():
        planes: float = prod(int(element.get(f"Size{axis}", 1)) for axis in "ZCT")
        if element.tag[:-1].endswith("Along"):  # an axis in steps
            start, end, step = (float(element.get(k, 1)) for k in ("Start", "End", "Step"))
            planes = abs((end - start) / step)
        counts = (int(element.get(name, 0)) for name in ("PlaneCount", "NumPlanes"))
        if max(planes, *counts) > _MOST_PLANES:
            raise InputError(
                f"{path} is damaged: its OME metadata tell of more than {_MOST_PLANES} planes"
            )


def _main_series(path: Path, tiff: Any) -> Any:
    """Return the only series that is no thumbnail or mask of another."""
    if not tiff.series:
        raise InputError(f"{path} is damaged or cut short: it holds no picture")
    main = [s for s in tiff.series if not (s.keyframe.is_reduced or s.keyframe.is_mask)]
    if len(main) > 1:
        shapes = ", ".join(str(series.shape) for series in main[:4])
        raise InputError(
            f"{path} holds {len(main)} pictures of different kinds ({shapes}): give them one by one"
        )
    return (main or tiff.series)[0]


def _check_parts(path: Path, page: Any) -> None:
    """Refuse a page that lacks strips or tiles: they would be read as zeros."""
    needed, there = prod(page.chunked), len(page.dataoffsets)
    if there < needed:
        raise InputError(
            f"{path} is damaged or cut short: shape {page.shape} needs {needed} strips or tiles, "
            f"and there are {there}"
        )


def _check_claim(path: Path, series: Any) -> None:
    """Refuse values that cannot come from so few bytes: they would be read as zeros."""
    page, files = series.keyframe, {p.parent for p in series.pages if p is not None}
    stored = sum(file.filehandle.size for file in files)
    most = _MOST_BYTES.get(int(page.compression))
    if most is not None:
        bits = prod(series.shape) * page.bitspersample
        check_stored(path, f"values of shape {series.shape}", bits, 8 * most, stored)


def _order(axes: str) -> list[int]:
    """Return where the frames, then rows, columns and samples stand in `axes`.

    >>> _order("TSYX"), _order("YXZ"), _order("QQ")
    ([0, 2, 3, 1], [2, 0, 1], [0, 1])
    """
    places = list(range(len(axes)))
    last = [axes.index(axis) for axis in "YXS" if axis in axes]
    if "Y" not in axes or "X" not in axes:  # named by somebody: then the last two
        last = [place for place in places if axes[place] != "S"][-2:] + last[-1:] * ("S" in axes)
    return [place for place in places if place not in last] + last


def _samples_last(axes: str) -> str:
    """Return the axes as they can be written: samples last, or just before rows and columns."""
    return axes.replace("S", "") + "S" if "S" in axes and not axes.endswith("SYX") else axes


def _decoded(path: Path, series: Any) -> Array:
    """Return the values in native byte order."""
    try:
        values = series.asarray()
    except (ValueError, NotImplementedError, ImportError) as error:
        # An ImportError comes from Python's own zstd, before 3.14.
        if not isinstance(error, ImportError) and "imagecodecs" not in str(error):
            raise
        values = _decoded_by_pillow(path, series)
        if values is None:
            raise InputError(
                f"{path} {_storage(series.keyframe)}: pip install imagecodecs, or save it "
                "uncompressed, each value in whole bytes"
            ) from None
    return np.asarray(values, dtype=values.dtype.newbyteorder("="))


def _storage(page: Any) -> str:
    """Say what makes a page hard to decode."""
    if page.compression == 1:
        return f"holds values of {page.bitspersample} bit"
    return f"is compressed ({getattr(page.compression, 'name', page.compression)})"


def _decoded_by_pillow(path: Path, series: Any) -> Array | None:
    """Decode with Pillow, if that gives what the tags say: it knows LZW but not all types."""
    page = series.keyframe
    if not _right_in_pillow(page):
        return None
    frames = []
    try:
        with Image.open(path, formats=["TIFF"]) as image:
            for frame in series.pages:
                image.seek(frame.index)
                frames.append(np.array(image))
    except UnidentifiedImageError:
        return None
    except OSError as error:
        raise InputError(
            f"{path} {_storage(page)} and is damaged, or only imagecodecs reads it: {error}"
        ) from None
    if any(f.shape != page.shape or f.dtype.newbyteorder("=") != page.dtype for f in frames):
        return None
    return np.stack(frames).reshape(series.shape)


def _right_in_pillow(page: Any) -> bool:
    """Whether Pillow, if it opens a page at all, gives the values that are stored."""
    inverted, divided_by_alpha = page.photometric == _WHITE_IS_0, 1 in page.extrasamples
    stretched = page.bitspersample in (2, 4) and page.photometric != _PALETTE
    # Pillow swaps the bytes of these twice, and libtiff does not undo every float predictor.
    scrambled = page.dtype.itemsize > 2 and (page.parent.byteorder == ">" or page.predictor == 3)
    return not (inverted or divided_by_alpha or stretched or scrambled)


def _grey_or_rgb(path: Path, page: Any, kind: str, values: Array) -> tuple[Array, tuple[str, ...]]:
    """Convert (..., rows, columns[, samples]) if it is neither grey nor RGB."""
    name = getattr(page.photometric, "name", str(page.photometric))
    inks = name == "SEPARATED" and page.samplesperpixel in (4, 5) and values.dtype.kind == "u"
    if name in ("MINISBLACK", "RGB") or (name == "YCBCR" and page.compression == 7):
        return _bytes_of_bits(values)
    if name == "MINISWHITE" and page.samplesperpixel == 1 and values.dtype.kind in "ub":
        full = values.dtype.type(2**page.bitspersample - 1)
        grey, notes = _bytes_of_bits(full ^ values)
        return grey, (*notes, "white was stored as 0: the values were inverted")
    if name == "PALETTE" and page.samplesperpixel == 1:
        # ImageJ and OME have a palette to display intensities with; it is carried.
        if kind in ("ome", "imagej"):
            return values, ()
        colours = np.take(_palette(page.colormap), values, axis=0)
        return colours, ("the palette was converted to RGB",)
    if inks:
        note = "CMYK was converted to RGB, without its colour profile"
        return _rgb_of_cmyk(values), (note,)
    raise InputError(
        f"{path} stores its colours as {name} with {page.samplesperpixel} samples of "
        f"{values.dtype}: convert it to grey or RGB first"
    )


def _bytes_of_bits(values: Array) -> tuple[Array, tuple[str, ...]]:
    if values.dtype != bool:
        return values, ()
    return values.astype(np.uint8) * 255, ("1 bit values became 0 and 255 (uint8)",)


def _palette(colormap: Array) -> Array:
    """Return a palette as 8 bit, (entries, 3); some writers fill 8 of its 16 bits."""
    return (colormap >> 8 if colormap.max() > 255 else colormap).T.astype(np.uint8)


def _rgb_of_cmyk(values: Array) -> Array:
    """Turn inks into light, (..., 4 or 5) into (..., 3 or 4); what follows the inks is alpha.

    >>> _rgb_of_cmyk(np.array([0, 255, 0, 0], np.uint8))
    array([255,   0, 255], dtype=uint8)
    """
    limit = np.iinfo(values.dtype).max
    light = (limit - values[..., :4]) / limit
    rgb = np.rint(light[..., :3] * light[..., 3:] * limit).astype(values.dtype)
    return np.concatenate([rgb, values[..., 4:]], axis=-1)


def _colours(page: Any) -> int:
    """Return after how many samples an alpha follows; grey has one only if the tags say so."""
    if page.photometric in _COLOURS:
        return 3
    return 1 if page.extrasamples and page.extrasamples[0] in _ALPHA else 0


def _metadata(page: Any) -> dict[str, Any]:
    """Return what other formats know too: resolution, colour profile and orientation."""
    names = ("XResolution", "YResolution", "ResolutionUnit")
    metadata = _resolution({name: page.tags[name].value for name in names if name in page.tags})
    if _TAG_PROFILE in page.tags and page.photometric != _SEPARATED:  # one of inks suits no RGB
        metadata["icc_profile"] = bytes(page.tags[_TAG_PROFILE].value)
    if _TAG_ORIENTATION in page.tags and int(page.tags[_TAG_ORIENTATION].value) != 1:
        metadata["exif"] = exif_of_orientation(int(page.tags[_TAG_ORIENTATION].value))
    return metadata


def _stored(
    tiff: Any, series: Any, before: Array, after: Array
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what only a TIFF carries over, and a note on what is left out.

    The values `before` became those `after` when colours were converted.
    """
    page, kind = series.keyframe, series.kind
    to_rgb = page.photometric == _PALETTE and before.shape != after.shape
    same_form = before.shape == after.shape and before.dtype == after.dtype
    stored = {
        "kind": kind,
        "dtype": after.dtype,
        "axes": series.axes + "S" * to_rgb,
        "rgb": to_rgb or page.photometric in _COLOURS,
        "extrasamples": [int(sample) for sample in page.extrasamples],
        "white_bits": page.photometric == _WHITE_IS_0 and before.dtype == bool,  # that are 0
    }
    if page.photometric == _PALETTE and not to_rgb:
        stored["colormap"] = page.colormap
    if kind == "imagej" and _suits_imagej(series.axes.replace("I", "Z"), series.dtype):
        stored["imagej"] = {
            _escaped(key): _escaped(value) if isinstance(value, str) and key != "Info" else value
            for key, value in tiff.imagej_metadata.items()
            if key.lower() not in _COUNTS
        }
    elif _keeps_description(tiff, series, same_form):
        stored["description"] = page.description.encode(errors="replace")
    elif kind != "shaped":  # whose description is written anew
        return stored, (f"the {kind} description was left out: it cannot be written as it was",)
    return stored, ()


def _escaped(text: str) -> str:
    r"""Write a line of an ImageJ description, which is ASCII, as ImageJ itself does.

    >>> print(_escaped("µm"))
    \u00B5m
    """
    return "".join(c if c.isascii() else f"\\u{ord(c):04X}" for c in text)


def _keeps_description(tiff: Any, series: Any, same_form: bool) -> bool:
    """Whether the description stays true of what is written."""
    if series.kind == "ome":
        return same_form and _in_order(tiff, series)
    if series.kind == "shaped":  # by tifffile: it says the shape
        return same_form
    return series.kind in ("generic", "uniform") and not tiff.is_shaped


def _in_order(tiff: Any, series: Any) -> bool:
    """Whether the frames stand in this file, one after the other."""
    pages = list(series.pages)
    return all(page is not None and page.parent is tiff for page in pages) and [
        page.index for page in pages
    ] == list(range(len(pages)))


def _resolution(tags: dict[str, Any]) -> dict[str, Any]:
    """Turn TIFF tags into the options of `tifffile.imwrite`; none if they make no sense."""
    ratios = (tags.get("XResolution"), tags.get("YResolution"))
    unit = int(tags.get("ResolutionUnit", 2))
    sound = all(isinstance(r, tuple) and len(r) == 2 and r[1] != 0 for r in ratios)
    return {"resolution": ratios, "resolutionunit": unit} if sound and unit in (1, 2, 3) else {}


def _tags(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the options of `tifffile.imwrite` for what every format knows."""
    options: dict[str, Any] = {
        k: metadata[k] for k in ("resolution", "resolutionunit") if k in metadata
    }
    dpi = None if options else resolution_in_dpi(metadata)
    if dpi:
        options = {"resolution": dpi, "resolutionunit": 2}
    extra = []
    if orientation(metadata) != 1:
        extra.append((_TAG_ORIENTATION, _SHORT, 1, orientation(metadata), True))
    if "icc_profile" in metadata:
        profile = metadata["icc_profile"]
        extra.append((_TAG_PROFILE, _UNDEFINED, len(profile), profile, True))
    return options | {"extratags": extra}


def _description(stored: dict[str, Any], axes: str, values: Array) -> dict[str, Any]:
    """Return the options that describe the axes, as the file that was read did."""
    options: dict[str, Any] = {}
    same_type = values.dtype == stored["dtype"]
    if "colormap" in stored and same_type:
        options = {"colormap": stored["colormap"], "photometric": "palette"}
    axes = axes.replace("I", "Z") if "imagej" in stored else axes
    fits_4_gib = values.nbytes < 2**32 - 2**25  # ImageJ has no larger files
    if "imagej" in stored and fits_4_gib and _suits_imagej(axes, values.dtype):
        return options | {"imagej": True, "metadata": stored["imagej"] | {"axes": axes}}
    if "description" in stored and (same_type or stored["kind"] != "ome"):
        return options | {"metadata": None, "description": stored["description"] or None}
    return options | {"metadata": {"axes": axes}}


def _suits_imagej(axes: str, dtype: np.dtype[Any]) -> bool:
    """Whether ImageJ has these axes and this type."""
    ordered = "".join(axis for axis in "TZCYXS" if axis in axes) == axes
    return ordered and dtype.char in ("B" if "S" in axes else "BHhf")


def _sample_options(picture: Picture, stored: dict[str, Any], axes: str) -> dict[str, Any]:
    """Return the options that say what each of the samples means."""
    samples = (picture.data.shape[-1] if picture.channels else 1) + (picture.alpha is not None)
    rgb = stored.get("rgb", picture.channels and picture.data.shape[-1] == 3)
    n_extra = samples - (3 if rgb else 1)
    extra = stored.get("extrasamples", [])
    if len(extra) != n_extra:
        extra = [2 if picture.alpha is not None else 0] * n_extra
    return {
        "photometric": "rgb" if rgb else "minisblack",
        "planarconfig": "separate" if axes.endswith("SYX") else "contig",
        "extrasamples": extra or None,
    }


__all__ = ["read_tiff", "write_tiff"]
