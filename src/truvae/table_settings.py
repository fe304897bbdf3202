"""Settings of a table: the recipe and the untrained model, from the options of `TVAE`."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, nn

from truvae.decoders import MLP
from truvae.errors import InputError, check_positive, check_whole
from truvae.model import Model
from truvae.noise import BernoulliNoise, Gaussian, Noise, PoissonNoise, on_device
from truvae.proposals import GradientFlips, Neighbours, Proposal
from truvae.recipes import Recipe
from truvae.rows import mean_and_spread

NOISES = ("gaussian", "gaussian-per-feature", "bernoulli", "poisson")
# Least variance of the noise of standardised data, for each of their features: log-likelihoods are
# differences of sums of squares over it, which float32 then knows to some tenths of a nat.
_FLOOR, _HIGHEST_FLOOR = 1e-6, 1e-2
# Least number of steps of the optimiser in an epoch, if the batches need not be too small for that.
_BATCHES = 32


def table_recipe(
    n_rows: int,
    *,
    n_latents: int,
    hidden: Sequence[int],
    n_states: int,
    active: float,
    search: Sequence[Proposal] | None,
    max_epochs: int,
    learning_rate: float,
    batch_size: int | None,
) -> Recipe:
    """Return how to train on so many rows.

    Raises
    ------
    InputError
        If an option makes no sense.
    """
    if not isinstance(hidden, Iterable):
        raise InputError(f"hidden must be a list of whole numbers, not {hidden}")
    if search is not None:
        check_callables("search", search, "proposals")
    hidden = tuple(hidden)
    whole = {"n_latents": n_latents, "n_states": n_states, "max_epochs": max_epochs}
    if batch_size is not None:
        whole["batch_size"] = batch_size
    for name, value in (*whole.items(), *(("hidden", units) for units in hidden)):
        check_whole(name, value)
    check_positive("active", active)
    check_positive("learning_rate", learning_rate)
    return Recipe(
        n_latents=n_latents,
        hidden=hidden,
        n_states=n_states,
        epochs=max_epochs,
        search=(GradientFlips(), Neighbours()) if search is None else tuple(search),
        minibatch=batch_size or min(max(n_rows // _BATCHES, 8), 64),
        peak_rate=learning_rate,
        active=active,
    )


def check_callables(name: str, given: object, what: str) -> None:
    """Raise an `InputError` unless an option is a list of objects that can be called."""
    # A class can be called, too: it makes an object, and does nothing more.
    if not isinstance(given, Sequence) or any(
        isinstance(each, type) or not callable(each) for each in given
    ):
        raise InputError(f"{name} must be a list of {what}, not {given!r}")


def untrained_model(
    recipe: Recipe,
    data: Tensor,
    noise: str | Noise,
    decoder: nn.Module | None,
    shared_prior: bool,
    generator: torch.Generator,
) -> Model:
    """Return the model at the start of the training on standardised data (N, D).

    Parameters
    ----------
    recipe
        Says what prior and, if none is given, what decoder it has.
    data
        NaN where missing.
    noise, decoder, shared_prior
        As of `TVAE`; the model gets copies.
    generator
        Source of the initial weights.

    Raises
    ------
    InputError
        If there is no such noise, or decoder, noise and data do not fit together.
    """
    noise = _noise(noise, data)
    extremes = _extremes(data)
    with _told(f"the noise {type(noise).__name__} is not for data of {data.shape[1]} features"):
        noise.data_terms(extremes)
    prior = recipe.prior(data.device)
    prior.shared = shared_prior
    if decoder is not None:
        if not isinstance(decoder, nn.Module):
            raise InputError(f"decoder must be a torch.nn.Module, not {decoder!r}")
        # Codes are scored by what the decoder says of each: nothing in it may be drawn.
        model = Model(prior, deepcopy(decoder).to(data.device).eval(), noise)
        check_decoder(model, extremes)
        return model
    with _told(f"the noise {type(noise).__name__} is not for data of {data.shape[1]} features"):
        start = noise.outputs_for(data.nanmean(0))
    mlp = recipe.decoder(len(start), generator)
    spread = mean_and_spread(data)[1] if isinstance(noise, Gaussian) else torch.ones(())
    _start_from(mlp, start, spread)
    model = Model(prior, mlp, noise)
    check_decoder(model, extremes)
    return model


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Tell any error as an `InputError`; one says already what would be right."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # what is one's own may raise nearly anything
        raise InputError(f"{what}: {error}") from error


def _extremes(data: Tensor) -> Tensor:
    """Return the least and the greatest value of each feature of data (N, D): (2, D)."""
    known = data.isfinite()
    return torch.stack([data.where(known, math.inf).amin(0), data.where(known, -math.inf).amax(0)])


def _noise(noise: str | Noise, data: Tensor) -> Noise:
    """Return the noise model at the start of the training on standardised data."""
    if isinstance(noise, Noise):
        return on_device(noise, data.device)
    floor = min(_FLOOR * data.shape[1], _HIGHEST_FLOOR)
    variance = data[data.isfinite()].var(correction=0).clamp(min=floor)
    made: dict[str, Callable[[], Noise]] = {
        "gaussian": lambda: Gaussian(variance, floor=floor),
        "gaussian-per-feature": lambda: Gaussian(variance.repeat(data.shape[1]), floor=floor),
        "bernoulli": BernoulliNoise,
        "poisson": PoissonNoise,
    }
    if not isinstance(noise, str) or noise not in made:
        raise InputError(
            f"no noise {noise!r}: choose one of {', '.join(NOISES)}, or a truvae.Noise"
        )
    return made[noise]()


def _start_from(decoder: MLP, outputs: Tensor, spread: Tensor) -> None:
    """Let an untrained decoder say these outputs on average, and others within their spread."""
    *_, last = (m for m in decoder.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        last.bias.copy_(outputs)
        last.weight *= spread.to(last.weight)[..., None]


def check_decoder(model: Model, data: Tensor) -> None:
    """Raise an `InputError` unless decoder, noise and complete data (n, D) fit together."""
    codes, n_features = torch.zeros(2, model.n_latents).to(model.prior.pi), data.shape[1]
    with torch.no_grad():
        with _told(f"the decoder does not take codes (n, {model.n_latents}) of {codes.dtype}"):
            decoded: object = model.decoder(codes)
        if not isinstance(decoded, Tensor) or decoded.ndim < 2 or len(decoded) != 2:
            raise InputError(
                "the decoder must return a tensor (n, any), a row for each code, not "
                f"{_shown(decoded)} for 2 codes"
            )
        outputs, noise = decoded.flatten(1), model.noise
        name = f"the noise {type(noise).__name__}"
        with _told(f"{name} is not for data of {n_features} features"):
            wanted = len(noise.outputs_for(data[0]))
        unequal = (
            f"the decoder makes {outputs.shape[1]} values of a state, the data have {n_features} "
            f"features: {name} wants {wanted} for these"
        )
        with _told(unequal):
            means = noise.mean(outputs)
        if means.shape != (2, n_features):
            raise InputError(unequal)
        with _told(f"{name} is not for data of {n_features} features"):
            scores = noise.log_likelihood(data, outputs)
        if scores.shape != (len(data), 2):
            raise InputError(f"{name} makes scores of shape {tuple(scores.shape)}, not (n, states)")


def _shown(value: object) -> str:
    """Return the shape of a tensor, of anything else its type."""
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


__all__ = ["NOISES", "check_callables", "check_decoder", "table_recipe", "untrained_model"]
