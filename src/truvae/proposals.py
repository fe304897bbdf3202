"""Proposals: where candidate states come from.

A proposal is a callable that looks at a `Pool` and offers it new states. Any proposal is valid,
since only better states are kept (Eq. 6); they differ in how fast they find good ones. They
compose: an E-step applies a list of them in turn.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from truvae import bits
from truvae.population import OwnPool, Pool, SharedPool

Proposal = Callable[[Pool], None]
Selection = Callable[[Tensor], Tensor]
"""From log-joints (B, S) to the probabilities (B, S) with which states become parents."""
Mutation = Callable[[Tensor, int, Pool], Tensor]
"""From parents (B, P, W) and the number of children of each to children (B, P * Nc, W)."""


def softmax(log_joint: Tensor, temperature: float = 3.0) -> Tensor:
    """Select parents with probability proportional to exp(log-joint / temperature)."""
    return torch.softmax(log_joint / temperature, 1)


def fitness(log_joint: Tensor, share: float = 1e-3) -> Tensor:
    """Select parents with probability proportional to their fitness (App. A.1).

    The fitness is the log-joint above the smallest one of the data point, plus a small `share` of
    their range so that the weakest state keeps a chance; equal log-joints give equal chances.
    """
    least, most = log_joint.aminmax(dim=1, keepdim=True)
    span = most - least
    raised = torch.where(span > 0, log_joint - least + share * span, 1.0)
    return raised / raised.sum(1, keepdim=True)


def uniform(log_joint: Tensor) -> Tensor:
    """Select parents with equal probability (App. A.1).

    With replacement, as by all laws here; the authors' released code draws these without.
    """
    return torch.full_like(log_joint, 1 / log_joint.shape[1])


def best(log_joint: Tensor) -> Tensor:
    """Select the state with the highest log-joint only."""
    return torch.nn.functional.one_hot(log_joint.argmax(1), log_joint.shape[1]).to(log_joint)


def released(log_joint: Tensor, batch: int = 32) -> Tensor:
    """Select parents as the authors' released code does where the paper says `fitness`.

    Its fitness is normalised over a whole `batch` of data points, but drawn for each of them: of 32
    about 97 % of the draws go past the end, and take the last state. The others are off by one:
    state k - 1 is drawn with the share of state k. The last state is the best one in the first
    generation, and later an arbitrary child. For comparisons with published figures only.
    """
    chances = []
    for part in log_joint.split(batch):
        raised = part - 2 * part.min().clamp(max=0)
        shares = (raised / raised.sum())[:, 1:]
        chances.append(torch.cat([shares, 1 - shares.sum(1, keepdim=True)], 1))
    return torch.cat(chances)


SELECTIONS: dict[str, Selection] = {
    "softmax": softmax,
    "fitness": fitness,
    "uniform": uniform,
    "best": best,
    "released": released,
}
"""The laws by which parents are drawn, by name."""


def randflip(parents: Tensor, n_children: int, pool: Pool) -> Tensor:
    """Flip one random bit for each child; the children of a parent differ from one another."""
    shape = (*parents.shape[:2], n_children)
    bit = _distinct_integers(shape, pool.model.n_latents, pool.generator)
    return bits.flip(parents[:, :, None].expand(*shape, -1), bit).flatten(1, 2)


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


@dataclass(frozen=True)
class Evolution:
    """Evolutionary search (App. A.1): parents are selected, and children made by genetic operators.

    The children of a generation are the parent pool of the next one. Parents are drawn with
    replacement. Each generation offers `n_parents * n_children` states or, with crossover,
    `n_parents * (n_parents - 1)`.

    Parameters
    ----------
    n_parents
        Np, parents selected per generation.
    n_children
        Nc, children of each parent; with `randflip` at most as many as there are latents. Not used
        with crossover.
    n_generations
        Ng.
    selection
        The law by which parents are drawn.
    cross
        Whether all pairs of parents are crossed, and each child mutated once.
    mutation
        What is done to children: `randflip`, a `Sparseflip`, or None for crossover alone.
    """

    n_parents: int = 5
    n_children: int = 4
    n_generations: int = 1
    selection: Selection = softmax
    cross: bool = False
    mutation: Mutation | None = randflip

    def __post_init__(self) -> None:
        """Refuse children that equal their parents, and crossover without a pair."""
        if self.mutation is None and not self.cross:
            raise ValueError("without crossover children need a mutation")
        if self.cross and self.n_parents < 2:
            raise ValueError(f"crossover needs 2 parents or more, not {self.n_parents}")

    @classmethod
    def named(
        cls, name: str, n_parents: int = 5, n_children: int = 4, n_generations: int = 1
    ) -> "Evolution":
        """Make the operators that the paper calls `name`.

        Parameters
        ----------
        name
            A selection, "fit", "rand", "best", "softmax" or "released"; then "cross" if wanted;
            then "randflip", or nothing after "cross". "fit-randflip", "fitparents-randflips" and
            "rand-cross-randflip" are such names. Sparsity-driven flips need a rate, and no name.
        n_parents, n_children, n_generations
            Np, Nc and Ng.

        Raises
        ------
        ValueError
            If there are no such operators.

        Examples
        --------
        >>> Evolution.named("rand-cross-randflip", n_parents=3).cross
        True
        """
        first, *rest = name.replace("parents", "").replace("flips", "flip").split("-")
        selection = SELECTIONS.get({"fit": "fitness", "rand": "uniform"}.get(first, first))
        if selection is None or rest not in (["randflip"], ["cross", "randflip"], ["cross"]):
            raise ValueError(
                f"no operators {name!r}: take one like fit-randflip, rand-cross-randflip, fit-cross"
            )
        mutation = randflip if rest[-1] == "randflip" else None
        return cls(n_parents, n_children, n_generations, selection, rest[0] == "cross", mutation)

    def __call__(self, pool: Pool) -> None:
        """Offer the children of the group's current states."""
        words, log_joint = _best_last(pool.current, pool.log_joint)
        for _ in range(self.n_generations):
            words = self.children(words, log_joint, pool)
            log_joint = pool.offer(words)

    def children(self, words: Tensor, log_joint: Tensor, pool: Pool) -> Tensor:
        """Return the children of states (B, S, W) with log-joints (B, S)."""
        states = _draw(words, self.selection(log_joint), self.n_parents, pool.generator)
        if self.cross:
            states = crossover(states, pool.model.n_latents, pool.generator)
        if self.mutation is None:
            return states
        return self.mutation(states, 1 if self.cross else self.n_children, pool)


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
    swaps
        Whether to swap an active bit with an inactive one instead of flipping a single bit.
    """

    n_parents: int = 1
    n_children: int = 16
    selection: Selection = softmax
    temperature: float = 3.0
    swaps: bool = False

    def __call__(self, pool: Pool) -> None:
        """Offer the most promising changes of the group's current states."""
        parents = _draw(
            pool.current, self.selection(pool.log_joint), self.n_parents, pool.generator
        )
        gain = pool.flip_gains(parents) / self.temperature
        # Gumbel noise: four times faster than by way of exponential_.
        share = torch.rand(gain.shape, generator=pool.generator, device=gain.device)
        gain -= share.log_().neg_().log_()
        n_children = min(self.n_children, gain.shape[-1])
        if not self.swaps:
            bit = gain.topk(n_children, dim=-1).indices
            pool.offer(_flipped(parents, bit).flatten(1, 2))
            return
        active = bits.unpack(parents, gain.shape[-1]) > 0
        on = gain.masked_fill(active, -torch.inf).topk(n_children, dim=-1).indices
        off = gain.masked_fill(~active, -torch.inf).argmax(-1, keepdim=True)
        # A state with nothing active has nothing to give up: there it is a flip.
        kept = _flipped(parents, off)[:, :, 0]
        kept = torch.where(active.any(-1, keepdim=True), kept, parents)
        # Nor can more bits be taken up than are inactive: then it is the parent again.
        full = active.gather(-1, on)[..., None]
        swapped = torch.where(full, parents[:, :, None], _flipped(kept, on))
        pool.offer(swapped.flatten(1, 2))


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

    def __call__(self, pool: Pool) -> None:
        """Offer the states."""
        n_latents, shape = pool.model.n_latents, (len(pool.current), self.n_states)
        pool.offer(bits.random(shape, n_latents, self.probability or 1 / n_latents, pool.generator))


@dataclass(frozen=True)
class PriorSamples:
    """Offer states drawn from the prior, `n_states` to each data point (arXiv:1712.08104)."""

    n_states: int = 20

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

    def __call__(self, pool: Pool) -> None:
        """Offer the states."""
        q = torch.softmax(pool.log_joint, 1)
        marginals = q[:, None] @ bits.unpack(pool.current, pool.model.n_latents, q.dtype)
        pool.offer(_bernoulli(marginals.expand(-1, self.n_states, -1), pool.generator))


def pool_for(search: Sequence[Proposal]) -> type[Pool]:
    """Return the kind of pool that proposals work with: shared if one of them shares states."""
    return SharedPool if any(getattr(propose, "shares", False) for propose in search) else OwnPool


def _draw(words: Tensor, chances: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Draw `n` of the states (B, S, W) of each point with the given chances (B, S)."""
    drawn = torch.multinomial(chances, n, replacement=True, generator=generator)
    return words.gather(1, drawn[..., None].expand(-1, -1, words.shape[-1]))


def _best_last(words: Tensor, log_joint: Tensor) -> tuple[Tensor, Tensor]:
    """Swap the best of the states (B, S, W) with the last one, as `released` wants it."""
    best = log_joint.argmax(1, keepdim=True)
    last = log_joint.shape[1] - 1
    order = torch.arange(last + 1, device=words.device).expand(len(words), -1)
    order = order.scatter(1, best, last)
    order[:, -1:] = best
    return words.gather(1, order[..., None].expand_as(words)), log_joint.gather(1, order)


def _flipped(parents: Tensor, bit: Tensor) -> Tensor:
    """Return children (B, P, C, W) of parents (B, P, W), each with one of the bits (B, P, C)."""
    return bits.flip(parents[:, :, None].expand(*bit.shape, -1), bit)


def _bernoulli(chances: Tensor, generator: torch.Generator) -> Tensor:
    """Draw packed states (..., W) with bits set with the given chances (..., H)."""
    return bits.pack(
        torch.rand(chances.shape, generator=generator, device=chances.device) < chances
    )


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


__all__ = [
    "SELECTIONS",
    "Evolution",
    "Exhaustive",
    "GradientFlips",
    "Mutation",
    "Neighbours",
    "PosteriorSamples",
    "PriorSamples",
    "Proposal",
    "Random",
    "Selection",
    "Sparseflip",
    "best",
    "crossover",
    "fitness",
    "pool_for",
    "randflip",
    "released",
    "softmax",
    "uniform",
]
