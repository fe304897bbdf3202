"""One model: fitted to patches, and what it makes of the frames that they are from.

Of one frame all patches take part. Of a stack the model is trained on as many patches as one frame
has, drawn from all frames; the states of the others are then found with the decoder fixed, starting
from those of the most similar patches that it was trained on.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor

from truvae.checkpoint import Checkpoint, State, Training
from truvae.chunks import Chunks
from truvae.fill import nearest_known
from truvae.inference import nearest_states
from truvae.model import Model
from truvae.noise import DiagonalGaussian, Gaussian
from truvae.patches import Features, Patches, cosine_basis, merge
from truvae.population import Population
from truvae.proposals import Proposal
from truvae.settings import Settings
from truvae.training import Adam, Clock, Epoch, posterior

# Principal components in which patches count as near.
_FEATURES = 48


class Run(NamedTuple):
    """What one model made of the frames, in standardised units."""

    settings: Settings
    merged: Tensor
    """(F, R, C, K), float64."""
    model: Model
    bound: float
    """Mean of F_n over all patches, in nats."""
    entries: Tensor
    """(K,), mean number of observed entries of a patch in each channel."""
    epochs: int
    seconds: float


class Material:
    """What models are fitted to.

    Parameters
    ----------
    seen
        Frames (F, R, C, K) in standardised units, NaN where values are missing or hidden.
    noise
        Standard deviation of their noise, given or estimated.
    known
        Whether it was given: then it is held.
    generator
        Source of all randomness.
    """

    def __init__(self, seen: Tensor, noise: float, known: bool, generator: torch.Generator) -> None:
        self.seen, self.noise, self.known, self.generator = seen, noise, known, generator
        self._pilot = torch.stack([nearest_known(frame) for frame in seen])
        self._samples: dict[int, _Sample] = {}

    def look_for_neighbours_in(self, estimate: Tensor) -> None:
        """Let an estimate say from now on which patches are near: it knows all their entries."""
        self._pilot = estimate.to(self.seen)
        self._samples.clear()

    def sample(self, size: int) -> "_Sample":
        """Return the patches to train on; drawn once per size."""
        if size not in self._samples:
            rows, n = None, len(Patches(self.seen, size))
            if len(self.seen) > 1:
                order = torch.randperm(n, generator=self.generator, device=self.seen.device)
                rows = order[: n // len(self.seen)].clone()
            self._samples[size] = _Sample(self.seen, self._pilot, size, rows)
        return self._samples[size]


class _Sample:
    """The patches that a model is trained on."""

    def __init__(self, seen: Tensor, pilot: Tensor, size: int, rows: Tensor | None) -> None:
        self.patches, self.pilot = Patches(seen, size, rows), pilot
        self._full = Patches(pilot, size, rows)

    @cached_property
    def entries(self) -> Tensor:
        """Mean number of observed entries of a patch in each channel, (K,)."""
        return self.patches.mean_observed()

    @cached_property
    def features(self) -> Features:
        """Coordinates in which near patches look alike."""
        return Features.of(self._full, _FEATURES)

    @cached_property
    def coordinates(self) -> Tensor:
        """Those of these patches, (n, 48)."""
        return self.features(self._full)


def fit_model(
    material: Material,
    settings: Settings,
    clock: Clock,
    on_epoch: Callable[[Epoch], None],
    checkpoint: Checkpoint,
    name: str,
) -> Run:
    """Fit one model to patches of the frames, and estimate the frames with it.

    What `checkpoint` holds under `name` is not done again; the epochs of it are told at once.
    """
    sample, n_frames = material.sample(settings.patch_size), len(material.seen)
    patches, generator = sample.patches, material.generator
    model, population = _start(material, patches, settings)
    training = clock if n_frames == 1 else clock.before(n_frames).span(0, 0.5)
    state = Training(model, population, Adam(model.parameters()), generator)
    saved = checkpoint.load(name) or State({"epochs": []}, {})
    epochs = _go_on(saved, state, clock)
    for epoch in epochs:
        on_epoch(epoch)
    if "merged" in saved.tensors:
        merged, bound = saved.tensors["merged"].to(generator.device), saved.values["bound"]
        return Run(settings, merged, model, bound, sample.entries, len(epochs), clock.seconds)
    save = partial(_save, checkpoint, name, clock, epochs)
    coordinates = sample.coordinates if settings.shares else None
    chunks = settings.chunks(len(patches), coordinates)
    for epoch in settings.train(
        model, population, patches, chunks, generator, training, state.optimizer, len(epochs)
    ):
        epochs.append(epoch)
        save(state.tensors())
        on_epoch(epoch)
    if n_frames == 1:
        # Points with states of their own are estimated from these alone, as in the paper (Eq. 15).
        search = settings.search if settings.shares else ()
        merged, bound = _estimate(model, population, patches, chunks, settings, search, generator)
    else:
        merged, bound = _infer(material, settings, model, population, clock)
    merged = merged.view(material.seen.shape)
    save(state.result() | {"merged": merged}, bound=bound)
    return Run(settings, merged, model, bound, sample.entries, len(epochs), clock.seconds)


def _go_on(saved: State, state: Training, clock: Clock) -> list[Epoch]:
    """Take over what was saved of a model, if anything was; return the epochs that led there."""
    if saved.tensors:
        clock.watch.forward(saved.values["seconds"])
        state.restore(saved.tensors)
    return [Epoch(**record) for record in saved.values["epochs"]]


def _save(
    checkpoint: Checkpoint,
    name: str,
    clock: Clock,
    epochs: list[Epoch],
    tensors: dict[str, Tensor],
    **values: float,
) -> None:
    """Save what there is of a model, unless it was cut short: then the last whole epoch counts."""
    if not clock.should_stop():
        records = [asdict(epoch) for epoch in epochs]
        checkpoint.save(name, {"epochs": records, "seconds": clock.seconds, **values}, tensors)


def _start(material: Material, patches: Patches, settings: Settings) -> tuple[Model, Population]:
    """Make the untrained model and population."""
    dct = settings.covariance == "dct"
    noise = _diagonal(material, patches) if dct else _white(material, settings)
    decoder = settings.decoder(patches.n_entries * (2 if dct else 1), material.generator)
    model = Model(settings.prior(patches.device), decoder, noise)
    return model, settings.states(len(patches), material.generator)


def _white(material: Material, settings: Settings) -> Gaussian:
    """Return white noise: as it is known, or where its learning starts."""
    if material.known:
        return Gaussian(material.seen.new_tensor(material.noise**2), fixed=True)
    values = material.seen[material.seen.isfinite()]
    variance = settings.sigma2 or float(values.var(correction=0))
    return Gaussian(material.seen.new_tensor(variance))


def _diagonal(material: Material, patches: Patches) -> DiagonalGaussian:
    """Return noise whose signal variances start as those of all patches."""
    basis = cosine_basis(patches.size, patches.n_channels).to(patches.device)
    energy = sum((block @ basis).square().sum(0) for block in patches.blocks()) / len(patches)
    noise = material.seen.new_tensor(material.noise**2)
    return DiagonalGaussian(noise, basis, (energy - noise).clamp(min=0.02 * material.noise**2))


def _estimate(
    model: Model,
    population: Population,
    patches: Patches,
    chunks: Chunks,
    settings: Settings,
    search: Sequence[Proposal],
    generator: torch.Generator,
) -> tuple[Tensor, float]:
    """Return what the model makes of a picture, and the mean of F_n, by the states of its patches
    and those that a search offers.
    """
    estimates = posterior(model, population, patches, chunks, search, generator)
    merged = merge(patches, estimates, settings.doubt)
    return merged, float(population.bound(slice(None)).mean())


def _infer(
    material: Material, settings: Settings, model: Model, population: Population, clock: Clock
) -> tuple[Tensor, float]:
    """Find states of all patches of each frame with the decoder fixed; estimate the frames."""
    sample, generator = material.sample(settings.patch_size), material.generator
    done, bounds, n_frames = [], [], len(material.seen)
    for frame, pilot in zip(material.seen, sample.pilot, strict=True):
        patches = Patches(frame, settings.patch_size)
        coordinates = sample.features(Patches(pilot, settings.patch_size))
        start = nearest_states(coordinates, sample.coordinates, population, generator)
        chunks = settings.chunks(len(patches), coordinates)
        merged, bound = _estimate(
            model, start, patches, chunks, settings, settings.search, generator
        )
        done.append(merged)
        bounds.append(bound)
        clock.on_progress(0.5 + 0.5 * len(done) / n_frames)
    return torch.stack(done), sum(bounds) / n_frames


__all__ = ["Material", "Run", "fit_model"]
