"""Recordings: what is written comes back, and bad files are told in one line."""

import os

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from truvae import InputError
from truvae.io import Picture, write_picture
from truvae.io_audio import Sound, check_sound_output, is_sound, read_sound, write_sound

INTEGERS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
EXACT = [
    *((kind, subtype) for kind in ("WAV", "WAVEX", "RF64")
      for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")),
    ("FLAC", "PCM_S8"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"),
]  # fmt: skip


def extension(kind):
    return {"FLAC": ".flac", "OGG": ".ogg"}.get(kind, ".wav")


def random(n_samples, channels, subtype, seed=0):
    """Return samples over the whole range that the subtype can hold exactly."""
    generator = np.random.default_rng(seed)
    if subtype not in INTEGERS:
        values = generator.normal(size=(n_samples, channels))
        return values.astype(np.float32 if subtype == "FLOAT" else float).astype(float)
    limit = 2 ** (INTEGERS[subtype] - 1)
    levels = generator.integers(-limit, limit, (n_samples, channels))
    levels[: len(levels) // 3] = limit - 1
    return levels / limit


def stored(tmp_path, kind="WAV", subtype="PCM_16", n_samples=1000, channels=1, name="a"):
    """Write a file by soundfile alone."""
    path = tmp_path / f"{name}{extension(kind)}"
    data = 0.2 * np.random.default_rng(0).normal(size=(n_samples, channels))
    soundfile.write(path, data, 16_000, subtype, format=kind)
    return path


# --- What we write, we read -----------------------------------------------------------------


@pytest.mark.parametrize(("kind", "subtype"), EXACT)
@settings(max_examples=15)
@given(
    n_samples=st.integers(1, 300),
    channels=st.integers(1, 8),
    rate=st.sampled_from([8000, 16_000, 22_050, 44_100, 96_000]),
    seed=st.integers(0, 9),
)
def test_every_sample_comes_back(tmp_path_factory, kind, subtype, n_samples, channels, rate, seed):
    sound = Sound(random(n_samples, channels, subtype, seed), rate, kind, subtype)
    path = tmp_path_factory.mktemp("sound") / f"a{extension(kind)}"
    assert write_sound(path, sound) == ()
    found = read_sound(path)
    np.testing.assert_array_equal(found.data, sound.data)
    assert found.data.dtype == float
    assert (found.format, found.subtype, found.sample_rate) == (kind, subtype, rate)
    assert found.notes == ()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("subtype", INTEGERS)
def test_integers_are_what_another_reader_finds(tmp_path, subtype):
    path = tmp_path / ("a.flac" if subtype == "PCM_S8" else "a.wav")
    data = random(50, 2, subtype)
    write_sound(path, Sound(data, 16_000, subtype=subtype))
    found, _ = soundfile.read(path, dtype="int32")
    np.testing.assert_array_equal(found, (data * 2.0**31).astype(np.int32))


@pytest.mark.parametrize(("kind", "subtype"), [*EXACT[:6], *EXACT[-3:]])
def test_a_file_of_another_writer_is_copied_bit_by_bit(tmp_path, kind, subtype):
    path = stored(tmp_path, kind, subtype, channels=2)
    write_sound(tmp_path / f"b{path.suffix}", read_sound(path))
    for dtype in ("int32", "float64"):
        expected, found = (
            soundfile.read(p, dtype=dtype) for p in (path, tmp_path / f"b{path.suffix}")
        )
        np.testing.assert_array_equal(found[0], expected[0])


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
@pytest.mark.parametrize("channels", [1, 2])
def test_ogg_keeps_length_rate_and_nearly_the_samples(tmp_path, subtype, channels):
    time = np.arange(200_000) / 16_000
    data = 0.3 * np.sin(2 * np.pi * 440 * time)[:, None].repeat(channels, 1)
    notes = write_sound(tmp_path / "a.ogg", Sound(data, 16_000, "OGG", subtype))
    assert "lossy" in notes[0]
    found = read_sound(tmp_path / "a.ogg")
    assert (found.format, found.subtype, found.data.shape) == ("OGG", subtype, data.shape)
    assert np.abs(found.data[1000:-1000] - data[1000:-1000]).max() < 0.05


@pytest.mark.parametrize(
    ("subtype", "target", "kept", "note"),
    [
        ("PCM_32", ".flac", "PCM_24", "PCM_32 was written as PCM_24, rounded to 24 bit"),
        ("FLOAT", ".flac", "PCM_24", "FLOAT was written as PCM_24, rounded to 24 bit"),
        ("VORBIS", ".flac", "PCM_24", "VORBIS was written as PCM_24, rounded to 24 bit"),
        ("VORBIS", ".wav", "FLOAT", "VORBIS was written as FLOAT"),
        ("ULAW", ".wav", "PCM_16", "ULAW was written as PCM_16"),
        ("ULAW", ".flac", "PCM_16", "ULAW was written as PCM_16"),
        ("PCM_S8", ".wav", "PCM_U8", None),
        ("PCM_U8", ".flac", "PCM_S8", None),
        ("PCM_24", ".flac", "PCM_24", None),
        ("PCM_16", ".ogg", "VORBIS", "an OGG in VORBIS is lossy: the samples change slightly"),
    ],
)
def test_another_format_keeps_what_it_can(tmp_path, subtype, target, kept, note):
    data = random(100, 1, subtype) * (0.1 if note else 1)
    notes = write_sound(tmp_path / f"a{target}", Sound(data, 16_000, subtype=subtype))
    found = read_sound(tmp_path / f"a{target}")
    assert found.subtype == kept
    assert notes == ((note,) if note else ())
    if target != ".ogg":
        step = {"PCM_16": 2**-15, "PCM_24": 2**-23, "FLOAT": 2**-23}.get(kept, 0)
        assert np.abs(found.data - data).max() <= (step / 2 if note else 0)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG"])
def test_tags_come_back(tmp_path, kind):
    tags = {"title": "Prélude", "artist": "data", "date": "1722", "comment": "PEAK"}
    subtype = "VORBIS" if kind == "OGG" else "PCM_16"
    sound = Sound(np.zeros((100, 1)), 16_000, kind, subtype, tags)
    path = tmp_path / f"a{extension(kind)}"
    write_sound(path, sound)
    found = read_sound(path).metadata
    expected = {name: text for name, text in tags.items() if name in found}
    assert found == expected and len(found) >= 3


@pytest.mark.parametrize(("kind", "subtype"), EXACT)
def test_the_same_recording_gives_the_same_bytes(tmp_path, kind, subtype):
    tags = {"title": "PEAK", "comment": "data"}
    sound = Sound(random(99, 2, subtype), 16_000, kind, subtype, tags)
    path = tmp_path / f"a{extension(kind)}"
    write_sound(path, sound)
    content = path.read_bytes()
    if subtype in ("FLOAT", "DOUBLE") and kind == "WAV":
        place = content.rindex(b"PEAK", 0, content.rindex(b"data", 0, 400))
        assert content[place + 12 : place + 16] == bytes(4)  # no time of writing
    write_sound(path, sound)
    assert path.read_bytes() == content


# --- What is beyond the range ---------------------------------------------------------------


def test_integers_are_clipped_with_a_note(tmp_path):
    data = np.array([[1.5], [-1.5], [1.0], [-1.0], [0.3]])
    notes = write_sound(tmp_path / "a.wav", Sound(data, 16_000))
    assert notes == ("2 of 5 samples were beyond full scale and were clipped",)
    levels, _ = soundfile.read(tmp_path / "a.wav", dtype="int16")
    assert levels.tolist() == [32767, -32768, 32767, -32768, round(0.3 * 32768)]


def test_floats_keep_what_is_beyond_the_range_and_nan(tmp_path):
    data = np.array([[1.5], [np.nan], [-3.0]])
    assert write_sound(tmp_path / "a.wav", Sound(data, 16_000, subtype="FLOAT")) == ()
    np.testing.assert_array_equal(read_sound(tmp_path / "a.wav").data, data)


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.ogg"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_in_integers_is_an_error(tmp_path, name, value):
    sound = Sound(np.array([[0.0], [value]]), 16_000)
    with pytest.raises(InputError, match="1 samples are NaN or infinite.*FLOAT"):
        write_sound(tmp_path / name, sound)
    assert not any(tmp_path.iterdir())


# --- What cannot be written -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "channels", "rate", "message"),
    [
        ("a.flac", 9, 16_000, "FLAC holds at most 8 channels, not 9: write a.wav"),
        ("a.flac", 1, 700_000, "FLAC holds 1 to 655350 samples a second, not 700000: write a.wav"),
        ("a.ogg", 256, 16_000, "OGG holds at most 255 channels"),
        ("a.ogg", 1, 200_001, "OGG holds 1 to 200000 samples a second"),
        ("a.wav", 1025, 16_000, "WAV holds at most 1024 channels"),
        ("a.wav", 1, 0, "WAV holds 1 to"),
        ("a.mp3", 1, 16_000, "cannot tell the format.*.wav, .flac, .ogg"),
        ("missing/a.wav", 1, 16_000, "does not exist"),
        (".", 1, 16_000, "is a folder"),
    ],
)
def test_what_cannot_be_written_is_told_before(tmp_path, name, channels, rate, message):
    sound = Sound(np.zeros((4, channels)), rate)
    for call in (check_sound_output, write_sound):
        with pytest.raises(InputError, match=message):
            call(tmp_path / name, sound)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(0, 1), (4,), (4, 0)])
def test_data_without_samples_or_channels_are_an_error(tmp_path, shape):
    with pytest.raises(InputError, match="samples, channels"):
        write_sound(tmp_path / "a.wav", Sound(np.zeros(shape), 16_000))


def test_the_limits_are_those_of_the_library(tmp_path):
    for name, subtype, channels, rate in [
        ("a.flac", "PCM_16", 8, 655_350),
        ("a.ogg", "VORBIS", 255, 16_000),
        ("a.ogg", "VORBIS", 2, 200_000),
        ("a.ogg", "OPUS", 2, 44_100),  # which Opus has not: written as Vorbis
        ("a.wav", "PCM_16", 1024, 2**31 - 1),
    ]:
        write_sound(tmp_path / name, Sound(np.zeros((9, channels)), rate, "OGG", subtype))
        found = read_sound(tmp_path / name)
        assert (found.data.shape, found.sample_rate) == ((9, channels), rate)


def test_an_existing_file_stays_if_writing_fails(tmp_path, monkeypatch):
    path = stored(tmp_path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_sound(path, Sound(np.zeros((4, 1)), 16_000))
    assert path.read_bytes() == before and len([*tmp_path.iterdir()]) == 1


# --- What cannot be read --------------------------------------------------------------------


def test_sounds_are_told_by_content(tmp_path):
    for kind, subtype in [("WAV", "PCM_16"), ("RF64", "FLOAT"), ("FLAC", "PCM_16"),
                          ("OGG", "VORBIS")]:  # fmt: skip
        path = stored(tmp_path, kind, subtype, name=kind)
        path.rename(tmp_path / "x.png")
        assert is_sound(tmp_path / "x.png")
    for name in ("a.png", "a.jpg", "a.tiff", "a.npy"):
        write_picture(tmp_path / name, Picture(np.zeros((4, 4), np.uint8)))
        assert not is_sound(tmp_path / name)
    (tmp_path / "a.webp").write_bytes(b"RIFF\x10\0\0\0WEBPVP8 ")
    (tmp_path / "empty.wav").write_bytes(b"")
    for path in (tmp_path / "a.webp", tmp_path / "empty.wav", tmp_path, tmp_path / "missing.wav"):
        assert not is_sound(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"ID3\x04 and more", "is not a recording.*ID3.*WAV, FLAC and OGG are accepted"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "is not a recording"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "is damaged or not supported"),
        (b"fLaC" + bytes(50), "is damaged or not supported"),
        (b"OggS" + bytes(50), "is damaged or not supported"),
    ],
)
def test_what_is_no_recording_is_told(tmp_path, content, message):
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_sound(tmp_path / "a.wav")
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_are_told(tmp_path):
    with pytest.raises(InputError, match="there is no file"):
        read_sound(tmp_path / "a.wav")
    with pytest.raises(InputError, match="is a folder"):
        read_sound(tmp_path)


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "PCM_16"), ("OGG", "VORBIS")])
def test_no_samples_are_an_error(tmp_path, kind, subtype):
    with pytest.raises(InputError, match="holds no samples"):
        read_sound(stored(tmp_path, kind, subtype, n_samples=0))


def test_a_wav_that_was_cut_short_is_read_with_a_note(tmp_path):
    path = stored(tmp_path)
    whole = read_sound(path)
    path.write_bytes(path.read_bytes()[:-600])
    found = read_sound(path)
    np.testing.assert_array_equal(found.data, whole.data[:-300])
    assert found.notes == ("the file was cut short: 700 samples of each channel were read",)


def test_a_flac_that_was_cut_short_is_an_error(tmp_path):
    path = stored(tmp_path, "FLAC", n_samples=20_000)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InputError, match="is damaged"):
        read_sound(path)


def test_a_header_that_claims_too_much_is_an_error(tmp_path):
    path = stored(tmp_path, "FLAC")
    content = bytearray(path.read_bytes())
    content[21] |= 15  # the highest four of the 36 bits of the number of samples
    path.write_bytes(content)
    with pytest.raises(InputError, match="claims 6.* samples"):
        read_sound(path)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Return a small file of each kind, as bytes."""
    folder = tmp_path_factory.mktemp("fuzz")
    pairs = [*EXACT, ("OGG", "VORBIS"), ("OGG", "OPUS"), ("WAV", "ULAW"), ("WAV", "MS_ADPCM")]
    return [stored(folder, *pair, n_samples=300, channels=2).read_bytes() for pair in pairs]


@settings(max_examples=400)
@given(data=st.data())
def test_damaged_files_never_raise_anything_else(tmp_path_factory, samples, data):
    content = bytearray(data.draw(st.sampled_from(samples)))
    for _ in range(data.draw(st.integers(1, 6))):
        last = min(len(content) - 1, data.draw(st.sampled_from([99, 9999])))  # often in the header
        content[data.draw(st.integers(0, last))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(12, len(content))) :]
    path = tmp_path_factory.mktemp("fuzz") / "a"
    path.write_bytes(content)
    try:
        sound = read_sound(path)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert sound.data.ndim == 2 and sound.data.size and sound.sample_rate > 0
        if np.isfinite(sound.data).all() and sound.data.shape[1] <= 8:
            write_sound(path.parent / "b.wav", sound)
