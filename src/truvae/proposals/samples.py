"""States drawn at random, by the prior, or by the posterior."""

from dataclasses import dataclass

import torch
from torch import Tensor

from truvae import bits
from truvae.errors import check_whole
from truvae.population import Pool


@dataclass(frozen=True)
class Random:
    """Offer random states with independent bits ("random" in Fig. 11).

    Parameters
    ----------
    n_states
        Nnew, states offered to each data point; repetitions do not count twice.
    probability
        That a bit is set; 1 / H if not given.
    """

    n_states: int = 20
    probability: float | None = None

    def __post_init__(self) -> None:
        """Refuse to offer nothing."""
        check_whole("n_states", self.n_states)

    def __call__(self, pool: Pool) -> None:
        """Offer the states."""
        n_latents, shape = pool.model.n_latents, (len(pool.current), self.n_states)
        probability = 1 / n_latents if self.probability is None else self.probability
        pool.offer(bits.random(shape, n_latents, probability, pool.generator))


@dataclass(frozen=True)
class PriorSamples:
    """Offer states drawn from the prior, `n_states` to each data point (arXiv:1712.08104)."""

    n_states: int = 20

    def __post_init__(self) -> None:
        """Refuse to offer nothing."""
        check_whole("n_states", self.n_states)

    def __call__(self, pool: Pool) -> None:
        """Offer the states."""
        chances = pool.model.prior.pi.expand(len(pool.current), self.n_states, -1)
        pool.offer(_bernoulli(chances, pool.generator))


@dataclass(frozen=True)
class PosteriorSamples:
    """Offer states with bits drawn from the posterior marginals q(z_h = 1) of each data point.

    `n_states` to each (arXiv:1712.08104).
    """

    n_states: int = 20

    def __post_init__(self) -> None:
        """Refuse to offer nothing."""
        check_whole("n_states", self.n_states)

    def __call__(self, pool: Pool) -> None:
        """Offer the states."""
        q = torch.softmax(pool.log_joint, 1)
        marginals = q[:, None] @ bits.unpack(pool.current, pool.model.n_latents, q.dtype)
        pool.offer(_bernoulli(marginals.expand(-1, self.n_states, -1), pool.generator))


def _bernoulli(chances: Tensor, generator: torch.Generator) -> Tensor:
    """Draw packed states (..., W) with bits set with the given chances (..., H)."""
    return bits.pack(
        torch.rand(chances.shape, generator=generator, device=chances.device) < chances
    )


__all__ = ["PosteriorSamples", "PriorSamples", "Random"]
