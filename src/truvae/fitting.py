"""One model: fitted to patches, and what it makes of the frames that they are from.

Of one small frame all patches take part. Of a large one, or a stack, the model is trained on a
sample, of a stack on no more patches than one frame has; the states of all are then found tile by
tile (`truvae.tiles`).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from truvae.checkpoint import Checkpoint, State, Training
from truvae.chunks import Chunks
from truvae.clock import Clock
from truvae.fill import nearest_known
from truvae.model import Model
from truvae.noise import DiagonalGaussian, Gaussian
from truvae.optim import Adam
from truvae.patches import Features, Patches, cosine_basis, merge, weighted_sum
from truvae.proposals import Neighbours, Proposal
from truvae.ranks import ALONE, Ranks
from truvae.settings import Settings
from truvae.threads import at_a_time, helpers
from truvae.tiles import Tile, Trained, estimates, tiles
from truvae.training import Epoch, Posterior, posterior

Estimate = tuple[Tensor, float]
"""Estimated frames, (F, R, C, K), and the mean of F_n over the patches, in nats."""

Sides = tuple[int, int]
"""Rows and columns of a patch."""

# Principal components in which patches count as near.
_FEATURES = 48
# Least and most noise that is reckoned with, over the spread of the frames: less or more is beyond
# float32.
_LEAST_NOISE, _MOST_NOISE = 1e-3, 1e6
# What the estimate of a patch takes, in E-steps of training.
_CLOSING = 1.3
# Windows of a long recording that are estimated, from the beginning of one to its end: fifty take
# six times the time and bring 0.02 dB.
_WINDOWS = 8


@dataclass(frozen=True)
class Run:
    """One model, fitted, and what it makes of the frames, in standardised units."""

    settings: Settings
    model: Model
    entries: Tensor
    """(K,), mean number of observed entries of a patch in each channel."""
    epochs: int
    seconds: float
    """What it took, all in all but for an `estimate` that is made later."""
    estimate: Callable[[], Estimate]
    """Makes `merged` and `bound`."""

    @property
    def merged(self) -> Tensor:
        """The estimate of the frames, (F, R, C, K), float64."""
        return self._estimated[0]

    @property
    def bound(self) -> float:
        """Mean of F_n over all patches, in nats; NaN of a model that learned nothing."""
        return self._estimated[1]

    def finish(self) -> None:
        """Make the estimate now, while there is time for it."""
        self._estimated  # noqa: B018

    @cached_property
    def _estimated(self) -> Estimate:
        return self.estimate()


class Material:
    """What models are fitted to.

    Parameters
    ----------
    seen
        Frames (F, R, C, K) in standardised units, NaN where values are missing or hidden. A
        recording is a frame (1, 1, n, K) of one row, and its patches are windows of 1 x P.
    noise
        Standard deviation of their noise, given or estimated.
    known
        Whether it was given: then it is held.
    generator
        Source of all randomness.
    ranks
        The processes that fit the models together; all have the same of everything here.
    """

    def __init__(
        self,
        seen: Tensor,
        noise: float,
        known: bool,
        generator: torch.Generator,
        ranks: Ranks = ALONE,
    ) -> None:
        self.seen, self.known, self.generator, self.ranks = seen, known, generator, ranks
        self.noise = min(max(noise, _LEAST_NOISE), _MOST_NOISE)
        gaps = bool(seen.isnan().any())
        self.pilot = torch.stack([nearest_known(frame) for frame in seen]) if gaps else seen
        self._samples: dict[tuple[Sides, int], _Sample] = {}

    def look_for_neighbours_in(self, estimate: Tensor) -> None:
        """Let an estimate say from now on which patches are near: it knows all their entries."""
        self.pilot = estimate.to(self.seen)
        self._samples.clear()

    def sample(self, settings: Settings) -> "_Sample":
        """Return the patches to train on; drawn once per size and number."""
        rows, columns = self.seen.shape[1:3]
        sides = min(settings.patch_size, rows), min(settings.patch_size, columns)
        patches = Patches(self.seen, sides)
        places = patches.lattice(settings.stride) if settings.sparse else None
        n = len(patches if places is None else places)
        n_trained = min(n // len(self.seen), settings.trained or n)
        if (sides, n_trained) not in self._samples:
            drawn = places
            if n_trained < n:
                order = torch.randperm(n, generator=self.generator, device=self.seen.device)
                drawn = order[:n_trained].clone() if places is None else places[order[:n_trained]]
            sample = _Sample(self.seen, self.pilot, sides, drawn, n_trained == n)
            self._samples[sides, n_trained] = sample
        return self._samples[sides, n_trained]


class _Sample:
    """The patches that a model is trained on: all, or some rows, which may be all to estimate."""

    def __init__(
        self, seen: Tensor, pilot: Tensor, sides: Sides, rows: Tensor | None, whole: bool
    ) -> None:
        self.all = Patches(seen, sides), Patches(pilot, sides)
        self.whole = whole
        self.patches, self._full = (
            patches if rows is None else patches.some(rows) for patches in self.all
        )

    @cached_property
    def entries(self) -> Tensor:
        """Mean number of observed entries of a patch in each channel, (K,)."""
        return self.patches.mean_observed()

    def share(self, ranks: Ranks, near: bool) -> tuple[Patches, Tensor | None]:
        """Return the patches of one of several ranks and, if asked for, their coordinates."""
        coordinates = self.coordinates if near else None
        if ranks.size == 1:
            return self.patches, coordinates
        n = len(self.patches)
        ranks.check_enough(n, "patches")
        some = self.patches.some(ranks.share(n).to(self.patches.device))
        return some, None if coordinates is None else ranks.own(coordinates)

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
    is_superseded: Callable[[Sequence[Epoch]], bool] = lambda epochs: False,
) -> Run:
    """Fit one model to patches of the frames, and estimate the frames with it.

    What `checkpoint` holds under `name` is not done again; the epochs of it are told at once. The
    training ends when its epochs tell that another model is to take the place of this one
    (`is_superseded`). Then, and where a model knows only a sample of the patches, the estimate is
    made when it is needed.
    """
    sample, generator, ranks = material.sample(settings), material.generator, material.ranks
    patches, coordinates = sample.share(ranks, settings.shares)
    model = _untrained(material, sample.patches, settings)
    population = settings.states(len(patches), ranks.fork(generator))
    optimizer = Adam(model.parameters())
    state = Training(model, population, optimizer, generator, ranks)
    saved = checkpoint.load(name) or State({"epochs": []}, {})
    epochs = _go_on(saved, state, clock)
    for epoch in epochs:
        on_epoch(epoch)
    if "merged" in saved.tensors:
        found = saved.tensors["merged"].to(generator.device), saved.values["bound"]
        estimate: Callable[[], Estimate] = partial(_as_it_is, found)
        return Run(settings, model, sample.entries, len(epochs), clock.seconds, estimate)
    save = partial(_save, checkpoint, name, clock, epochs)
    chunks = settings.chunks(len(patches), coordinates, ranks)
    training, closing = (clock, clock) if sample.whole else _parts(clock, sample, settings)
    passes = settings.train(
        model, population, patches, chunks, generator, training, optimizer, len(epochs), ranks
    )
    superseded = is_superseded(epochs)
    for epoch in () if superseded else passes:
        epochs.append(epoch)
        save(state.tensors)
        on_epoch(epoch)
        superseded = is_superseded(epochs)
        if superseded:
            break
    if not epochs:  # a model that learned nothing has nothing to say
        estimate = partial(_as_it_is, (material.pilot.double(), math.nan))
    elif sample.whole:
        # Points with states of their own are estimated from these alone, as in the paper (Eq. 15).
        search = settings.search_at(1) if settings.shares else ()
        estimate = partial(_estimate, state, patches, chunks, settings, search)
        if not superseded:
            found = estimate()
            save(lambda: state.result() | {"merged": found[0]}, bound=found[1])
            estimate = partial(_as_it_is, found)
    else:
        trained = Trained(
            model, state.states(), sample.features, sample.coordinates, sample.patches
        )
        steps = checkpoint.part(name) if ranks.size == 1 else Checkpoint()
        estimate = partial(_estimate_by_tiles, trained, sample, settings, material, steps, closing)
    return Run(settings, model, sample.entries, len(epochs), clock.seconds, estimate)


def _as_it_is(estimate: Estimate) -> Estimate:
    """Return an estimate that was made at once."""
    return estimate


def _parts(clock: Clock, sample: _Sample, settings: Settings) -> tuple[Clock, Clock]:
    """Return a clock for training on a sample, and one for the estimates of all patches."""
    passes = len(sample.all[0].lattice(_stride(settings))) / len(sample.patches)
    if not settings.local_epochs:  # of these fewer are estimated, if there is time for few
        passes = min(passes, 1)
    local = passes * settings.local_epochs
    common = settings.epochs / (settings.epochs + local)
    training = clock.without(clock.left() * (1 - common)).before(_CLOSING * passes * common)
    share = settings.epochs / (settings.epochs + local + passes / 2)  # an epoch has an M-step too
    return training.span(0, share), clock.span(share, 1)


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
    tensors: Callable[[], dict[str, Tensor]],
    **values: float,
) -> None:
    """Save what there is of a model, unless it was cut short: then the last whole epoch counts."""
    if checkpoint.folder is not None and not clock.should_stop():
        records = [asdict(epoch) for epoch in epochs]
        checkpoint.save(name, {"epochs": records, "seconds": clock.seconds, **values}, tensors())


def _untrained(material: Material, patches: Patches, settings: Settings) -> Model:
    """Make the model at the start of the training."""
    dct = settings.covariance == "dct"
    noise = _diagonal(material, patches) if dct else _white(material, settings)
    decoder = settings.decoder(patches.n_entries * (2 if dct else 1), material.generator)
    return Model(settings.prior(patches.device), decoder, noise)


def _white(material: Material, settings: Settings) -> Gaussian:
    """Return white noise: as it is known, or where its learning starts."""
    if material.known:
        return Gaussian(material.seen.new_tensor(material.noise**2), fixed=True)
    values = material.seen[material.seen.isfinite()]
    variance = settings.sigma2 or float(values.var(correction=0))
    return Gaussian(material.seen.new_tensor(variance))


def _diagonal(material: Material, patches: Patches) -> DiagonalGaussian:
    """Return noise whose signal variances start as those of all patches."""
    basis = cosine_basis(patches.sides, patches.n_channels).to(patches.device)
    energy = sum((block @ basis).square().sum(0) for block in patches.blocks()) / len(patches)
    noise = material.seen.new_tensor(material.noise**2)
    return DiagonalGaussian(noise, basis, (energy - noise).clamp(min=0.02 * material.noise**2))


def _estimate(
    state: Training,
    patches: Patches,
    chunks: Chunks,
    settings: Settings,
    search: Sequence[Proposal],
) -> Estimate:
    """Return what the model makes of a picture, and the mean of F_n, by the states of its patches
    and those that a search offers.
    """
    ranks, population = state.ranks, state.population
    generator = ranks.fork(state.generator)
    estimates = posterior(state.model, population, patches, chunks, search, generator)
    merged = merge(patches, estimates, settings.doubt, ranks)
    return merged, ranks.mean(float(population.bound(slice(None)).mean()), len(patches))


def _estimate_by_tiles(
    trained: Trained,
    sample: _Sample,
    settings: Settings,
    material: Material,
    checkpoint: Checkpoint,
    clock: Clock,
) -> Estimate:
    """Return the same of a model that was trained on a sample.

    Tiles are worked on side by side. Each rank takes some; of one process alone they are saved one
    by one.
    """
    ranks, places = material.ranks, trained.patches.places
    device = material.seen.device
    seed = int(torch.randint(1 << 62, (), generator=material.generator, device=device))
    total = torch.zeros(material.seen.shape, dtype=torch.float64, device=device)
    weight, bounds, n = total.clone(), 0.0, 0
    mine = [*ranks.mine(enumerate(tiles(places, settings.tile * settings.stride**2)))]
    local = clock.before(_CLOSING).alone().silent()
    beside = max(1, min(at_a_time(device), len(mine)))

    def estimated(done: int) -> State:
        index, tile = mine[done]
        own = local.part(done // beside, math.ceil(len(mine) / beside))
        make = partial(_of_tile, trained, sample, settings, tile, seed + index, own)
        return checkpoint.once(f"tile-{index + 1}", own, make, beside)

    with helpers(device) as begin:
        for done, state in enumerate(begin(estimated, range(len(mine)))):
            pixels = trained.patches.box(*mine[done][1])
            total[pixels] += state.tensors["total"].to(total)
            weight[pixels] += state.tensors["weight"].to(total)
            bounds += state.values["bounds"]
            n += state.values["n"]
            clock.on_progress((done + 1) / len(mine))
    ranks.sum_([total, weight])
    bounds, all_patches = ranks.sum(bounds, n)
    return total.div_(weight), bounds / all_patches


def _stride(settings: Settings) -> int:
    """Return how far apart those patches lie that are estimated by tiles, where there is time."""
    least = settings.patch_size // _WINDOWS if settings.sparse else 1
    return max(settings.stride, least)


def _of_tile(
    trained: Trained, sample: _Sample, settings: Settings, tile: Tile, seed: int, clock: Clock
) -> State:
    """Return the weighted sums of the estimates of the patches of a tile, and of their bounds."""
    # Half a patch apart they still cover all, in a fraction of the time.
    widest = max(settings.stride, settings.patch_size // 2)
    estimated = partial(_of_tile_by, trained, sample, settings, tile, seed, clock)
    if clock.should_stop():
        return estimated(widest)
    stride = _stride(settings)
    if clock.budget is None or settings.local_epochs or not settings.shares:
        return estimated(stride)
    start, state = clock.seconds, estimated(widest)
    if clock.should_stop():
        return state
    pace = (clock.seconds - start) / state.values["n"]
    seen = sample.all[0].cut(*tile)
    while stride < widest and len(seen.lattice(stride)) * pace > clock.left():
        stride *= 2
    return state if stride >= widest else estimated(stride)


def _of_tile_by(
    trained: Trained,
    sample: _Sample,
    settings: Settings,
    tile: Tile,
    seed: int,
    clock: Clock,
    stride: int,
) -> State:
    """Return the same of patches so far apart."""
    seen, pilot = (patches.cut(*tile) for patches in sample.all)
    rows = seen.lattice(stride)
    some, generator = seen.some(rows), torch.Generator(seen.device).manual_seed(seed)
    search = settings.search_at(1) if settings.shares else (Neighbours(),)
    found = estimates(trained, tile, some, pilot.some(rows), settings, search, generator, clock)
    bounds: list[Tensor] = []

    def told() -> Iterator[Posterior]:
        for estimate, bound in found:
            bounds.append(bound)
            yield estimate

    total, weight = weighted_sum(some, told(), settings.doubt)
    values = {"bounds": float(torch.cat(bounds).sum()), "n": len(rows)}
    return State(values, {"total": total, "weight": weight})


__all__ = ["Material", "Run", "fit_model"]
