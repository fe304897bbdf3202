"""The scikit-learn face: binary codes of the rows of a table."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import asdict
from itertools import takewhile
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor, nn

from truvae import bits
from truvae.checks import device_called
from truvae.chunks import Chunks
from truvae.clock import Clock
from truvae.decoders import MLP
from truvae.errors import InputError
from truvae.inference import infer, nearest_states
from truvae.model import Model
from truvae.noise import BernoulliNoise, Gaussian, Noise, PoissonNoise, on_device
from truvae.population import Population
from truvae.proposals import GradientFlips, Neighbours, Proposal
from truvae.ranks import ALONE, Ranks
from truvae.recipes import Recipe, check_positive, check_whole
from truvae.refine import refine_rows
from truvae.saving import load_model, save_model
from truvae.scaling import Scaling
from truvae.training import Epoch, Posterior, posterior

Array = npt.NDArray[Any]

NOISES = ("gaussian", "gaussian-per-feature", "bernoulli", "poisson")
# Coordinates in which rows count as near.
_COORDINATES = 48
# Seconds of a time budget that are set aside for the look at each value of the training data.
_SECONDS_PER_VALUE = 7e-6
# Least number of steps of the optimiser in an epoch, if the batches need not be too small for that.
_BATCHES = 32
# Parameters that are saved as they are.
_SAVED = ("n_latents", "n_states", "shared_prior", "active", "max_epochs", "learning_rate",
          "batch_size", "time_budget")  # fmt: skip


class TVAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Variational autoencoder with binary latents, trained by direct evolutionary optimisation.

    It has no encoder: each row keeps a few binary codes, its variational states, which a search
    improves while a decoder learns from them. Missing values, NaN, are left out of every sum.

    Parameters
    ----------
    n_latents
        H, the number of binary latents.
    hidden
        Units of each hidden layer of the decoder; empty for a linear one, binary sparse coding.
    n_states
        S, variational states of each row, at most 2^H.
    noise
        "gaussian" (one sigma), "gaussian-per-feature", "bernoulli" for data between 0 and 1,
        "poisson" for counts; or any `truvae.Noise`, which then gets the data as they are. For
        Gaussian noise they are standardised inside: centred, and divided by one standard deviation
        or, with a sigma for each feature, by that of each.
    decoder
        Any module from states (n, H) to what the noise model wants to hear of them, (n, D) means
        (of standardised data), logits or log-rates; further axes are flattened. `hidden` then has
        no effect. None for fully connected layers.
    shared_prior
        Whether all latents have the same probability to be active.
    active
        Active latents of a code at the start.
    search
        Proposals, applied in turn; None for flips by gradient and the states of near rows.
    max_epochs
        Passes through the data.
    learning_rate
        Highest learning rate; it rises and falls once.
    batch_size
        Rows for each step of the optimiser; None for 64, or fewer of small tables.
    time_budget
        Seconds that `fit` may take; None for any. If they do not even suffice for one pass through
        the data, `reconstruct` has poorer references.
    should_stop
        Asked now and then; training ends once it says True. None for never.
    callbacks
        Called with the record of each epoch (`training.Epoch`, in units of the data); training
        ends when one returns True. `truvae.callbacks` has some.
    device
        "auto", "cpu" or "cuda".
    ranks
        Processes that learn together (`truvae.ranks`), None for this one alone. All call `fit` with
        the same data, and have the same of everything afterwards; only the seconds in the history
        differ.
    random_state
        Seed, or source, of all randomness.

    Attributes
    ----------
    model_
        The `truvae.Model`, of standardised data.
    population_
        The states of the rows that it was trained on.
    pi_
        (H,), the probability of each latent to be active.
    sigma_
        Standard deviation of the noise in units of the data, a float, or (n_features,) for noise
        "gaussian-per-feature"; NaN if the noise has none.
    components_
        (H, n_features), what data are on average if one latent is active and no other.
    elbo_
        Mean over the rows of the lower bound F_n in nats (Eq. 5), in units of the data, in the last
        epoch.
    history_
        One record for each epoch.
    n_features_in_, feature_names_in_
        As in all of scikit-learn.

    References
    ----------
    doi:10.1007/978-3-031-26409-2_22.

    Examples
    --------
    >>> X = np.repeat(np.eye(4), 50, axis=0)
    >>> X += np.random.default_rng(0).normal(0, 0.1, X.shape)
    >>> est = TVAE(n_latents=6, hidden=(), n_states=8, max_epochs=30, random_state=0).fit(X)
    >>> bool(np.sqrt(np.mean((est.reconstruct(X) - np.repeat(np.eye(4), 50, axis=0)) ** 2)) < 0.1)
    True
    >>> X[0, 0] = np.nan
    >>> bool(est.reconstruct(X)[0, 0] > 0.5)
    True
    """

    model_: Model
    population_: Population
    history_: list[Epoch]

    def __init__(
        self,
        n_latents: int = 64,
        hidden: Sequence[int] = (64,),
        n_states: int = 64,
        *,
        noise: str | Noise = "gaussian",
        decoder: nn.Module | None = None,
        shared_prior: bool = False,
        active: float = 5.0,
        search: Sequence[Proposal] | None = None,
        max_epochs: int = 50,
        learning_rate: float = 0.005,
        batch_size: int | None = None,
        time_budget: float | None = None,
        should_stop: Callable[[], bool] | None = None,
        callbacks: Sequence[Callable[[Epoch], bool | None]] = (),
        device: str = "auto",
        ranks: Ranks | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_latents = n_latents
        self.hidden = hidden
        self.n_states = n_states
        self.noise = noise
        self.decoder = decoder
        self.shared_prior = shared_prior
        self.active = active
        self.search = search
        self.max_epochs = max_epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.time_budget = time_budget
        self.should_stop = should_stop
        self.callbacks = callbacks
        self.device = device
        self.ranks = ranks
        self.random_state = random_state

    def fit(self, X: npt.ArrayLike, y: object = None) -> "TVAE":
        """Learn model and codes of data (n_samples, n_features), NaN where missing.

        Raises
        ------
        InputError
            If an option makes no sense, or a feature has no value. It is a ValueError.
        """
        ranks = self.ranks or ALONE
        clock = Clock(self.time_budget, should_stop=self.should_stop or (lambda: False)).of(ranks)
        X = _valid(self, X, reset=True)
        ranks.check_enough(len(X), "rows")
        recipe, device = self._recipe(len(X) // ranks.size), device_called(self.device)
        draw = check_random_state(self.random_state).randint
        self._seed = ranks.first(lambda: int(draw(np.iinfo(np.int32).max)))
        generator = torch.Generator(device).manual_seed(self._seed)
        self.scaling_ = Scaling.of(X, self.noise)
        data = self.scaling_.standardise(X, device)
        self._center, self._axes = _principal_axes(_filled(data), generator)
        self.model_ = self._untrained(recipe, data, generator)
        self._old, n = self._coordinates(data), len(data)
        own = ranks.share(n)
        mine, coordinates = data[own], self._old[own]
        self.population_ = recipe.states(len(mine), ranks.fork(generator))
        chunks = recipe.chunks(len(mine), coordinates, ranks)
        looking = _SECONDS_PER_VALUE * mine.numel()
        to_look = looking < clock.left() / 2
        training = clock.without(looking if to_look else 0)
        arguments = (self.model_, self.population_, mine, chunks, generator, training)
        entries = data.isfinite().double().mean(0).cpu().numpy()
        self._train(recipe.train(*arguments, ranks=ranks), entries, ranks)
        estimate = self._complete(recipe, mine, chunks, ranks.fork(generator), training)
        if to_look and clock.left() > looking / 2:
            known = ranks.gather(torch.where(mine.isfinite(), mine, estimate), n)
            estimate = self._look(mine, estimate, known, ranks.fork(generator))
        self._references = ranks.gather(estimate, n)  # among which similar rows are looked for
        self.population_ = self.population_.gather(ranks, n)
        return self

    def transform(self, X: npt.ArrayLike) -> Array:
        """Return the posterior means of the latents of new data: (n_samples, H) in [0, 1]."""
        found = self._inferred(X)
        population = found.population
        q = population.responsibilities(torch.arange(len(population.words)))
        z = bits.unpack(population.words, self.n_latents, q.dtype)
        return _numpy(torch.einsum("ns,nsh->nh", q, z).clamp(max=1), found.X)

    def encode(self, X: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """Return the most probable binary code of new data: (n_samples, H) of zeros and ones."""
        population = self._inferred(X).population
        best = population.log_joint.argmax(1)
        words = population.words[torch.arange(len(best), device=best.device), best]
        return bits.unpack(words, self.n_latents, torch.uint8).cpu().numpy()

    def inverse_transform(self, X: npt.ArrayLike) -> Array:
        """Return what data with these codes, or means of latents, (n_samples, H), are on average.

        (n_samples, n_features), in units of the data.
        """
        check_is_fitted(self)
        codes: Array = check_array(X, dtype=(np.float64, np.float32))
        if codes.shape[1] != self.n_latents:
            raise InputError(f"codes have {self.n_latents} latents, not {codes.shape[1]}")
        pi = self.model_.prior.pi
        with torch.no_grad():
            outputs = self.model_.decode_dense(torch.as_tensor(codes).to(pi))
        return _numpy(self.scaling_.restore(self.model_.noise.mean(outputs)), codes)

    def reconstruct(self, X: npt.ArrayLike, looks: int = 2) -> Array:
        """Return estimates of noise-free data, also where they are missing.

        Parameters
        ----------
        X
            (n_samples, n_features), NaN where missing.
        looks
            How often to look again: each row is then estimated anew from the rows of the training
            data that are most like it in the estimate before (`refine.refine_rows`). With 0, or
            other than Gaussian noise, it is the posterior mean of Eq. 15.

        Returns
        -------
        (n_samples, n_features), in units of the data.
        """
        found = self._inferred(X)
        estimate = _means(found.groups, torch.empty_like(found.data))
        for _ in range(looks):
            estimate = self._look(found.data, estimate, self._references, found.generator)
        return _numpy(self.scaling_.restore(estimate), found.X)

    def score_samples(self, X: npt.ArrayLike) -> Array:
        """Return the lower bounds F_n of the log-likelihoods of new data (Eq. 5), (n_samples,).

        In nats, in units of the data.
        """
        found = self._inferred(X)
        bound: Array = found.population.bound(slice(None)).double().cpu().numpy()
        bound -= np.isfinite(found.X) @ self.scaling_.log_spread
        return bound

    def score(self, X: npt.ArrayLike, y: object = None) -> float:
        """Return the mean of `score_samples`."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: int | None = None) -> Array:
        """Draw data from the model: (n_samples, n_features), in units of the data."""
        check_is_fitted(self)
        seed = int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
        generator = torch.Generator(self.model_.prior.pi.device).manual_seed(seed)
        _, x = self.model_.sample(n_samples, generator)
        return self.scaling_.restore(x).cpu().double().numpy()

    def save(self, folder: str | PathLike[str]) -> None:
        """Save as a folder, `model.safetensors` and `config.json` (see `saving.save_model`).

        Callbacks and `should_stop` are not saved, nor are a search and a decoder of one's own: of
        the latter only the parameters are.
        """
        check_is_fitted(self)
        config = {
            "params": {name: getattr(self, name) for name in _SAVED} | {"hidden": [*self.hidden]},
            "noise": self.noise if isinstance(self.noise, str) else None,
            "random_state": self.random_state if isinstance(self.random_state, int) else None,
            "seed": self._seed,
            "history": [_without_nan(asdict(epoch)) for epoch in self.history_],
            "n_features": self.n_features_in_,
            "feature_names": [*map(str, getattr(self, "feature_names_in_", []))],
        }
        tensors = {
            "words": self.population_.words,
            "log_joint": self.population_.log_joint,
            "coordinates": self._old,
            "references": self._references,
            "center": self._center,
            "axes": self._axes,
            "offset": torch.as_tensor(self.scaling_.offset),
            "spread": torch.as_tensor(self.scaling_.spread),
        }
        save_model(folder, self.model_, config, tensors)

    @classmethod
    def load(
        cls,
        folder: str | PathLike[str],
        decoder: nn.Module | None = None,
        search: Sequence[Proposal] | None = None,
        device: str = "auto",
    ) -> "TVAE":
        """Load what `save` saved, on any device.

        Parameters
        ----------
        folder
            The folder.
        decoder, search
            Those that the estimator had, if they were one's own.
        device
            "auto", "cpu" or "cuda".

        Raises
        ------
        InputError
            If the folder holds no such estimator, or the decoder is missing or another.
        """
        model, config, tensors = load_model(folder, decoder, device_called(device))
        if "params" not in config:
            raise InputError(f"{folder} holds a model, but no estimator: see truvae.load_model")
        noise = config["noise"] or deepcopy(model.noise)
        params = config["params"] | {"random_state": config["random_state"]}
        est = cls(**params, noise=noise, decoder=decoder, search=search, device=device)
        est.model_, est._seed = model, config["seed"]
        est.population_ = Population(tensors["words"], tensors["log_joint"])
        est._old, est._center, est._axes = (tensors[k] for k in ("coordinates", "center", "axes"))
        est._references = tensors["references"]
        est.scaling_ = Scaling(tensors["offset"].cpu().numpy(), tensors["spread"].cpu().numpy())
        est.history_ = [Epoch(**_with_nan(record)) for record in config["history"]]
        est.n_features_in_ = config["n_features"]
        if config["feature_names"]:
            est.feature_names_in_ = np.array(config["feature_names"], dtype=object)
        return est

    @property
    def pi_(self) -> Array:
        """(H,), the probability of each latent to be active."""
        return self.model_.prior.pi.cpu().numpy()

    @property
    def sigma_(self) -> float | Array:
        """Standard deviation of the noise, in units of the data."""
        return self.scaling_.sigma(self.model_.noise)

    @property
    def components_(self) -> Array:
        """(H, n_features), what data are on average if a single latent is active."""
        return self.inverse_transform(np.eye(self.n_latents))

    @property
    def elbo_(self) -> float:
        """Mean of F_n over the rows in the last epoch, in nats, in units of the data; NaN if there
        was time for none.
        """
        return self.history_[-1].elbo if self.history_ else math.nan

    @property
    def n_epochs_(self) -> int:
        """Number of epochs that `fit` took."""
        return len(self.history_)

    @property
    def _n_features_out(self) -> int:
        return self.n_latents

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "history_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.non_deterministic = self.random_state is None
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _recipe(self, n_rows: int) -> Recipe:
        """Return how to train; raise an `InputError` for options that make no sense."""
        if not isinstance(self.hidden, Iterable):
            raise InputError(f"hidden must be a list of whole numbers, not {self.hidden}")
        whole = {name: getattr(self, name) for name in ("n_latents", "n_states", "max_epochs")}
        if self.batch_size is not None:
            whole["batch_size"] = self.batch_size
        for name, value in (*whole.items(), *(("hidden", units) for units in self.hidden)):
            check_whole(name, value)
        check_positive("active", self.active)
        check_positive("learning_rate", self.learning_rate)
        if self.time_budget is not None:
            check_positive("time_budget", self.time_budget)
        return Recipe(
            n_latents=self.n_latents,
            hidden=tuple(self.hidden),
            n_states=self.n_states,
            epochs=self.max_epochs,
            search=(GradientFlips(), Neighbours()) if self.search is None else tuple(self.search),
            minibatch=self.batch_size or min(max(n_rows // _BATCHES, 8), 64),
            peak_rate=self.learning_rate,
            active=self.active,
        )

    def _untrained(self, recipe: Recipe, data: Tensor, generator: torch.Generator) -> Model:
        """Return the model at the start of the training."""
        noise = _noise(self.noise, data)
        prior = recipe.prior(data.device)
        prior.shared = self.shared_prior
        if self.decoder is not None:
            # Codes are scored by what the decoder says of each: nothing in it may be drawn.
            model = Model(prior, deepcopy(self.decoder).to(data.device).eval(), noise)
            _check_decoder(model, data)
            return model
        start = noise.outputs_for(data.nanmean(0))
        decoder = recipe.decoder(len(start), generator)
        _set_bias(decoder, start)
        return Model(prior, decoder, noise)

    def _train(self, epochs: Iterable[Epoch], entries: Array, ranks: Ranks) -> None:
        """Train, record each epoch, and call the callbacks.

        `entries` (D,) is the share of the rows in which each feature is known.
        """
        self.history_ = []
        for epoch in epochs:
            self.history_.append(self.scaling_.record(epoch, entries, self.model_.noise))
            # All of them see every epoch.
            if ranks.any(any([callback(self.history_[-1]) for callback in self.callbacks])):
                break

    def _coordinates(self, data: Tensor) -> Tensor:
        """Return coordinates in which near rows look alike."""
        return torch.where(data.isfinite(), data - self._center, 0.0) @ self._axes

    def _inferred(self, X: npt.ArrayLike) -> "_Inferred":
        """Find the states of new data with the decoder fixed."""
        check_is_fitted(self)
        X = _valid(self, X, reset=False)
        recipe, device = self._recipe(len(X)), self.model_.prior.pi.device
        generator = torch.Generator(device).manual_seed(self._seed)
        data = self.scaling_.standardise(X, device)
        coordinates = self._coordinates(data)
        population = nearest_states(coordinates, self._old, self.population_, generator)
        chunks = recipe.chunks(len(data), coordinates)
        groups = [*infer(self.model_, population, data, chunks, recipe.search, generator)]
        return _Inferred(X, data, population, groups, generator)

    def _complete(
        self,
        recipe: Recipe,
        data: Tensor,
        chunks: Chunks,
        generator: torch.Generator,
        clock: Clock,
    ) -> Tensor:
        """Return estimates of the training data; rows stay as they are once the time is up."""
        groups = posterior(self.model_, self.population_, data, chunks, recipe.search, generator)
        end = time.perf_counter() + clock.left()  # ranks have groups of their own
        return _means(takewhile(lambda _: time.perf_counter() < end, groups), _filled(data))

    def _look(
        self, data: Tensor, estimate: Tensor, references: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Estimate rows once more, in units of the noise of each feature."""
        noise = self.model_.noise
        if not isinstance(noise, Gaussian):
            return estimate
        sigma = noise.sigma2.sqrt()
        rows = (data / sigma, estimate / sigma, references / sigma)
        refined: Tensor = refine_rows(*rows, 1.0, generator)
        return refined * sigma


class _Inferred(NamedTuple):
    """New data and what was inferred of them."""

    X: Array
    data: Tensor
    """Standardised."""
    population: Population
    groups: list[Posterior]
    generator: torch.Generator


def _means(groups: Iterable[Posterior], table: Tensor) -> Tensor:
    """Write the posterior means of all groups into a table (N, D)."""
    for group in groups:
        table[group.rows] = group.mean
    return table


def _valid(estimator: TVAE, X: npt.ArrayLike, reset: bool) -> Array:
    found: Array = validate_data(
        estimator, X, reset=reset, dtype=(np.float64, np.float32), ensure_all_finite="allow-nan"
    )
    if reset and (empty := np.isnan(found).all(0)).any():
        raise InputError(f"feature {int(empty.argmax())} has no value: all of them are missing")
    return found


def _noise(noise: str | Noise, data: Tensor) -> Noise:
    """Return the noise model at the start of the training on standardised data."""
    if isinstance(noise, Noise):
        return on_device(noise, data.device)
    variance = data[data.isfinite()].var(correction=0).clamp(min=1e-6)
    made: dict[str, Callable[[], Noise]] = {
        "gaussian": lambda: Gaussian(variance),
        "gaussian-per-feature": lambda: Gaussian(variance.repeat(data.shape[1])),
        "bernoulli": BernoulliNoise,
        "poisson": PoissonNoise,
    }
    if noise not in made:
        raise InputError(
            f"no noise {noise!r}: choose one of {', '.join(NOISES)}, or a truvae.Noise"
        )
    return made[noise]()


def _set_bias(decoder: MLP, outputs: Tensor) -> None:
    """Let an untrained decoder say these outputs on average."""
    *_, last = (m for m in decoder.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        last.bias.copy_(outputs)


def _check_decoder(model: Model, data: Tensor) -> None:
    """Raise an `InputError` if a user's decoder and the data do not fit together."""
    with torch.no_grad():
        outputs = model.decode_dense(torch.zeros(2, model.n_latents).to(model.prior.pi))
        means = model.noise.mean(outputs)
    if means.shape != (2, data.shape[1]):
        raise InputError(
            f"the decoder makes {means.shape[1]} values of a state, the data have "
            f"{data.shape[1]} features: they must be equal"
        )


def _filled(data: Tensor) -> Tensor:
    """Return data with the mean of each feature where they are missing."""
    return torch.where(data.isfinite(), data, data.nanmean(0).nan_to_num())


def _principal_axes(data: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) of complete data, and their leading principal axes in columns."""
    seed = generator.initial_seed() % (1 << 32)
    with np.errstate(all="ignore"):  # of constant data no variance is explained
        pca = PCA(min(_COORDINATES, *data.shape), random_state=seed).fit(data.cpu().numpy())
    center, axes = (torch.as_tensor(v).to(data) for v in (pca.mean_, pca.components_.T.copy()))
    return center, axes


def _without_nan(record: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value != value else value for name, value in record.items()}


def _with_nan(record: dict[str, Any]) -> dict[str, Any]:
    return {name: math.nan if value is None else value for name, value in record.items()}


def _numpy(values: Tensor, like: Array) -> Array:
    return values.detach().cpu().numpy().astype(like.dtype)


__all__ = ["NOISES", "TVAE"]
