"""Recordings: fit models to windows of one, look again in two ways, and combine these."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from truvae.checkpoint import Checkpoint, State
from truvae.clock import Clock
from truvae.fitting import Material, Run, fit_model
from truvae.refine import refine_recording
from truvae.settings import Plan
from truvae.spectra import spectral_look
from truvae.training import Epoch

# By what power of its variance an estimate counts less, where two looks are combined.
_SELECTION = 4
# Seconds that a look takes for each value, and the share of the fitting in the progress.
_SECONDS_PER_VALUE, _FITTING = 6e-5, 0.7


class Restored(NamedTuple):
    """What models and looks made of a recording, in standardised units."""

    estimate: Tensor
    """(n, 1)."""
    runs: list[Run]
    """The models."""
    looks: int
    """How often it was looked at again."""


def restore_sound(
    material: Material,
    plan: Plan,
    sample_rate: float,
    clock: Clock,
    on_epoch: Callable[[Epoch], None],
    checkpoint: Checkpoint,
) -> Restored:
    """Fit models of one kind to a recording without gaps, average their estimates, and look again.

    The recording is `material.seen`, a frame (1, 1, n, 1) of one row. What the checkpoint holds is
    not done again.
    """
    looking = min(
        plan.looks * _SECONDS_PER_VALUE * material.seen.numel(), clock.left() * (1 - _FITTING)
    )
    fitting = clock.without(looking).span(0, _FITTING)
    runs: list[Run] = []
    while len(runs) < plan.runs and not (runs and _is_over(runs[-1], fitting)):
        part = fitting.part(len(runs), plan.runs)
        name = f"model-{len(runs) + 1}"
        runs.append(fit_model(material, plan.models[0], part, on_epoch, checkpoint, name))
        runs[-1].finish()
    if runs[-1].epochs == 0 and len(runs) > 1:
        runs.pop()
    first = torch.stack([run.merged[0, 0] for run in runs]).mean(0)
    rest = clock.span(_FITTING, 1)

    def look() -> State:
        estimate, looks = look_again(material, first, plan.looks, sample_rate, rest)
        return State({"looks": looks}, {"estimate": estimate})

    # Of a recording that no model knows of, the looks are not what a resumed run shall end with.
    final = (checkpoint if runs[0].epochs else Checkpoint()).once("final", rest, look)
    clock.on_progress(1)
    return Restored(final.tensors["estimate"], runs, **final.values)


def _is_over(last: Run, clock: Clock) -> bool:
    """Say whether there is no time for a model after the last one."""
    return last.epochs == 0 or clock.should_stop() or clock.left() <= 0


def look_again(
    material: Material, first: Tensor, looks: int, sample_rate: float, clock: Clock
) -> tuple[Tensor, int]:
    """Refine a first estimate (n, 1) in two ways, and combine them; return it and the number of
    looks: fewer than `looks` if time is short, but one, at least by spectra, which takes little.

    The nearest windows know what repeats itself, as voices do, the spectra what is sustained, as
    tones are. Each way goes on from its own last estimate; where one expects a smaller error, it
    counts more.
    """
    noisy, sigma = material.seen[0, 0], material.noise
    near = spectral = (first, torch.full_like(first, sigma**2))
    done, go_on = 0, partial(clock.alone().silent().go_on, 0.0)
    while done < looks and (clock.go_on(done / looks) or done == 0):
        spectral = spectral_look(noisy, spectral[0].to(noisy), sigma, sample_rate)
        before, ranks = near[0], material.ranks
        refined = refine_recording(noisy, before, sigma, sample_rate, go_on=go_on, ranks=ranks)
        if done and refined[0] is before:
            break  # it was cut short, on any rank: what the look before knew counts
        near = refined
        done += 1
    trusts = [
        variance.clamp(min=1e-3 * sigma**2).pow(-_SELECTION) for _, variance in (near, spectral)
    ]
    share = trusts[0] / (trusts[0] + trusts[1])
    return torch.lerp(spectral[0].double(), near[0].double(), share.double()), done


__all__ = ["Restored", "look_again", "restore_sound"]
