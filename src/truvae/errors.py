"""The exceptions for a user's mistakes, and for processes that fail each other; numbers."""

import math
from numbers import Integral, Real
from typing import Any


class InputError(ValueError):
    """A mistake in the input; the message is one line: what is wrong, and what would be right.

    >>> print(InputError("damaged:\\n\\t no end"))
    damaged: no end
    """

    def __init__(self, message: object) -> None:
        # Libraries, and names in damaged files, may bring line breaks.
        super().__init__(" ".join(line.strip() for line in str(message).splitlines()))


class RankError(RuntimeError):
    """Another process of a job has ended, or does not answer; the message is one line."""


def check_whole(name: str, value: Any) -> None:
    """Raise an `InputError` that names a value unless it is a whole number of 1 or more."""
    if not isinstance(value, Integral) or value < 1:
        raise InputError(f"{name} must be a whole number of 1 or more, not {value}")


def check_positive(name: str, value: Any) -> None:
    """Raise an `InputError` that names a value unless it is a finite number above 0."""
    if not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise InputError(f"{name} must be a number above 0, not {value}")


__all__ = ["InputError", "RankError", "check_positive", "check_whole"]
