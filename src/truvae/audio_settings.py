"""Settings of a recording, chosen from its length, its sample rate and what was asked for."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from truvae.errors import InputError
from truvae.presets import preset as preset_called
from truvae.settings import (
    COVARIANCES,
    FLIPS_EARLY,
    OVERRIDES,
    QUALITIES,
    Plan,
    Settings,
    check_choice,
    recipe_of,
)

Array = npt.NDArray[Any]

CHANNELS = ("joint", "separate")
# Models, epochs and further looks.
_EFFORT = {"fast": (1, 4, 2), "balanced": (1, 10, 3), "best": (3, 16, 3)}
# Seconds of a window, the fewest and the most samples in one, and those in one of the paper.
_WINDOW, _FEWEST, _MOST, _PAPER = 0.025, 8, 1200, 400
# Windows from the beginning of one to its end, and the most to train on.
_STRIDES, _TRAINED = 50, 1 << 13


@dataclass(frozen=True, kw_only=True)
class SoundWishes:
    """What was asked for (see `truvae.denoise_audio`)."""

    channels: str
    quality: str
    covariance: str
    preset: str | None
    selection: str | None
    sigma: float | None
    patch_size: int | None
    n_latents: int | None
    hidden: Any
    n_states: int | None
    epochs: int | None

    def plan(self, recording: Array, sample_rate: float) -> Plan:
        """Return how to restore a recording (n, K).

        Raises
        ------
        InputError
            If the wishes make no sense.
        """
        self._check()
        n = len(recording)
        if self.preset is None:
            plan = _chosen(n, sample_rate, self.quality, self.covariance == "isotropic")
        else:
            plan = _of_the_paper(recording, self.preset, self.selection)
        plan = plan.override({name: getattr(self, name) for name in OVERRIDES})
        (settings,) = plan.models
        if not _FEWEST <= settings.patch_size <= n:
            raise InputError(
                f"a window of {settings.patch_size} samples does not suit a recording of {n}: "
                f"patch size must be between {_FEWEST} and {n}"
            )
        if self.preset is None:
            settings = replace(settings, stride=max(1, settings.patch_size // _STRIDES))
        return replace(plan, models=(settings,))

    def _check(self) -> None:
        check_choice("quality", self.quality, QUALITIES)
        check_choice("covariance", self.covariance, COVARIANCES)
        check_choice("channels", self.channels, CHANNELS)
        if self.preset is None and self.selection is not None:
            raise InputError("a selection goes with a preset: give one, or leave selection out")


def _chosen(n: int, sample_rate: float, quality: str, isotropic: bool) -> Plan:
    """Return the plan for n samples: looks follow but for the model of the paper."""
    n_models, n_epochs, looks = _EFFORT[quality]
    settings = Settings(
        covariance="isotropic" if isotropic else "dct",
        patch_size=max(_FEWEST, min(round(_WINDOW * sample_rate), _MOST, n // 4)),
        trained=_TRAINED,
        sparse=True,
        tile=_TRAINED,
        n_latents=200 if isotropic else 64,
        hidden=(512,) if isotropic else (128,),
        n_states=32 if isotropic else 16,
        epochs=n_epochs,
        group=256 if isotropic else 128,
        minibatch=32,
        peak_rate=0.005 if isotropic else 0.01,
        doubt=0.02,
        **({} if isotropic else FLIPS_EARLY),
    )
    return Plan((settings,), n_models, looks=0 if isotropic else looks)


def _of_the_paper(recording: Array, name: str, selection: str | None) -> Plan:
    """Return the plan that does what the paper did: one model, of values divided by their peak."""
    preset = preset_called(name)
    if name != "paper:audio":
        raise InputError(f"the preset {name} is not for recordings: take paper:audio")
    recipe, size = recipe_of(preset, selection), min(_PAPER, len(recording) // 4)
    settings = Settings(**vars(recipe), patch_size=size, doubt=math.inf)
    return Plan((settings,), 1, scale=float(np.nanmax(np.abs(recording))))


__all__ = ["CHANNELS", "SoundWishes"]
