"""Settings of a restoration, chosen from the size of the picture and its noise alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from truvae.errors import InputError

SMALLEST_PATCH = 7
# Noise over the standard deviation of the noisy picture, below and above which other settings hold.
_WEAK, _STRONG = 0.43, 0.6
# Runs, and epochs of each for a picture of 256 x 256 pixels.
_EFFORT = {"fast": (1, 5), "balanced": (2, 10), "best": (6, 10)}
QUALITIES = ("fast", "balanced", "best")


@dataclass(frozen=True)
class Settings:
    """Everything a restoration can be told; one rule sets it for every picture."""

    patch_size: int
    """P: patches are P x P pixels."""
    n_latents: int
    """H, binary latents."""
    hidden: tuple[int, ...]
    """Units of each hidden layer of the decoder."""
    n_states: int
    """S, variational states of each patch."""
    epochs: int
    """Passes through all patches in each run."""
    runs: int = 1
    """Independent models, whose pictures are averaged."""
    minibatch: int = 64
    """Patches for each step of the optimiser."""
    peak_rate: float = 0.005
    """Highest learning rate of the one-cycle schedule."""
    active: float = 5.0
    """Active latents of each state at the start."""

    def override(self, given: Mapping[str, Any]) -> "Settings":
        """Replace the settings that are given (not None); given epochs are those of a single run.

        Raises
        ------
        InputError
            If a value is not a whole number of 1 or more, or there are too few latents.
        """
        known = {name: value for name, value in given.items() if value is not None}
        for name, value in known.items():
            for number in value if name == "hidden" else (value,):
                if number < 1 or number != int(number):
                    label = name.replace("n_", "").replace("_", " ")
                    raise InputError(f"{label} must be a whole number of 1 or more, not {number}")
        if "hidden" in known:
            known["hidden"] = tuple(known["hidden"])
        if "epochs" in known:
            known["runs"] = 1
        settings = replace(self, **known)
        if settings.n_states > 2**settings.n_latents:
            raise InputError(
                f"{settings.n_latents} latents have only {2**settings.n_latents} states, "
                f"not {settings.n_states}: take fewer states or more latents"
            )
        return settings


def choose(shape: tuple[int, int], noise: float, quality: str) -> Settings:
    """Choose the settings of a restoration.

    Parameters
    ----------
    shape
        Rows and columns of the picture.
    noise
        Standard deviation of the noise over that of the noisy picture, in [0, 1].
    quality
        "fast", "balanced" or "best".

    Raises
    ------
    InputError
        If there is no such quality.

    Examples
    --------
    >>> choose((256, 256), 0.4, "fast").patch_size
    7
    """
    if quality not in QUALITIES:
        raise InputError(f"no quality {quality!r}: choose one of {', '.join(QUALITIES)}")
    strong = noise > _STRONG
    side = 12 if strong else SMALLEST_PATCH if noise < _WEAK else 8
    size = min(side, *shape)
    runs, epochs = _EFFORT[quality]
    share = _share(shape, size)
    # A small picture has less to learn from, so its model must be smaller too.
    smaller = math.sqrt(min(share, 1.0))
    width = 256 if strong else 512
    return Settings(
        patch_size=size,
        n_latents=max(16, round(256 * smaller)),
        # Where noise is strong, a decoder that can say more learns the noise.
        hidden=(max(16, round(width * smaller)),),
        n_states=32 if strong else 16,
        epochs=max(2, math.ceil(epochs / math.sqrt(share))),
        runs=runs,
        minibatch=32 if strong else 64,
        active=2.0 if strong else 5.0,
    )


def _share(shape: tuple[int, int], size: int) -> float:
    """Return the number of patches, in units of those of a picture of 256 x 256 pixels."""
    return max(1, (shape[0] - size + 1) * (shape[1] - size + 1)) / 249**2


__all__ = ["QUALITIES", "SMALLEST_PATCH", "Settings", "choose"]
