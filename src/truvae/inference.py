"""New data: their states are found with the decoder fixed, starting from those of near old data."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from truvae.chunks import Chunks, near_groups
from truvae.model import Model
from truvae.population import Population
from truvae.proposals import Proposal
from truvae.training import Data, Posterior, e_step, posterior

# Data points, old and new, among which the old one most similar to each new one is looked for.
_LEAF = 256


def nearest_states(
    new: Tensor, old: Tensor, population: Population, generator: torch.Generator
) -> Population:
    """Give each new data point the states of an old one near to it.

    Parameters
    ----------
    new, old
        (N, n) and (M, n), coordinates in which nearness is measured (Euclidean).
    population
        The states of the M old data points.
    generator
        Source of randomness of the trees by which near ones are found: N log N work.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> trained = Population.random(2, 4, 8, 0.3, g)
    >>> found = nearest_states(torch.tensor([[0.9]]), torch.tensor([[0.0], [1.0]]), trained, g)
    >>> torch.equal(found.words[0], trained.words[1])
    True
    """
    n_old = len(old)
    # Where no old one is around, any will do.
    nearest = torch.randint(n_old, (len(new),), generator=generator, device=new.device)
    for group in near_groups(torch.cat([old, new]), _LEAF, generator):
        known, others = group[group < n_old], group[group >= n_old] - n_old
        if len(known) and len(others):
            nearest[others] = known[torch.cdist(new[others], old[known]).argmin(1)]
    return Population(population.words[nearest], population.log_joint[nearest])


def infer(
    model: Model,
    population: Population,
    data: Data,
    chunks: Chunks,
    search: Sequence[Proposal],
    generator: torch.Generator,
    passes: int = 4,
) -> Iterator[Posterior]:
    """Improve the states of data in place with the parameters fixed.

    Goes `passes` times through the data, and yields the moments of each group in the last one
    (`training.posterior`).
    """
    for _ in range(passes - 1):
        for chunk in chunks(generator):
            for rows in chunk:
                e_step(model, population, data, rows, search, generator)
    yield from posterior(model, population, data, chunks, search, generator)


__all__ = ["infer", "nearest_states"]
