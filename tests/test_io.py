"""Files: what is written comes back, and bad files are told in one line."""

import os
import re

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from truvae import InputError
from truvae.io import check_output, read_picture, to_dtype, write_picture

shapes = st.tuples(st.integers(1, 9), st.integers(1, 9))
FORMATS = {
    "png": [np.uint8, np.uint16],
    "tiff": [np.uint8, np.uint16, np.int16, np.float16, np.float32, np.float64],
    "npy": [np.uint8, np.uint16, np.int32, np.int64, np.float16, np.float32, np.float64],
}


@pytest.mark.parametrize("kind", FORMATS)
@given(st.data())
def test_what_is_written_is_read(tmp_path_factory, kind, data):
    dtype = data.draw(st.sampled_from(FORMATS[kind]))
    picture = data.draw(arrays(dtype, shapes))
    path = tmp_path_factory.mktemp("io") / f"a.{kind}"
    write_picture(path, picture)
    found = read_picture(path).data
    assert found.dtype == picture.dtype and found.dtype.isnative
    np.testing.assert_array_equal(found, picture)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_content_decides_on_reading_and_extension_on_writing(tmp_path):
    picture = np.arange(12, dtype=np.uint8).reshape(3, 4)
    write_picture(tmp_path / "a.png", picture)
    (tmp_path / "a.png").rename(tmp_path / "a.tiff")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tiff").data, picture)
    write_picture(tmp_path / "b.TIF", picture)
    assert (tmp_path / "b.TIF").read_bytes()[:2] == b"II"


def test_big_endian_files_become_native(tmp_path):
    picture = np.arange(6, dtype=">u2").reshape(2, 3)
    np.save(tmp_path / "a.npy", picture)
    tifffile.imwrite(tmp_path / "a.tif", picture, byteorder=">")
    for name in ("a.npy", "a.tif"):
        found = read_picture(tmp_path / name).data
        assert found.dtype.isnative
        np.testing.assert_array_equal(found, picture)


def test_resolution_and_colour_profile_are_carried_over(tmp_path):
    picture = np.arange(6, dtype=np.uint16).reshape(2, 3)
    tifffile.imwrite(
        tmp_path / "a.tif", picture, resolution=(300, 150), resolutionunit="CENTIMETER"
    )
    source = read_picture(tmp_path / "a.tif")
    write_picture(tmp_path / "b.tif", source.data, source.metadata)
    tags = []
    for name in ("a.tif", "b.tif"):
        with tifffile.TiffFile(tmp_path / name) as tiff:
            tags.append(tiff.pages[0].tags)
    for tag in ("XResolution", "YResolution", "ResolutionUnit"):
        assert tags[0][tag].value == tags[1][tag].value
    Image.fromarray(picture.astype(np.uint8)).save(
        tmp_path / "a.png", dpi=(72, 72), icc_profile=b"x" * 200
    )
    source = read_picture(tmp_path / "a.png")
    write_picture(tmp_path / "b.png", source.data, source.metadata)
    with Image.open(tmp_path / "b.png") as image:
        info = image.info
    assert info["icc_profile"] == b"x" * 200 and info["dpi"] == pytest.approx((72, 72), abs=0.1)


@pytest.mark.parametrize("extension", ["png", "tif", "npy"])
def test_same_data_same_bytes(tmp_path, extension):
    picture = np.arange(200, dtype=np.uint8).reshape(10, 20)
    for name in ("a", "b"):
        write_picture(tmp_path / f"{name}.{extension}", picture)
    first, second = ((tmp_path / f"{name}.{extension}").read_bytes() for name in ("a", "b"))
    assert first == second


def test_failing_to_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    write_picture(path, np.zeros((2, 2)))
    before = path.read_bytes()

    def fail(file, array, **_):
        file.write(b"half of a file")
        raise OSError("disk full")

    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_picture(path, np.ones((2, 2)))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.npy"]


def bad_files(folder):
    """Make one bad file of each sort; yield its path and what the message must say."""
    picture = np.random.default_rng(0).integers(0, 255, (40, 40), dtype=np.uint8)
    yield folder / "missing.png", "there is no file"
    yield folder, "is a folder"
    for name, content, message in (
        ("empty.png", b"", "is empty"),
        ("text.png", b"hello there", "is not a picture (it starts with b'hello there')"),
        ("photo.png", b"\xff\xd8\xff\xe0abc", "is a JPEG file"),
    ):
        (folder / name).write_bytes(content)
        yield folder / name, message
    for name in ("cut.png", "cut.tif", "cut.npy"):
        write_picture(folder / name, picture)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
        yield folder / name, "is damaged or cut short"
    for mode in ("RGB", "RGBA", "P", "LA"):
        Image.fromarray(picture).convert(mode).save(folder / f"{mode}.png")
        yield folder / f"{mode}.png", "colour pictures are not supported yet"
    tifffile.imwrite(folder / "rgb.tif", np.zeros((9, 9, 3), np.uint8), photometric="rgb")
    yield folder / "rgb.tif", "colour pictures are not supported yet"
    tifffile.imwrite(folder / "stack.tif", np.zeros((5, 9, 9), np.uint8), photometric="minisblack")
    yield folder / "stack.tif", "a stack of 5 frames"
    for name, array, message in (
        ("line", np.zeros(9), "two axes"),
        ("number", np.zeros(()), "two axes"),
        ("rgb", np.zeros((9, 9, 3)), "colour pictures are not supported yet"),
        ("stack", np.zeros((9, 9, 9)), "stacks are not supported yet"),
        ("complex", np.zeros((9, 9), complex), "holds complex128 values"),
        ("flags", np.zeros((9, 9), bool), "holds bool values"),
        ("text", np.full((9, 9), "a"), "holds <U1 values"),
        ("object", np.full((9, 9), None), "Object arrays cannot be loaded"),
    ):
        np.save(folder / f"{name}.npy", array, allow_pickle=True)
        yield folder / f"{name}.npy", message


def test_bad_files_are_told_in_one_line(tmp_path):
    for path, message in bad_files(tmp_path):
        with pytest.raises(InputError, match=re.escape(message)) as caught:
            read_picture(path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.gif", "its extension must be one of .png, .tif, .tiff, .npy"),
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


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.int64])
def test_png_holds_no_floats(dtype):
    with pytest.raises(InputError, match="a PNG holds 8 or 16 bit integers"):
        check_output("a.png", np.zeros((2, 2), dtype))


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
