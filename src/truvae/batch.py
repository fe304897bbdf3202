"""Many files: which ones they are, several at a time, and what became of each."""

import glob
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from truvae import torchrun
from truvae.errors import InputError
from truvae.records import failure, summary
from truvae.signals import StopSignals
from truvae.threads import shared_out, use_threads

Record = dict[str, Any]

_SOME_FAILED, _BAD_INPUT = 1, 2


@dataclass(frozen=True)
class Task:
    """One file to restore."""

    source: Path
    target: Path
    options: dict[str, Any]
    """Those of the command line, as `files.restore_file` takes them."""


Outcomes = Generator[tuple[Task, Record], None, None]


def are_several(inputs: Sequence[str]) -> bool:
    """Tell whether there may be several files, as in a folder or by a pattern.

    Examples
    --------
    >>> are_several(["a.png"]), are_several(["scans/**/*.png"])
    (False, True)
    """
    return len(inputs) > 1 or Path(inputs[0]).is_dir() or _is_pattern(inputs[0])


def pair(inputs: Sequence[str], output: str) -> list[tuple[Path, Path]]:
    """Pair every input with its output: file to file, or folders, patterns and files to a folder.

    Parameters
    ----------
    inputs
        Files, folders (what is in them, not in folders of theirs), or patterns such as
        ``scans/**/*.tif``, in which ``**`` stands for folders at any depth.
    output
        A file, or an existing folder if there may be several inputs.

    Raises
    ------
    InputError
        If there is no such folder, no picture, or two of them would have one output.
    """
    if not are_several(inputs):
        return [(Path(inputs[0]), Path(output))]
    files = [*dict.fromkeys(file for name in inputs for file in _files(name))]
    kinds, names = "PNG, JPEG, TIFF, NPY, WAV, FLAC or OGG", " ".join(inputs)
    if not files and all(map(_is_pattern, inputs)):
        raise InputError(f"no {kinds} file matches {names}")
    if not files:
        raise InputError(f"no {kinds} files in {names}")
    out = Path(output)
    if not out.is_dir():
        raise InputError(
            f"several pictures go to a folder, and {output} is not one: give an existing folder"
        )
    targets = [out / _lossless(file.name) for file in files]
    check_distinct([*targets, *map(_aside, targets)])
    return list(zip(files, targets, strict=True))


def check_distinct(targets: Sequence[Path]) -> None:
    """Raise an `InputError` if two inputs would be written to one place."""
    for target, count in Counter(targets).items():
        if count > 1:
            raise InputError(f"{count} of the inputs would be written to {target}: rename them")


def restore_all(
    tasks: Sequence[Task],
    start: float,
    stop: StopSignals,
    *,
    jobs: int = 1,
    skip_existing: bool = False,
    shared_model: bool = False,
) -> int:
    """Restore files; print what there is to tell of each once it is done, and a table at last.

    Parameters
    ----------
    tasks
        The files; options but those for single files are the same for all.
    start
        When the program began, by `time.perf_counter`: the first file pays for that.
    stop
        Once a signal was received, what is worked on ends with its best so far, of several files
        in one with ".unfinished" in its name, and nothing more is begun.
    jobs
        How many processes work at a time, each on a file of its own with its share of the threads;
        with 1 it is this one.
    skip_existing
        Whether to leave out files whose output exists.
    shared_model
        Whether all are pictures that are restored with models in common, in this process.

    Returns
    -------
    The exit status: 0, 1 if one of several failed, 2 if the only one did, 128 and the number of
    the signal that was received.

    Raises
    ------
    InputError
        If models are to be shared, and the pictures are not alike.
    """
    _check_ranks(tasks, jobs, shared_model)
    if shared_model and jobs > 1:
        raise InputError("--shared-model restores all pictures together: leave --jobs out")
    several, quiet = len(tasks) > 1, tasks[0].options["quiet"]
    left = _left(tasks, skip_existing)
    jobs = min(jobs, len(left))
    if shared_model and left:
        outcomes = _together(left, start, stop)
    elif jobs > 1:
        outcomes = _side_by_side(left, jobs, stop)
    else:
        outcomes = _in_turn(left, start, stop, several)
    records = []
    loud = jobs > 1 and not quiet  # where the processes are silent
    with closing(outcomes), _bar(len(left), shown=loud) as bar:  # closing ends the processes
        for task, record in outcomes:
            record = _settled(task, record) if several else record
            records.append(record)
            if not _tells(record, stop):
                continue
            with bar.external_write_mode():
                _tell(task, record, several, with_notes=loud)
            bar.update()
    if several and records and not quiet:
        print(_table(records), file=sys.stderr)
    if stop.received:
        return 128 + stop.received
    if not any("error" in record for record in records):
        return 0
    return _SOME_FAILED if several else _BAD_INPUT


def _check_ranks(tasks: Sequence[Task], jobs: int, shared_model: bool) -> None:
    """Raise an `InputError` for what processes that work together do not do."""
    if torchrun.size() > 1 and (jobs > 1 or (len(tasks) > 1 and not shared_model)):
        raise InputError(
            "the processes of torchrun restore one file together, or several with --shared-model: "
            "give one, or leave torchrun out and take --jobs"
        )


def _files(name: str) -> list[Path]:
    """Return the file of this name, or the pictures in a folder or that a pattern stands for."""
    from truvae.io import EXTENSIONS
    from truvae.io_audio import SOUND_EXTENSIONS

    path = Path(name)
    if path.is_dir():
        found = [*path.iterdir()]
    elif _is_pattern(name):
        found = [Path(match) for match in glob.iglob(name, recursive=True)]
    else:
        return [path]
    known = EXTENSIONS + SOUND_EXTENSIONS
    return sorted(file for file in found if file.suffix.lower() in known and file.is_file())


def _is_pattern(name: str) -> bool:
    return glob.has_magic(name) and not Path(name).exists()


def _lossless(name: str) -> str:
    """Return the name of the output: a JPEG, which would add errors, becomes a PNG."""
    path = Path(name)
    return path.stem + ".png" if path.suffix.lower() in (".jpg", ".jpeg") else name


def _left(tasks: Sequence[Task], skip_existing: bool) -> list[Task]:
    """Return what is to be done; tell of what is skipped."""
    done = [task for task in tasks if skip_existing and _is_done(task)]
    for task in done if tasks[0].options["as_json"] and torchrun.rank() == 0 else []:
        paths = {"input": str(task.source), "output": str(task.target)}
        print(json.dumps(paths | {"skipped": True}), flush=True)
    if done and not tasks[0].options["quiet"]:
        what = done[0].target if len(done) == 1 else f"{len(done)} files"
        print(f"truvae: note: {what} skipped: the output exists", file=sys.stderr)
    targets = {task.target for task in done}
    return [task for task in tasks if task.target not in targets]


def _is_done(task: Task) -> bool:
    return task.target.exists() and not (task.source.exists() and task.target.samefile(task.source))


def _in_turn(tasks: Sequence[Task], start: float, stop: StopSignals, several: bool) -> Outcomes:
    """Restore one file after the other in this process."""
    for task in tasks:
        if stop.received:
            return
        yield task, _restored(task, start, lambda: stop.received is not None, several)
        start = time.perf_counter()


def _together(tasks: Sequence[Task], start: float, stop: StopSignals) -> Outcomes:
    """Restore pictures with models in common."""
    from truvae.files import restore_together

    told = [(task.source, task.target, task.options) for task in tasks]
    records = restore_together(told, start, lambda: stop.received is not None)
    by_source = {str(task.source): task for task in tasks}
    for record in records:
        yield by_source[record["input"]], record


def _restored(task: Task, start: float, should_stop: Callable[[], bool], several: bool) -> Record:
    """Restore a file; return its record, or what was wrong with it."""
    from truvae.files import restore_file

    try:
        return restore_file(task.source, task.target, task.options, start, should_stop)
    except (InputError, OSError) as error:
        return failure(task.source, error)
    except Exception as error:
        if not several:
            raise
        # The other files must not suffer from a mistake of ours, or from too little memory.
        return failure(task.source, RuntimeError(f"{type(error).__name__}: {error}"))


def _side_by_side(tasks: Sequence[Task], jobs: int, stop: StopSignals) -> Outcomes:
    """Restore files in several processes; yield what became of each as it comes."""
    from truvae.workers import Crash, side_by_side

    threads = shared_out(tasks[0].options["threads"], jobs)
    changed = {"threads": threads, "quiet": True, "verbose": False}
    theirs = [replace(task, options=task.options | changed) for task in tasks]
    results = side_by_side(_restore_there, theirs, jobs, lambda: stop.received is not None)
    with closing(results):
        for task, result in results:
            if isinstance(result, Crash):
                error = f"its process {result}; if memory ran out, take fewer --jobs"
                yield task, failure(task.source, InputError(error))
            else:
                yield task, result


def _restore_there(task: Task, should_stop: Callable[[], bool]) -> Record:
    """Restore a file in a process that is there for that."""
    start = time.perf_counter()
    use_threads(task.options["threads"])
    return _restored(task, start, should_stop, several=True)


def _settled(task: Task, record: Record) -> Record:
    """Put aside what was interrupted, so that it is not taken for done; what was put aside before
    goes once the file is done.
    """
    aside = _aside(task.target)
    if record.get("interrupted"):
        task.target.replace(aside)
        return record | {"output": str(aside)}
    if "output" in record:
        aside.unlink(missing_ok=True)
    return record


def _aside(target: Path) -> Path:
    """Return where an interrupted output goes, of several."""
    return target.with_stem(f"{target.stem}.unfinished")


def _tells(record: Record, stop: StopSignals) -> bool:
    """Tell whether to tell of a file: rank 0 does, and another one of an error of its own."""
    if torchrun.rank() > 0 and ("error" not in record or stop.received):
        return False
    torchrun.let_first_tell()
    return True


def _bar(n: int, shown: bool) -> Any:
    """Return a bar that shows how many files are done."""
    from tqdm import tqdm

    return tqdm(total=n, unit="file", file=sys.stderr, disable=not shown, leave=False, delay=1)


def _tell(task: Task, record: Record, several: bool, with_notes: bool) -> None:
    """Print the notes, and the result or the error of a file."""
    for note in record.get("notes", []) if with_notes else []:
        print(f"truvae: note: {task.source}: {note}", file=sys.stderr)
    error = record.get("error")
    if error is not None:
        of_what = f"{task.source}: " if several and str(task.source) not in error else ""
        print(f"truvae: error: {of_what}{error}", file=sys.stderr)
    if task.options["as_json"]:
        print(json.dumps(record, allow_nan=False), flush=True)
    elif error is None:
        print(summary(record), flush=True)


def _table(records: Sequence[Record]) -> str:
    """Return a line for each file, below names of the columns.

    Examples
    --------
    >>> good = {"output": "out/a.png", "input": "a.png", "sigma": 24.96, "psnr": None}
    >>> print(_table([good | {"seconds": 61.23}, {"input": "b.png", "error": "it is empty"}]))
    file      sigma   seconds   error
    a.png     24.96      61.2
    b.png                       it is empty
    """
    measured = any(record.get("psnr") is not None for record in records)
    formats = {"sigma": ".4g", **({"psnr": ".2f"} if measured else {}), "seconds": ".1f"}
    rows = [["file", *(name.replace("psnr", "PSNR") for name in formats), "error"]]
    for record in records:
        values = [(record.get(name), form) for name, form in formats.items()]
        cells = ["" if value is None else format(value, form) for value, form in values]
        rows.append([record["input"], *cells, record.get("error", "")])
    width = max(len(row[0]) for row in rows)
    lines = [[row[0].ljust(width), *(f"{c:>9}" for c in row[1:-1]), f"  {row[-1]}"] for row in rows]
    return "\n".join(" ".join(line).rstrip() for line in lines)


__all__ = ["Task", "are_several", "check_distinct", "pair", "restore_all"]
