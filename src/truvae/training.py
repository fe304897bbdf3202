"""Training: Algorithm 1 of the paper as one visible loop."""

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from truvae import bits
from truvae.chunks import Chunks, rows_of
from truvae.clock import Clock, Pace
from truvae.model import Model
from truvae.moments import Statistics
from truvae.optim import Adam, OneCycle
from truvae.population import Pool, Population, SharedPool
from truvae.proposals import Proposal, pool_for
from truvae.ranks import ALONE, Ranks, fork
from truvae.rows import Data, check_complete, check_rows, warn_of_offsets
from truvae.threads import at_a_time, helpers, side_by_side

R = TypeVar("R")


@dataclass(frozen=True)
class Epoch:
    """What one epoch of training did."""

    index: int
    """From 0."""
    progress: float
    """Share of the training that is done, in (0, 1]."""
    elbo: float
    """Mean of F_n over the data points seen, in nats, each as its E-step found it."""
    sigma: float
    """Standard deviation of the noise after the epoch, in units of the data; NaN if it has none."""
    active_latents: float
    """Expected number of active latents: the sum of pi."""
    substitutions: int
    """Variational states replaced by better ones."""
    seconds: float
    """Wall clock of the epoch."""


@dataclass(frozen=True)
class Posterior:
    """Posterior moments of the noise-free data of one group of data points."""

    rows: Tensor
    """(B,) row numbers."""
    mean: Tensor
    """(B, D), the posterior mean, which is E_q[mu(z)] for white noise (Eq. 15)."""
    variance: Tensor
    """(B,), the posterior variance, averaged over the D entries."""


def fit(
    model: Model,
    population: Population,
    data: Data,
    *,
    epochs: int,
    chunks: Chunks,
    search: Sequence[Proposal] | Callable[[float], Sequence[Proposal]],
    generator: torch.Generator,
    rate: Callable[[float], float] | None = None,
    minibatch: int = 64,
    threshold: float = 0.01,
    learn_prior_from: float = 0.4,
    closed_form: bool = False,
    clock: Clock | None = None,
    optimizer: Adam | None = None,
    first: int = 0,
    beside: bool = False,
    ranks: Ranks = ALONE,
) -> Iterator[Epoch]:
    """Train `model` and `population` on `data` in place (Algorithm 1); yield a record per epoch.

    Parameters
    ----------
    model, population
        What is trained.
    data
        The data points, NaN where missing: a tensor (N, D) or anything like it. They are taken as
        they are: with Gaussian noise, whose log-likelihoods are differences of sums of squares,
        float32 does not bear features whose mean is 100 times their standard deviation or more. F
        then rises above the likelihood, and sigma falls to its floor: centre and scale such data.
    epochs
        Passes through the data.
    chunks
        Draws the chunks of an epoch.
    search
        Proposals, applied in turn; or these as a function of the progress in [0, 1].
    generator
        Source of all randomness.
    rate
        Learning rate of Adam as a function of the progress in [0, 1]; `OneCycle` if not given.
    minibatch
        Data points for each step of Adam.
    threshold
        Least responsibility of a state to take part in the M-step.
    learn_prior_from
        Progress from which the prior is learned; before, it is held.
    closed_form
        Whether to set the decoder, which must be linear, by `LeastSquares` after each epoch instead
        of going along its gradient.
    clock
        Ends the training early when its time is up.
    optimizer
        Goes along the gradient; a new `Adam` if not given.
    first
        Epochs that were done before, with the same model, population, optimizer and generator: the
        training goes on as if it had never stopped.
    beside
        Whether the E-step of a chunk goes on beside the M-step of the chunk before it, with the
        parameters from before that. Groups of a chunk then have generators of their own, so that
        what is found does not depend on the speed of threads. Data and proposals must be such that
        several threads can use them.
    ranks
        The processes that train the model together. Population, data and chunks are those of this
        one; the generator is in the same state on all of them. The model is that of rank 0, and
        the same on all from then on.

    Raises
    ------
    InputError
        If the data are no tensors.

    Warns
    -----
    UserWarning
        If the noise has a sigma, and a feature of a tensor is too far from 0 for float32.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> data = torch.randn(64, 4, generator=g)
    >>> from truvae import Bernoulli, Evolution, Gaussian, MLP, ShuffledChunks
    >>> model = Model(Bernoulli(torch.full((6,), 1 / 6)), MLP(6, (8,), 4), Gaussian(torch.ones(())))
    >>> population = Population.random(64, 8, 6, 1 / 6, g)
    >>> for epoch in fit(model, population, data, epochs=2, chunks=ShuffledChunks(64, 32),
    ...                  search=[Evolution(2, 2)], generator=g):
    ...     print(epoch.index)
    0
    1
    """
    check_rows(data, len(population.words), generator.device)
    if isinstance(data, Tensor) and not math.isnan(model.noise.sigma):
        warn_of_offsets(data, model)
    if closed_form:
        check_complete(data)
    optimizer = None if closed_form else optimizer or Adam(model.parameters())
    clock, rate = (clock or Clock()).of(ranks), rate or OneCycle()
    device = generator.device
    pace, (n_data,) = Pace(len(data), at_a_time(device) if beside else 1), ranks.sum(len(data))
    part = ranks.part(minibatch)
    ranks.broadcast_(model.state().values())
    for index in range(first, epochs):
        start, done, bound, substitutions = time.perf_counter(), 0, 0.0, 0
        statistics, own = Statistics(model, closed_form), ranks.fork(generator)
        learn = partial(
            m_step,
            model,
            optimizer,
            population,
            data,
            statistics=statistics,
            generator=own,
            minibatch=part,
            threshold=threshold,
            ranks=ranks,
        )
        due: Tensor | None = None
        with helpers(device) if beside else nullcontext(map) as begin:
            for chunk in ranks.in_step(chunks(own), []):
                share = (index + done / len(data)) / epochs
                progress = ranks.most(clock.progress(share, pace.one_pass))
                # The epoch before found that there is time for this one: so only the first may
                # find none, and the progress of the last one is 1.
                promised = index > first and done == 0 and not clock.should_stop()
                if progress >= 1 and not promised:
                    break
                held = deepcopy(model) if beside else model
                proposals = search(progress) if callable(search) else search
                improve = partial(_improve, held, population, data, proposals)
                groups = [(rows, fork(own) if beside else own) for rows in chunk]
                improving = begin(improve, groups)
                if due is not None:  # the chunk before, beside the E-steps of this one
                    learn(due)
                for gain in improving:
                    bound, substitutions = bound + gain.bound, substitutions + gain.substitutions
                    pace.add(gain.n_data, gain.seconds)
                due = rows_of(chunk, device)
                done += len(due)
                if optimizer is not None:
                    optimizer.rate = rate(progress)
                if not beside:
                    learn(due)
                    due = None
            if due is not None:
                learn(due)
        bound, seen, found = ranks.sum(bound, done, substitutions)
        if seen == 0:
            return
        progress = ranks.most(clock.progress((index + 1) / epochs, pace.one_pass))
        statistics.sum_over(ranks)
        if not closed_form or seen == n_data:  # a part of the data does not determine a decoder
            statistics.update(model, prior=progress > learn_prior_from)
        yield Epoch(
            index,
            progress,
            bound / seen,
            model.noise.sigma,
            float(model.prior.pi.sum()),
            int(found),
            time.perf_counter() - start,
        )
        if progress >= 1:
            return


class _Gain(NamedTuple):
    """What an E-step did for a group of data points."""

    n_data: int
    bound: float
    """Sum of F_n, in nats."""
    substitutions: int
    seconds: float


def _improve(
    model: Model,
    population: Population,
    data: Data,
    search: Sequence[Proposal],
    group: tuple[Tensor, torch.Generator],
) -> _Gain:
    """Take the E-step of a group, with a generator of its own."""
    start, (rows, generator) = time.perf_counter(), group

    def improve(some: Tensor) -> int:
        return int(e_step(model, population, data, some, search, generator)[1].sum())

    substitutions = sum(_in_memory(improve, rows))
    bound = float(population.bound(rows).sum())
    return _Gain(len(rows), bound, substitutions, time.perf_counter() - start)


def _in_memory(work: Callable[[Tensor], R], rows: Tensor) -> list[R]:
    """Do work on data points, half of them at a time, and so on, where a GPU's memory runs out;
    return what came of each part.
    """
    try:
        return [work(rows)]
    except torch.OutOfMemoryError:
        if len(rows) <= 1:
            raise
    torch.cuda.empty_cache()  # not while the error holds what the attempt left
    return [part for half in rows.chunk(2) for part in _in_memory(work, half)]


@torch.no_grad()
def e_step(
    model: Model,
    population: Population,
    data: Data,
    rows: Tensor,
    search: Sequence[Proposal],
    generator: torch.Generator,
) -> tuple[Pool, Tensor]:
    """Replace states of the data points `rows` by better ones (Eq. 6): no F_n ever falls.

    Returns
    -------
    The pool of all states that were tried, and a mask (B, S) of the states that are new.
    """
    x = data[rows].to(model.prior.pi.dtype)  # whole numbers would wrap around
    pool = pool_for(search)(model, x, population.words[rows], generator)
    for propose in search:
        propose(pool)
    log_joint, words, new = pool.best(population.words.shape[1])
    population.keep(rows, words, log_joint)
    return pool, new


def m_step(
    model: Model,
    optimizer: Adam | None,
    population: Population,
    data: Data,
    rows: Tensor,
    statistics: Statistics,
    generator: torch.Generator,
    *,
    minibatch: int = 64,
    threshold: float = 0.01,
    ranks: Ranks = ALONE,
) -> None:
    """Go once through the data points `rows`, an optimiser step per minibatch (Eq. 9).

    Without an optimiser, only gather the statistics.

    Only states with a responsibility above `threshold` take part; their responsibilities are
    computed anew from the current parameters, and held constant in the gradient. With several
    ranks, `rows` and `minibatch` are those of this one, and a step follows the gradient of all; one
    without rows left goes along.
    """
    threshold = min(threshold, 0.5 / population.words.shape[1])
    rows = rows[torch.randperm(len(rows), generator=generator, device=generator.device)]
    massive = population.responsibilities(rows) > threshold
    wholes = data[rows].to(model.prior.pi.dtype), population.words[rows], massive
    parts = zip(*(whole.split(minibatch) for whole in wholes), strict=True)
    for x, words, mask in ranks.in_step([*parts], tuple(whole[:0] for whole in wholes)):
        point, state = mask.nonzero(as_tuple=True)
        distinct = bits.unique(words[point, state])
        column = distinct.inverse
        with torch.set_grad_enabled(optimizer is not None):
            outputs, log_prior = model.decode(distinct.words)
            log_likelihood = model.noise.log_likelihood(x, outputs, (point, column))
        with torch.no_grad():
            z = bits.unpack(distinct.words, model.n_latents, model.prior.pi.dtype)
            log_joint = log_likelihood + log_prior
            q = torch.softmax(_only(log_joint, point, column), 1)
        expected = (q * log_likelihood).sum()
        if optimizer is not None and expected.requires_grad:
            optimizer.zero_grad()
            (-expected / max(x.numel(), 1)).backward()
            ranks.mean_gradients_(model.parameters(), x.numel())
            optimizer.step()
        statistics.add(x, z, q, outputs.detach(), expected.detach())


@torch.no_grad()
def posterior(
    model: Model,
    population: Population,
    data: Data,
    chunks: Chunks,
    search: Sequence[Proposal],
    generator: torch.Generator,
) -> Generator[Posterior, None, None]:
    """Go once more through the data with the parameters fixed; yield the moments of each group.

    All states that are offered to a data point take part, not only the S that it keeps.
    """
    rows_of_groups = [rows for chunk in chunks(generator) for rows in chunk]
    groups = ((rows, fork(generator)) for rows in rows_of_groups)
    moments = partial(_moments, model, population, data, search)
    if pool_for(search) is SharedPool:
        yield from side_by_side(moments, groups, generator.device)
    else:  # states of one's own take much memory to decode: of these one group at a time
        yield from map(moments, groups)


@torch.no_grad()
def _moments(
    model: Model,
    population: Population,
    data: Data,
    search: Sequence[Proposal],
    group: tuple[Tensor, torch.Generator],
) -> Posterior:
    """Return the moments of a group, with a generator of its own."""
    rows, generator = group

    def moments(some: Tensor) -> tuple[Tensor, Tensor]:
        return e_step(model, population, data, some, search, generator)[0].signal()

    parts = _in_memory(moments, rows)
    return Posterior(rows, *map(torch.cat, zip(*parts, strict=True)))


def _only(log_joint: Tensor, point: Tensor, column: Tensor) -> Tensor:
    """Return log-joints (B, U) with -inf everywhere but at the given pairs."""
    kept = torch.full_like(log_joint, -math.inf)
    kept[point, column] = log_joint[point, column]
    return kept


__all__ = [
    "Data",
    "Epoch",
    "Posterior",
    "e_step",
    "fit",
    "m_step",
    "posterior",
]
