"""Components of a recording, each restored by models of its own, and put together again."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from truvae.audio_job import restore_sound
from truvae.channels import Split
from truvae.checkpoint import Checkpoint
from truvae.clock import Clock
from truvae.fitting import Material
from truvae.ranks import Ranks
from truvae.results import AudioResult
from truvae.settings import Plan
from truvae.training import Epoch
from truvae.units import Units, rms

# Share of the epochs planned below which it is told that there was little time.
_FEW_EPOCHS = 0.5
# Learned noise over the estimate from which on it is told that the model takes signal for noise.
_LOST = 1.5


def denoised(
    filled: AudioResult,
    split: Split,
    plan: Plan,
    seeded: Callable[[], torch.Generator],
    saves: Checkpoint,
    clock: Clock,
    on_epoch: Callable[[Epoch], None],
    ranks: Ranks,
) -> AudioResult:
    """Remove the noise, which may be known, from channels without gaps; one at least has some."""
    live, results = np.flatnonzero(split.levels).tolist(), []
    parts, restored = split.whole.copy(), filled.restored.copy()
    levels, noise = split.levels.copy(), np.array(filled.sigma_channels)
    for place, component in enumerate(live):
        states = saves if len(live) == 1 else saves.part(f"component-{place + 1}")
        part = clock.part(place, len(live))
        result = _of_component(
            filled, split, component, levels, plan, seeded(), states, part, on_epoch, ranks
        )
        parts[:, component], levels[component] = result.restored[:, 0], result.sigma
        results.append(result)
    _tell_of_little_time(results, clock)
    first = AudioResult.together(results)
    restored[:, split.noisy] = split.components.backward(parts)
    if any(result.sigma_source == "learned" for result in results):
        noise[split.noisy] = split.components.of_channels(levels)
        _tell_of_lost_signal(rms(noise), filled.sigma)
    weights = np.zeros((len(noise), 1))
    weights[split.noisy] = first.components
    return replace(
        first,
        restored=restored,
        sigma=rms(noise),
        sigma_channels=tuple(noise.tolist()),
        components=weights,
    )


def _of_component(
    filled: AudioResult,
    split: Split,
    component: int,
    levels: npt.NDArray[np.float64],
    plan: Plan,
    generator: torch.Generator,
    saves: Checkpoint,
    clock: Clock,
    on_epoch: Callable[[Epoch], None],
    ranks: Ranks,
) -> AudioResult:
    """Remove the noise from a component; it is the only channel of the result. Of the others the
    levels are those known so far.
    """
    (settings,), level = plan.models, float(levels[component])
    only = slice(component, component + 1)
    frames, known = split.whole[None, None][..., only], filled.sigma_source == "given"
    units = Units.of(frames, None, plan.scale)
    device = generator.device
    seen = units.standardise(frames, device)
    material = Material(seen, level / float(units.spread[0]), known, generator, ranks)
    sample = material.sample(settings)
    history: list[Epoch] = []

    def tell(epoch: Epoch) -> None:
        bound, now = units.bound(epoch.elbo, sample.entries), levels.copy()
        now[component] = units.sigma(epoch.sigma)[0]
        sigma = rms(split.components.of_channels(now))
        history.append(replace(epoch, elbo=bound, sigma=sigma))
        on_epoch(history[-1])

    done = restore_sound(material, plan, filled.sample_rate, clock, tell, saves)
    first = done.runs[0]
    learned = settings.covariance == "isotropic" and first.epochs > 0 and not known
    if learned:
        level = float(units.sigma(first.model.noise.sigma)[0])
    return replace(
        filled,
        restored=units.restore(done.estimate[None, None])[0, 0],
        sigma=level,
        sigma_source="learned" if learned else filled.sigma_source,
        sigma_channels=(level,),
        elbo=units.bound(first.bound, sample.entries) if first.epochs else None,
        history=history,
        model=first.model,
        components=split.components.weights[:, only],
        offset=units.offset,
        spread=units.spread,
        covariances=[run.settings.covariance for run in done.runs],
        looks=done.looks,
        epochs=first.epochs,
        n_data=len(sample.all[0].lattice(settings.stride)),
        device=str(device),
    )


def _tell_of_lost_signal(learned: float, estimated: float) -> None:
    """Warn where a model of white noise took much of the signal for noise."""
    if learned > _LOST * estimated:
        warnings.warn(
            f"the model takes signal for noise: it learned a sigma of {learned:.3g}, where "
            f"{estimated:.3g} is estimated; covariance auto, without a preset, keeps more of it",
            stacklevel=2,
        )


def _tell_of_little_time(results: Sequence[AudioResult], clock: Clock) -> None:
    """Warn where a time budget cut the training of the first models short."""
    planned, epochs = results[0].settings.epochs, min(result.epochs for result in results)
    stopped = clock.should_stop()  # by somebody who knows it
    if clock.budget is not None and not stopped and epochs < _FEW_EPOCHS * planned:
        trained = any(result.epochs for result in results)
        learned = f"{epochs} of {planned} epochs" if trained else "no model was trained"
        warnings.warn(
            f"there was little time to learn ({learned}): more time restores the recording better",
            stacklevel=2,
        )


__all__ = ["denoised"]
