"""Checkpoints: a folder from which an interrupted restoration goes on, bit for bit.

It holds `checkpoint.json`, which says what run it belongs to, and a file for each step of the run:
the tensors, and what JSON can hold of it in their header. Nothing is ever executed. Every file
appears complete or not at all, and carries a hash of all that is in it.

Everything before the first epoch follows from the input and the seed, so that it is done again.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from truvae import __version__
from truvae.clock import Clock
from truvae.errors import InputError
from truvae.model import Model
from truvae.optim import Adam
from truvae.population import Population
from truvae.ranks import ALONE, Ranks

# Grows when what is written can no longer be read by the versions before.
_FORMAT = 1
_HEAD, _SUFFIX, _ASIDE = "checkpoint.json", ".safetensors", ".part"


class State(NamedTuple):
    """What was saved of one step of a run."""

    values: dict[str, Any]
    """What JSON can hold."""
    tensors: dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """The states of a run on disk; without a folder nothing is saved, and nothing found.

    Parameters
    ----------
    folder
        Where they lie; see `open_checkpoint`.
    head
        What is written to `checkpoint.json`: what run they belong to.
    prefix
        Stands before the names of the steps.
    ranks
        The processes of the run: rank 0 alone saves and loads, and tells the others.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     open_checkpoint(folder, False, {"seed": 1}).save("step", {"n": 3}, {"x": torch.ones(2)})
    ...     open_checkpoint(folder, True, {"seed": 1}).load("step")
    State(values={'n': 3}, tensors={'x': tensor([1., 1.])})
    """

    folder: Path | None = None
    head: str = ""
    prefix: str = ""
    ranks: Ranks = ALONE

    def part(self, name: str) -> "Checkpoint":
        """Return the checkpoint of a part of the run, in the same folder."""
        return replace(self, prefix=f"{self.prefix}{name}.")

    def save(self, name: str, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Save the state of a step in place of the one before.

        If that cannot be done, as on a full disk, the one before stays, and a warning says so.
        """
        if self.folder is None or self.ranks.rank > 0:
            return
        plain = torch.contiguous_format
        copies = {k: v.detach().cpu().clone(memory_format=plain) for k, v in tensors.items()}
        text = json.dumps(values)
        metadata = {"values": text, "sha256": self._digest(name, text, copies)}
        head = self.folder / _HEAD
        try:
            self.folder.mkdir(exist_ok=True)
            if not head.exists():
                _write(head, lambda aside: aside.write_text(self.head, "utf-8"))
            path = self.folder / self._file(name)
            _write(path, lambda aside: save_file(copies, aside, metadata))
        except (OSError, SafetensorError) as error:
            warnings.warn(
                f"the checkpoint could not be saved: {error}; the run goes on, and what was saved "
                "before stays",
                stacklevel=2,
            )

    def load(self, name: str) -> State | None:
        """Return what was saved of a step, None if nothing was.

        Raises
        ------
        InputError
            If the file is damaged, or of another run.
        """
        if self.folder is None:
            return None
        path = self.folder / self._file(name)
        return self.ranks.first(lambda: self._read(name, path) if path.exists() else None)

    def once(
        self,
        name: str,
        clock: Clock,
        make: Callable[[], State],
        beside: int = 1,
        is_whole: Callable[[], bool] = lambda: True,
    ) -> State:
        """Return the state of a step: as it was saved, its time counted as spent, or made now and
        saved, unless it was cut short, or is not whole.

        Of so many steps `beside` each other each counts for its share of the time.

        Raises
        ------
        InputError
            If the file is damaged, or of another run.
        """
        state = self.load(name)
        if state is not None:
            clock.watch.forward(state.values.pop("seconds"))
            return state
        state = make()
        if is_whole() and not clock.should_stop():
            self.save(name, state.values | {"seconds": clock.seconds / beside}, state.tensors)
        return state

    def _read(self, name: str, path: Path) -> State:
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                # Copies lie where sums come out as they did: at the start of a line of the cache.
                tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
            text = metadata.get("values", "")
            if metadata.get("sha256") != self._digest(name, text, tensors):
                raise ValueError("its hash is wrong")
            return State(json.loads(text), tensors)
        except (OSError, SafetensorError, ValueError) as error:
            raise InputError(
                f"{path} is damaged or of another run ({error}): remove it to go on from the step "
                "before, or give another folder"
            ) from None

    def _file(self, name: str) -> str:
        return f"{self.prefix}{name}{_SUFFIX}"

    def _digest(self, name: str, values: str, tensors: Mapping[str, Tensor]) -> str:
        """Return a hash of the state of a step, and of the run that it belongs to."""
        digest = hashlib.sha256(f"{self.head} {self._file(name)} {values}".encode())
        for key, tensor in sorted(tensors.items()):
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().data)
        return digest.hexdigest()


NOTHING = Checkpoint()
"""Saves nothing."""


@dataclass
class Training:
    """Everything that changes while a model is trained."""

    model: Model
    population: Population
    """The states of the data points of this rank."""
    optimizer: Adam
    generator: torch.Generator
    ranks: Ranks = ALONE

    def __post_init__(self) -> None:
        """Count the data points of all ranks."""
        self.n_data = int(*self.ranks.sum(len(self.population.words)))

    def states(self) -> Population:
        """Return the states of the data points of all ranks."""
        return self.population.gather(self.ranks, self.n_data)

    def tensors(self) -> dict[str, Tensor]:
        """Return all of it, so that any number of ranks can go on from there."""
        parts = {"population": vars(self.states()), "optimizer": self.optimizer.state_dict()}
        return self.result() | _flat(parts)

    def result(self) -> dict[str, Tensor]:
        """Return the model and the state of the generator, which is all that outlives training."""
        return {**self.model.state(), "generator": self.generator.get_state()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` or `result` returned."""
        model, device = self.model, self.generator.device
        model.prior.pi = tensors["prior"].to(device)
        model.decoder.load_state_dict(_part("decoder", tensors))
        for name, tensor in _part("noise", tensors).items():
            setattr(model.noise, name, tensor.to(device))
        if population := _part("population", tensors):
            if len(population["words"]) != self.n_data:
                raise InputError(
                    f"the checkpoint has states of {len(population['words'])} data points, this "
                    f"run {self.n_data}: go on with as much memory as there was, or take another "
                    "folder"
                )
            self.population.words = self.ranks.own(population["words"]).to(device)
            self.population.log_joint = self.ranks.own(population["log_joint"]).to(device)
            self.optimizer.load_state_dict(_part("optimizer", tensors))
        self.generator.set_state(tensors["generator"])


def open_checkpoint(
    folder: str | os.PathLike[str], resume: bool, run: Mapping[str, Any], ranks: Ranks = ALONE
) -> Checkpoint:
    """Open the checkpoint of a run; nothing is written before the first state is saved.

    Parameters
    ----------
    folder
        A folder that is new, empty or, to `resume`, of the same run.
    resume
        Whether to go on from what the folder holds.
    run
        What the result depends on: the options by name, and hashes of arrays (`fingerprint`).
    ranks
        The processes of the run; any number of them can go on from a checkpoint.

    Raises
    ------
    InputError
        If something else lies in the folder, or the checkpoint is of another run.
    """
    folder = Path(folder)
    check_checkpoint(folder, resume)
    # As it comes back from the file, in which a tuple is a list.
    run = json.loads(json.dumps(run, default=lambda number: number.item()))
    head = {"format": _FORMAT, "truvae": __version__, "run": run}
    text = json.dumps(head, indent=1) + "\n"
    if (folder / _HEAD).exists():
        _check_same(folder, head)
        text = (folder / _HEAD).read_text("utf-8")  # the same number may be 20 there, and 20.0 here
    return Checkpoint(folder, text, ranks=ranks)


def checkpoint_of(
    folder: str | os.PathLike[str] | None,
    resume: bool,
    data: npt.NDArray[Any],
    options: Mapping[str, Any],
    ranks: Ranks,
) -> Checkpoint:
    """Open the checkpoint that was asked for, of a run that data and options determine.

    Raises
    ------
    InputError
        As by `open_checkpoint`, or if there is no folder to resume from.
    """
    if folder is not None:
        return open_checkpoint(folder, resume, {"input": fingerprint(data), **options}, ranks)
    if resume:
        raise InputError("resume goes with a checkpoint: give its folder, or leave resume out")
    return NOTHING


def check_checkpoint(folder: Path, resume: bool) -> None:
    """Check, before the work begins, that a run can save its states to a folder.

    Raises
    ------
    InputError
        If its parent is missing, other things lie in it, or a checkpoint that is not resumed.
    """
    if not folder.parent.is_dir():
        raise InputError(f"the folder {folder.parent} does not exist: create it first")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: a checkpoint is a folder")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if names - {_HEAD + _ASIDE} and _HEAD not in names:
        raise InputError(f"{folder} holds other things than a checkpoint: give a new folder")
    if _HEAD in names and not resume:
        raise InputError(f"{folder} holds a checkpoint already: resume it, or give another folder")
    if not os.access(folder if folder.exists() else folder.parent, os.W_OK):
        raise InputError(f"{folder} cannot be written: choose another folder")


def fingerprint(array: npt.NDArray[Any]) -> str:
    """Return a hash of an array, its type and its shape.

    >>> fingerprint(np.zeros(3)) == fingerprint(np.zeros((3, 1)))
    False
    """
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _check_same(folder: Path, head: dict[str, Any]) -> None:
    """Raise an `InputError` if a checkpoint is not of the run that `head` describes."""
    path = folder / _HEAD
    try:
        found = json.loads(path.read_text("utf-8"))
        version, run = found["truvae"], dict(found["run"])
        same = (found["format"], version) == (head["format"], head["truvae"])
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{path} is damaged: it does not describe a checkpoint; give another folder"
        ) from None
    if not same:
        raise InputError(
            f"{folder} was saved by truvae {version}, and this is {head['truvae']}: only the same "
            "version can go on with it; give another folder to start anew"
        )
    for name, now in head["run"].items():
        before = run.get(name)
        if before == now:
            continue
        if name == "input":
            raise InputError(f"{folder} is the checkpoint of another input: give another folder")
        label = name.removeprefix("n_").replace("_", " ")
        raise InputError(
            f"{folder} is the checkpoint of a run with other options ({label} was "
            f"{json.dumps(before)}, and is {json.dumps(now)}): give the same, or another folder"
        )


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file aside and, once it is on the disk, put it in its place."""
    aside = path.with_name(path.name + _ASIDE)
    try:
        write(aside)
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    if os.name == "posix":  # elsewhere folders cannot be opened
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _flat(parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{part}.{name}": t for part, named in parts.items() for name, t in named.items()}


def _part(part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of one part by their names within it."""
    start = part + "."
    return {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}


__all__ = [
    "NOTHING",
    "Checkpoint",
    "State",
    "Training",
    "check_checkpoint",
    "checkpoint_of",
    "fingerprint",
    "open_checkpoint",
]
