"""Memory: what a restoration takes, and how it is kept within a limit."""

import math
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from truvae.bits import n_words
from truvae.errors import InputError
from truvae.settings import Plan, Settings
from truvae.threads import MOST_AT_A_TIME

GB = 1 << 30
# Bytes, rounded up: of the program and the work on one group of patches; for each value of the
# frames; for each patch that is trained on or searched for near ones; and, of those trained on, for
# each byte of their states, of which there are more while they are drawn.
_PROGRAM, _VALUE, _PATCH, _STATES = 700 << 20, 80, 1600, 3
# To train on fewer patches than this saves nothing worth it.
_FEWEST = 1 << 14
# Share of the memory of the machine that may be used if no limit is given.
_SHARE = 0.5

Shape = tuple[int, ...]


def needed(plan: Plan, shape: Shape) -> int:
    """Estimate what a restoration takes at most, program included, in bytes.

    Parameters
    ----------
    plan
        Which models are fitted.
    shape
        Frames, rows, columns and channels.

    Examples
    --------
    >>> from truvae.settings import choose
    >>> needed(choose((2048, 2048), 0.5, "balanced"), (1, 2048, 2048, 1)) / GB < 3
    True
    """
    models = [*plan.models, *(plan.noisy.models if plan.noisy else ())]
    return _PROGRAM + _VALUE * math.prod(shape) + max(_of_patches(m, shape) for m in models)


def within(plan: Plan, shape: Shape, limit: float | None) -> Plan:
    """Return a plan that takes no more than a limit: with fewer patches to train on.

    Parameters
    ----------
    plan, shape
        See `needed`.
    limit
        In GB of 2^30 bytes; None for half of the memory of the machine (or of its container), which
        a picture may then exceed.

    Raises
    ------
    InputError
        If a limit is given that is too low for the picture.

    Examples
    --------
    >>> from truvae.settings import choose
    >>> plan, shape = choose((2048, 2048), 0.5, "balanced"), (1, 2048, 2048, 1)
    >>> [within(plan, shape, limit).models[0].trained for limit in (4, 1.2)]
    [261248, 32656]
    """
    most = _SHARE * total() if limit is None else limit * GB
    while needed(plan, shape) > most and (smaller := _smaller(plan)) != plan:
        plan = smaller
    if limit is not None and needed(plan, shape) > most:
        raise InputError(
            f"{limit:g} GB of memory are not enough for a picture of {shape[1]} x {shape[2]} "
            f"pixels: give at least {math.ceil(10 * needed(plan, shape) / GB) / 10:g} GB as the "
            "memory limit, or restore it in parts"
        )
    return plan


def total() -> float:
    """Return the bytes of memory that the machine has, or its container may use; infinite where
    that cannot be told.

    It is not what happens to be free, so that the same seed gives the same picture.
    """
    sizes = [math.inf]
    with suppress(AttributeError, ValueError, OSError):  # as on Windows
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # "max" where there is no limit
            sizes.append(int(Path(path).read_text()))
    return min(sizes)


def _of_patches(settings: Settings, shape: Shape) -> int:
    """Return the bytes that the patches of one model take, while it is trained or estimates."""
    n_patches = math.prod(shape[1:3])
    n_trained = min(n_patches, settings.trained or n_patches)
    states = settings.n_states * 8 * (n_words(settings.n_latents) + 1)
    tiles = MOST_AT_A_TIME * settings.tile if n_trained < shape[0] * n_patches else 0
    return (n_trained + tiles) * (_PATCH + _STATES * states)


def _smaller(plan: Plan) -> Plan:
    """Return a plan of half as many patches to train on, unless all must be."""

    def half(n: int) -> int:
        return min(n, max(n // 2, _FEWEST))

    models = tuple(replace(m, trained=m.trained and half(m.trained)) for m in plan.models)
    return replace(plan, models=models, noisy=plan.noisy and _smaller(plan.noisy))


__all__ = ["GB", "needed", "total", "within"]
