"""States that all data points of a group have in common."""

from truvae import bits
from truvae.population import Pool


class Neighbours:
    """Offer every data point of a group the states of all the others.

    Where groups hold near data points (`chunks.NearChunks`), these are the states of its nearest
    neighbours. States of a group are then kept in one `SharedPool`.
    """

    shares = True

    def __call__(self, pool: Pool) -> None:
        """Do nothing more: the pool is shared."""


class Exhaustive:
    """Offer all 2^H states, up to H = 16: with S = 2^H the exact E-step, q is the posterior."""

    shares = True

    def __call__(self, pool: Pool) -> None:
        """Offer all states."""
        pool.offer(bits.all_states(pool.model.n_latents, pool.current.device)[None])


__all__ = ["Exhaustive", "Neighbours"]
