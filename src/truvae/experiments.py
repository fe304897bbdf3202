"""Experiments: what is clean made noisy or incomplete, and what the result is compared with."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from truvae.errors import InputError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Experiment:
    """What is restored, and what it is compared with."""

    damaged: Array
    """Shape of the input; noise, where it was added, neither clipped nor rounded."""
    missing: Array | None
    """Same shape, true where values are missing; None to remove noise alone."""
    reference: Array | None
    """What is clean, if that is known."""

    @property
    def seen(self) -> Array:
        """What is known of the input, NaN where it is missing."""
        if self.missing is None:
            return self.damaged
        return np.where(self.missing, np.nan, self.damaged)

    def notes(self, what: str) -> list[str]:
        """Say how much is missing of a picture or recording."""
        missing = self.missing
        return [] if missing is None else [f"{missing.mean():.1%} of the {what} is missing"]


def damage(
    data: Array,
    missing: Array | None,
    options: Mapping[str, Any],
    what: str,
    read: Callable[[str], Array],
) -> Experiment:
    """Damage values as asked, and find what to compare the result with.

    Parameters
    ----------
    data, missing
        The input, and where it is missing (see `Experiment`).
    options
        Those of the command line: "add_noise", "drop", "reference" and "seed".
    what
        What the input is, for people: a picture or a recording.
    read
        Reads a reference like the input from a path.

    Raises
    ------
    InputError
        If there is a reference besides clean input.
    """
    given = [name for name in ("add_noise", "drop") if options.get(name) is not None]
    reference = data if given else None
    if options["reference"] is not None:
        if given:
            name = flag(given[0])
            raise InputError(f"{name} takes IN as the clean {what}: leave --reference out")
        reference = read(options["reference"])
    if options["add_noise"] is not None:
        data = add_noise(data, options["add_noise"], options["seed"])
    return Experiment(data, missing, reference)


def add_noise(values: Array, sigma: float, seed: int | Sequence[int]) -> Array:
    """Add Gaussian noise in input units, neither clipped nor rounded."""
    noisy: Array = values + np.random.default_rng(seed).normal(0, sigma, values.shape)
    return noisy


def dropped(whole: tuple[int, ...], single: tuple[int, ...], options: Mapping[str, Any]) -> Array:
    """Draw what to take away: whole pixels or single values, of these shapes."""
    shape = whole if options["drop_per"] == "pixel" else single
    drawn: Array = np.random.default_rng(options["seed"]).random(shape) < options["drop"]
    return drawn


def refuse(options: Mapping[str, Any], others: Mapping[str, Any], theirs: str, what: str) -> None:
    """Raise an `InputError` for options that are for others than what is restored.

    Parameters
    ----------
    options
        Those of the command line.
    others
        The options that are not for it, and what they are if they were not given.
    theirs, what
        What they are for, and what is restored.
    """
    for name, default in others.items():
        if options.get(name, default) != default:
            raise InputError(f"{flag(name)} is for {theirs}: leave it out for a {what}")


def flag(name: str) -> str:
    """Return the name of an option on the command line.

    >>> flag("add_noise")
    '--add-noise'
    """
    return "--" + name.replace("_", "-")


def finite(measured: Mapping[str, float]) -> dict[str, float | None]:
    """Return what was measured, None where it is no finite number.

    >>> finite({"psnr": float("inf"), "ssim": 1.0})
    {'psnr': None, 'ssim': 1.0}
    """
    return {name: value if math.isfinite(value) else None for name, value in measured.items()}


__all__ = ["Experiment", "add_noise", "damage", "dropped", "finite", "flag", "refuse"]
