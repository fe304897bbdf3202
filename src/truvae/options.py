"""Options that the commands share, and what parses their values."""

import math
from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., int]


def finite(_: click.Context, option: click.Parameter, value: float | None) -> float | None:
    """Refuse numbers that are not finite."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{option.opts[0]} must be a finite number, not {value}")
    return value


def numbers(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    """Parse "256,128"."""
    if value is None:
        return None
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list of whole numbers like 256,128") from None


def one_of(flag: str, choices: str, default: str, text: str | None = None) -> Callable[..., Any]:
    """Return an option with one of the values in `choices`, parted by blanks."""
    kind = click.Choice(choices.split())
    return click.option(flag, type=kind, default=default, show_default=True, help=text)


# As NumPy has it.
SEED = click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True)
RUN_OPTIONS = [
    SEED,
    one_of("--device", "auto cpu cuda", "auto"),
    click.option("--threads", type=click.IntRange(min=1), help="CPU threads to use."),
    click.option("--json", "as_json", is_flag=True, help="Print one JSON object per input."),
    click.option("-q", "--quiet", is_flag=True, help="No progress."),
    click.option("-v", "--verbose", is_flag=True, help="A line for every epoch."),
]


def with_options(
    options: list[Callable[..., Any]],
) -> Callable[[Command], Command]:
    """Return a decorator that adds options to a command, in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


__all__ = ["RUN_OPTIONS", "SEED", "finite", "numbers", "one_of", "with_options"]
