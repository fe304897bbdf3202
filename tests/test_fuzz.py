"""Readers of everything on damaged files: an error in one line, or values.

`fuzz_readers.py` looks further, guided by coverage, from the same valid files.
"""

import io
import json
import re
import struct
import sys
import tempfile
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tifffile
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from truvae import MLP, TVAE, Bernoulli, Gaussian, LowRankGaussian, Model, load_model, save_model
from truvae.errors import InputError
from truvae.io import Picture, read_picture, read_plane
from truvae.io_audio import Sound, read_sound
from truvae.model_commands import info
from truvae.noise import BernoulliNoise, CorrelatedGaussian, DiagonalGaussian
from truvae.tables import read_table

# Most MiB of memory that all the readings of a test may take beyond what was taken before.
LIMIT = 300
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


def recordings():
    """Return the contents of small recordings by their names."""
    kinds = [
        *(("WAV", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT",
                                           "DOUBLE", "ULAW", "MS_ADPCM", "IMA_ADPCM", "GSM610")),
        ("WAVEX", "PCM_16"), ("RF64", "FLOAT"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"),
        ("OGG", "VORBIS"), ("OGG", "OPUS"),
    ]  # fmt: skip
    return {f"{kind}-{subtype}".lower(): recording(kind, subtype) for kind, subtype in kinds}


def recording(kind, subtype, n_samples=80):
    samples = 0.2 * np.sin(np.arange(n_samples) / 3)
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", 16_000, 1, subtype, format=kind) as file:
        file.title = "a"
        file.write(samples)
    return buffer.getvalue()


MODEL_FILES = ("config.json", "model.safetensors")
FILES = valid_files()
RECORDINGS = recordings()
PICTURES = [name for name in FILES if not name.startswith("table")]
TABLES = [name for name in FILES if name.startswith("table") or name.endswith("npy")]


@lru_cache
def saved_models():
    """Return the contents of both files, config.json and model.safetensors, of small models."""
    noises = {
        "gaussian": (Gaussian(torch.tensor(0.5)), 3),
        "correlated": (CorrelatedGaussian(torch.ones(3), torch.eye(3)), 3),
        "diagonal": (DiagonalGaussian(torch.tensor(1.0), torch.eye(3), torch.ones(3)), 6),
        "low-rank": (LowRankGaussian(torch.tensor(1.0), rank=1), 6),
        "bernoulli": (BernoulliNoise(), 3),
    }
    models = {
        name: Model(Bernoulli(torch.full((4,), 0.2)), MLP(4, (2,), n_outputs), noise)
        for name, (noise, n_outputs) in noises.items()
    }
    return {name: files_of(model) for name, model in models.items()} | {"estimator": estimator()}


def files_of(model):
    """Return the contents of the files of what has a method `save`, or of a model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        model.save(path) if hasattr(model, "save") else save_model(path, model, {"kind": "test"})
        return tuple((path / name).read_bytes() for name in MODEL_FILES)


def estimator():
    options = {"n_latents": 4, "hidden": (2,), "n_states": 3, "max_epochs": 1, "random_state": 0}
    x = np.random.default_rng(0).normal(size=(6, 3))
    return files_of(TVAE(**options).fit(x))


def write_saved(folder, files):
    """Write a saved model in a folder, and return the folder."""
    folder.mkdir(exist_ok=True)
    for name, content in zip(MODEL_FILES, files, strict=True):
        (folder / name).write_bytes(content)
    return folder


def load_any(folder):
    """Load what is an estimator as such, and all else as a model."""
    saved = load_model(folder)
    if "params" in saved.config:
        TVAE.load(folder, device="cpu")
    return saved


def mutated(content):
    """Draw changes to a valid file: bytes set, stretches cut out, doubled or replaced."""
    place = st.integers(0, len(content) - 1)
    few = st.binary(max_size=8)
    change = st.tuples(place, st.integers(0, 8), few)
    changes = st.lists(change, min_size=1, max_size=6)
    return st.builds(changed, st.just(content), changes, st.booleans())


def changed(content, changes, mend=False):
    for place, length, new in changes:
        content = content[:place] + new + content[place + length :]
    return mended(content) if mend else content


# What may stand in JSON in the place of anything else.
ODD = (None, True, -1, 0, 1, 2**31, 2**63, 10**400, 1e300, "", "x", "a\nb", "F64", "I64", "relu",
       [], [0], [0, 10**9], {}, {"a": 1})  # fmt: skip


def changed_json(content, random):
    """Return JSON with one of its values, or a name, replaced by something odd or by another."""
    whole = json.loads(content)
    places = [*_places(whole)]
    if not places:
        return content
    holder, key = random.choice(places)
    other, other_key = random.choice(places)
    new = random.choice([random.choice(ODD), other[other_key]])
    if isinstance(holder, dict) and random.random() < 0.2:
        holder[random.choice(["x", "sizes", str(other_key)])] = holder.pop(key)
    else:
        holder[key] = json.loads(json.dumps(new))
    return json.dumps(whole).encode()


def _places(value):
    """Return what holds each value within a value, and under which key."""
    if isinstance(value, dict | list):
        for key in [*(value if isinstance(value, dict) else range(len(value)))]:
            yield value, key
            yield from _places(value[key])


def mended(content):
    """Return a PNG or OGG file with the right checksums: without, little of it would be read."""
    content = bytearray(content)
    if content.startswith(b"\x89PNG"):
        _mend_png(content)
    elif content.startswith(b"OggS"):
        _mend_ogg(content)
    return bytes(content)


def _mend_png(content):
    place = 8
    while place + 12 <= len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        if end + 4 <= len(content):
            content[end : end + 4] = struct.pack(">I", zlib.crc32(content[place + 4 : end]))
        place = end + 4


def _mend_ogg(content):
    place = 0
    while len(content) > place + 27 and content[place : place + 4] == b"OggS":
        lengths = content[place + 27 : place + 27 + content[place + 26]]
        end = place + 27 + len(lengths) + sum(lengths)
        content[place + 22 : place + 26] = bytes(4)
        content[place + 22 : place + 26] = struct.pack("<I", _ogg_checksum(content[place:end]))
        place = end


def _ogg_checksum(page):
    value = 0
    for byte in page:
        value = (value << 8 & 0xFFFFFFFF) ^ OGG_TABLE[value >> 24 ^ byte]
    return value


def _ogg_table():
    table = [*range(256)]
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value >> 31 else 0)) & 0xFFFFFFFF
        table[byte] = value
    return table


OGG_TABLE = _ogg_table()


def read(reader, path, content):
    """Read a file; any other error than those that are told in one line fails the test."""
    values = read_or_told(reader, write(path, content))
    if values is not None:
        assert (values.data if isinstance(values, Picture | Sound) else values).size > 0


def write(path, content):
    """Write a file, and return its path."""
    path.write_bytes(content)
    return path


def read_or_told(reader, path):
    """Return what a reader makes of a path, None if that is an error in one line."""
    try:
        return reader(path)
    except (InputError, OSError) as error:
        assert "\n" not in str(error)
        return None


def peak_memory():
    """Return the most MiB that this process has had so far."""
    resource = pytest.importorskip("resource")  # there is none on Windows
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit


@pytest.fixture(autouse=True)
def little_memory():
    """Fail a test that takes much memory."""
    before = peak_memory()
    yield
    assert peak_memory() - before < LIMIT


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


@pytest.mark.filterwarnings("ignore:.*the first column has no name")
@pytest.mark.parametrize("name", TABLES)
def test_damaged_tables(tmp_path, name):
    @_FUZZED
    @given(mutated(FILES[name]))
    def check(content):
        read(read_table_at, tmp_path / name, content)

    check()


@pytest.mark.parametrize("name", RECORDINGS)
def test_damaged_recordings(tmp_path, name):
    assert read_sound(write(tmp_path / "a", RECORDINGS[name])).data.size >= 80

    @_FUZZED
    @given(mutated(RECORDINGS[name]))
    def check(content):
        read(read_sound, tmp_path / "a", content)

    check()


def test_a_recording_that_claims_more_than_its_bytes_hold_is_told(tmp_path):
    content = bytearray(RECORDINGS["flac-pcm_16"])
    content[22:26] = (2**28).to_bytes(4, "big")  # its number of samples
    with pytest.raises(InputError, match="268435456 samples cannot be stored in 158 bytes"):
        read_sound(write(tmp_path / "a", content))


MODELS = ("gaussian", "correlated", "diagonal", "low-rank", "bernoulli", "estimator")


@pytest.mark.parametrize("name", MODELS)
def test_damaged_saved_models(tmp_path, name):
    files = saved_models()[name]
    load_any(write_saved(tmp_path / "model", files))
    end = 8 + int.from_bytes(files[1][:8], "little")

    @_FUZZED
    @given(st.one_of(
        st.tuples(mutated(files[0]), st.just(files[1])),
        st.tuples(st.just(files[0]), mutated(files[1])),
        st.tuples(odd_json(files[0]), st.just(files[1])),
        st.tuples(st.just(files[0]), odd_json(files[1][8:end]).map(
            lambda header: len(header).to_bytes(8, "little") + header + files[1][end:])),
    ))  # fmt: skip
    def check(files):
        read_or_told(load_any, write_saved(tmp_path / "model", files))

    check()


def odd_json(content):
    """Draw changes to JSON that leave it JSON."""
    return st.randoms(use_true_random=False).map(lambda random: changed_json(content, random))


@pytest.mark.parametrize(
    ("name", "places", "value"),
    [
        ("gaussian", ("format",), "1"),
        ("gaussian", ("prior",), []),
        ("gaussian", ("prior", "limit"), "x"),
        ("gaussian", ("prior", "limit"), float("nan")),
        ("gaussian", ("prior", "odd"), 1),
        ("gaussian", ("decoder",), None),
        ("gaussian", ("decoder", "sizes"), [4]),
        ("gaussian", ("decoder", "sizes"), [4, 3, 3]),
        ("gaussian", ("decoder", "sizes"), [10**6, 10**6, 3]),
        ("gaussian", ("decoder", "sizes"), [4, *[1] * 10**6, 3]),
        ("gaussian", ("decoder", "sizes"), [-4, 2, 3]),
        ("gaussian", ("decoder", "activation"), "odd"),
        ("gaussian", ("decoder",), {"kind": "a\nb"}),
        ("gaussian", ("noise", "kind"), "odd"),
        ("gaussian", ("noise", "floor"), None),
        ("low-rank", ("noise", "rank"), 10**6),
        ("correlated", ("noise", "kind"), "Gaussian"),
        ("estimator", ("config", "params"), 5),
        ("estimator", ("config", "params", "n_latents"), 3),
        ("estimator", ("config", "params", "odd"), 3),
        ("estimator", ("config", "params", "learning_rate"), "x"),
        ("estimator", ("config", "history"), 5),
        ("estimator", ("config", "history"), [{"index": 0}]),
        ("estimator", ("config", "n_features"), 4),
        ("estimator", ("config", "feature_names"), ["a"]),
        ("estimator", ("config", "noise"), 3),
        ("estimator", ("config", "seed"), "x"),
    ],
)  # fmt: skip
def test_a_saved_model_that_makes_no_sense_is_told(tmp_path, name, places, value):
    config, weights = saved_models()[name]
    head = json.loads(config)
    holder = head
    for place in places[:-1]:
        holder = holder[place]
    holder[places[-1]] = value
    folder = write_saved(tmp_path / "model", (json.dumps(head).encode(), weights))
    with pytest.raises(InputError, match=re.escape(str(tmp_path))) as caught:
        load_any(folder)
    assert "\n" not in str(caught.value)


def test_info_tells_of_a_history_that_is_none(tmp_path):
    config, weights = saved_models()["gaussian"]
    config = json.dumps(json.loads(config) | {"config": {"history": 5}}).encode()
    folder = write_saved(tmp_path / "model", (config, weights))
    with pytest.raises(InputError, match="is damaged"):
        info([str(folder)], standalone_mode=False)


@pytest.mark.parametrize("config", [b"[" * 10**5, b"\xff", b"1e999", b'{"format": 1}'])
def test_what_is_no_configuration_is_told(tmp_path, config):
    folder = write_saved(tmp_path / "model", (config, saved_models()["gaussian"][1]))
    with pytest.raises(InputError, match=r"config\.json is damaged"):
        load_model(folder)


@pytest.mark.parametrize(("name", "shape"), [("words", (6, 3, 2)), ("spread", (2,))])
def test_states_of_another_table_are_told(tmp_path, name, shape):
    folder = write_saved(tmp_path / "model", saved_models()["estimator"])
    tensors = load_file(folder / MODEL_FILES[1])
    wrong = torch.zeros(shape, dtype=tensors[f"tensors.{name}"].dtype)
    save_file(tensors | {f"tensors.{name}": wrong}, folder / MODEL_FILES[1])
    with pytest.raises(InputError, match=f"is damaged: ValueError: {name} and the others"):
        TVAE.load(folder)


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


def test_a_tiff_that_claims_more_than_its_bytes_hold_is_told(tmp_path):
    path = write(tmp_path / "packed.tif", FILES["packed.tif"])
    with tifffile.TiffFile(path, mode="r+") as tiff:
        for name in ("ImageLength", "RowsPerStrip"):
            tiff.pages[0].tags[name].overwrite(20_000_000)
    with pytest.raises(InputError, match=r"shape \(20000000, 9, 3\) cannot be stored in \d+ bytes"):
        read_picture(path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'SizeT="1"', b'SizeT="99999999"'),
        (b"</OME>", b'<Value><ModuloAlongT Start="0" End="1e9" Step="1"/></Value></OME>'),
        (b'PlaneCount="2"', b'PlaneCount="99999999"'),
    ],
)
def test_ome_metadata_of_too_many_planes_are_told(tmp_path, old, new):
    with tifffile.TiffFile(io.BytesIO(FILES["ome.tif"])) as tiff:
        description = tiff.pages[0].description.encode()
    assert old in description
    path = tmp_path / "ome.tif"
    values = np.zeros((2, 12, 9), np.uint8)
    tifffile.imwrite(path, values, description=description.replace(old, new), metadata=None)
    with pytest.raises(InputError, match="tell of more than 1000000 planes"):
        read_picture(path)


def test_a_jpeg_that_claims_more_than_its_bytes_hold_is_told(tmp_path):
    content = bytearray(FILES["grey.jpg"])
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = (9000).to_bytes(2, "big") * 2
    with pytest.raises(InputError, match=r"9000 x 9000 pixels cannot be stored in \d+ bytes"):
        read_picture(write(tmp_path / "grey.jpg", content))


def test_an_hdf5_that_claims_more_than_its_bytes_hold_is_told(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (9000, 9000), float)
    with pytest.raises(InputError, match=r"\(9000, 9000\) cannot be stored in \d+ bytes"):
        read_table_at(path)


def test_a_tiff_whose_pages_go_round_is_told(tmp_path):
    path = tmp_path / "round.tif"
    with tifffile.TiffWriter(path) as writer:
        for rows in (8, 9):  # of one shape they are found without going from page to page
            writer.write(np.zeros((rows, 9), np.uint8), metadata=None)
    with tifffile.TiffFile(path) as tiff:
        first, last = (page.offset for page in tiff.pages)
    content = bytearray(path.read_bytes())
    place = last + 2 + 12 * int.from_bytes(content[last : last + 2], "little")
    content[place : place + 4] = first.to_bytes(4, "little")
    with pytest.raises(InputError, match="after page 2 comes an earlier one"):
        read_picture(write(path, content))


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
