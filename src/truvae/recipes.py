"""Recipes: everything that the training of one model can be told (the columns of Table 1)."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import index

import torch
from torch import Tensor, nn

from truvae.chunks import Chunks, NearChunks, ShuffledChunks
from truvae.clock import Clock
from truvae.decoders import MLP, relu
from truvae.errors import InputError
from truvae.model import Bernoulli, Model
from truvae.optim import Adam, Cyclic, OneCycle
from truvae.population import Population, SharedPool
from truvae.proposals import (
    Evolution,
    GradientFlips,
    Neighbours,
    Proposal,
    Selection,
    pool_for,
)
from truvae.ranks import ALONE, Ranks
from truvae.training import Data, Epoch, fit

# Data points between one M-step and the next, where groups share states.
_CHUNK = 2048


@dataclass(frozen=True)
class Recipe:
    """How one model is built and trained.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> recipe = Recipe(n_latents=6, hidden=(8,), n_states=8, epochs=2)
    >>> recipe.decoder(4, g)(torch.eye(6)).shape
    torch.Size([6, 4])
    """

    n_latents: int
    """H, binary latents."""
    hidden: tuple[int, ...]
    """Units of each hidden layer of the decoder."""
    n_states: int
    """S, variational states of each data point."""
    epochs: int
    """Passes through all data points."""
    search: tuple[Proposal, ...] = (GradientFlips(), Neighbours())
    """Where candidate states come from."""
    share_from: float = math.inf
    """Progress of a training from which near data points only share the states that they have."""
    group: int = 256
    """Data points that go through an E-step together."""
    minibatch: int = 64
    """Data points for each step of the optimiser."""
    peak_rate: float = 0.005
    """Highest learning rate."""
    least_rate: float = 0.0
    """Lowest learning rate of a cyclic schedule."""
    cycle: int | None = None
    """Epochs of one cycle of the learning rate; None for one cycle in the whole training."""
    active: float = 5.0
    """Active latents of each state at the start, and the sum of pi."""
    learn_prior_from: float = 0.4
    """Progress from which the prior is learned."""
    sigma2: float | None = None
    """Variance of the noise at the start; None for that of the data."""
    closed_form: bool = False
    """Whether a linear decoder is set in closed form, not by gradient."""
    threshold: float = 0.01
    """Least responsibility of a state to take part in the M-step."""
    activation: Callable[[], nn.Module] = relu
    """Makes the non-linearities of the hidden layers."""
    output: Callable[[], nn.Module] | None = None
    """Makes the non-linearity of the outputs, if there is one."""

    def __post_init__(self) -> None:
        """Take NumPy's integers as Python's; check that there are as many states as asked for."""
        for name in ("n_latents", "n_states"):  # NumPy's integers overflow
            object.__setattr__(self, name, index(getattr(self, name)))
        if self.n_states > 2 ** min(self.n_latents, 64):
            raise InputError(
                f"{self.n_latents} latents have only {2**self.n_latents} states, not "
                f"{self.n_states}: take fewer states or more latents"
            )

    @property
    def shares(self) -> bool:
        """Whether the data points of a group share their states."""
        return pool_for(self.search) is SharedPool

    def search_at(self, progress: float) -> tuple[Proposal, ...]:
        """Return where candidate states come from at a progress in [0, 1]; 1 is after training.

        >>> Recipe(n_latents=6, hidden=(8,), n_states=8, epochs=2, share_from=0.5).search_at(0.7)
        (<truvae.proposals.shared.Neighbours object at ...>,)
        """
        return self.search if progress < self.share_from else (Neighbours(),)

    @property
    def activity(self) -> float:
        """Probability that a latent is active at the start."""
        return min(self.active / self.n_latents, 0.5)

    def decoder(self, n_outputs: int, generator: torch.Generator) -> MLP:
        """Return the untrained decoder."""
        mlp = MLP(self.n_latents, self.hidden, n_outputs, self.activation, self.output, generator)
        return mlp.float()  # as data are, whatever the default is

    def prior(self, device: torch.device) -> Bernoulli:
        """Return the prior at the start: the same pi for all latents."""
        shape, dtype = (self.n_latents,), torch.float32
        return Bernoulli(torch.full(shape, self.activity, dtype=dtype, device=device))

    def chunks(self, n_data: int, coordinates: Tensor | None, ranks: Ranks = ALONE) -> Chunks:
        """Draw groups of near data points, by coordinates (N, K), where these share states, else
        random ones; of several ranks those of one, so that all chunks together are as large.
        """
        if coordinates is None or not self.shares:
            return ShuffledChunks(n_data, ranks.part(self.group))
        return NearChunks(coordinates, self.group, ranks.part(_CHUNK // self.group))

    def states(self, n_data: int, generator: torch.Generator) -> Population:
        """Draw the first states: Bernoulli with the probabilities of the prior."""
        return Population.random(n_data, self.n_states, self.n_latents, self.activity, generator)

    def rate(self) -> Callable[[float], float]:
        """Return the learning rate as a function of the progress in [0, 1]."""
        if self.cycle is None:
            return OneCycle(self.peak_rate)
        return Cyclic(self.least_rate, self.peak_rate, self.epochs / self.cycle)

    def train(
        self,
        model: Model,
        population: Population,
        data: Data,
        chunks: Chunks,
        generator: torch.Generator,
        clock: Clock | None = None,
        optimizer: Adam | None = None,
        first: int = 0,
        ranks: Ranks = ALONE,
    ) -> Iterator[Epoch]:
        """Train `model` and `population` in place; yield a record per epoch (`training.fit`).

        Among neighbours, E-steps and M-steps go on beside each other. Where data points share
        states, each of several ranks takes a minibatch of its own for a step: half of one takes 0.8
        times as long.
        """
        n_minibatches = ranks.size if self.shares else 1
        return fit(
            model,
            population,
            data,
            epochs=self.epochs,
            chunks=chunks,
            search=self.search_at,
            generator=generator,
            rate=self.rate(),
            minibatch=self.minibatch * n_minibatches,
            threshold=self.threshold,
            learn_prior_from=self.learn_prior_from,
            closed_form=self.closed_form,
            clock=clock,
            optimizer=optimizer,
            first=first,
            beside=any(isinstance(propose, Neighbours) for propose in self.search),
            ranks=ranks,
        )

    def select(self, selection: Selection) -> "Recipe":
        """Return the same with parents of its evolutionary search drawn by another law."""
        search = (
            replace(propose, selection=selection) if isinstance(propose, Evolution) else propose
            for propose in self.search
        )
        return replace(self, search=tuple(search))


__all__ = ["Recipe"]
