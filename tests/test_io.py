"""Files: what is written comes back, and bad files are told in one line."""

import io
import os
import re
import struct
import warnings
import zlib
from importlib.util import find_spec

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from truvae import InputError, memory
from truvae.io import Picture, check_output, read_picture, read_plane, to_dtype, write_picture
from truvae.io_audio import is_sound, read_sound
from truvae.tables import read_table

shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))
INTEGERS = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64]
FLOATS = [np.float16, np.float32, np.float64]
FORMATS = {"png": [np.uint8, np.uint16], "tiff": INTEGERS + FLOATS, "npy": INTEGERS + FLOATS}


def random(shape, dtype=np.uint8, seed=0):
    """Return values over the whole range of an integer type, or normal ones."""
    generator = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return generator.normal(size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    return generator.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def same(found, expected):
    """Check values, type, shape and byte order."""
    assert found.dtype == expected.dtype and found.dtype.isnative
    np.testing.assert_array_equal(found, expected)


def copied(path, target):
    """Read a file, write the same again, and return what was read."""
    picture = read_picture(path)
    write_picture(target, picture)
    return picture


# --- What we write, we read -----------------------------------------------------------------


@st.composite
def pictures(draw, kind):
    dtype = draw(st.sampled_from(FORMATS[kind]))
    leading = () if kind == "png" else draw(st.lists(st.integers(1, 3), max_size=2).map(tuple))
    # In an NPY, only the last axis can say what is colour.
    shape = (*leading, draw(st.integers(1, 7)), draw(st.integers(5, 9)))
    channels = draw(st.sampled_from([0, 3, 2, 5] if kind == "tiff" else [0, 3]))
    # Beside other numbers of channels than three, a fourth of the kind is no alpha.
    with_alpha = channels in (0, 3) and (kind != "npy" or channels) and draw(st.booleans())
    data = draw(arrays(dtype, (*shape, channels) if channels else shape))
    alpha = draw(arrays(dtype, shape)) if with_alpha else None
    return Picture(data, bool(channels), alpha)


@pytest.mark.parametrize("kind", FORMATS)
@settings(max_examples=150)
@given(data=st.data())
def test_what_is_written_is_read(tmp_path_factory, kind, data):
    picture = data.draw(pictures(kind))
    path = tmp_path_factory.mktemp("io") / f"a.{kind}"
    write_picture(path, picture)
    found = read_picture(path)
    same(found.data, picture.data)
    assert found.channels == picture.channels
    assert (found.alpha is None) == (picture.alpha is None)
    if picture.alpha is not None:
        same(found.alpha, picture.alpha)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    write_picture(path.parent / f"b.{kind}", found)
    again = read_picture(path.parent / f"b.{kind}")
    same(again.data, picture.data)
    assert again.channels == picture.channels


def test_frames_are_a_view_and_come_back():
    picture = Picture(np.arange(2 * 3 * 4 * 5 * 3.0).reshape(2, 3, 4, 5, 3), channels=True)
    frames = picture.frames()
    assert frames.shape == (6, 4, 5, 3) and picture.n_frames == 6
    assert np.shares_memory(frames, picture.data)
    same(picture.holding(frames + 1).data, picture.data + 1)
    assert Picture(np.zeros((4, 5))).frames().shape == (1, 4, 5)
    with pytest.raises(InputError, match=re.escape("(6, 4, 5, 3) is needed")):
        picture.holding(frames[1:])


def test_content_decides_on_reading_and_extension_on_writing(tmp_path):
    picture = Picture(np.arange(12, dtype=np.uint8).reshape(3, 4))
    write_picture(tmp_path / "a.png", picture)
    (tmp_path / "a.png").rename(tmp_path / "a.tiff")
    same(read_picture(tmp_path / "a.tiff").data, picture.data)
    for name, start in (("b.TIF", b"II"), ("b.JPG", b"\xff\xd8"), ("b.jpeg", b"\xff\xd8")):
        write_picture(tmp_path / name, picture)
        assert (tmp_path / name).read_bytes()[:2] == start


@pytest.mark.parametrize("extension", ["png", "tif", "npy", "jpg"])
def test_same_data_same_bytes(tmp_path, extension):
    picture = Picture(random((10, 20, 3)), channels=True)
    for name in ("a", "b"):
        write_picture(tmp_path / f"{name}.{extension}", picture)
    first, second = ((tmp_path / f"{name}.{extension}").read_bytes() for name in ("a", "b"))
    assert first == second


def test_failing_to_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    write_picture(path, Picture(np.zeros((2, 2))))
    before = path.read_bytes()

    def fail(file, array, **_):
        file.write(b"half of a file")
        raise OSError("disk full")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_picture(path, Picture(np.ones((2, 2))))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]


on_posix = pytest.mark.skipif(os.name != "posix", reason="permissions, links and pipes of POSIX")


@on_posix
def test_a_link_stays_and_what_it_points_to_is_written(tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "a.npy", tmp_path / "link.npy"
    link.symlink_to(target)
    for value in (0, 1):
        write_picture(link, Picture(np.full((2, 2), value)))
        assert link.is_symlink() and (read_picture(target).data == value).all()
    assert len([*tmp_path.rglob("*")]) == 3


@on_posix
def test_permissions_stay_and_read_only_files_too(tmp_path):
    path = tmp_path / "a.npy"
    write_picture(path, Picture(np.zeros((2, 2))))
    path.chmod(0o620)
    write_picture(path, Picture(np.ones((2, 2))))
    assert path.stat().st_mode & 0o777 == 0o620
    path.chmod(0o444)
    with pytest.raises(InputError, match="is read-only: make it writable"):
        check_output(path)


@on_posix
def test_pipes_and_devices_are_neither_read_nor_replaced(tmp_path):
    pipe, link = tmp_path / "pipe.png", tmp_path / "link.png"
    os.mkfifo(pipe)
    link.symlink_to(os.devnull)
    for path in (pipe, link):
        assert not is_sound(path)
        for read in (read_picture, read_plane, read_sound, lambda path: read_table(str(path))):
            with pytest.raises(InputError, match="is no regular file: save what comes from it"):
                read(path)
        with pytest.raises(InputError, match="is no regular file: give another output"):
            check_output(path)


# --- PNG ------------------------------------------------------------------------------------


def png_filter(kind, row, above, size):
    """Filter one row of bytes as the PNG specification has it, byte by byte."""
    left = bytes(size) + row[:-size]
    corner = bytes(size) + above[:-size]

    def paeth(a, b, c):
        distances = [abs(b - c), abs(a - c), abs(a + b - 2 * c)]
        return (a, b, c)[distances.index(min(distances))]

    guess = {
        0: lambda a, b, c: 0,
        1: lambda a, b, c: a,
        2: lambda a, b, c: b,
        3: lambda a, b, c: (a + b) // 2,
        4: paeth,
    }[kind]
    parts = zip(row, left, above, corner, strict=True)
    return bytes([kind]) + bytes((x - guess(a, b, c)) % 256 for x, a, b, c in parts)


def png_rows(values):
    """Filter 16-bit samples (rows, columns, samples), the rows with the five filters in turn."""
    size = 2 * values.shape[2]
    rows = [row.astype(">u2").tobytes() for row in values]
    above = [bytes(len(rows[0])), *rows]
    return b"".join(png_filter(i % 5, row, above[i], size) for i, row in enumerate(rows))


def png_chunk(name, content):
    check = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + check


def make_png(values, interlaced=False):
    """Encode 16-bit colour on its own terms: neither Pillow nor our writer."""
    rows, columns, samples = values.shape
    header = (columns, rows, 16, {2: 4, 3: 2, 4: 6}[samples], 0, 0, int(interlaced))
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
    parts = [values[y::dy, x::dx] for y, x, dy, dx in [*passes, (1, 0, 2, 1)]]
    content = b"".join(map(png_rows, parts)) if interlaced else png_rows(values)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", *header)), (b"IDAT", zlib.compress(content))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*c) for c in [*chunks, (b"IEND", b"")])


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("samples", [2, 3, 4])
def test_16_bit_colour_png_is_read_in_full(tmp_path, samples, interlaced):
    values = random((17, 19, samples), np.uint16)
    (tmp_path / "a.png").write_bytes(make_png(values, interlaced))
    picture = read_picture(tmp_path / "a.png")
    same(picture.data, values[..., 0] if samples == 2 else values[..., :3])
    if samples != 3:
        same(picture.alpha, values[..., -1])
    assert picture.channels == (samples != 2)


def test_16_bit_colour_png_is_read_by_others(tmp_path):
    values = random((9, 8, 4), np.uint16)
    write_picture(tmp_path / "a.png", Picture(values[..., :3], True, values[..., 3]))
    with Image.open(tmp_path / "a.png") as image:  # Pillow keeps the upper byte
        np.testing.assert_array_equal(np.array(image), values >> 8)
    # And the bytes are what the specification says: all filtered by the row above.
    content = (tmp_path / "a.png").read_bytes()
    start = content.index(b"IDAT")
    (length,) = struct.unpack(">I", content[start - 4 : start])
    rows = np.frombuffer(zlib.decompress(content[start + 4 : start + 4 + length]), np.uint8)
    rows = rows.reshape(9, 1 + 8 * 4 * 2)
    assert (rows[:, 0] == 2).all()
    decoded = np.cumsum(rows[:, 1:], axis=0, dtype=np.uint8).view(">u2").reshape(9, 8, 4)
    np.testing.assert_array_equal(decoded, values)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "I;16"])
def test_png_modes(tmp_path, mode):
    values = random((6, 7, 4))
    if mode == "I;16":
        image = Image.fromarray(random((6, 7), np.uint16))
    else:
        image = Image.fromarray(values).convert(mode)
    image.save(tmp_path / "a.png")
    expected = np.array(image)
    picture = copied(tmp_path / "a.png", tmp_path / "b.png")
    alpha = mode.endswith("A")
    assert picture.channels == mode.startswith("RGB") and (picture.alpha is not None) == alpha
    if mode == "1":
        same(picture.data, expected.astype(np.uint8) * 255)
        assert picture.notes == ("1 bit values became 0 and 255 (uint8)",)
        return
    colours = {"LA": 0, "RGBA": slice(3)}.get(mode, slice(None))
    same(picture.data, expected[..., colours] if alpha else expected)
    assert picture.notes == ()
    with Image.open(tmp_path / "a.png") as before, Image.open(tmp_path / "b.png") as image:
        assert image.mode == before.mode
        np.testing.assert_array_equal(np.array(image), expected)


@pytest.mark.parametrize("transparent", [False, True])
def test_palette_png_becomes_rgb(tmp_path, transparent):
    indices = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0, 9, 8, 7])
    options = {"transparency": bytes([0, 128, 255])} if transparent else {}
    image.save(tmp_path / "a.png", **options)
    picture = read_picture(tmp_path / "a.png")
    colours = np.array([[255, 0, 0], [0, 255, 0], [9, 8, 7]], np.uint8)
    same(picture.data, colours[indices])
    assert picture.channels and "palette was converted to RGB" in picture.notes[0]
    if transparent:
        same(picture.alpha, np.array([0, 128, 255], np.uint8)[indices])


@pytest.mark.parametrize(("depth", "factor"), [(2, 85), (4, 17)])
def test_grey_png_of_few_bits_says_that_it_became_8_bit(tmp_path, depth, factor):
    values = random((6, 8)) >> (8 - depth)
    bits = np.unpackbits(values[..., None], axis=-1)[..., 8 - depth :].reshape(6, -1)
    content = zlib.compress(np.insert(np.packbits(bits, axis=1), 0, 0, axis=1).tobytes())
    header = struct.pack(">IIBBBBB", 8, 6, depth, 0, 0, 0, 0)
    chunks = [png_chunk(b"IHDR", header), png_chunk(b"IDAT", content), png_chunk(b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    picture = read_picture(tmp_path / "a.png")
    same(picture.data, values * np.uint8(factor))
    assert picture.notes == (f"{depth} bit values were multiplied by {factor} (uint8)",)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_exif_after_the_values_of_a_png_is_carried(tmp_path, dtype):
    exif = Image.Exif()
    exif[0x0112] = 6
    write_picture(tmp_path / "a.png", Picture(random((5, 6, 3), dtype), True))
    content = (tmp_path / "a.png").read_bytes()
    chunk = png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "b.png").write_bytes(content[:-12] + chunk + content[-12:])
    copied(tmp_path / "b.png", tmp_path / "c.png")
    with Image.open(tmp_path / "c.png") as image:
        image.load()
        assert image.getexif()[0x0112] == 6


def test_what_a_png_loses_is_noted(tmp_path):
    frames = [Image.fromarray(random((4, 4), seed=i)) for i in range(2)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    assert read_picture(tmp_path / "a.png").notes == ("only the first of its 2 pictures was read",)
    frames[0].save(tmp_path / "b.png", transparency=7)
    assert "marked as transparent" in read_picture(tmp_path / "b.png").notes[0]


# --- JPEG -----------------------------------------------------------------------------------


def smooth():
    grid = np.mgrid[:32, :48].sum(0)
    return np.stack([grid * (3 - i) + 9 * i for i in range(3)], -1).astype(np.uint8)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg(tmp_path, mode):
    values = smooth() if mode == "RGB" else smooth()[..., 0]
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(values)
    image.save(tmp_path / "a.jpg", exif=exif, dpi=(72, 72), icc_profile=b"x" * 99, quality=100)
    picture = copied(tmp_path / "a.jpg", tmp_path / "b.jpg")
    with Image.open(tmp_path / "a.jpg") as image:  # not turned, whatever the tag says
        same(picture.data, np.array(image))
    assert picture.channels == (mode == "RGB") and picture.notes == ()
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.getexif()[0x0112] == 6 and image.info["icc_profile"] == b"x" * 99
        assert image.info["dpi"] == (72, 72)
        assert np.abs(np.array(image).astype(int) - values).max() <= 8
        if mode == "RGB":
            assert {layer[1:3] for layer in image.layer} == {(1, 1)}  # 4:4:4
    for name in ("c.png", "c.tif"):  # the orientation stays true there too
        write_picture(tmp_path / name, picture)
        with Image.open(tmp_path / name) as image:
            assert image.getexif()[0x0112] == 6


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    with Image.fromarray(smooth()).convert("CMYK") as image:
        image.save(tmp_path / "a.jpg", quality=100, subsampling=0, icc_profile=b"x" * 99)
    picture = read_picture(tmp_path / "a.jpg")
    assert picture.channels and picture.metadata == {}
    assert picture.notes == ("CMYK was converted to RGB, without its colour profile",)
    assert np.abs(picture.data.astype(int) - smooth()).max() <= 8


def test_jpeg_says_what_it_loses(tmp_path):
    picture = Picture(smooth(), True, smooth()[..., 0])
    notes = write_picture(tmp_path / "a.jpg", picture)
    assert "lossy" in notes[0] and "no alpha" in notes[1] and len(notes) == 2


# --- TIFF -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"tile": (16, 16)},
        {"bigtiff": True},
        {"compression": "zlib", "predictor": True},
        {"planarconfig": "separate"},
        {"planarconfig": "separate", "tile": (16, 16), "byteorder": ">", "metadata": None},
        {"rowsperstrip": 3},
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("leading", [(), (4,)])
def test_tiff_layouts(tmp_path, options, dtype, leading):
    values = random((*leading, 40, 33, 3), dtype)
    separate = "planarconfig" in options
    stored = np.moveaxis(values, -1, -3) if separate else values
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="rgb", **options)
    picture = copied(tmp_path / "a.tif", tmp_path / "b.tif")
    same(picture.data, values)
    assert picture.channels and picture.alpha is None and picture.notes == ()
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff:  # planes stay planes
        assert tiff.pages[0].planarconfig == (2 if separate else 1)
        assert tiff.pages[0].photometric == tifffile.PHOTOMETRIC.RGB
        np.testing.assert_array_equal(tiff.asarray(), stored)


@pytest.mark.parametrize("dtype", INTEGERS + FLOATS)
def test_tiff_types(tmp_path, dtype):
    values = random((5, 6), dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, byteorder=">")
    same(copied(tmp_path / "a.tif", tmp_path / "b.tif").data, values)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), values)
    assert tifffile.imread(tmp_path / "b.tif").dtype == dtype


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("extra", ["ASSOCALPHA", "UNASSALPHA", "UNSPECIFIED"])
def test_tiff_alpha(tmp_path, colours, extra):
    values = random((5, 6, colours + 1), np.uint16)
    photometric = "rgb" if colours == 3 else "minisblack"
    options = {"photometric": photometric, "planarconfig": "contig", "extrasamples": [extra]}
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    picture = copied(tmp_path / "a.tif", tmp_path / "b.tif")
    if colours == 1 and extra == "UNSPECIFIED":  # nobody says that it is alpha
        assert picture.channels and picture.alpha is None
        same(picture.data, values)
    else:
        same(picture.data, values[..., :-1] if colours == 3 else values[..., 0])
        same(picture.alpha, values[..., -1])
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
        assert tiff.pages[0].extrasamples == (tifffile.EXTRASAMPLE[extra],)
        np.testing.assert_array_equal(tiff.asarray(), values)


def test_tiff_palette_becomes_rgb(tmp_path):
    indices, colours = random((3, 5, 6)), random((3, 256), np.uint16)
    options = {"photometric": "palette", "colormap": colours}
    for values in (indices[0], indices):
        tifffile.imwrite(tmp_path / "a.tif", values, **options)
        picture = copied(tmp_path / "a.tif", tmp_path / "b.tif")
        expected = (colours >> 8).astype(np.uint8).T[values]
        same(picture.data, expected)
        assert picture.channels and picture.notes == ("the palette was converted to RGB",)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), expected)
        same(read_picture(tmp_path / "b.tif").data, expected)


def test_tiff_cmyk_becomes_rgb(tmp_path):
    image = Image.frombytes("CMYK", (8, 9), random((9, 8, 4)).tobytes())
    image.save(tmp_path / "a.tif", icc_profile=b"x" * 99)
    picture = copied(tmp_path / "a.tif", tmp_path / "b.tif")
    expected = np.array(image.convert("RGB")).astype(int)
    assert np.abs(picture.data.astype(int) - expected).max() <= 1
    assert picture.data.dtype == np.uint8 and "icc_profile" not in picture.metadata
    assert picture.notes == ("CMYK was converted to RGB, without its colour profile",)
    with Image.open(tmp_path / "b.tif") as image:
        np.testing.assert_array_equal(np.array(image), picture.data)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool])
def test_tiff_with_white_as_zero_is_inverted(tmp_path, dtype):
    values = random((5, 6)) > 99 if dtype is bool else random((5, 6), dtype)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="miniswhite")
    picture = copied(tmp_path / "a.tif", tmp_path / "b.tif")
    full = 255 if dtype != np.uint16 else 65535
    same(picture.data, (full - values * (255 if dtype is bool else 1)).astype(picture.data.dtype))
    assert picture.notes[-1] == "white was stored as 0: the values were inverted"
    assert picture.data.dtype == (np.uint16 if dtype == np.uint16 else np.uint8)
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
        assert tiff.pages[0].photometric == tifffile.PHOTOMETRIC.MINISBLACK
        np.testing.assert_array_equal(tiff.asarray(), picture.data)


def test_lzw_is_read(tmp_path):
    for values in (random((9, 8)), random((9, 8), np.uint16), random((9, 8, 3))):
        Image.fromarray(values).save(tmp_path / "a.tif", compression="tiff_lzw")
        same(read_picture(tmp_path / "a.tif").data, values)
    first, *others = (Image.fromarray(random((9, 8), seed=i)) for i in range(3))
    first.save(tmp_path / "b.tif", compression="tiff_lzw", save_all=True, append_images=others)
    same(
        read_picture(tmp_path / "b.tif").data, np.stack([random((9, 8), seed=i) for i in (0, 1, 2)])
    )


def lzw(content):
    """Encode as LZW without any gain: each byte as a code of nine bits, the table often cleared."""
    pieces = [content[i : i + 200] for i in range(0, len(content), 200)]
    codes = [code for piece in pieces for code in (256, *piece)] + [257]
    bits = "".join(f"{code:09b}" for code in codes)
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


def rewritten_as_lzw(path):
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        tiff.filehandle.seek(page.dataoffsets[0])
        content = lzw(tiff.filehandle.read(page.databytecounts[0]))
    offset = path.stat().st_size
    with path.open("ab") as file:
        file.write(content)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tags = tiff.pages[0].tags
        for name, value in ((273, offset), (279, len(content)), (259, 5)):
            tags[name].overwrite(value)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.int32, np.float32])
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_lzw_is_read_rightly_or_not_at_all(tmp_path, dtype, colour, byteorder):
    values = random((9, 8, 3) if colour else (9, 8), dtype)
    options = {"photometric": "rgb" if colour else "minisblack", "byteorder": byteorder}
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    rewritten_as_lzw(tmp_path / "a.tif")
    by_pillow = dtype in ([np.uint8] if colour else [np.uint8, np.uint16])
    by_pillow |= not colour and byteorder == "<" and dtype in (np.int32, np.float32)
    if by_pillow or find_spec("imagecodecs"):
        same(read_picture(tmp_path / "a.tif").data, values)
    else:
        with pytest.raises(InputError, match=re.escape("(LZW): pip install imagecodecs")):
            read_picture(tmp_path / "a.tif")


def few_bits_tiff(path, values, bits, photometric, colormap=()):
    """Pack values of a few bits as a TIFF of one strip."""
    rows, columns = values.shape
    binary = np.unpackbits(values.astype(">u2")[..., None].view(np.uint8), axis=-1)
    strip = np.packbits(binary[..., 16 - bits :].reshape(rows, -1), axis=1).tobytes()
    strip += bytes(len(strip) % 2)
    tags = [(256, columns), (257, rows), (258, bits), (259, 1), (262, photometric), (273, 8)]
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
    tags = [(277, 1), (278, rows), (279, len(strip))]
    entries += [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
    place = 8 + len(strip) + 2 + 12 * (len(entries) + bool(colormap)) + 4
    if colormap:
        entries.append(struct.pack("<HHII", 320, 3, len(colormap), place))
    content = b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip
    content += struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    path.write_bytes(content + struct.pack(f"<{len(colormap)}H", *colormap))


@pytest.mark.parametrize("bits", [2, 4, 10, 12])
@pytest.mark.parametrize("white", [False, True])
def test_tiff_of_few_bits_is_never_stretched(tmp_path, bits, white):
    values = random((9, 16), np.uint16) >> (16 - bits)
    few_bits_tiff(tmp_path / "a.tif", values, bits, photometric=0 if white else 1)
    if find_spec("imagecodecs") or (bits == 12 and not white):  # which Pillow reads as it is
        expected = 2**bits - 1 - values if white else values
        same(read_picture(tmp_path / "a.tif").data, expected.astype("u1" if bits < 8 else "u2"))
    else:
        with pytest.raises(InputError, match=f"holds values of {bits} bit: pip install imagecod"):
            read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("bits", [1, 4])
def test_tiff_palette_of_few_bits(tmp_path, bits):
    values = random((9, 16)) >> (8 - bits)
    colours = random((3, 2**bits), np.uint16)
    few_bits_tiff(tmp_path / "a.tif", values, bits, 3, colours.ravel().tolist())
    same(read_picture(tmp_path / "a.tif").data, (colours >> 8).astype(np.uint8).T[values])


def imagej_file(path, axes, shape, dtype=np.uint16, **options):
    values = random(shape, dtype)
    metadata = {"axes": axes, "spacing": 2.5, "unit": "um", "finterval": 0.25, "min": 3.0}
    metadata |= {"Ranges": (0.0, 99.0), "Info": "from a microscope", "loop": True}
    tifffile.imwrite(path, values, imagej=True, resolution=(4.0, 5.0), metadata=metadata, **options)
    return values


@pytest.mark.parametrize(
    ("axes", "shape", "dtype"),
    [
        ("TZCYX", (2, 3, 4, 5, 6), np.uint16),
        ("ZYX", (3, 5, 6), np.float32),
        ("CYX", (2, 5, 6), np.uint8),
        ("ZYXS", (2, 5, 6, 3), np.uint8),
        ("YX", (5, 6), np.uint16),
    ],
)
def test_imagej(tmp_path, axes, shape, dtype):
    values = imagej_file(tmp_path / "a.tif", axes, shape, dtype)
    picture = copied(tmp_path / "a.tif", tmp_path / "b.tif")
    same(picture.data, values)
    assert picture.channels == ("S" in axes) and picture.notes == ()
    with tifffile.TiffFile(tmp_path / "a.tif") as a, tifffile.TiffFile(tmp_path / "b.tif") as b:
        assert b.is_imagej and b.series[0].axes == axes
        assert b.imagej_metadata == a.imagej_metadata
        assert b.imagej_metadata["spacing"] == 2.5 and b.imagej_metadata["finterval"] == 0.25
        assert b.pages[0].tags["XResolution"].value == a.pages[0].tags["XResolution"].value
        np.testing.assert_array_equal(b.asarray(), values)


def test_imagej_unit_beyond_ascii(tmp_path):
    values, description = random((5, 6)), "ImageJ=1.54f\nunit=µm\nspacing=2.0\n"
    options = {"photometric": "minisblack", "metadata": None}
    tifffile.imwrite(tmp_path / "a.tif", values, description=description.encode(), **options)
    same(copied(tmp_path / "a.tif", tmp_path / "b.tif").data, values)
    same(copied(tmp_path / "b.tif", tmp_path / "c.tif").data, values)
    for name in ("b.tif", "c.tif"):
        with tifffile.TiffFile(tmp_path / name) as tiff:
            assert tiff.imagej_metadata["unit"] == r"\u00B5m"
            assert tiff.imagej_metadata["spacing"] == 2.0


def test_imagej_palette_is_for_display_and_carried(tmp_path):
    colours = random((3, 256), np.uint16)
    values = imagej_file(tmp_path / "a.tif", "ZYX", (3, 5, 6), np.uint8, colormap=colours)
    picture = copied(tmp_path / "a.tif", tmp_path / "b.tif")
    same(picture.data, values)
    assert not picture.channels
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
        assert tiff.is_imagej and tiff.series[0].axes == "ZYX"
        np.testing.assert_array_equal(tiff.pages[0].colormap, colours)


def test_imagej_of_another_type_is_a_plain_stack(tmp_path):
    imagej_file(tmp_path / "a.tif", "TZYX", (2, 3, 5, 6))
    picture = read_picture(tmp_path / "a.tif")
    picture = Picture(picture.data.astype(np.float64), metadata=picture.metadata)
    write_picture(tmp_path / "b.tif", picture)
    same(read_picture(tmp_path / "b.tif").data, picture.data)


@pytest.mark.parametrize(
    ("axes", "shape", "options"),
    [
        ("TZCYX", (2, 3, 4, 5, 6), {}),
        ("CZYX", (2, 3, 5, 6), {}),
        ("YX", (5, 6), {}),
        ("ZYXS", (2, 5, 6, 3), {"photometric": "rgb"}),
        ("ZSYX", (2, 3, 5, 6), {"photometric": "rgb", "planarconfig": "separate"}),
    ],
)
def test_ome(tmp_path, axes, shape, options):
    values = random(shape, np.uint16)
    metadata = {"axes": axes, "PhysicalSizeX": 0.325, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", values, ome=True, metadata=metadata, **options)
    picture = copied(tmp_path / "a.ome.tif", tmp_path / "b.ome.tif")
    same(picture.data, np.moveaxis(values, axes.index("S"), -1) if "S" in axes else values)
    assert picture.notes == ()
    with (
        tifffile.TiffFile(tmp_path / "a.ome.tif") as a,
        tifffile.TiffFile(tmp_path / "b.ome.tif") as b,
    ):
        assert b.is_ome and b.series[0].kind == "ome" and b.series[0].axes == axes
        assert b.ome_metadata == a.ome_metadata and 'PhysicalSizeX="0.325"' in b.ome_metadata
        np.testing.assert_array_equal(b.series[0].asarray(), values)


def test_ome_in_another_order_loses_its_description(tmp_path):
    values = random((2, 3, 5, 6), np.uint16)
    tifffile.imwrite(tmp_path / "a.ome.tif", values, ome=True, metadata={"axes": "ZCYX"})
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as tiff:
        description = tiff.ome_metadata
    entries = "".join(
        f'<TiffData IFD="{(7 * i + 1) % 6}" FirstZ="{i // 3}" FirstC="{i % 3}" PlaneCount="1"/>'
        for i in range(6)
    )
    description = re.sub(r"<TiffData.*/>(?=</Pixels>)", entries, description)
    options = {"photometric": "minisblack", "metadata": None}
    tifffile.imwrite(tmp_path / "b.ome.tif", values, description=description.encode(), **options)
    picture = copied(tmp_path / "b.ome.tif", tmp_path / "c.tif")
    expected = tifffile.imread(tmp_path / "b.ome.tif")
    assert not np.array_equal(expected, values)
    same(picture.data, expected)
    assert "ome description was left out" in picture.notes[0]
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "c.tif"), expected)


def test_ome_of_another_type_loses_its_description(tmp_path):
    values = random((3, 5, 6), np.uint16)
    tifffile.imwrite(tmp_path / "a.ome.tif", values, ome=True, metadata={"axes": "ZYX"})
    picture = read_picture(tmp_path / "a.ome.tif")
    halves = Picture(values / np.float32(2), metadata=picture.metadata)
    write_picture(tmp_path / "b.tif", halves)
    same(read_picture(tmp_path / "b.tif").data, halves.data)
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
        assert not tiff.is_ome and tiff.series[0].axes == "ZYX"


def test_axes_in_any_order_come_back(tmp_path):
    values = random((5, 6, 4), np.uint16)
    options = {"photometric": "minisblack", "metadata": {"axes": "YXZ"}}
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    picture = copied(tmp_path / "a.tif", tmp_path / "b.tif")
    same(picture.data, np.moveaxis(values, -1, 0))
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
        assert tiff.series[0].axes == "YXZ"
        np.testing.assert_array_equal(tiff.asarray(), values)


def test_pages_and_their_description_come_back(tmp_path):
    values = random((4, 5, 6), np.uint16)
    options = {"photometric": "minisblack", "description": "5 µm of mouse".encode()}
    tifffile.imwrite(tmp_path / "a.tif", values, metadata=None, **options)
    same(copied(tmp_path / "a.tif", tmp_path / "b.tif").data, values)
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
        assert tiff.pages[0].description == "5 µm of mouse" and len(tiff.pages) == 4
        assert "Software" not in tiff.pages[0].tags and "DateTime" not in tiff.pages[0].tags
        np.testing.assert_array_equal(tiff.asarray(), values)


def test_thumbnails_and_pyramids_are_left_out_and_others_told(tmp_path):
    values, small = random((32, 32)), random((8, 9))
    with tifffile.TiffWriter(tmp_path / "a.tif") as tiff:
        tiff.write(values, metadata=None, subifds=1)
        tiff.write(values[::2, ::2], metadata=None, subfiletype=1)
        tiff.write(small, metadata=None, subfiletype=1)
    picture = read_picture(tmp_path / "a.tif")
    same(picture.data, values)
    assert "only the full resolution of the pyramid was read" in picture.notes
    with tifffile.TiffWriter(tmp_path / "c.tif") as tiff:  # as cameras and scanners have it
        tiff.write(small, metadata=None, subfiletype=1, description="thumbnail")
        tiff.write(values, metadata=None, description="picture")
    picture = copied(tmp_path / "c.tif", tmp_path / "d.tif")
    same(picture.data, values)
    assert picture.metadata["tiff"]["description"] == b"picture"
    with tifffile.TiffWriter(tmp_path / "b.tif") as tiff:
        tiff.write(values, metadata=None)
        tiff.write(small, metadata=None)
    with pytest.raises(InputError, match=re.escape("2 pictures of different kinds ((32, 32), (8")):
        read_picture(tmp_path / "b.tif")


def test_other_colours_are_told(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", random((5, 6, 3)), photometric="cielab")
    with pytest.raises(InputError, match="as CIELAB with 3 samples of uint8: convert it"):
        read_picture(tmp_path / "a.tif")


# --- Metadata across formats ----------------------------------------------------------------


def test_resolution_tags_are_equal(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.arange(6, dtype=np.uint16).reshape(2, 3),
        resolution=(300, 150.5),
        resolutionunit="CENTIMETER",
    )
    copied(tmp_path / "a.tif", tmp_path / "b.tif")
    tags = []
    for name in ("a.tif", "b.tif"):
        with tifffile.TiffFile(tmp_path / name) as tiff:
            tags.append(tiff.pages[0].tags)
    for tag in ("XResolution", "YResolution", "ResolutionUnit"):
        assert tags[0][tag].value == tags[1][tag].value


@pytest.mark.parametrize(("tag", "value"), [("XResolution", (0, 0)), ("ResolutionUnit", 0)])
def test_senseless_resolution_costs_no_other_metadata(tmp_path, tag, value):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, random((5, 6)), resolution=(9, 9), description="mouse", metadata=None)
    with tifffile.TiffFile(path, mode="r+") as tiff:
        tiff.pages[0].tags[tag].overwrite(value)
    picture = read_picture(path)
    assert write_picture(tmp_path / "b.tif", picture) == ()
    with tifffile.TiffFile(tmp_path / "b.tif") as tiff:
        assert tiff.pages[0].description == "mouse"


def test_warnings_for_developers_are_no_notes(tmp_path, monkeypatch):
    def load(*_, **__):
        warnings.warn("will go in NumPy 9", DeprecationWarning, stacklevel=2)
        warnings.warn("something is odd", UserWarning, stacklevel=2)
        return np.zeros((4, 5))

    write_picture(tmp_path / "a.npy", Picture(np.zeros((4, 5))))
    monkeypatch.setattr(np.lib.format, "open_memmap", load)
    assert read_picture(tmp_path / "a.npy").notes == ("something is odd",)


def test_premultiplied_colours_are_noted(tmp_path):
    values, options = random((5, 6, 4)), {"photometric": "rgb", "extrasamples": ["ASSOCALPHA"]}
    tifffile.imwrite(tmp_path / "a.tif", values, **options)
    picture = read_picture(tmp_path / "a.tif")
    assert write_picture(tmp_path / "b.tif", picture) == ()
    (note,) = write_picture(tmp_path / "b.png", picture)
    assert "multiplied by the alpha" in note


@pytest.mark.parametrize("source", ["png", "jpg", "tif"])
@pytest.mark.parametrize("target", ["png", "jpg", "tif"])
def test_profile_and_dpi_are_carried(tmp_path, source, target):
    before, after = tmp_path / f"a.{source}", tmp_path / f"b.{target}"
    Image.fromarray(smooth()).save(before, dpi=(144, 144), icc_profile=b"x" * 200)
    copied(before, after)
    with Image.open(after) as image:
        assert image.info["icc_profile"] == b"x" * 200
        assert [float(x) for x in image.info["dpi"]] == pytest.approx((144, 144), abs=0.1)


def test_16_bit_colour_png_carries_metadata(tmp_path):
    metadata = {"dpi": (144, 72), "icc_profile": b"x" * 200, "exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}
    write_picture(
        tmp_path / "a.png", Picture(random((4, 5, 3), np.uint16), True, metadata=metadata)
    )
    with Image.open(tmp_path / "a.png") as image:
        image.load()
        assert image.info["icc_profile"] == b"x" * 200
        assert image.info["dpi"] == pytest.approx((144, 72), abs=0.1)
        assert image.info["exif"] == metadata["exif"]
    assert read_picture(tmp_path / "a.png").metadata.keys() == metadata.keys()


def test_lost_descriptions_are_noted(tmp_path):
    imagej_file(tmp_path / "a.tif", "YX", (5, 6))
    picture = read_picture(tmp_path / "a.tif")
    assert "no TIFF description" in write_picture(tmp_path / "a.png", picture)[0]
    assert "left out" in write_picture(tmp_path / "a.npy", picture)[0]
    assert write_picture(tmp_path / "b.tif", picture) == ()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_metadata_that_cannot_be_written_cost_no_picture(tmp_path, name):
    metadata = {"resolution": ((1, 1, 1), (1,)), "resolutionunit": 3, "exif": 7}
    picture = Picture(smooth(), True, metadata=metadata)
    notes = write_picture(tmp_path / name, picture)
    assert "the metadata could not be written and were left out" in notes[0]
    assert read_picture(tmp_path / name).data.shape == picture.data.shape


# --- NPY and masks --------------------------------------------------------------------------


def test_npy_axes(tmp_path):
    path = tmp_path / "a.npy"
    for shape, channels, frames in (
        ((5, 6), False, 1),
        ((4, 5, 6), False, 4),
        ((2, 3, 5, 6), False, 6),
        ((5, 6, 3), True, 1),
        ((2, 5, 6, 3), True, 2),
    ):
        np.save(path, random(shape, np.int32).astype(">i4"))
        picture = copied(path, tmp_path / "b.npy")
        same(picture.data, random(shape, np.int32))
        assert picture.channels == channels and picture.n_frames == frames
        assert len(picture.notes) == channels
        same(np.load(tmp_path / "b.npy"), random(shape, np.int32))


def test_npy_of_four_has_alpha_and_keeps_it(tmp_path):
    np.save(tmp_path / "a.npy", random((5, 6, 4)))
    picture = read_picture(tmp_path / "a.npy")
    same(picture.alpha, random((5, 6, 4))[..., 3])
    assert picture.notes == ("the last axis of (5, 6, 4) was read as red, green, blue and alpha",)
    assert "appended as the last channel" in write_picture(tmp_path / "b.npy", picture)[0]
    same(np.load(tmp_path / "b.npy"), random((5, 6, 4)))


def test_planes_for_masks(tmp_path):
    grey = random((5, 6)) > 99
    np.save(tmp_path / "a.npy", grey)
    same(read_plane(tmp_path / "a.npy").data, grey)
    Image.fromarray(grey).save(tmp_path / "a.png")
    same(read_plane(tmp_path / "a.png").data, grey.astype(np.uint8) * 255)
    colour = np.zeros((5, 6, 4), np.uint8)
    colour[1, 2, 1], colour[..., 3] = 7, 255
    Image.fromarray(colour).save(tmp_path / "b.png")
    same(read_plane(tmp_path / "b.png").data, colour[..., 1] > 0)
    np.save(tmp_path / "c.npy", np.zeros(5, bool))
    with pytest.raises(InputError, match="two axes or more"):
        read_plane(tmp_path / "c.npy")
    for values in (np.zeros((4, 5, 6), bool), np.zeros((4, 5, 6))):
        np.save(tmp_path / "c.npy", values)
        with pytest.raises(InputError, match="is a stack of 4 frames"):
            read_plane(tmp_path / "c.npy")


def test_bits_of_a_mask_count_as_stored(tmp_path):
    """What tifffile writes of an array of bools is shown inverted, and means that array."""
    flags = random((5, 6)) > 99
    tifffile.imwrite(tmp_path / "a.tif", flags)
    plane = read_plane(tmp_path / "a.tif")
    same(plane.data, flags.astype(np.uint8) * 255)
    assert plane.notes == ("it shows white where its bits are 0: there it counts as zero",)
    tifffile.imwrite(tmp_path / "b.tif", flags, photometric="minisblack")
    same(read_plane(tmp_path / "b.tif").data, plane.data)
    tifffile.imwrite(tmp_path / "c.tif", plane.data, photometric="miniswhite")
    assert read_plane(tmp_path / "c.tif").notes[-1].startswith("white was stored as 0")


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_mask_that_is_a_jpeg_is_told(tmp_path, mode):
    Image.new(mode, (8, 8)).save(tmp_path / "a.jpg")
    plane = read_plane(tmp_path / "a.jpg")
    assert plane.data.shape == (8, 8) and "near zero is not zero" in plane.notes[-1]


# --- Bad files and bad outputs --------------------------------------------------------------


def bad_files(folder):
    """Make one bad file of each sort; yield its path and what the message must say."""
    picture = Picture(random((40, 40)))
    yield folder / "missing.png", "there is no file"
    yield folder, "is a folder"
    for name, content, message in (
        ("empty.png", b"", "is empty"),
        ("text.png", b"hello there", "is not a picture (it starts with b'hello there')"),
        ("photo.png", b"\xff\xd8\xff\xe0abc", "is damaged or cut short"),
        ("a.gif", b"GIF89a", "is a GIF file, which is not supported yet: PNG, JPEG, TIFF and NPY"),
        ("a.bmp", b"BM1234", "is a BMP file"),
        ("a.webp", b"RIFF1234WEBP", "is a WAV or WebP file"),
        ("a.jp2", b"\x00\x00\x00\x0cjP  ", "is a JPEG 2000 file"),
        ("short.png", b"\x89PNG\r\n\x1a\n", "is damaged or cut short"),
        ("no pages.tif", b"II*\0\0\0\0\0", "is damaged or cut short"),
    ):
        (folder / name).write_bytes(content)
        yield folder / name, message
    for name in ("cut.png", "cut.tif", "cut.npy", "cut.jpg"):
        write_picture(folder / name, picture)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        yield folder / name, "is damaged or cut short"
    for name, array, message in (
        ("line", np.zeros(9), "two axes"),
        ("number", np.zeros(()), "two axes"),
        ("complex", np.zeros((9, 9), complex), "holds complex128 values"),
        ("flags", np.zeros((9, 9), bool), "holds bool values"),
        ("text", np.full((9, 9), "a"), "holds <U1 values"),
        ("object", np.full((9, 9), None), "holds Python objects"),
    ):
        np.save(folder / f"{name}.npy", array, allow_pickle=True)
        yield folder / f"{name}.npy", message
    tifffile.imwrite(folder / "complex.tif", np.zeros((9, 9), np.complex64))
    yield folder / "complex.tif", "holds complex64 values"


def huge_files(folder):
    """Make small files that claim to be enormous."""
    header = np.lib.format
    buffer = io.BytesIO()
    header.write_array_header_1_0(
        buffer, {"descr": "|u1", "fortran_order": False, "shape": (70000, 70000)}
    )
    with (folder / "huge.npy").open("wb") as file:  # sparse: the values take no room on the disk
        file.write(buffer.getvalue())
        file.truncate(len(buffer.getvalue()) + 70000**2)
    yield folder / "huge.npy", "has shape (70000, 70000): at most 2147483648 values"
    small = np.zeros((16, 16), np.uint8)
    tifffile.imwrite(folder / "huge.tif", small, metadata=None, compression="zlib")
    with tifffile.TiffFile(folder / "huge.tif", mode="r+") as tiff:
        for name in ("ImageWidth", "ImageLength"):
            tiff.pages[0].tags[name].overwrite(70000)
    yield folder / "huge.tif", "has shape (70000, 70000): at most 2147483648 values"
    Image.fromarray(small).save(folder / "huge.png")
    Image.fromarray(small).save(folder / "huge.jpg")
    content = (folder / "huge.png").read_bytes()
    chunk = b"IHDR" + struct.pack(">II", 70000, 70000) + content[24:29]
    content = content[:12] + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:]
    (folder / "huge.png").write_bytes(content)
    yield folder / "huge.png", "damaged or cut short: 70000 rows of 70000 bytes"
    content = (folder / "huge.jpg").read_bytes()
    place = content.index(b"\xff\xc0") + 5
    content = content[:place] + struct.pack(">HH", 60000, 60000) + content[place + 4 :]
    (folder / "huge.jpg").write_bytes(content)
    yield folder / "huge.jpg", "is too large: Image size (3600000000 pixels)"


def test_files_that_do_not_fit_into_memory_are_refused(tmp_path, monkeypatch):
    """Before any of it is taken; there are four bytes too few for the values and a copy."""
    values = np.arange(64 * 48, dtype=np.uint8).reshape(64, 48)
    deep = np.stack([values.astype(np.uint16)] * 3, -1)
    for name, picture in [
        ("a.png", Picture(values)),
        ("a.jpg", Picture(values)),
        ("a.tif", Picture(values)),
        ("a.npy", Picture(values)),
        ("deep.png", Picture(deep, channels=True)),
        ("deep.tif", Picture(deep, channels=True)),
    ]:
        write_picture(tmp_path / name, picture)
        monkeypatch.setattr(memory, "available", lambda b=picture.data.nbytes: 2 * b)
        np.testing.assert_array_equal(read_picture(tmp_path / name).data.shape, picture.data.shape)
        monkeypatch.setattr(memory, "available", lambda b=picture.data.nbytes: 2 * b - 4)
        with pytest.raises(InputError, match=r"has shape \(64, 48.*crop or split it"):
            read_picture(tmp_path / name)


@pytest.mark.parametrize("files", [bad_files, huge_files])
def test_bad_files_are_told_in_one_line(tmp_path, files):
    for path, message in files(tmp_path):
        with pytest.raises(InputError, match=re.escape(message)) as caught:
            read_picture(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.fixture(scope="module")
def good_files(tmp_path_factory):
    """Return the bytes of a good file of each sort."""
    folder = tmp_path_factory.mktemp("good")
    colour = Picture(random((9, 8, 3), np.uint16), True, random((9, 8), np.uint16))
    for name in ("a.png", "a.tif", "a.npy"):
        write_picture(folder / name, colour)
    write_picture(folder / "b.jpg", Picture(smooth(), True))
    write_picture(folder / "b.png", Picture(smooth()[..., 0]))
    imagej_file(folder / "c.tif", "TZCYX", (2, 2, 2, 5, 6))
    tifffile.imwrite(folder / "d.tif", random((4, 20, 20)), ome=True, compression="zlib")
    image = Image.fromarray(random((20, 20)))
    image.save(folder / "e.tif", compression="tiff_lzw")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@settings(max_examples=300)
@given(data=st.data())
def test_damage_is_an_input_error_or_a_picture(good_files, tmp_path_factory, data):
    name = data.draw(st.sampled_from(sorted(good_files)))
    content = bytearray(good_files[name])
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    for _ in range(data.draw(st.integers(0, 3)) if content else 0):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("bad") / name
    path.write_bytes(content)
    try:
        picture = read_picture(path)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert picture.data.ndim >= 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.gif", "its extension must be one of .png, .jpg, .jpeg, .tif, .tiff, .npy"),
        ("a", "its extension must be one of"),
        ("none/a.png", "does not exist: create it first"),
        (".", "is a folder"),
    ],
)
def test_bad_outputs_are_told_beforehand(tmp_path, name, message):
    with pytest.raises(InputError, match=re.escape(message)):
        check_output(tmp_path / name)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_closed_folder_is_told_beforehand(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="cannot be written"):
        check_output(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("name", "picture", "message"),
    [
        ("a.png", Picture(np.zeros((2, 2), np.float32)), "8 or 16 bit integers, not float32"),
        ("a.png", Picture(np.zeros((2, 2), np.int16)), "8 or 16 bit integers, not int16"),
        ("a.jpg", Picture(np.zeros((2, 2), np.uint16)), "a JPEG holds 8 bit integers, not uint16"),
        ("a.png", Picture(np.zeros((5, 2, 2), np.uint8)), "one picture, not a stack of 5"),
        ("a.jpg", Picture(np.zeros((5, 2, 2), np.uint8)), "one picture, not a stack of 5"),
        ("a.png", Picture(np.zeros((2, 2, 2), np.uint8), True), "grey or RGB, not 2 channels"),
        ("a.jpg", Picture(np.zeros((2, 2, 4), np.uint8), True), "grey or RGB, not 4 channels"),
        ("a.jpg", Picture(np.zeros((1, 65501), np.uint8)), "at most 65500 rows and columns"),
    ],
)
def test_formats_say_what_they_hold_and_what_would_do(name, picture, message):
    with pytest.raises(InputError, match=re.escape(message) + ".*: write a.tiff or .npy"):
        check_output(name, picture)
    for other in ("a.tiff", "a.npy"):
        check_output(other, picture)


def test_tiff_holds_no_long_doubles():
    if np.dtype(np.longdouble).itemsize > 8:
        with pytest.raises(InputError, match="up to 64 bit, not .*: write a.npy"):
            check_output("a.tif", Picture(np.zeros((2, 2), np.longdouble)))


def test_alpha_of_another_type_is_told():
    with pytest.raises(InputError, match="the alpha is uint8, the values are uint16"):
        check_output(
            "a.png", Picture(np.zeros((2, 2), np.uint16), alpha=np.zeros((2, 2), np.uint8))
        )


@given(arrays(np.float64, shapes, elements=st.floats(-1e20, 1e20)))
def test_integers_are_rounded_and_clipped(values):
    for dtype in (np.uint8, np.int16, np.uint16, np.int64, np.uint64):
        limits = np.iinfo(dtype)
        expected = [min(max(round(v), limits.min), limits.max) for v in values.flatten().tolist()]
        found = to_dtype(values, dtype)
        assert found.dtype == dtype
        np.testing.assert_allclose(
            found.flatten().astype(float), np.array(expected, float), rtol=1e-15
        )
    assert to_dtype(values, np.float32).dtype == np.float32


def test_32_bit_integers_are_clipped_in_single_precision_too():
    values = np.array([3e9, -3e9, 1e20, 7.4], np.float32)
    assert to_dtype(values, np.int32).tolist() == [2**31 - 1, -(2**31), 2**31 - 1, 7]
    assert to_dtype(values, np.uint32).tolist() == [3000000000, 0, 2**32 - 1, 7]
