"""Tables on disk: NPY, CSV and HDF5, rows by features, empty or NaN where values are missing."""

import csv
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from truvae.errors import InputError
from truvae.io import check_place, check_source, map_npy, whole_file
from truvae.memory import MOST_DEFLATED, check_fits, check_stored

Array = npt.NDArray[Any]

EXTENSIONS = (".npy", ".csv", ".tsv", ".h5", ".hdf5")
_HDF5 = (".h5", ".hdf5")
# What stands for a missing value in CSV files, besides nothing.
_MISSING = ("nan", "na", "n/a", "null", "none", "?")


def read_table(name: str) -> Array:
    """Read a table (n_samples, n_features), NaN where missing: see `read_named_table`."""
    return read_named_table(name)[0]


def read_named_table(name: str) -> tuple[Array, list[str] | None]:
    """Read a table (n_samples, n_features) of numbers, NaN where missing, and the names of its
    features, if it has any.

    Further axes, as of pictures, are flattened. Names are the first line of a CSV file if it has
    words, or counts the columns from 0 or 1 on: three or more, or after an empty cell, as pandas
    writes them. A first column without a name is that of the rows, and left out with a warning.

    Parameters
    ----------
    name
        A file; of an HDF5 file with several data sets, "file.h5:name".

    Raises
    ------
    InputError
        If it cannot be read, or holds no table of numbers.
    """
    path, _, dataset = name.partition(":") if Path(name.split(":")[0]).is_file() else (name, "", "")
    kind = Path(path).suffix.lower()
    names = None
    check_source(Path(path), "table")
    if not Path(path).is_file():
        raise InputError(f"there is no file {name}")
    if kind == ".npy":
        values = _read_npy(Path(path))
    elif kind in (".csv", ".tsv"):
        values, names = _read_csv(Path(path))
    elif kind in _HDF5:
        values = _read_hdf5(Path(path), dataset)
    else:
        raise InputError(f"cannot tell the format of {path}: its extension must be one of "
                         f"{', '.join(EXTENSIONS)}")  # fmt: skip
    if values.ndim < 2 or values.size == 0:
        raise InputError(f"{name} has shape {values.shape}: a table has rows and features")
    if values.dtype.kind not in "biuf":
        raise InputError(f"{name} holds {values.dtype} values: a table has integers or floats")
    return values.reshape(len(values), -1), names


def check_table_output(path: Path) -> None:
    """Check, before the work begins, that a table can be written to `path`.

    Raises
    ------
    InputError
        If its extension is not .npy, .csv or .tsv, or its folder is missing or closed.
    """
    check_place(path)
    if path.suffix.lower() not in (".npy", ".csv", ".tsv"):
        raise InputError(f"cannot write {path}: its extension must be .npy, .csv or .tsv")


def write_table(path: Path, values: Array) -> None:
    """Write a table, or numbers one below the other; the file appears complete or not at all."""
    check_table_output(path)
    with whole_file(path) as file:
        if path.suffix.lower() == ".npy":
            np.save(file, values)
        else:
            delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
            whole = np.issubdtype(values.dtype, np.integer)
            np.savetxt(file, values, "%d" if whole else "%.9g", delimiter)


def _read_npy(path: Path) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of headers that NumPy finds odd
        values = map_npy(path)
    check_fits(path, values.shape, values.dtype.itemsize)
    return np.array(values, dtype=values.dtype.newbyteorder("="))


def _read_csv(path: Path) -> tuple[Array, list[str] | None]:
    """Read numbers between commas, semicolons or tabs, and the names in a first line of such."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is no text in UTF-8") from None
    first = text.partition("\n")[0]
    delimiter = max("\t;,", key=first.count)
    lines = text.splitlines()
    while delimiter in first and lines and not lines[-1].strip(" "):
        lines.pop()  # of one column, it is a missing value
    try:
        rows = [row or [""] for row in csv.reader(lines, delimiter=delimiter)]
    except csv.Error as error:
        raise InputError(f"{path} is no table of numbers: {error}") from None
    named = bool(rows) and (_are_names(rows[0]) or _are_counted(rows))
    names = [cell.strip() for cell in rows.pop(0)] if named else None
    width = len(rows[0]) if rows else 0
    index = _has_index(names, width)
    for number, row in enumerate(rows, 1 + named):
        if len(row) != width:
            raise InputError(f"{path}: row {number} has {len(row)} values, others {width}")
        for column, cell in enumerate(row[index:], 1 + index):
            if not _is_number(cell):
                raise InputError(f"{path}: row {number}, column {column} is no number: {cell!r}")
    values = [[_number(cell) for cell in row[index:]] for row in rows]
    if names is not None and index:
        names = names[len(names) - width + 1 :]
        warnings.warn(
            f"{path}: the first column has no name: it counts as names of rows, and is left out",
            stacklevel=2,
        )
    if names is not None and rows and len(names) != width - index:
        raise InputError(f"{path}: row 1 has {len(names)} names, others {width} values")
    return np.array(values, dtype=np.float64), names


def _has_index(names: list[str] | None, width: int) -> bool:
    """Say whether the first of so many columns names the rows: pandas writes it without a name of
    its own, R with a name less.
    """
    if names is None or width < 2:
        return False
    return len(names) == width - 1 or (len(names) == width and not names[0])


def _number(cell: str) -> float:
    cell = cell.strip()
    return math.nan if not cell or cell.lower() in _MISSING else float(cell)


def _are_names(cells: list[str]) -> bool:
    """Say whether a first line is of names, some of which may be whole numbers, as of years."""
    names = [cell for cell in cells if not _is_number(cell)]
    numbers = [_number(cell) for cell in cells if _is_number(cell)]
    return any(map(str.isidentifier, "".join(names))) and all(
        math.isnan(number) or number.is_integer() for number in numbers
    )


def _are_counted(rows: list[list[str]]) -> bool:
    """Say whether a first line counts the columns, with an empty cell above those of an index.

    Less than three numbers without such a cell may as well be values.

    >>> _are_counted([["", "0", "1"], ["7", "2.5", "3"]]), _are_counted([["0", "1"], ["1", "1"]])
    (True, False)
    """
    cells = [cell.strip() for cell in rows[0]]
    numbers, least = (cells[1:], 1) if cells[0] == "" else (cells, 3)
    counted = [[str(first + i) for i in range(len(numbers))] for first in (0, 1)]
    return len(rows) > 1 and len(numbers) >= least and numbers in counted


def _is_number(cell: str) -> bool:
    try:
        _number(cell)
    except ValueError:
        return False
    return True


def _read_hdf5(path: Path, dataset: str) -> Array:
    try:
        import h5py
    except ImportError:
        raise InputError("reading HDF5 needs h5py: pip install 'truvae[hdf5]'") from None
    dataset = dataset.strip("/")  # h5py's own names begin with one
    try:
        with h5py.File(path) as file:
            names: list[str] = []
            file.visititems(lambda n, item: names.append(n) if hasattr(item, "shape") else None)
            if not names:
                raise InputError(f"{path} has no data set: a table is one of rows and features")
            if dataset not in names and not (dataset == "" and len(names) == 1):
                raise InputError(f"say which data set of {path}: {path}:NAME with NAME one of "
                                 f"{', '.join(names)}")  # fmt: skip
            found = file[dataset or names[0]]
            _check_claim(path, found)
            check_fits(f"{path}:{found.name}", found.shape or (), found.dtype.itemsize)
            return np.asarray(found[()])
    except InputError:
        raise
    except Exception as error:  # h5py raises nearly anything on damaged files
        raise InputError(f"{path} is damaged or no HDF5 file: {error}") from None


def _check_claim(path: Path, found: Any) -> None:
    """Refuse a data set that cannot come from so few bytes: what lacks is read as zeros."""
    if not (found.external or found.is_virtual):
        shape = found.shape or ()
        size, fault = math.prod(shape) * found.dtype.itemsize, "damaged or holds no values"
        check_stored(path, f"shape {shape}", size, MOST_DEFLATED, fault=fault)


__all__ = ["EXTENSIONS", "check_table_output", "read_named_table", "read_table", "write_table"]
