"""Readers of pictures, masks and tables on damaged files: an error in one line, or values."""

import io
import sys

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from truvae.errors import InputError
from truvae.io import Picture, read_picture, read_plane
from truvae.tables import read_table

# Most MiB of memory that all the readings of a test may take beyond what was taken before.
_LIMIT = 300
_FUZZED = settings(
    max_examples=60, derandomize=True, database=None, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


def encoded(writer, *arguments, **options):
    buffer = io.BytesIO()
    writer(buffer, *arguments, **options)
    return buffer.getvalue()


def as_image(values, kind, **options):
    return encoded(Image.fromarray(values).save, format=kind, **options)


def valid_files():
    """Return the contents of small valid files by names with their extensions."""
    grey = (np.arange(12 * 9) % 251).astype(np.uint8).reshape(12, 9)
    colour, deep = np.stack([grey] * 3, -1), grey.astype(np.uint16) * 200
    files = {
        "grey.png": as_image(grey, "PNG"),
        "colour.png": as_image(colour, "PNG", dpi=(72, 72)),
        "deep.png": as_image(deep, "PNG"),
        "palette.png": encoded(Image.fromarray(colour).convert("P").save, format="PNG"),
        "grey.jpg": as_image(grey, "JPEG"),
        "colour.jpg": as_image(colour, "JPEG", exif=Image.Exif().tobytes()),
        "plain.tif": encoded(tifffile.imwrite, deep),
        "pages.tif": encoded(tifffile.imwrite, np.stack([deep] * 3), photometric="minisblack"),
        "imagej.tif": encoded(tifffile.imwrite, np.stack([deep] * 2), imagej=True),
        "ome.tif": encoded(tifffile.imwrite, np.stack([grey] * 2), ome=True,
                           photometric="minisblack"),
        "packed.tif": encoded(tifffile.imwrite, colour, compression="zlib", photometric="rgb"),
        "floats.npy": encoded(np.save, grey / 3),
        "flags.npy": encoded(np.save, grey > 9),
        "table.csv": b"a,b,c\n1,2.5,\n-3e7,NA,0\n",
        "table.tsv": b"1\t2\n3\t4\n",
    }  # fmt: skip
    return files | hdf5_files(grey)


def hdf5_files(values):
    try:
        import h5py
    except ImportError:
        return {}
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file["x"] = values
    return {"table.h5": buffer.getvalue()}


FILES = valid_files()
PICTURES = [name for name in FILES if not name.startswith("table")]
TABLES = [name for name in FILES if name.startswith("table") or name.endswith("npy")]


def mutated(content):
    """Draw changes to a valid file: bytes set, stretches cut out, doubled or replaced."""
    place = st.integers(0, len(content) - 1)
    few = st.binary(max_size=8)
    change = st.tuples(place, st.integers(0, 8), few)
    return st.lists(change, min_size=1, max_size=6).map(lambda changes: changed(content, changes))


def changed(content, changes):
    for place, length, new in changes:
        content = content[:place] + new + content[place + length :]
    return content


def read(reader, path, content):
    """Read a file; any other error than those that are told in one line fails the test."""
    path.write_bytes(content)
    try:
        values = reader(path)
    except (InputError, OSError) as error:
        assert "\n" not in str(error)
    else:
        assert (values.data if isinstance(values, Picture) else values).size > 0


@pytest.fixture(autouse=True)
def little_memory():
    """Fail a test that takes much memory."""
    resource = pytest.importorskip("resource")  # there is none on Windows
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit

    before = peak()
    yield
    assert peak() - before < _LIMIT


def read_table_at(path):
    return read_table(str(path))


@pytest.mark.parametrize("reader", [read_picture, read_plane, read_table_at])
def test_valid_files_are_read(tmp_path, reader):
    for name in TABLES if reader is read_table_at else PICTURES:
        path = tmp_path / name
        path.write_bytes(FILES[name])
        if reader is read_plane and name in ("pages.tif", "imagej.tif", "ome.tif"):
            with pytest.raises(InputError, match="stack of"):
                reader(path)
        elif reader is not read_plane and name == "flags.npy" and reader is read_picture:
            with pytest.raises(InputError, match="bool"):
                reader(path)
        else:
            reader(path)


@pytest.mark.parametrize("name", PICTURES)
def test_damaged_pictures_and_masks(tmp_path, name):
    @_FUZZED
    @given(mutated(FILES[name]))
    def check(content):
        read(read_picture, tmp_path / name, content)
        read(read_plane, tmp_path / name, content)

    check()


@pytest.mark.parametrize("name", TABLES)
def test_damaged_tables(tmp_path, name):
    @_FUZZED
    @given(mutated(FILES[name]))
    def check(content):
        read(read_table_at, tmp_path / name, content)

    check()


MAGIC = sorted(
    {content[:8] for content in FILES.values()} | {b"", b"PK\x03\x04", b"II*\0", b"MM\0+"}
)


def test_a_tiff_that_lacks_strips_is_not_read_as_zeros(tmp_path):
    path = tmp_path / "packed.tif"
    path.write_bytes(FILES[path.name])
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags["ImageLength"].overwrite(8_000_000)
    with pytest.raises(InputError, match="needs 666667 strips or tiles, and there are 1"):
        read_picture(path)


@_FUZZED
@given(st.sampled_from(MAGIC), st.binary(max_size=200))
@example(b"PK\x03\x04", b"")
@example(b"", b"1,\0,2")
@example(b"", b"1" * 200_000)
def test_anything_else(tmp_path, magic, rest):
    for name in ("a.png", "a.npy", "a.csv", "a.h5"):
        content = magic + rest
        read(read_picture, tmp_path / name, content)
        read(read_table_at, tmp_path / name, content)
