"""Proposals: where candidate states come from.

A proposal is a callable that looks at a `Pool` and offers it new states. Any proposal is valid,
since only better states are kept (Eq. 6); they differ in how fast they find good ones.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from truvae import bits
from truvae.population import Pool

Proposal = Callable[[Pool], None]
Selection = Callable[[Tensor], Tensor]
"""From log-joints (B, S) to the probabilities (B, S) with which states become parents."""


def softmax(log_joint: Tensor, temperature: float = 3.0) -> Tensor:
    """Select parents with probability proportional to exp(log-joint / temperature)."""
    return torch.softmax(log_joint / temperature, 1)


def fitness(log_joint: Tensor, share: float = 1e-3) -> Tensor:
    """Select parents with probability proportional to their fitness (App. A.1).

    The fitness is the log-joint above the smallest one of the data point, plus a small `share` of
    their range so that the weakest state keeps a chance; equal log-joints give equal chances.
    """
    above = log_joint - log_joint.min(1, keepdim=True).values
    span = above.max(1, keepdim=True).values
    raised = torch.where(span > 0, above + share * span, 1.0)
    return raised / raised.sum(1, keepdim=True)


def uniform(log_joint: Tensor) -> Tensor:
    """Select parents with equal probability (App. A.1)."""
    return torch.full_like(log_joint, 1 / log_joint.shape[1])


def best(log_joint: Tensor) -> Tensor:
    """Select the state with the highest log-joint only."""
    return torch.nn.functional.one_hot(log_joint.argmax(1), log_joint.shape[1]).to(log_joint)


SELECTIONS: dict[str, Selection] = {
    "softmax": softmax,
    "fitness": fitness,
    "uniform": uniform,
    "best": best,
}


@dataclass(frozen=True)
class Evolution:
    """Evolutionary search (App. A.1): parents are selected, each child has one random bit flipped.

    The children of a generation are the parent pool of the next one. `n_parents * n_children`
    states are offered in each generation.

    Parameters
    ----------
    n_parents
        Np, parents selected per generation, with replacement.
    n_children
        Nc, children of each parent, at most as many as there are latents; they differ from one
        another.
    n_generations
        Ng.
    selection
        The law by which parents are drawn.
    """

    n_parents: int = 5
    n_children: int = 4
    n_generations: int = 1
    selection: Selection = softmax

    def __call__(self, pool: Pool) -> None:
        """Offer the children of the chunk's current states."""
        words, log_joint = pool.current, pool.log_joint.gather(1, pool.columns)
        for _ in range(self.n_generations):
            words = self.children(words, log_joint, pool.model.n_latents, pool.generator)
            columns = pool.offer(words)
            log_joint = pool.log_joint.gather(1, columns)

    def children(
        self, words: Tensor, log_joint: Tensor, n_latents: int, generator: torch.Generator
    ) -> Tensor:
        """Return the mutated children (B, Np * Nc, W) of states (B, S, W)."""
        parents = _draw(words, self.selection(log_joint), self.n_parents, generator)
        shape = (*parents.shape[:2], self.n_children)
        bit = _distinct_integers(shape, n_latents, generator)
        return bits.flip(parents[:, :, None].expand(*shape, -1), bit).flatten(1, 2)


@dataclass(frozen=True)
class GradientFlips:
    """Flip bits where the gradient of the log-joint promises a gain.

    The gain of flipping a bit of a parent is estimated to first order, for all bits from one
    backward pass of the decoder. Flips are drawn without replacement with probability
    proportional to exp(gain / temperature).

    Parameters
    ----------
    n_parents
        Parents, drawn with replacement.
    n_children
        Children of each parent, with different flips; at most one for each latent.
    selection
        The law by which parents are drawn.
    temperature
        In nats: how far to trust the estimate.
    """

    n_parents: int = 1
    n_children: int = 16
    selection: Selection = softmax
    temperature: float = 3.0

    def __call__(self, pool: Pool) -> None:
        """Offer the most promising one-bit changes of the chunk's current states."""
        log_joint = pool.log_joint.gather(1, pool.columns)
        parents = _draw(pool.current, self.selection(log_joint), self.n_parents, pool.generator)
        gain = pool.flip_gains(parents) / self.temperature
        uniform = torch.rand(gain.shape, generator=pool.generator, device=gain.device)
        gumbel = -torch.log(-torch.log(uniform))
        bit = (gain + gumbel).topk(min(self.n_children, gain.shape[-1]), dim=-1).indices
        pool.offer(bits.flip(parents[:, :, None].expand(*bit.shape, -1), bit).flatten(1, 2))


class Neighbours:
    """Offer every data point the states of all data points of its chunk.

    Where chunks hold near data points (`training.NearChunks`), these are the states of its nearest
    neighbours, and they come already decoded.
    """

    def __call__(self, pool: Pool) -> None:
        """Share the pool."""
        pool.share()


def _draw(words: Tensor, chances: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Draw `n` of the states (B, S, W) of each point with the given chances (B, S)."""
    drawn = torch.multinomial(chances, n, replacement=True, generator=generator)
    return words.gather(1, drawn[..., None].expand(-1, -1, words.shape[-1]))


def _distinct_integers(shape: tuple[int, ...], high: int, generator: torch.Generator) -> Tensor:
    """Draw integers below `high` that are uniform, and distinct along the last axis.

    Floyd's algorithm (doi:10.1145/30401.315746), vectorised over the leading axes.
    """
    if shape[-1] > high:
        raise ValueError(
            f"{shape[-1]} children with different flips need as many latents, not {high}"
        )
    drawn = torch.empty(shape, dtype=torch.int64, device=generator.device)
    for i in range(shape[-1]):
        top = high - shape[-1] + i
        new = torch.randint(top + 1, shape[:-1], generator=generator, device=generator.device)
        taken = (drawn[..., :i] == new[..., None]).any(-1)
        drawn[..., i] = torch.where(taken, top, new)
    return drawn


__all__ = [
    "SELECTIONS",
    "Evolution",
    "GradientFlips",
    "Neighbours",
    "Proposal",
    "Selection",
    "best",
    "fitness",
    "softmax",
    "uniform",
]
