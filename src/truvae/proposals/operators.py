"""The genetic operators (App. A.1): how children are made of parents."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from truvae import bits
from truvae.population import Pool

Mutation = Callable[[Tensor, int, Pool], Tensor]
"""From parents (B, P, W) and the number of children of each to children (B, P * Nc, W)."""


def randflip(parents: Tensor, n_children: int, pool: Pool) -> Tensor:
    """Flip one random bit for each child; the children of a parent differ from one another."""
    shape = (*parents.shape[:2], n_children)
    bit = _distinct_integers(shape, pool.model.n_latents, pool.generator)
    return bits.flip(parents[:, :, None].expand(*shape, -1), bit).flatten(1, 2)


def _distinct_integers(shape: tuple[int, ...], high: int, generator: torch.Generator) -> Tensor:
    """Draw integers below `high`, uniform at each place and distinct along the last axis.

    Floyd's algorithm (doi:10.1145/30401.315746), vectorised over the leading axes. It makes all
    sets equally likely, but not all integers at each place: that takes a random shift.
    """
    if shape[-1] > high:
        raise ValueError(
            f"{shape[-1]} children with different flips need as many latents, not {high}"
        )
    tops = torch.arange(high - shape[-1], high, device=generator.device)
    tops = tops.view(-1, *[1] * (len(shape) - 1))
    share = torch.rand((shape[-1], *shape[:-1]), generator=generator, device=generator.device)
    # Rounding may lead one too far.
    drawn = torch.minimum((share * (tops + 1)).long(), tops)
    for i in range(1, shape[-1]):
        taken = (drawn[:i] == drawn[i]).any(0)
        drawn[i].masked_fill_(taken, high - shape[-1] + i)
    shift = torch.randint(high, shape[:-1], generator=generator, device=generator.device)
    return ((drawn + shift) % high).movedim(0, -1)


@dataclass(frozen=True)
class Sparseflip:
    """Flip several bits so that the number of active ones moves to what the prior expects.

    Zeros and ones are flipped with two probabilities, for each parent such that the expected number
    of flips is `rate` H, and that the expected number of active bits of the child is the sum of pi,
    or as near as these flips can come to it (Guiraud et al. 2018).

    Parameters
    ----------
    rate
        Expected share of the bits that are flipped, in (0, 1].
    """

    rate: float

    def __call__(self, parents: Tensor, n_children: int, pool: Pool) -> Tensor:
        """Return the children (B, P * Nc, W) of parents (B, P, W)."""
        prior, shape = pool.model.prior.pi, (*parents.shape[:2], n_children)
        chances = self.chances(bits.unpack(parents, len(prior), prior.dtype), prior.sum())
        draw = torch.rand(
            (*shape, len(prior)), generator=pool.generator, device=prior.device, dtype=prior.dtype
        )
        return (parents[:, :, None] ^ bits.pack(draw < chances[:, :, None])).flatten(1, 2)

    def chances(self, z: Tensor, expected: Tensor) -> Tensor:
        """Return the flip probabilities of each bit of states (..., H)."""
        n_latents = z.shape[-1]
        active, flips = z.sum(-1, keepdim=True), self.rate * n_latents
        # Of all flips, (flips + gain) / 2 go up and the others down: the number of ones then
        # changes by the gain.
        gain = (expected - active).clamp(-flips, flips)
        up = (flips + gain) / 2 / (n_latents - active).clamp(min=1)
        down = (flips - gain) / 2 / active.clamp(min=1)
        return torch.where(z > 0, down, up).clamp(max=1)


def crossover(parents: Tensor, n_latents: int, generator: torch.Generator) -> Tensor:
    """Swap the tails of every pair of parents behind a random point (App. A.1).

    Parameters
    ----------
    parents
        (B, P, W), packed states.
    n_latents
        H, at least 2; cuts lie between two bits, uniformly.
    generator
        Source of the cuts, one for each pair.

    Returns
    -------
    The children, (B, P (P - 1), W).
    """
    if n_latents < 2:
        raise ValueError("crossover needs two latents: one bit has no tail")
    first, second = torch.triu_indices(
        parents.shape[1], parents.shape[1], 1, device=parents.device
    ).unbind()
    shape = (len(parents), len(first))
    cut = torch.randint(n_latents - 1, shape, generator=generator, device=parents.device)
    head = _heads(n_latents, parents.device)[cut]
    difference = parents[:, first] ^ parents[:, second]
    # Both children are their own parent's head and the other's tail.
    return torch.cat(
        [parents[:, first] ^ (difference & ~head), parents[:, second] ^ (difference & ~head)], 1
    )


@lru_cache(maxsize=8)
def _heads(n_latents: int, device: torch.device) -> Tensor:
    """(H - 1, W): words whose first 1, 2, ... H - 1 bits are set."""
    places = torch.arange(n_latents, device=device)
    return bits.pack(places <= places[: n_latents - 1, None])


__all__ = ["Mutation", "Sparseflip", "crossover", "randflip"]
