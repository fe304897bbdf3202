"""Large frames: a model is trained on a sample of their patches, and estimates them all by tiles.

The states of the sampled patches are known from training. The patches of a tile, which is a random
portion of all, start from those of the sampled ones most like them, and take one E-step with the
decoder fixed. As nothing is learned from them, their states need not be kept: memory is needed for
the sample and one tile. Estimates are merged as they come, so that there are no seams.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from truvae.chunks import near_groups
from truvae.model import Model
from truvae.patches import Features, Patches
from truvae.population import Population
from truvae.proposals import Proposal
from truvae.training import Posterior, e_step

# Patches of a tile, near to each other, that share states.
_GROUP = 256


@dataclass(frozen=True)
class Trained:
    """A model and the patches that it was trained on."""

    model: Model
    population: Population
    """Their states."""
    features: Features
    """What their coordinates are."""
    coordinates: Tensor
    """(n, k), in which near patches look alike."""


@torch.no_grad()
def estimates(
    trained: Trained,
    patches: Patches,
    pilot: Patches,
    rows: Tensor,
    tile: int,
    search: Sequence[Proposal],
    generator: torch.Generator,
) -> Iterator[tuple[Posterior, Tensor]]:
    """Estimate patches, a group of near ones at a time.

    Parameters
    ----------
    trained
        What was learned from a sample of the patches.
    patches, pilot
        All patches, NaN where missing, and the same without gaps, by which near ones are found.
    rows
        The numbers of those to estimate.
    tile
        How many of them are searched for near ones at a time.
    search
        Proposals of the E-step.
    generator
        Source of all randomness.

    Yields
    ------
    Posterior moments of the patches (B,) of a group, and their bounds F_n in nats, (B,).
    """
    old = trained.coordinates
    order = torch.randperm(len(rows), generator=generator, device=rows.device)
    for part in rows[order].tensor_split(math.ceil(len(rows) / tile)):
        new = trained.features(pilot.some(part))
        both = torch.cat([old, new])
        for group in near_groups(both, _GROUP * len(both) // len(new), generator):
            others = group[group >= len(old)] - len(old)
            if len(others):
                known = group[group < len(old)]
                start = _nearest(trained, known if len(known) else 0 * others[:1], new[others])
                x, everyone = patches[part[others]], torch.arange(len(others), device=part.device)
                pool, _ = e_step(trained.model, start, x, everyone, search, generator)
                yield Posterior(part[others], *pool.signal()), start.bound(everyone)


def _nearest(trained: Trained, known: Tensor, new: Tensor) -> Population:
    """Return the states of those of the `known` patches nearest to others (B, k)."""
    nearest = known[torch.cdist(new, trained.coordinates[known]).argmin(1)]
    population = trained.population
    return Population(population.words[nearest], population.log_joint[nearest])


__all__ = ["Trained", "estimates"]
