"""Recordings on disk: WAV, FLAC and OGG through libsndfile, told apart by their content."""

import io
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from truvae.errors import InputError
from truvae.io import check_place, check_source, whole_file
from truvae.memory import check_fits, check_stored

if TYPE_CHECKING:
    from soundfile import SoundFile

Array = npt.NDArray[Any]

SOUND_EXTENSIONS = (".wav", ".flac", ".ogg")
_ACCEPTED = "WAV, FLAC and OGG are accepted"
_MAX_VALUES = 2**31  # more than this in one file is a damaged header or a trap
# Samples of a channel from one byte at most: FLAC has 65535 in 10 bytes, the others have fewer.
_MOST_SAMPLES = 8192
_MAX_WAV = 2**32 - 2**16  # bytes that a header with sizes of 32 bit can tell of
_BLOCK = 2**16  # samples at a time: libsndfile's Vorbis encoder overflows its stack on millions
_BITS = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}
_DEPTHS = {**_BITS, "FLOAT": 32, "DOUBLE": 64, "VORBIS": 32, "OPUS": 32}  # as they are read
_TAGS = ("title", "copyright", "artist", "comment", "date", "album", "license", "tracknumber",
         "genre")  # fmt: skip
# What becomes of the subtypes in another format. All others hold 16 bits or fewer (mu-law, ADPCM).
_SUBTYPES = {
    "WAV": {"PCM_U8": "PCM_U8", "PCM_S8": "PCM_U8", "PCM_24": "PCM_24", "PCM_32": "PCM_32",
            "FLOAT": "FLOAT", "DOUBLE": "DOUBLE", "VORBIS": "FLOAT", "OPUS": "FLOAT"},
    "FLAC": {"PCM_U8": "PCM_S8", "PCM_S8": "PCM_S8"}
    | dict.fromkeys(["PCM_24", "PCM_32", "FLOAT", "DOUBLE", "VORBIS", "OPUS"], "PCM_24"),
    "OGG": {"OPUS": "OPUS"},
}  # fmt: skip
_OTHERWISE = {"WAV": "PCM_16", "FLAC": "PCM_16", "OGG": "VORBIS"}
# Channels and samples a second at most. Beyond them, libsndfile fails, or takes the process down.
_LIMITS = {"WAV": (1024, 2**31 - 1), "FLAC": (8, 655_350), "OGG": (255, 200_000)}
_OPUS_RATES = (8000, 12_000, 16_000, 24_000, 48_000)


@dataclass(frozen=True)
class Sound:
    """A recording as it was read.

    >>> sound = Sound(np.zeros((16_000, 2)), sample_rate=16_000)
    >>> sound.format, sound.subtype
    ('WAV', 'PCM_16')
    """

    data: Array
    """(n, channels), float64 in units of full scale: integers lie in [-1, 1). NaN is missing."""
    sample_rate: int
    """Samples a second in each channel."""
    format: str = "WAV"
    """WAV, WAVEX (with the extensible header), RF64 (beyond 4 GB), FLAC or OGG."""
    subtype: str = "PCM_16"
    """How samples are stored, by libsndfile's name: PCM_U8, PCM_24, FLOAT, VORBIS and others."""
    metadata: dict[str, str] = field(default_factory=dict)
    """What `write_sound` carries over: title, artist, comment and the like."""
    notes: tuple[str, ...] = ()
    """One line for each thing to know about the file, for people."""


def is_sound(path: str | os.PathLike[str]) -> bool:
    """Tell by its first bytes whether a file is WAV, FLAC or OGG; a missing file is not, and a pipe
    is left unread.

    >>> is_sound("missing.wav")
    False
    """
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return _starts_a_sound(file.read(12))
    except OSError:
        return False


def read_sound(path: str | os.PathLike[str]) -> Sound:
    """Read WAV, FLAC or OGG: integers divided by 2^(bits - 1), floats as they are.

    Raises
    ------
    InputError
        If the file is missing, damaged, too large, of another kind, or holds no samples.
    """
    from soundfile import SoundFile

    path = Path(path)
    _check_source(path)
    try:
        with SoundFile(path) as file:
            _check_size(path, file)
            data = file.read(file.frames, dtype="float64", always_2d=True)  # GSM has no end to seek
            tags = {name: text for name, text in file.copy_metadata().items() if name in _TAGS}
            sound = Sound(data, file.samplerate, file.format, file.subtype, tags, _cut(file))
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path} is too large for the memory: cut it into parts") from None
    except Exception as error:  # libsndfile's errors, tags that are no text
        raise InputError(f"{path} is damaged or not supported: {_message(error)}") from error
    if not len(data):
        raise InputError(f"{path} holds no samples")
    return sound


def write_sound(path: str | os.PathLike[str], sound: Sound) -> tuple[str, ...]:
    """Write a recording in the format that the extension of `path` names; return notes for people.

    The file appears complete or not at all. What was read from integers or floats and is written to
    the same format comes back bit by bit, and the same recording gives the same bytes (an OGG is
    lossy, and numbered at random). Samples beyond full scale are clipped where integers are
    written. The notes say what the format could not carry.

    Raises
    ------
    InputError
        If `path` or the recording does not suit (see `check_sound_output`), or if samples are NaN
        or infinite and the format has no floats.
    """
    path = Path(path)
    check_sound_output(path, sound)
    kind, subtype = _target(path, sound)
    odd = sound.data.size - np.count_nonzero(np.isfinite(sound.data))
    if odd and subtype not in ("FLOAT", "DOUBLE"):
        raise InputError(
            f"{odd} samples are NaN or infinite, which {kind} in {subtype} cannot hold: "
            "write a WAV in FLOAT"
        )
    encoded, lost = _encode(sound, kind, subtype)
    with whole_file(path) as file:
        file.write(encoded)
    return (*_losses(sound, kind, subtype), *lost)


def check_sound_output(path: str | os.PathLike[str], sound: Sound | None = None) -> None:
    """Check, before the work begins, that `sound` can be written to `path`.

    Raises
    ------
    InputError
        If the extension is unknown, the folder is missing or closed, or the format of `path`
        cannot hold so many channels or samples a second.
    """
    path = Path(path)
    check_place(path)
    if path.suffix.lower() not in SOUND_EXTENSIONS:
        raise InputError(
            f"cannot tell the format of {path}: its extension must be one of "
            f"{', '.join(SOUND_EXTENSIONS)}"
        )
    if sound is None:
        return
    kind, shape = _format(path), sound.data.shape
    if sound.data.ndim != 2 or 0 in shape:
        raise InputError(f"the data have shape {shape}: (samples, channels) is needed")
    channels, rate = _LIMITS[kind]
    hint = "" if kind == "WAV" else f": write {path.stem}.wav"
    if shape[1] > channels:
        raise InputError(f"{kind} holds at most {channels} channels, not {shape[1]}{hint}")
    if not 1 <= sound.sample_rate <= rate:
        raise InputError(
            f"{kind} holds 1 to {rate} samples a second, not {sound.sample_rate}{hint}"
        )


def holds_more(path: Path, sound: Sound) -> bool:
    """Tell whether a recording that is written to `path` may be louder than full scale."""
    return _target(path, sound)[1] not in _BITS


def _starts_a_sound(start: bytes) -> bool:
    if start[:4] in (b"RIFF", b"RIFX", b"RF64"):
        return start[8:12] == b"WAVE"
    return start[:4] in (b"fLaC", b"OggS")


def _check_source(path: Path) -> None:
    """Check that there is a file that may be a recording."""
    check_source(path, "recording")
    try:
        with path.open("rb") as file:
            start = file.read(12)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if not start:
        raise InputError(f"{path} is empty")
    if not _starts_a_sound(start):
        raise InputError(f"{path} is not a recording (it starts with {start!r}): {_ACCEPTED}")


def _check_size(path: Path, file: "SoundFile") -> None:
    """Refuse, before memory is taken, a file that claims to be enormous."""
    if file.frames * file.channels > _MAX_VALUES:
        raise InputError(
            f"{path} claims {file.frames} samples in {file.channels} channels: at most "
            f"{_MAX_VALUES} values are read, cut it into parts"
        )
    check_stored(path, f"{file.frames} samples", file.frames, _MOST_SAMPLES)
    check_fits(path, (file.frames, file.channels), np.dtype(np.float64).itemsize)


def _cut(file: "SoundFile") -> tuple[str, ...]:
    """Note that a header tells of more than there is, as after a recording that broke off."""
    if "data : " in file.extra_info and "(should be" in file.extra_info.split("data : ")[1]:
        return (f"the file was cut short: {file.frames} samples of each channel were read",)
    return ()


def _message(error: Exception) -> str:
    """Return libsndfile's own words, in one line and without the path."""
    text = getattr(error, "error_string", None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")


def _format(path: Path) -> str:
    return path.suffix[1:].upper()


def _target(path: Path, sound: Sound) -> tuple[str, str]:
    """Return the format and the subtype to write."""
    kind = _format(path)
    subtype = _SUBTYPES[kind].get(sound.subtype, _OTHERWISE[kind])
    if subtype == "OPUS" and sound.sample_rate not in _OPUS_RATES:
        subtype = "VORBIS"
    if kind == "WAV" and sound.format in ("WAVEX", "RF64"):
        kind = sound.format
    if kind.startswith("WAV") and sound.data.size * _BITS.get(subtype, 64) // 8 > _MAX_WAV:
        kind = "RF64"
    return kind, subtype


def _encode(sound: Sound, kind: str, subtype: str) -> tuple[memoryview, list[str]]:
    """Return the bytes of a file, and what of the metadata could not be written."""
    from soundfile import LibsndfileError, SoundFile

    buffer, values, lost = io.BytesIO(), _stored(sound.data, subtype), []
    with SoundFile(
        buffer, "w", sound.sample_rate, sound.data.shape[1], subtype, format=kind
    ) as file:
        for name, text in sound.metadata.items():
            try:
                setattr(file, name, text)
            except LibsndfileError as error:
                lost.append(f"the {name} was left out: {_message(error)}")
        for start in range(0, len(values), _BLOCK):
            file.write(values[start : start + _BLOCK])
    _without_time(buffer, kind)
    return buffer.getbuffer(), lost


def _stored(data: Array, subtype: str) -> Array:
    """Return what libsndfile is to store: integers in the high bits of int32, or floats.

    libsndfile scales floats to integers by 2^(bits - 1) - 1, which is not how it reads them.
    """
    if subtype not in _BITS:
        return data.astype(np.float32 if subtype == "FLOAT" else np.float64)
    limit = 2 ** (_BITS[subtype] - 1)
    levels: Array = np.clip(np.rint(data * limit), -limit, limit - 1).astype(np.int32)
    return np.left_shift(levels, 32 - _BITS[subtype])


def _without_time(buffer: io.BytesIO, kind: str) -> None:
    """Zero the time of writing, which libsndfile puts beside the peaks of WAVs in floats."""
    view, place = buffer.getbuffer(), 12
    while kind.startswith("WAV") and (name := bytes(view[place : place + 4])) != b"data":
        if name == b"PEAK":
            view[place + 12 : place + 16] = bytes(4)
        size = int.from_bytes(view[place + 4 : place + 8], "little")
        place += 8 + size + size % 2


def _losses(sound: Sound, kind: str, subtype: str) -> list[str]:
    """Say what a format does not carry."""
    notes = []
    if kind == "OGG":
        notes.append(f"an OGG in {subtype} is lossy: the samples change slightly")
    elif subtype != sound.subtype and {subtype, sound.subtype} != {"PCM_U8", "PCM_S8"}:
        rounded = subtype in _BITS and _DEPTHS.get(sound.subtype, 0) > _BITS[subtype]
        rounding = f", rounded to {_BITS[subtype]} bit" if rounded else ""
        notes.append(f"{sound.subtype} was written as {subtype}{rounding}")
    beyond = np.count_nonzero(np.abs(sound.data) > 1) if subtype in _BITS else 0
    if beyond:
        notes.append(
            f"{beyond} of {sound.data.size} samples were beyond full scale and were clipped"
        )
    return notes


__all__ = [
    "SOUND_EXTENSIONS",
    "Sound",
    "check_sound_output",
    "holds_more",
    "is_sound",
    "read_sound",
    "write_sound",
]
