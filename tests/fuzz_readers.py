"""Fuzzing guided by coverage, beyond what `test_fuzz.py` does: not a part of the test suite.

    pip install atheris  # has wheels for Linux
    python tests/fuzz_readers.py READER [options of libFuzzer, folders of inputs, or one input]

READER is picture, mask, table, recording or model. It runs until it is stopped (or for
-max_total_time=SECONDS); the first input that raises anything but an error in one line, or takes
much time or memory, is written to a file `crash-*`, `timeout-*` or `oom-*`, which given as an
argument does it again.
"""

import os
import sys
import tempfile
import warnings
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["truvae", "tifffile"]):
    import test_fuzz
    from test_fuzz import FILES, PICTURES, RECORDINGS, TABLES, changed_json, mended, read

_LIMITS = ("-timeout=10", "-rss_limit_mb=2048", "-max_len=8192", "-keep_seed=1", "-reduce_inputs=0")
# Tables are told apart by extensions; here the first bytes choose one.
_EXTENSIONS = {b"\x93NUMPY": ".npy", b"\x89HDF": ".h5"}


def read_table_as(path, content):
    extension = next((e for start, e in _EXTENSIONS.items() if content.startswith(start)), ".csv")
    read(test_fuzz.read_table_at, path.with_suffix(extension), content)


def load_model(path, content):
    """Load a model of which an input holds configuration, header and tensors, zeros in between.

    The length of the header, which a safetensors file starts with, is always right.
    """
    config, header, tensors = (*content.split(b"\0", 2), b"", b"")[:3]
    weights = len(header).to_bytes(8, "little") + header + tensors
    test_fuzz.read_or_told(test_fuzz.load_any, test_fuzz.write_saved(path, (config, weights)))


def as_input(config, weights):
    end = 8 + int.from_bytes(weights[:8], "little")
    return b"\0".join([config, weights[8:end], weights[end:]])


def models():
    return [as_input(*files) for files in test_fuzz.saved_models().values()]


READERS = {
    "picture": (
        lambda path, content: read(test_fuzz.read_picture, path, content),
        lambda: [FILES[name] for name in PICTURES],
    ),
    "mask": (
        lambda path, content: read(test_fuzz.read_plane, path, content),
        lambda: [FILES[name] for name in PICTURES],
    ),
    "table": (read_table_as, lambda: [FILES[name] for name in TABLES]),
    "recording": (
        lambda path, content: read(test_fuzz.read_sound, path, content),
        lambda: [*RECORDINGS.values()],
    ),
    "model": (load_model, models),
}


def mutate(content, max_size, seed):
    """Mutate an input; without right checksums most readers would look no further."""
    random = Random(seed)
    parts = content.split(b"\0", 2)
    if len(parts) == 3 and random.random() < 0.7:  # a saved model
        changing = random.randrange(2)
        try:
            parts[changing] = changed_json(parts[changing], random)
        except (ValueError, RecursionError):
            pass
        else:
            return b"\0".join(parts)[:max_size]
    changed = atheris.Mutate(content, max_size)
    return mended(changed) if random.random() < 0.9 else changed


def corpus(folder, contents):
    """Write the inputs to begin with to a new folder."""
    folder.mkdir()
    for number, content in enumerate(contents):
        (folder / str(number)).write_bytes(content)
    return str(folder)


def fuzz(folder, reader, *options):
    """Fuzz a reader, with its inputs in a folder; it does not return."""
    check, make_valid = READERS[reader]
    warnings.simplefilter("ignore")
    valid = make_valid()
    with atheris.instrument_imports(include=["truvae", "tifffile"]):  # some imports are late
        for content in valid:
            check(folder / "input", content)
    if not any(Path(option).is_file() for option in options):
        options = (*options, corpus(folder / "valid", valid))

    def check_one(content):
        before = test_fuzz.peak_memory()
        check(folder / "input", content)
        assert test_fuzz.peak_memory() - before < test_fuzz.LIMIT, "it took much memory"

    atheris.Setup([sys.argv[0], *_LIMITS, *options], check_one, custom_mutator=mutate)
    atheris.Fuzz()


def main(*options):
    with tempfile.TemporaryDirectory() as folder:
        child = os.fork()  # libFuzzer ends its process as it is, and would leave the folder
        if child == 0:
            fuzz(Path(folder), *options)
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in READERS:
        sys.exit(f"say which reader: {', '.join(READERS)}")
    sys.exit(main(*sys.argv[1:]))
