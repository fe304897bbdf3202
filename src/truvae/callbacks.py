"""Callbacks: plain callables on the record of an epoch; one that returns True ends the training.

They go with `truvae.TVAE(callbacks=[...])`, with `truvae.denoise(on_epoch=...)`, and with a loop of
one's own over `truvae.training.fit`.
"""

import csv
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from truvae.saving import epochs_to_json
from truvae.training import Epoch

Callback = Callable[[Epoch], bool | None]


def progress_bar(**options: Any) -> Callback:
    """Return a callback that shows a bar on stderr; `options` are those of `tqdm.tqdm`.

    Examples
    --------
    >>> show = progress_bar(disable=True)
    >>> show(Epoch(0, 1.0, -9.0, 0.5, 2.0, 10, 1.0))
    """
    return _Bar(options)


@dataclass
class _Bar:
    """Shows a bar; a copy in another process gets one of its own."""

    options: dict[str, Any]
    bar: Any = field(default=None, repr=False)

    def __call__(self, epoch: Epoch) -> None:
        from tqdm import tqdm

        shape = "{percentage:3.0f}% |{bar}| {elapsed}, {remaining} to go  {desc}"
        if epoch.index == 0 and self.bar is not None:  # of the training before
            self.bar.close()
            self.bar = None
        if self.bar is None:  # not before the work has begun: bad input is told in one line
            self.bar = tqdm(**({"total": 1.0, "bar_format": shape} | self.options))
        text = f"F {epoch.elbo:.2f}  sigma {epoch.sigma:.4g}"
        self.bar.set_description_str(text, refresh=False)
        self.bar.update(epoch.progress - self.bar.n)
        if epoch.progress >= 1:
            self.bar.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Bar, (self.options,)

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Bar":
        return _Bar(self.options)  # files among them are the same


def csv_log(path: str | os.PathLike[str]) -> Callback:
    """Return a callback that writes a line of CSV for each epoch, and first the names of columns.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     csv_log(f"{folder}/log.csv")(Epoch(0, 1.0, -9.0, 0.5, 2.0, 10, 1.0))
    ...     print(Path(f"{folder}/log.csv").read_text().splitlines()[1])
    0,1.0,-9.0,0.5,2.0,10,1.0
    """
    Path(path).write_text("")
    return partial(_append_csv, Path(path))


def _append_csv(path: Path, epoch: Epoch) -> None:
    record = asdict(epoch)
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(record), lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(record)


def jsonl_log(path: str | os.PathLike[str]) -> Callback:
    """Return a callback that writes a JSON object for each epoch, one in a line; null for NaN.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     jsonl_log(f"{folder}/log.jsonl")(Epoch(0, 1.0, -9.0, float("nan"), 2.0, 10, 1.0))
    ...     print(json.loads(Path(f"{folder}/log.jsonl").read_text())["sigma"])
    None
    """
    Path(path).write_text("")
    return partial(_append_json, Path(path))


def _append_json(path: Path, epoch: Epoch) -> None:
    (record,) = epochs_to_json([epoch])
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def tensorboard(folder: str | os.PathLike[str]) -> Callback:
    """Return a callback that writes scalars for TensorBoard (`pip install truvae[tensorboard]`)."""
    from torch.utils.tensorboard import SummaryWriter

    return _Scalars(str(folder), SummaryWriter(str(folder)))


@dataclass
class _Scalars:
    """Writes scalars; a copy in another process has a file of its own."""

    folder: str
    writer: Any = field(repr=False)

    def __call__(self, epoch: Epoch) -> None:
        (record,) = epochs_to_json([epoch])
        for name, value in record.items():
            if name != "index" and value is not None:
                self.writer.add_scalar(name, value, epoch.index)
        self.writer.flush()

    def __reduce__(self) -> tuple[Any, ...]:
        return tensorboard, (self.folder,)


def time_budget(seconds: float) -> Callback:
    """Return a callback that ends the training after so many seconds from now.

    The option of the same name of `TVAE` and `denoise` does better: it plans the learning rate, so
    that it has come down at the end.

    Examples
    --------
    >>> time_budget(0.0)(Epoch(0, 0.1, -9.0, 0.5, 2.0, 10, 1.0))
    True
    """
    return partial(_is_past, time.perf_counter() + seconds)


def _is_past(end: float, epoch: Epoch) -> bool:
    return time.perf_counter() >= end


def preview(
    path: str | os.PathLike[str], draw: Callable[[], npt.ArrayLike], every: int = 1
) -> Callback:
    """Return a callback that draws generative fields, or other small pictures, to a file.

    Parameters
    ----------
    path
        The file, in any format of matplotlib; it is written anew each time.
    draw
        Says what to draw: fields as `truvae.plots.fields` takes them.
    every
        Epochs from one drawing to the next.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     preview(f"{folder}/now.png", lambda: np.eye(4))(Epoch(0, 1.0, -9.0, 0.5, 2.0, 10, 1.0))
    ...     Path(f"{folder}/now.png").exists()
    True
    """

    return partial(_draw, path, draw, every)


def _draw(
    path: str | os.PathLike[str], draw: Callable[[], npt.ArrayLike], every: int, epoch: Epoch
) -> None:
    if epoch.index % every == 0 or epoch.progress >= 1:
        from matplotlib.figure import Figure

        from truvae.plots import fields

        figure = Figure(layout="constrained")
        fields(np.asarray(draw()), ax=figure.add_subplot())
        figure.savefig(path)


__all__ = [
    "Callback",
    "csv_log",
    "jsonl_log",
    "preview",
    "progress_bar",
    "tensorboard",
    "time_budget",
]
