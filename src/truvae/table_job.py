"""Tables: fit a model to the rows of one, look again, and infer new rows."""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from itertools import takewhile
from typing import NamedTuple

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from truvae import bits
from truvae.clock import Clock
from truvae.inference import infer, nearest_states
from truvae.model import Model
from truvae.noise import Gaussian, Noise
from truvae.population import Population
from truvae.ranks import ALONE, Ranks
from truvae.recipes import Recipe
from truvae.refine import refine_rows
from truvae.training import Epoch, Posterior, posterior

# Coordinates in which rows count as near.
_COORDINATES = 48
# Seconds of a time budget that are set aside for the look at each value of the training data.
_SECONDS_PER_VALUE = 7e-6


def leading_axes(data: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) of data, gaps filled, and their leading principal axes in columns."""
    seed = generator.initial_seed() % (1 << 32)
    with np.errstate(all="ignore"):  # of constant data no variance is explained
        pca = PCA(min(_COORDINATES, *data.shape), random_state=seed)
        pca.fit(_filled(data).cpu().numpy())
    center, axes = (torch.as_tensor(v).to(data) for v in (pca.mean_, pca.components_.T.copy()))
    return center, axes


def coordinates_of(data: Tensor, center: Tensor, axes: Tensor) -> Tensor:
    """Return coordinates in which near rows look alike."""
    return torch.where(data.isfinite(), data - center, 0.0) @ axes


def fit_table(
    model: Model,
    population: Population,
    data: Tensor,
    coordinates: Tensor,
    recipe: Recipe,
    generator: torch.Generator,
    clock: Clock,
    on_epoch: Callable[[Epoch], bool],
    ranks: Ranks = ALONE,
) -> Tensor:
    """Train a model and the states of rows in place, and look at the rows again.

    Parameters
    ----------
    model
        The untrained model.
    population
        The states of the rows of this rank.
    data, coordinates
        Standardised rows (N, D), NaN where missing, and where they lie; those of all ranks.
    recipe
        How to train.
    generator
        Source of all randomness.
    clock
        Ends the training early when its time is up. Without time for it there is no look.
    on_epoch
        Told of every epoch; the training ends when it says True.
    ranks
        Processes that learn together.

    Returns
    -------
    Estimates of all rows, (N, D): the references of further looks (`look_again`).
    """
    n, mine = len(data), ranks.own(data)
    chunks = recipe.chunks(len(mine), ranks.own(coordinates), ranks)
    looking = _SECONDS_PER_VALUE * data.numel() / ranks.size  # the same on all of them
    to_look = looking < clock.left() / 2
    training = clock.without(looking if to_look else 0)
    for epoch in recipe.train(model, population, mine, chunks, generator, training, ranks=ranks):
        # All of them see every epoch.
        if ranks.any(on_epoch(epoch)):
            break
    search = recipe.search_at(1)
    groups = posterior(model, population, mine, chunks, search, ranks.fork(generator))
    with closing(groups):
        estimate = _means_in_time(groups, mine, training)
    if to_look and clock.left() > looking / 2:
        known = ranks.gather(torch.where(mine.isfinite(), mine, estimate), n)
        estimate = look_again(mine, estimate, known, model.noise, ranks.fork(generator))
    return ranks.gather(estimate, n)


class Inferred(NamedTuple):
    """Standardised rows, and what was inferred of them."""

    data: Tensor
    population: Population
    groups: list[Posterior]
    generator: torch.Generator

    @property
    def means(self) -> Tensor:
        """The posterior means of the noise-free rows, (N, D)."""
        return _write_means(self.groups, torch.empty_like(self.data))


def infer_table(
    model: Model,
    data: Tensor,
    coordinates: Tensor,
    trained: Population,
    old: Tensor,
    recipe: Recipe,
    generator: torch.Generator,
) -> Inferred:
    """Find the states of new rows with the decoder fixed.

    They start from those of near rows of the training data, whose states are `trained`, and whose
    coordinates are `old`.
    """
    population = nearest_states(coordinates, old, trained, generator)
    chunks = recipe.chunks(len(data), coordinates)
    groups = [*infer(model, population, data, chunks, recipe.search, generator)]
    return Inferred(data, population, groups, generator)


def check_tensors(tensors: Mapping[str, Tensor], n_latents: int, n_features: int) -> None:
    """Raise a ValueError unless saved states, coordinates and scaling are of one table."""
    words, h, d = tensors["words"], n_latents, n_features
    (n, s, w), k = words.shape, tensors["axes"].shape[1]
    shapes = {
        "log_joint": (n, s),
        "coordinates": (n, k),
        "references": (n, d),
        "center": (d,),
        "axes": (d, k),
        "offset": (d,),
        "spread": (d,),
    }
    wrong = [
        name
        for name, shape in shapes.items()
        if tensors[name].shape != shape or not tensors[name].is_floating_point()
    ]
    if words.dtype != torch.int64 or w != bits.n_words(h) or 0 in words.shape:
        wrong.append("words")
    elif h % bits.WORD_BITS and (words[..., -1] >> h % bits.WORD_BITS).any():
        wrong.append("words")  # with bits of latents that there are not
    if wrong:
        raise ValueError(f"{', '.join(wrong)} and the others do not fit together")


def look_again(
    data: Tensor, estimate: Tensor, references: Tensor, noise: Noise, generator: torch.Generator
) -> Tensor:
    """Estimate rows once more, in units of the noise of each feature (`refine.refine_rows`).

    With other noise than Gaussian the estimate stays.
    """
    if not isinstance(noise, Gaussian):
        return estimate
    sigma = noise.sigma2.sqrt().to(data)
    rows = (data / sigma, estimate / sigma, references / sigma)
    refined: Tensor = refine_rows(*rows, 1.0, generator)
    return refined * sigma


def _means_in_time(groups: Iterable[Posterior], data: Tensor, clock: Clock) -> Tensor:
    """Return the posterior means of data; rows stay as they are once the time is up."""
    end = time.perf_counter() + clock.left()  # ranks have groups of their own
    return _write_means(takewhile(lambda _: time.perf_counter() < end, groups), _filled(data))


def _write_means(groups: Iterable[Posterior], table: Tensor) -> Tensor:
    """Write the posterior means of all groups into a table (N, D)."""
    for group in groups:
        table[group.rows] = group.mean
    return table


def _filled(data: Tensor) -> Tensor:
    """Return data with the mean of each feature where they are missing."""
    return torch.where(data.isfinite(), data, data.nanmean(0).nan_to_num())


__all__ = [
    "Inferred",
    "check_tensors",
    "coordinates_of",
    "fit_table",
    "infer_table",
    "leading_axes",
    "look_again",
]
