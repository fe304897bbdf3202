"""Restoration of pictures: standardise, cut into patches, fit, estimate, merge, look again."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from truvae.checks import check_patch_size, checked, device_called
from truvae.chunks import Chunks, NearChunks, ShuffledChunks
from truvae.errors import InputError
from truvae.io import to_dtype
from truvae.model import Model
from truvae.noise import DiagonalGaussian, Gaussian
from truvae.patches import Patches, cosine_basis, merge, noise_level, principal_features
from truvae.population import Population
from truvae.presets import preset as preset_called
from truvae.refine import refine
from truvae.settings import SMALLEST_PATCH, Plan, Settings, choose, plan_of, trust_in_dct
from truvae.training import Clock, Epoch, posterior

Array = npt.NDArray[Any]

# Principal components in which patches count as near.
_FEATURES = 48
# Side of the patches from which the noise is estimated, in pixels.
_NOISE_PATCH = 8
# Patches between one M-step and the next.
_CHUNK = 2048
# Second looks, and the seconds of a time budget that are set aside for each pixel of one.
_LOOKS, _SECONDS_PER_PIXEL = 2, 4e-5
# Least noise that is reckoned with, over the spread of the picture: less is beyond float32.
_LEAST_NOISE = 1e-3


@dataclass(frozen=True)
class Result:
    """A restored picture and how it came about; all values in the units of the input."""

    restored: Array
    """The restored picture: shape and dtype of the input."""
    sigma: float
    """Standard deviation of the noise: given, learned by the isotropic models, or estimated."""
    sigma_source: str
    """"given", "learned" or "estimated". Learned and estimated levels both take some signal for
    noise where a picture has much fine detail, so that the smaller one is published."""
    elbo: float
    """Mean over the patches of the lower bound F_n in nats (Eq. 5), by `model`."""
    history: list[Epoch]
    """One record for each epoch, run after run."""
    model: Model
    """The first model of the kind that the picture owes most to, of patches of
    `(x - offset) / spread`."""
    offset: float
    """Mean of the noisy picture; 0 with a preset."""
    spread: float
    """Standard deviation of the noisy picture; with a preset what the paper divides by."""
    settings: Settings
    """The settings of `model`."""
    covariances: list[str]
    """The kind of each model that was fitted, in turn."""
    trust_in_dct: float
    """Share in [0, 1] of the models of kind "dct" in the first estimate."""
    looks: int
    """How often the picture was looked at again (`refine`)."""
    epochs: int
    """Passes through all patches in the training of `model`."""
    n_data: int
    """Number of patches."""
    missing: float
    """Share of the pixels that were missing."""
    device: str
    """Where it was computed."""

    @property
    def active_latents(self) -> float:
        """Expected number of active latents of a patch: the sum of pi."""
        return float(self.model.prior.pi.sum())


def denoise(
    image: npt.ArrayLike,
    *,
    quality: str = "balanced",
    covariance: str = "auto",
    preset: str | None = None,
    selection: str | None = None,
    sigma: float | None = None,
    patch_size: int | None = None,
    n_latents: int | None = None,
    hidden: Sequence[int] | None = None,
    n_states: int | None = None,
    epochs: int | None = None,
    time_budget: float | None = None,
    device: str = "auto",
    random_state: int = 0,
    on_progress: Callable[[float], None] = lambda progress: None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    should_stop: Callable[[], bool] = lambda: False,
    return_result: bool = False,
) -> Array | Result:
    """Remove the noise from one grey picture, given nothing but the picture.

    Parameters
    ----------
    image
        The noisy picture (rows, columns), integers or floats in any units. NaN marks missing
        pixels; they are filled in.
    quality
        "fast", "balanced" or "best": how much time to take.
    covariance
        "isotropic" for the model of the paper and nothing else, "dct" for models whose states have
        a covariance of their own, "auto" to combine both as the picture needs it. All but
        "isotropic" take a second look at the picture (`truvae.refine`).
    preset
        The name of a row of the paper's Table 1, "paper:denoise-..." (`truvae.presets`), to do what
        the paper did; quality and covariance then have no effect.
    selection
        With a preset: another law by which parents are drawn, "released" for that of the authors'
        released code.
    sigma
        Standard deviation of the noise in units of `image`, only if it is known; it is learned
        otherwise.
    patch_size, n_latents, hidden, n_states, epochs
        Override what is chosen from the size of the picture and its noise: side of the patches in
        pixels, binary latents, units of each hidden layer of the decoder, variational states of
        each patch, passes through the patches (of one model of each kind).
    time_budget
        Seconds that the call may take; training is shortened to keep it.
    device
        "auto", "cpu" or "cuda".
    random_state
        Seed of all randomness: the same seed gives the same picture on the same machine.
    on_progress
        Called now and then with the progress of the training in [0, 1].
    on_epoch
        Called after each epoch with its record, in units of the input.
    should_stop
        Asked now and then; once it says True, training ends and the best so far is returned.
    return_result
        Return a `Result` instead of the array.

    Returns
    -------
    The restored picture, same shape and dtype; or a `Result` that holds it.

    Raises
    ------
    InputError
        If the picture or an option makes no sense. It is a ValueError.

    References
    ----------
    "Direct Evolutionary Optimization of Variational Autoencoders With Binary Latents",
    doi:10.1007/978-3-031-26409-2_22.

    Examples
    --------
    >>> import numpy as np
    >>> noisy = np.random.default_rng(0).normal(100, 20, (24, 24))
    >>> restored = denoise(noisy, epochs=2)
    >>> restored.shape, bool(restored.std() < noisy.std() / 2)
    ((24, 24), True)
    """
    clock = Clock(time_budget, on_progress, should_stop)
    picture = checked(image)
    check_patch_size(patch_size or SMALLEST_PATCH, picture.shape)
    noise = _noise_level(picture, sigma)
    complete = not np.isnan(picture).any()
    if preset is not None:
        plan = plan_of(preset_called(preset), selection)
    elif selection is not None:
        raise InputError("a selection goes with a preset: give one, or leave selection out")
    else:
        relative = noise / float(np.nanstd(picture))
        plan = choose(picture.shape, relative, quality, covariance, complete)
    plan = plan.override(
        {
            "patch_size": patch_size,
            "n_latents": n_latents,
            "hidden": hidden,
            "n_states": n_states,
            "epochs": epochs,
        }
    )
    for settings in plan.models:
        check_patch_size(settings.patch_size, picture.shape)
    job = _Job(picture, plan, noise, sigma is not None, device_called(device), random_state)
    result = job.run(clock, on_epoch)
    restored = to_dtype(result.restored, np.asarray(image).dtype)
    return replace(result, restored=restored) if return_result else restored


class _Run(NamedTuple):
    """What one model made of the picture, in standardised units."""

    settings: Settings
    merged: torch.Tensor
    model: Model
    bound: float
    epochs: int
    seconds: float


class _Job:
    """The restoration of one picture by one plan: several models, then the second look.

    Parameters
    ----------
    picture
        A valid float picture, NaN where pixels are missing.
    plan
        Which models to fit.
    noise
        The noise level, given or estimated, in units of the picture.
    known
        Whether it was given: then it is held.
    device, seed
        Where to compute, and the seed of all randomness.
    """

    def __init__(
        self,
        picture: Array,
        plan: Plan,
        noise: float,
        known: bool,
        device: torch.device,
        seed: int,
    ) -> None:
        self.picture, self.plan, self.known = picture, plan, known
        self.generator = torch.Generator(device).manual_seed(seed)
        self.units = _Units.of(picture, plan.scale)
        self.told = noise / self.units.spread
        self.noise = max(self.told, _LEAST_NOISE)
        self.image = self.units.standardise(picture, device)
        self.filled = self.units.standardise(_filled(picture), device)
        self.history: list[Epoch] = []
        self._found_features: dict[int, torch.Tensor] = {}

    def run(self, clock: Clock, on_epoch: Callable[[Epoch], None]) -> Result:
        """Fit the models, combine their estimates, and look again."""
        looking = _LOOKS * _SECONDS_PER_PIXEL * self.picture.size if self.plan.refine_size else 0
        runs = self._fit_all(clock.without(looking), on_epoch)
        estimate, trust = self._combine(runs)
        estimate, looks = self._look_again(estimate, clock)
        main = next(run for run in runs if trust <= 0.5 or run.settings.covariance == "dct")
        sigma, source = self._published(runs)
        return Result(
            restored=estimate.cpu().numpy() * self.units.spread + self.units.offset,
            sigma=sigma * self.units.spread,
            sigma_source=source,
            elbo=self.units.bound(main.bound, self._entries(main.settings)),
            history=self.history,
            model=main.model,
            offset=self.units.offset,
            spread=self.units.spread,
            settings=main.settings,
            covariances=[run.settings.covariance for run in runs],
            trust_in_dct=trust,
            looks=looks,
            epochs=main.epochs,
            n_data=len(Patches(self.image, main.settings.patch_size)),
            missing=float(np.isnan(self.picture).mean()),
            device=str(self.image.device),
        )

    def _fit_all(self, clock: Clock, on_epoch: Callable[[Epoch], None]) -> list[_Run]:
        """Fit one model after the other, each of the kind that the ones before it call for."""
        runs: list[_Run] = []
        n_runs = self.plan.runs
        while len(runs) < n_runs and not (runs and clock.left() < runs[-1].seconds / 2):
            settings = self.plan.models[-1 if self._trust(runs) > 0 else 0]
            run = self._fit(settings, clock.part(len(runs), n_runs), on_epoch)
            if runs and clock.should_stop():
                break  # it did not come far enough to help
            runs.append(run)
        return runs

    def _fit(self, settings: Settings, clock: Clock, on_epoch: Callable[[Epoch], None]) -> _Run:
        """Fit one model and estimate the picture with it."""
        patches = Patches(self.image, settings.patch_size)
        entries = self._entries(settings)
        chunks = self._chunks(settings)
        model, population = self._start(patches, settings)
        before = len(self.history)
        for epoch in settings.train(model, population, patches, chunks, self.generator, clock):
            self.history.append(self.units.record(epoch, entries))
            on_epoch(self.history[-1])
        # Points with states of their own are estimated from these alone, as in the paper (Eq. 15).
        search = settings.search if settings.shares else ()
        estimates = posterior(model, population, patches, chunks, search, self.generator)
        merged = merge(patches, estimates, settings.doubt)
        bound = float(population.bound(slice(None)).mean())
        epochs, seconds = len(self.history) - before, time.perf_counter() - clock.start
        return _Run(settings, merged, model, bound, epochs, seconds)

    def _start(self, patches: Patches, settings: Settings) -> tuple[Model, Population]:
        """Make the untrained model and population."""
        dct = settings.covariance == "dct"
        noise = self._diagonal(patches) if dct else self._white(settings)
        decoder = settings.decoder(patches.size**2 * (2 if dct else 1), self.generator)
        model = Model(settings.prior(self.image.device), decoder, noise)
        return model, settings.states(len(patches), self.generator)

    def _white(self, settings: Settings) -> Gaussian:
        """Return white noise: as it is known, or where its learning starts."""
        if self.known:
            return Gaussian(self._scalar(self.noise**2), fixed=True)
        start = settings.sigma2 or float(np.nanvar(self.picture)) / self.units.spread**2
        return Gaussian(self._scalar(start))

    def _diagonal(self, patches: Patches) -> DiagonalGaussian:
        """Return noise whose signal variances start as those of all patches."""
        basis = cosine_basis(patches.size).to(self.image.device)
        energy = sum((block @ basis).square().sum(0) for block in patches.blocks()) / len(patches)
        noise = self._scalar(self.noise**2)
        return DiagonalGaussian(noise, basis, (energy - noise).clamp(min=0.02 * self.noise**2))

    def _chunks(self, settings: Settings) -> Chunks:
        """Draw groups of near patches where these share states, else random ones."""
        if not settings.shares:
            return ShuffledChunks(len(Patches(self.image, settings.patch_size)), settings.group)
        features = self._features(settings.patch_size)
        return NearChunks(features, settings.group, _CHUNK // settings.group)

    def _features(self, size: int) -> torch.Tensor:
        """Return coordinates of all patches in which near ones look alike; found once per size."""
        if size not in self._found_features:
            self._found_features[size] = principal_features(Patches(self.filled, size), _FEATURES)
        return self._found_features[size]

    def _trust(self, runs: Sequence[_Run]) -> float:
        """Return how far to trust models of kind "dct" after a first isotropic one, in [0, 1]."""
        isotropic_only = len(self.plan.models) == 1 or not runs
        return 0.0 if isotropic_only else trust_in_dct(_learned(runs), self.noise)

    def _combine(self, runs: Sequence[_Run]) -> tuple[torch.Tensor, float]:
        """Average the estimates of each kind, and the kinds by the trust in them."""
        estimates: dict[str, list[torch.Tensor]] = {}
        for run in runs:
            estimates.setdefault(run.settings.covariance, []).append(run.merged)
        kinds = {kind: torch.stack(merged).mean(0) for kind, merged in estimates.items()}
        if len(kinds) == 1:
            ((kind, estimate),) = kinds.items()
            return estimate, float(kind == "dct")
        trust = self._trust(runs)
        return torch.lerp(kinds["isotropic"], kinds["dct"], trust), trust

    def _look_again(self, estimate: torch.Tensor, clock: Clock) -> tuple[torch.Tensor, int]:
        """Refine the estimate as often as planned, and as the time allows."""
        looks, size = 0, self.plan.refine_size
        while size and looks < _LOOKS and clock.left() > 0 and not clock.should_stop():
            estimate = refine(self.image, estimate, self.noise, size)
            looks += 1
        return estimate, looks

    def _published(self, runs: Sequence[_Run]) -> tuple[float, str]:
        """Return the noise level to tell, in standardised units, and where it is from."""
        if self.known:
            return self.told, "given"
        learned = _learned(runs)
        if learned < self.told or self.plan.models[-1].covariance == "isotropic":
            return learned, "learned"
        return self.told, "estimated"

    def _entries(self, settings: Settings) -> float:
        return Patches(self.image, settings.patch_size).mean_observed()

    def _scalar(self, value: float) -> torch.Tensor:
        return torch.tensor(value, device=self.image.device)


def _learned(runs: Sequence[_Run]) -> float:
    """Return the mean noise level that isotropic models found; infinite without one."""
    noises = [run.model.noise for run in runs]
    levels = [float(n.mean_error) ** 0.5 for n in noises if isinstance(n, Gaussian)]
    return float(np.mean(levels)) if levels else np.inf


class _Units(NamedTuple):
    """The units of the input: x = offset + spread * standardised x."""

    offset: float
    spread: float

    @classmethod
    def of(cls, picture: Array, scale: float | None = None) -> "_Units":
        """Return units in which a picture has mean 0 and variance 1, or is divided by `scale`."""
        if scale is not None:
            return cls(0.0, scale)
        return cls(float(np.nanmean(picture)), float(np.nanstd(picture)))

    def standardise(self, picture: Array, device: torch.device) -> torch.Tensor:
        standard = (picture - self.offset) / self.spread
        return torch.as_tensor(standard, dtype=torch.float32, device=device)

    def bound(self, elbo: float, entries: float) -> float:
        """Turn a lower bound of standardised data with so many entries into one of the data."""
        return elbo - entries * float(np.log(self.spread))

    def record(self, epoch: Epoch, entries: float) -> Epoch:
        return replace(epoch, elbo=self.bound(epoch.elbo, entries), sigma=epoch.sigma * self.spread)


def _noise_level(picture: Array, sigma: float | None) -> float:
    """Return `sigma` if it is given and valid, else an estimate from the noisy picture."""
    if sigma is not None:
        if not 0 < sigma < np.inf:
            raise InputError(f"sigma must be above 0, in units of the picture, not {sigma:g}")
        return float(sigma)
    units = _Units.of(picture)
    standard = units.standardise(_filled(picture), torch.device("cpu"))
    # Small pictures have too few patches for the covariance of large ones.
    size = min(_NOISE_PATCH, max(2, round(picture.size**0.5) // 12), *picture.shape)
    return units.spread * noise_level(Patches(standard, size))


def _filled(picture: Array) -> Array:
    """Fill missing pixels with the nearest known one, to start from."""
    missing = np.isnan(picture)
    if not missing.any():
        return picture
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(missing, return_distances=False, return_indices=True)
    filled: Array = picture[tuple(nearest)]
    return filled


__all__ = ["Result", "denoise"]
