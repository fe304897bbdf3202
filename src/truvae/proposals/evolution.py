"""Evolutionary search: children of the states that a data point has."""

from dataclasses import dataclass

import torch
from torch import Tensor

from truvae.errors import check_whole
from truvae.population import Pool
from truvae.proposals.operators import Mutation, crossover, randflip
from truvae.proposals.selections import SELECTIONS, Selection, draw_parents, softmax


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
        for name in ("n_parents", "n_children", "n_generations"):
            check_whole(name, getattr(self, name))
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
        states = draw_parents(words, self.selection(log_joint), self.n_parents, pool.generator)
        if self.cross:
            states = crossover(states, pool.model.n_latents, pool.generator)
        if self.mutation is None:
            return states
        return self.mutation(states, 1 if self.cross else self.n_children, pool)


def _best_last(words: Tensor, log_joint: Tensor) -> tuple[Tensor, Tensor]:
    """Swap the best of the states (B, S, W) with the last one, as `released` wants it."""
    best = log_joint.argmax(1, keepdim=True)
    last = log_joint.shape[1] - 1
    order = torch.arange(last + 1, device=words.device).expand(len(words), -1)
    order = order.scatter(1, best, last)
    order[:, -1:] = best
    return words.gather(1, order[..., None].expand_as(words)), log_joint.gather(1, order)


__all__ = ["Evolution"]
