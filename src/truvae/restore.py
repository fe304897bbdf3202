"""Restoration of pictures: standardise, cut into patches, fit, estimate, merge."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from truvae.chunks import NearChunks
from truvae.decoders import MLP
from truvae.errors import InputError
from truvae.io import to_dtype
from truvae.model import Bernoulli, Model, low_precision_of
from truvae.noise import Gaussian
from truvae.patches import Patches, merge, principal_features
from truvae.population import Population
from truvae.proposals import GradientFlips, Neighbours, Proposal
from truvae.settings import SMALLEST_PATCH, Settings, choose
from truvae.training import Clock, Epoch, OneCycle, fit, posterior

Array = npt.NDArray[Any]

# Principal components in which patches count as near.
_FEATURES = 48
# The error of a patch estimate that its posterior variance does not know of, in units of the
# variance of the picture.
_DOUBT = 0.1


@dataclass(frozen=True)
class Result:
    """A restored picture and how it came about; all values in the units of the input."""

    restored: Array
    """The restored picture: shape and dtype of the input."""
    sigma: float
    """Standard deviation of the noise: learned, mean over the runs, unless it was given."""
    elbo: float
    """Mean over the patches of the lower bound F_n in nats (Eq. 5), and over the runs."""
    history: list[Epoch]
    """One record for each epoch, run after run."""
    model: Model
    """The model of the first run, of patches standardised as `(x - offset) / spread`."""
    offset: float
    """Mean of the noisy picture."""
    spread: float
    """Standard deviation of the noisy picture."""
    settings: Settings
    """The settings that were used."""
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
    sigma
        Standard deviation of the noise in units of `image`, only if it is known; it is learned
        otherwise.
    patch_size, n_latents, hidden, n_states, epochs
        Override what is chosen from the size of the picture and its noise: side of the patches in
        pixels, binary latents, units of each hidden layer of the decoder, variational states of
        each patch, passes through the patches (of a single run).
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
    picture = _checked(image)
    _check_patch_size(patch_size or SMALLEST_PATCH, picture.shape)
    noise = _noise_level(picture, sigma) / float(np.nanstd(picture))
    settings = choose(picture.shape, noise, quality).override(
        {
            "patch_size": patch_size,
            "n_latents": n_latents,
            "hidden": hidden,
            "n_states": n_states,
            "epochs": epochs,
        }
    )
    result = _restore(picture, settings, sigma, _device(device), random_state, clock, on_epoch)
    restored = to_dtype(result.restored, np.asarray(image).dtype)
    return replace(result, restored=restored) if return_result else restored


def _restore(
    picture: Array,
    settings: Settings,
    sigma: float | None,
    device: torch.device,
    seed: int,
    clock: Clock,
    on_epoch: Callable[[Epoch], None],
) -> Result:
    """Restore a valid float picture, NaN where pixels are missing, by the mean of several runs."""
    generator = torch.Generator(device).manual_seed(seed)
    units = _Units(float(np.nanmean(picture)), float(np.nanstd(picture)))
    patches = Patches(units.standardise(picture, device), settings.patch_size)
    filled = Patches(units.standardise(_filled(picture), device), settings.patch_size)
    chunks = NearChunks(principal_features(filled, _FEATURES))
    known = None if sigma is None else sigma / units.spread
    entries = patches.mean_observed()
    history: list[Epoch] = []

    def record(epoch: Epoch) -> None:
        history.append(units.record(epoch, entries))
        on_epoch(history[-1])

    runs: list[_Run] = []
    while len(runs) < settings.runs and not (runs and clock.left() < runs[-1].seconds):
        part = clock.part(len(runs), settings.runs)
        run = _run(patches, chunks, settings, known, generator, part, record)
        if runs and clock.should_stop():
            break  # it did not come far enough to help
        runs.append(run)
    merged = torch.stack([run.merged for run in runs]).mean(0).cpu().numpy()
    return Result(
        restored=merged * units.spread + units.offset,
        sigma=float(np.mean([float(run.model.noise.sigma2) ** 0.5 for run in runs])) * units.spread,
        elbo=units.bound(float(np.mean([run.bound for run in runs])), entries),
        history=history,
        model=runs[0].model,
        offset=units.offset,
        spread=units.spread,
        settings=settings,
        n_data=len(patches),
        missing=float(np.isnan(picture).mean()),
        device=str(device),
    )


class _Run(NamedTuple):
    """What one model made of the picture, in standardised units."""

    merged: torch.Tensor
    model: Model
    bound: float
    seconds: float


def _run(
    patches: Patches,
    chunks: NearChunks,
    settings: Settings,
    sigma: float | None,
    generator: torch.Generator,
    clock: Clock,
    on_epoch: Callable[[Epoch], None],
) -> _Run:
    """Fit one model and estimate the picture with it."""
    model, population = _start(len(patches), settings, sigma, generator)
    search: list[Proposal] = [GradientFlips(), Neighbours()]
    for epoch in fit(
        model,
        population,
        patches,
        epochs=settings.epochs,
        chunks=chunks,
        search=search,
        generator=generator,
        rate=OneCycle(settings.peak_rate),
        minibatch=settings.minibatch,
        clock=clock,
    ):
        on_epoch(epoch)
    estimates = posterior(model, population, patches, chunks, search, generator)
    merged = merge(patches, estimates, _DOUBT)
    bound = float(population.bound(slice(None)).mean())
    return _Run(merged, model, bound, time.perf_counter() - clock.start)


class _Units(NamedTuple):
    """The units of the input: x = offset + spread * standardised x."""

    offset: float
    spread: float

    def standardise(self, picture: Array, device: torch.device) -> torch.Tensor:
        standard = (picture - self.offset) / self.spread
        return torch.as_tensor(standard, dtype=torch.float32, device=device)

    def bound(self, elbo: float, entries: float) -> float:
        """Turn a lower bound of standardised data with so many entries into one of the data."""
        return elbo - entries * float(np.log(self.spread))

    def record(self, epoch: Epoch, entries: float) -> Epoch:
        return replace(epoch, elbo=self.bound(epoch.elbo, entries), sigma=epoch.sigma * self.spread)


def _start(
    n_data: int, settings: Settings, sigma: float | None, generator: torch.Generator
) -> tuple[Model, Population]:
    """Make the untrained model and population; `sigma` in units of the standardised data."""
    device, n_latents = generator.device, settings.n_latents
    activity = min(settings.active / n_latents, 0.5)
    with device:
        decoder = MLP(n_latents, settings.hidden, settings.patch_size**2, generator=generator)
    variance = torch.tensor(1.0 if sigma is None else sigma**2, device=device)
    model = Model(
        Bernoulli(torch.full((n_latents,), activity, device=device)),
        decoder,
        Gaussian(variance, fixed=sigma is not None),
        low_precision_of(device),
    )
    states = Population.random(n_data, settings.n_states, n_latents, activity, generator)
    return model, states


def _checked(image: npt.ArrayLike) -> Array:
    """Return the picture as float64, or say what is wrong with it."""
    array = np.asarray(image)
    if array.dtype == object or not np.issubdtype(array.dtype, np.number):
        raise InputError(f"a picture holds integers or floats, not {array.dtype} values")
    if np.iscomplexobj(array):
        raise InputError("a picture holds integers or floats, not complex values")
    if array.ndim != 2:
        raise InputError(
            f"a grey picture has two axes (rows, columns), this array has shape {array.shape}"
        )
    picture = array.astype(np.float64)
    _check_values(picture)
    return picture


def _check_values(picture: Array) -> None:
    if np.isinf(picture).any():
        raise InputError("the picture has infinite values; mark missing pixels as NaN")
    if picture.size == 0 or np.isnan(picture).all():
        raise InputError("the picture has no known pixel: all values are NaN or there are none")
    if np.nanmax(picture) == np.nanmin(picture):
        raise InputError(
            f"the picture is constant (all known pixels are {np.nanmin(picture):g}): "
            "there is nothing to learn from"
        )


def _check_patch_size(size: int, shape: tuple[int, ...]) -> None:
    if size > min(shape):
        raise InputError(
            f"a picture of {shape[0]} x {shape[1]} pixels is smaller than a patch of "
            f"{size} x {size}: give a larger picture or a smaller patch size"
        )


def _noise_level(picture: Array, sigma: float | None) -> float:
    """Return `sigma` if it is given and valid, else a robust estimate from the noisy picture."""
    if sigma is not None:
        if not 0 < sigma < np.inf:
            raise InputError(f"sigma must be above 0, in units of the picture, not {sigma:g}")
        return float(sigma)
    from skimage.restoration import estimate_sigma

    # An axis of one channel, or else a narrow picture is taken for one in colour.
    return float(estimate_sigma(_filled(picture)[..., None], channel_axis=-1)[0])


def _filled(picture: Array) -> Array:
    """Fill missing pixels with the nearest known one, to start from."""
    missing = np.isnan(picture)
    if not missing.any():
        return picture
    from scipy.ndimage import distance_transform_edt

    nearest = distance_transform_edt(missing, return_distances=False, return_indices=True)
    filled: Array = picture[tuple(nearest)]
    return filled


def _device(name: str) -> torch.device:
    """Return the device called `name`; "auto" takes a GPU if there is one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise InputError(f"no device {name!r}: choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA device was found: use the device cpu or auto")
    return torch.device(name)


__all__ = ["Result", "denoise"]
