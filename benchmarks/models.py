"""What the benchmarks of the paper share: a model at its start, its training, and what it shows."""

import json

import numpy as np
import torch

from benchmarks.series import Record
from truvae import Gaussian, Model, Population
from truvae.chunks import Chunks
from truvae.io import to_dtype
from truvae.patches import Patches, merge
from truvae.recipes import Recipe
from truvae.training import Data, posterior


def untrained(recipe: Recipe, n_observables: int, variance: float, g: torch.Generator) -> Model:
    """Return the model that a recipe starts from; `variance` is that of the data."""
    noise = Gaussian(torch.tensor(recipe.sigma2 or variance))
    return Model(recipe.prior(g.device), recipe.decoder(n_observables, g), noise)


def trained(
    recipe: Recipe,
    model: Model,
    population: Population,
    data: Data,
    chunks: Chunks,
    g: torch.Generator,
    label: str,
) -> Record:
    """Train, telling each epoch on stdout; return what there is to record of it."""
    epochs = []
    for epoch in recipe.train(model, population, data, chunks, g):
        epochs.append(epoch)
        print(label, json.dumps(vars(epoch)), flush=True)
    return {
        "elbo": [epoch.elbo for epoch in epochs],
        "active": epochs[-1].active_latents,
        "sigma": epochs[-1].sigma,
        "seconds_per_epoch": float(np.median([epoch.seconds for epoch in epochs])),
    }


def restored(
    model: Model,
    population: Population,
    patches: Patches,
    chunks: Chunks,
    g: torch.Generator,
    scale: float = 1.0,
) -> np.ndarray:
    """Return the 8-bit picture of the posterior means, patches averaged with equal weights."""
    estimates = posterior(model, population, patches, chunks, (), g)
    return to_dtype(merge(patches, estimates, np.inf).numpy() * scale, np.uint8)


@torch.no_grad()
def singletons(model: Model) -> torch.Tensor:
    """Return what the decoder makes of single active latents, (H, D)."""
    return model.decode_dense(torch.eye(model.n_latents))
