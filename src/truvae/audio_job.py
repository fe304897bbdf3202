"""Recordings: fit models to windows of one, estimate all of it, look again."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from truvae.inference import nearest_states
from truvae.model import Model
from truvae.noise import DiagonalGaussian, Gaussian
from truvae.patches import Features, cosine_transform
from truvae.population import Population
from truvae.refine import refine_recording
from truvae.settings import Settings
from truvae.spectra import spectral_look
from truvae.training import Clock, Epoch, Posterior, posterior
from truvae.windows import Windows, every, merge

# Principal components in which windows count as near.
_FEATURES = 48
# Windows whose states are looked for at a time, once the model is trained.
_TILE = 1 << 13
# By what power of its variance an estimate counts less, where two looks are combined.
_SELECTION = 4
# Seconds that all looks take for each value, and the share of the fitting in the progress.
_SECONDS_PER_VALUE, _FITTING = 4e-4, 0.7


@dataclass(frozen=True, kw_only=True)
class SoundSettings(Settings):
    """Everything one model of a recording can be told; patches are windows of so many samples."""

    hop: int
    """Samples from one window to the next."""
    most: int = 1 << 13
    """Windows to train on at most."""


class Fit(NamedTuple):
    """What one model made of a recording, in standardised units."""

    estimate: Tensor
    """(n, K)."""
    model: Model
    bound: float
    """Mean of F_n over all windows, in nats."""
    entries: Tensor
    """(K,), entries of a window in each channel."""
    epochs: int
    n_data: int


@dataclass(frozen=True)
class Sound:
    """A recording in standardised units, and its noise.

    Parameters
    ----------
    data
        (n, K), without gaps.
    sample_rate
        Samples a second.
    sigma
        Standard deviation of the noise.
    known
        Whether it was given: then it is held.
    """

    data: Tensor
    sample_rate: float
    sigma: float
    known: bool


def restore_sound(
    sound: Sound,
    settings: SoundSettings,
    n_models: int,
    looks: int,
    generator: torch.Generator,
    clock: Clock,
    on_epoch: Callable[[Epoch, Tensor], None],
) -> tuple[Tensor, Fit, int]:
    """Fit models, average their estimates, and look again; return the estimate (n, K), the first
    fit and the number of looks.
    """
    looking = min(looks * _SECONDS_PER_VALUE * sound.data.numel(), clock.left() * (1 - _FITTING))
    fitting = clock.without(looking).span(0, _FITTING)
    fits: list[Fit] = []
    while len(fits) < n_models and not (fits and (clock.should_stop() or fitting.left() <= 0)):
        part = fitting.part(len(fits), n_models)
        fits.append(fit_windows(sound, settings, generator, part, on_epoch))
    estimate = torch.stack([fit.estimate for fit in fits]).mean(0)
    estimate, looks = look_again(sound, estimate, looks, clock.span(_FITTING, 1))
    clock.on_progress(1)
    return estimate, fits[0], looks


def fit_windows(
    sound: Sound,
    settings: SoundSettings,
    generator: torch.Generator,
    clock: Clock,
    on_epoch: Callable[[Epoch, Tensor], None],
) -> Fit:
    """Fit a model to windows of a recording, at most `settings.most`, and estimate all of it."""
    x = sound.data
    starts = every(len(x), settings.patch_size, settings.hop, x.device)
    windows = Windows(x, settings.patch_size, starts)
    n, n_most = len(windows), settings.most
    order = torch.randperm(n, generator=generator, device=x.device)[:n_most].sort().values
    sample = windows.some(order)
    model, population = _start(sound, sample, settings, generator)
    features = Features.of(sample, min(_FEATURES, sample.n_entries))
    coordinates = features(sample)
    chunks = settings.chunks(len(sample), coordinates)
    entries = torch.full((x.shape[1],), float(settings.patch_size))
    epochs, closing = 0, math.ceil(n / len(sample))
    trained = settings.epochs / (settings.epochs + closing)
    training = clock.before(closing).span(0, trained)
    for epoch in settings.train(model, population, sample, chunks, generator, training):
        epochs += 1
        on_epoch(epoch, entries)
    if n == len(sample):
        search = settings.search if settings.shares else ()
        estimates = posterior(model, population, sample, chunks, search, generator)
        merged, _ = merge(windows, estimates, settings.doubt)
        bound = float(population.bound(slice(None)).mean())
    else:
        tiles = _Tiles(model, population, coordinates, features, settings, generator)
        merged, _ = merge(
            windows, tiles.posteriors(windows, clock.span(trained, 1)), settings.doubt
        )
        bound = tiles.bound / n
    return Fit(merged, model, bound, entries, epochs, n)


class _Tiles:
    """States of all windows of a long recording, found tile by tile with the decoder fixed."""

    def __init__(
        self,
        model: Model,
        population: Population,
        coordinates: Tensor,
        features: Features,
        settings: SoundSettings,
        generator: torch.Generator,
    ) -> None:
        self.model, self.population, self.coordinates = model, population, coordinates
        self.features, self.settings, self.generator = features, settings, generator
        self.bound = 0.0
        """Sum of F_n over the windows so far."""

    def posteriors(self, windows: Windows, clock: Clock) -> Iterator[Posterior]:
        """Yield the moments of all windows, which start from states of the nearest trained ones."""
        n = len(windows)
        for rows in torch.arange(n, device=windows.device).split(_TILE):
            tile = windows.some(rows)
            new = self.features(tile)
            states = nearest_states(new, self.coordinates, self.population, self.generator)
            chunks = self.settings.chunks(len(tile), new)
            search = self.settings.search if self.settings.shares else ()
            for found in posterior(self.model, states, tile, chunks, search, self.generator):
                yield replace(found, rows=rows[found.rows])
            self.bound += float(states.bound(slice(None)).sum())
            clock.on_progress(int(rows[-1]) / n)


def _start(
    sound: Sound, sample: Windows, settings: SoundSettings, generator: torch.Generator
) -> tuple[Model, Population]:
    """Make the untrained model and population."""
    variance = sound.data.new_tensor(sound.sigma**2)
    noise: DiagonalGaussian | Gaussian
    if settings.covariance == "dct":
        basis = cosine_transform(sample.n_channels, sample.length).to(sample.device)
        energy = sum((block @ basis).square().sum(0) for block in sample.blocks()) / len(sample)
        noise = DiagonalGaussian(variance, basis, (energy - variance).clamp(min=0.02 * variance))
    elif sound.known:
        noise = Gaussian(variance, fixed=True)
    else:
        noise = Gaussian(
            sound.data.new_tensor(settings.sigma2 or float(sound.data.var(correction=0)))
        )
    n_outputs = sample.n_entries * (2 if settings.covariance == "dct" else 1)
    model = Model(settings.prior(sample.device), settings.decoder(n_outputs, generator), noise)
    return model, settings.states(len(sample), generator)


def look_again(sound: Sound, first: Tensor, looks: int, clock: Clock) -> tuple[Tensor, int]:
    """Refine a first estimate in two ways, and combine them; return it and the number of looks.

    The nearest windows know what repeats itself, as voices do, the spectra what is sustained, as
    tones are. Each way goes on from its own last estimate; where one expects a smaller error, it
    counts more.
    """
    near = spectral = (first, torch.ones_like(first))
    for done in range(looks):
        if done and (clock.left() <= 0 or clock.should_stop()):
            looks = done
            break
        near = refine_recording(sound.data, near[0], sound.sigma, sound.sample_rate)
        look = spectral[0].to(sound.data)
        spectral = spectral_look(sound.data, look, sound.sigma, sound.sample_rate)
        clock.on_progress((done + 1) / looks)
    least = 1e-3 * sound.sigma**2
    trusts = [variance.clamp(min=least).pow(-_SELECTION) for _, variance in (near, spectral)]
    share = trusts[0] / (trusts[0] + trusts[1])
    return torch.lerp(spectral[0].double(), near[0].double(), share.double()), looks


__all__ = ["Fit", "Sound", "SoundSettings", "fit_windows", "look_again", "restore_sound"]
