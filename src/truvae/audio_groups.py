"""Components of a recording, restored by models of groups of them, and put together again."""

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
    groups = split.groups()
    results = [
        _of_group(filled, split, group, plan, seeded(),
                  saves if len(groups) == 1 else saves.part(f"group-{index + 1}"),
                  clock.part(index, len(groups)), on_epoch, ranks)
        for index, group in enumerate(groups)
    ]  # fmt: skip
    _tell_of_little_time(results, clock)
    first = AudioResult.together(results)
    parts, restored = split.whole.copy(), filled.restored.copy()
    levels, noise = split.levels.copy(), np.array(filled.sigma_channels)
    for group, result in zip(groups, results, strict=True):
        parts[:, group], levels[group] = result.restored, result.sigma_channels
    restored[:, split.noisy] = split.components.backward(parts)
    if any(result.sigma_source == "learned" for result in results):
        noise[split.noisy] = split.components.of_channels(levels)
        _tell_of_lost_signal(rms(noise), filled.sigma)
    weights = np.zeros((len(noise), first.components.shape[1]))
    weights[split.noisy] = first.components
    return replace(
        first,
        restored=restored,
        sigma=rms(noise),
        sigma_channels=tuple(noise.tolist()),
        components=weights,
    )


def _of_group(
    filled: AudioResult,
    split: Split,
    group: npt.NDArray[np.bool_],
    plan: Plan,
    generator: torch.Generator,
    saves: Checkpoint,
    clock: Clock,
    on_epoch: Callable[[Epoch], None],
    ranks: Ranks,
) -> AudioResult:
    """Remove the noise from a group of components; channels of the result are these."""
    (settings,), levels = plan.models, split.levels[group]
    frames, known = split.whole[None, None][..., group], filled.sigma_source == "given"
    units = Units.of(frames, None, plan.scale)
    units = units if plan.scale else units.balanced(levels)
    noise = rms(levels / units.spread)
    device = generator.device
    seen = units.standardise(frames, device).permute(3, 0, 2, 1).contiguous()
    material = Material(seen, noise, known, generator, ranks)
    sample = material.sample(settings)
    entries = sample.entries.expand(len(seen)) / len(seen)  # a window is of one component
    history: list[Epoch] = []

    def tell(epoch: Epoch) -> None:
        bound, now = units.bound(epoch.elbo, entries), split.levels.copy()
        now[group] = units.sigma(epoch.sigma)
        sigma = rms(split.components.of_channels(now))
        history.append(replace(epoch, elbo=bound, sigma=sigma))
        on_epoch(history[-1])

    done = restore_sound(material, plan, filled.sample_rate, clock, tell, saves)
    first = done.runs[0]
    learned = settings.covariance == "isotropic" and first.epochs > 0 and not known
    if learned:
        levels = units.sigma(first.model.noise.sigma)
    return replace(
        filled,
        restored=units.restore(done.estimate[None, None])[0, 0],
        sigma=rms(levels),
        sigma_source="learned" if learned else filled.sigma_source,
        sigma_channels=tuple(levels.tolist()),
        elbo=units.bound(first.bound, entries) if first.epochs else None,
        history=history,
        model=first.model,
        components=split.components.weights[:, group],
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
