"""Large frames: a model is trained on a sample of their patches, and estimates them all by tiles.

The states of the sampled patches are known from training. Those of a tile, a box of the frames,
start from the states of the sampled ones most like them. A copy of the model then may go on
learning from the patches of this tile alone: a model of all of a large picture knows a little of
everything, and one of a tile what is there. With or without, the patches take one more E-step.
Neither copy nor states are kept: memory is needed for the sample and one tile. Tiles overlap by
less than a patch, and estimates are merged as they come, so that there are no seams.
"""

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from truvae.chunks import NearChunks, near_groups
from truvae.clock import Clock
from truvae.model import Model
from truvae.patches import Features, Patches
from truvae.population import Population
from truvae.proposals import Proposal
from truvae.settings import Settings
from truvae.training import Posterior, posterior

# Patches, near to each other, that share states in the last E-step.
_GROUP = 256
# A tile may take states from so many sampled patches from all over the frames for each of its own.
_EVERYWHERE = 4


class Tile(NamedTuple):
    """A box of places where patches begin."""

    frames: slice
    rows: slice
    columns: slice


def tiles(places: tuple[int, int, int], most: int) -> list[Tile]:
    """Part frames into tiles of up to `most` places, as square as may be; several whole frames if
    they are small.

    Parameters
    ----------
    places
        Frames, and in each the rows and columns where patches begin.
    most
        At least 1.

    Examples
    --------
    >>> [(tile.rows, tile.columns) for tile in tiles((1, 10, 4), 20)]
    [(slice(0, 5, None), slice(0, 4, None)), (slice(5, 10, None), slice(0, 4, None))]
    """
    _, rows, columns = places
    height = min(rows, math.isqrt(most))
    width = min(columns, most // height)
    height = min(rows, most // width)
    sides = max(1, most // (rows * columns)), height, width
    return [Tile(*box) for box in product(*map(_parts, places, sides))]


def _parts(n: int, most: int) -> list[slice]:
    """Part n places evenly into ranges of up to `most`."""
    k = math.ceil(n / most)
    return [slice(i * n // k, (i + 1) * n // k) for i in range(k)]


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
    patches: Patches
    """Themselves, in random order."""

    def around(self, tile: Tile, n: int) -> Tensor:
        """Return which patches a tile may take states from: those in it, and `n` of all; (m,)."""
        near = self.patches.begin_in(*tile)
        near[:n] = True
        return near.nonzero()[:, 0]

    def states(self, known: Tensor, new: Tensor, generator: torch.Generator) -> Population:
        """Return states for patches with coordinates `new` (B, k): to each those of one of the
        `known` patches that is most like it.
        """
        both = torch.cat([self.coordinates[known], new])
        nearest = known.new_zeros(len(new))
        for group in near_groups(both, _GROUP * len(both) // len(new), generator):
            mine, others = group[group < len(known)], group[group >= len(known)] - len(known)
            if len(mine) and len(others):
                distance = torch.cdist(new[others], self.coordinates[known[mine]])
                nearest[others] = mine[distance.argmin(1)]
        rows = known[nearest]
        return Population(self.population.words[rows], self.population.log_joint[rows])


def estimates(
    trained: Trained,
    tile: Tile,
    patches: Patches,
    pilot: Patches,
    settings: Settings,
    search: Sequence[Proposal],
    generator: torch.Generator,
    clock: Clock,
) -> Iterator[tuple[Posterior, Tensor]]:
    """Estimate the patches of a tile, a group of near ones at a time.

    Parameters
    ----------
    trained
        What was learned from a sample of the patches.
    tile
        Where they are.
    patches, pilot
        Those to estimate, NaN where missing, and the same without gaps, by which near ones are
        found.
    settings
        How the model was trained, and for how many epochs it goes on to be in a tile.
    search
        Proposals of the last E-step.
    generator
        Source of all randomness.
    clock
        The time that there is for it.

    Yields
    ------
    Posterior moments of the patches (B,) of a group, and their bounds F_n in nats, (B,).
    """
    coordinates = trained.features(pilot)
    known = trained.around(tile, _EVERYWHERE * len(patches))
    population = trained.states(known, coordinates, generator)
    model = trained.model
    if settings.local_epochs:
        model = deepcopy(model)
        local = replace(settings, epochs=settings.local_epochs)
        chunks = local.chunks(len(patches), coordinates)
        for _ in local.train(model, population, patches, chunks, generator, clock):
            pass
    chunks = NearChunks(coordinates, _GROUP, 1)
    for estimate in posterior(model, population, patches, chunks, search, generator):
        yield estimate, population.bound(estimate.rows)


__all__ = ["Tile", "Trained", "estimates", "tiles"]
