"""The scikit-learn face: binary codes of the rows of a table."""

import math
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from numbers import Integral
from os import PathLike
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_array, check_is_fitted
from torch import Tensor, nn

from truvae import bits
from truvae.checks import check_table, device_called
from truvae.clock import Clock, check_budget
from truvae.errors import InputError, check_whole
from truvae.model import Model
from truvae.noise import Noise
from truvae.population import Population
from truvae.proposals import Proposal
from truvae.ranks import ALONE, Ranks
from truvae.recipes import Recipe
from truvae.saving import (
    damage_told,
    epochs_from_json,
    epochs_to_json,
    load_model,
    noise_of,
    part,
    parts_of,
    save_model,
)
from truvae.scaling import Scaling
from truvae.table_job import (
    Inferred,
    check_tensors,
    coordinates_of,
    fit_table,
    infer_table,
    leading_axes,
    look_again,
)
from truvae.table_settings import (
    NOISES,
    check_callables,
    check_decoder,
    table_recipe,
    untrained_model,
)
from truvae.training import Epoch

Array = npt.NDArray[Any]

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
        Gaussian noise by name they are standardised inside: centred, and divided by one standard
        deviation or, with a sigma for each feature, by that of each. Do so yourself for Gaussian
        noise of your own: float32 does not bear features whose mean is 100 times their standard
        deviation or more.
    decoder
        Any `torch.nn.Module` from states (n, H) to what the noise model wants to hear of them,
        (n, D) means (of standardised data), logits or log-rates; further axes are flattened.
        `hidden` then has no effect. None for fully connected layers.
    shared_prior
        Whether all latents have the same probability to be active.
    active
        Active latents of a code at the start; at most half of them are.
    search
        A list of proposals, applied in turn; None for flips by gradient and the states of near
        rows.
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
    _recipe: Recipe

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
            If an option makes no sense, a feature has no value, or the noise does not take the
            data. It is a ValueError.
        """
        self._forget()  # not fitted any more, should data or options be bad
        ranks = ALONE if self.ranks is None else self.ranks
        if not isinstance(ranks, Ranks):
            raise InputError(f"ranks must be made by truvae.ranks.Ranks.join, not {ranks!r}")
        clock = Clock(self.time_budget, should_stop=self.should_stop or (lambda: False)).of(ranks)
        X = check_table(self, X, reset=True)
        ranks.check_enough(len(X), "rows")
        recipe, device = self._chosen(len(X) // ranks.size), device_called(self.device)
        draw = check_random_state(self.random_state).randint
        self._seed = ranks.first(lambda: int(draw(np.iinfo(np.int32).max)))
        generator = torch.Generator(device).manual_seed(self._seed)
        self.scaling_ = Scaling.of(X, self.noise)
        data = self.scaling_.standardise(X, device)
        self._center, self._axes = leading_axes(data, generator)
        self._old = coordinates_of(data, self._center, self._axes)
        self.model_ = untrained_model(
            recipe, data, self.noise, self.decoder, self.shared_prior, generator
        )
        self.population_ = recipe.states(ranks.part(len(data)), ranks.fork(generator))
        self._recipe, self.history_ = recipe, []
        record = partial(self._record, data.isfinite().double().mean(0).cpu().numpy())
        rows = (self.model_, self.population_, data, self._old)
        try:
            self._references = fit_table(*rows, recipe, generator, clock, record, ranks)
            self.population_ = self.population_.gather(ranks, len(data))
        except BaseException:  # Ctrl-C, or what a callback raised
            self._forget()
            raise
        return self

    def transform(self, X: npt.ArrayLike) -> Array:
        """Return the posterior means of the latents of new data: (n_samples, H) in [0, 1]."""
        X, found = self._inferred(X)
        population = found.population
        q = population.responsibilities(torch.arange(len(population.words)))
        z = bits.unpack(population.words, self.model_.n_latents, q.dtype)
        return _numpy(torch.einsum("ns,nsh->nh", q, z).clamp(max=1), X)

    def encode(self, X: npt.ArrayLike) -> npt.NDArray[np.uint8]:
        """Return the most probable binary code of new data: (n_samples, H) of zeros and ones."""
        population = self._inferred(X)[1].population
        best = population.log_joint.argmax(1)
        words = population.words[torch.arange(len(best), device=best.device), best]
        return bits.unpack(words, self.model_.n_latents, torch.uint8).cpu().numpy()

    def inverse_transform(self, X: npt.ArrayLike) -> Array:
        """Return what data with these codes, or means of latents, (n_samples, H), are on average.

        (n_samples, n_features), in units of the data.
        """
        check_is_fitted(self)
        codes: Array = check_array(X, dtype=(np.float64, np.float32))
        n_latents, pi = self.model_.n_latents, self.model_.prior.pi
        if codes.shape[1] != n_latents:
            raise InputError(f"codes have {n_latents} latents, not {codes.shape[1]}")
        with torch.no_grad():
            outputs = self.model_.decode_dense(torch.tensor(codes).to(pi))
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
        X, found = self._inferred(X)
        estimate, noise = found.means, self.model_.noise
        for _ in range(looks):
            estimate = look_again(found.data, estimate, self._references, noise, found.generator)
        return _numpy(self.scaling_.restore(estimate), X)

    def score_samples(self, X: npt.ArrayLike) -> Array:
        """Return the lower bounds F_n of the log-likelihoods of new data (Eq. 5), (n_samples,).

        In nats, in units of the data.
        """
        X, found = self._inferred(X)
        bound: Array = found.population.bound(slice(None)).double().cpu().numpy()
        bound -= np.isfinite(X) @ self.scaling_.log_spread
        return bound

    def score(self, X: npt.ArrayLike, y: object = None) -> float:
        """Return the mean of `score_samples`."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1, random_state: int | None = None) -> Array:
        """Draw data from the model: (n_samples, n_features), in units of the data."""
        check_is_fitted(self)
        check_whole("n_samples", n_samples)
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
        state, given = self.random_state, self.noise
        # One's own is as it was before the training, other than that of the model.
        noise, numbers = (given, {}) if isinstance(given, str) else parts_of(given)
        config = {
            "params": {name: getattr(self, name) for name in _SAVED}
            | {"hidden": [*self._recipe.hidden], "n_states": self._recipe.n_states}
            | {"n_latents": self._recipe.n_latents},
            "noise": noise,
            "random_state": int(state) if isinstance(state, Integral) else None,
            "seed": self._seed,
            "history": epochs_to_json(self.history_),
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
            **{f"noise.{name}": tensor for name, tensor in numbers.items()},
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
        model, config, tensors = load_model(folder, deepcopy(decoder), device_called(device))
        if "params" not in config:
            raise InputError(f"{folder} holds a model, but no estimator: see truvae.load_model")
        with damage_told(folder):
            noise = config["noise"]
            if noise is None:  # of versions that did not keep it
                noise = deepcopy(model.noise)
            elif not isinstance(noise, str):
                noise = noise_of(noise, part("noise", tensors))
            params = config["params"] | {"random_state": config["random_state"]}
            est = cls(**params, noise=noise, decoder=decoder, search=search, device=device)
            est.model_, est._seed = model, config["seed"]
            est.population_ = Population(tensors["words"], tensors["log_joint"])
            names = ("coordinates", "center", "axes", "references")
            est._old, est._center, est._axes, est._references = (tensors[name] for name in names)
            est.scaling_ = Scaling(*(tensors[k].cpu().numpy() for k in ("offset", "spread")))
            est.history_ = epochs_from_json(config["history"])
            est.n_features_in_ = config["n_features"]
            if config["feature_names"]:
                est.feature_names_in_ = np.array(config["feature_names"], dtype=object)
            est._check_loaded(tensors)
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
        return self.inverse_transform(np.eye(self.model_.n_latents))

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
        return self.model_.n_latents

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "history_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.non_deterministic = self.random_state is None
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _forget(self) -> None:
        """Count as not fitted."""
        self.__dict__.pop("history_", None)

    def _chosen(self, n_rows: int) -> Recipe:
        """Return how to train; raise an `InputError` for options that make no sense."""
        check_budget(self.time_budget)
        check_callables("callbacks", self.callbacks, "functions of an epoch")
        if not (self.should_stop is None or callable(self.should_stop)):
            raise InputError(f"should_stop must be a function, not {self.should_stop!r}")
        return table_recipe(
            n_rows,
            n_latents=self.n_latents,
            hidden=self.hidden,
            n_states=self.n_states,
            active=self.active,
            search=self.search,
            max_epochs=self.max_epochs,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
        )

    def _check_loaded(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise an error unless all that was loaded fits together."""
        self._recipe = self._chosen(1)
        check_random_state(self.random_state)
        torch.Generator().manual_seed(self._seed)
        if self.n_latents != self.model_.n_latents or not isinstance(self.noise, str | Noise):
            raise ValueError("the options are not those of the model")
        names = getattr(self, "feature_names_in_", None)
        if names is not None and [type(name) for name in names] != [str] * self.n_features_in_:
            raise ValueError("there is not a name for each feature")
        check_tensors(tensors, self.n_latents, self.n_features_in_)
        if self.decoder is None:  # one's own may be costly to run
            check_decoder(self.model_, torch.zeros_like(self._references[:1]))

    def _record(self, entries: Array, epoch: Epoch) -> bool:
        """Record an epoch, and return whether one of the callbacks ends the training.

        `entries` (D,) is the share of the rows in which each feature is known.
        """
        self.history_.append(self.scaling_.record(epoch, entries, self.model_.noise))
        return any([callback(self.history_[-1]) for callback in self.callbacks])

    def _inferred(self, X: npt.ArrayLike) -> tuple[Array, Inferred]:
        """Return new data as an array, and what is inferred of them."""
        check_is_fitted(self)
        X = check_table(self, X, reset=False)
        device = self.model_.prior.pi.device
        generator = torch.Generator(device).manual_seed(self._seed)
        data = self.scaling_.standardise(X, device)
        coordinates = coordinates_of(data, self._center, self._axes)
        trained = self.population_, self._old
        return X, infer_table(self.model_, data, coordinates, *trained, self._recipe, generator)


def _numpy(values: Tensor, like: Array) -> Array:
    return values.detach().cpu().numpy().astype(like.dtype)


__all__ = ["NOISES", "TVAE"]
