"""Training: Algorithm 1 of the paper as one visible loop."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from truvae import bits
from truvae.chunks import Chunk, Chunks
from truvae.decoders import MLP
from truvae.model import Model
from truvae.noise import Gaussian
from truvae.population import Pool, Population
from truvae.proposals import Proposal, pool_for

# Rows of the decoder's input in the M-step come in multiples of this (see `model._ROWS`).
_ROWS = 128


class Data(Protocol):
    """N data points: rows on demand, so that no N x D array need exist."""

    def __len__(self) -> int:
        """Return N."""
        ...

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return the data points `rows` as (B, D), NaN where missing."""
        ...


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


class Statistics:
    """Sums over data points from which Eq. 10 sets the noise and the prior."""

    def __init__(self, model: Model, closed_form: bool = False) -> None:
        self.moments = LeastSquares(_linear(model)) if closed_form else None
        self.activity = torch.zeros_like(model.prior.pi, dtype=torch.float64)
        self.noise, self.sums = model.noise, torch.zeros(())
        self.n_data = 0

    @torch.no_grad()
    def add(self, x: Tensor, z: Tensor, q: Tensor, outputs: Tensor, log_likelihood: Tensor) -> None:
        """Add data (B, D), NaN where missing, with responsibilities q (B, U) for states z (U, H).

        `outputs` is what the decoder says of the states, and `log_likelihood` is
        sum_n E_q[log p(x_n | z)] of these data, a scalar.
        """
        self.activity += q.sum(0) @ z
        if self.moments is not None:
            self.moments.add(x, z, q)
        self.sums = self.sums + self.noise.gather(x, q, outputs, log_likelihood.double())
        self.n_data += len(x)

    def update(self, model: Model, prior: bool = True) -> None:
        """Set the noise, and the prior if asked to, by Eq. 10.

        With moments, the decoder first.
        """
        if self.moments is not None:
            errors = self.moments.solve()
            self.sums[0] = errors if self.sums.ndim > 1 else errors.sum()
        self.noise.update(self.sums)
        if prior:
            model.prior.update(self.activity, self.n_data)


class LeastSquares:
    """Second moments of states and complete data, which a linear decoder follows from.

    The maximum of Eq. 9 in closed form: (W, b) = <x z^T> <z z^T>^-1 with a one appended to z
    (binary sparse coding, Haft et al. 2004, Shelton et al. 2011, and App. B.3).
    """

    def __init__(self, decoder: MLP) -> None:
        weight = decoder.first.weight
        self.decoder = decoder
        self.states = weight.new_zeros(weight.shape[1] + 1, weight.shape[1] + 1).double()
        self.data = weight.new_zeros(weight.shape[1] + 1, weight.shape[0]).double()
        self.norm = weight.new_zeros(weight.shape[0], dtype=torch.float64)

    def add(self, x: Tensor, z: Tensor, q: Tensor) -> None:
        """Add complete data (B, D) with responsibilities q (B, U) for states z (U, H)."""
        z = torch.nn.functional.pad(z, (0, 1), value=1.0)
        self.states += z.T @ (q.sum(0)[:, None] * z)
        self.data += z.T @ (q.T @ x)
        self.norm += x.square().sum(0)

    @torch.no_grad()
    def solve(self) -> Tensor:
        """Set the decoder; return the squared errors that it leaves, summed over all data, (D,)."""
        # Latents that were never active get weights of zero.
        ridge = 1e-9 * self.states.diagonal().max() * torch.eye(len(self.states)).to(self.states)
        solution = torch.linalg.solve(self.states + ridge, self.data)
        self.decoder.first.weight.copy_(solution[:-1].T)
        self.decoder.first.bias.copy_(solution[-1])
        explained: Tensor = (solution * (2 * self.data - self.states @ solution)).sum(0)
        return self.norm - explained


@dataclass
class OneCycle:
    """Learning rate up to `peak` and down again by half cosines (arXiv:1708.07120).

    Parameters
    ----------
    peak
        The highest learning rate.
    warm_up
        Share of the training during which the rate rises.
    """

    peak: float = 0.005
    warm_up: float = 0.2

    def __call__(self, progress: float) -> float:
        """Return the learning rate at `progress` in [0, 1].

        >>> [round(OneCycle(1.0)(p), 3) for p in (0.0, 0.2, 1.0)]
        [0.04, 1.0, 0.0]
        """
        if progress < self.warm_up:
            return self.peak * (0.04 + 0.96 * _half_cosine(progress / self.warm_up))
        down = (progress - self.warm_up) / (1 - self.warm_up)
        return self.peak * max(_half_cosine(1 - down), 1e-4)


@dataclass
class Cyclic:
    """Learning rate up and down between two limits in straight lines (arXiv:1506.01186).

    Parameters
    ----------
    least, most
        The limits.
    cycles
        Ups and downs in the whole training; the last one may be cut off.
    """

    least: float
    most: float
    cycles: float

    def __call__(self, progress: float) -> float:
        """Return the learning rate at `progress` in [0, 1].

        >>> [Cyclic(0.0, 1.0, 2.0)(p) for p in (0.0, 0.125, 0.25, 0.5, 0.75)]
        [0.0, 0.5, 1.0, 0.0, 1.0]
        """
        phase = progress * self.cycles % 1
        return self.least + (self.most - self.least) * (1 - abs(1 - 2 * phase))


class Adam:
    """Adam (arXiv:1412.6980) with its usual constants.

    The one of torch.optim imports torch's compiler on first use, which takes a second.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float = 1e-3) -> None:
        self.rate = rate
        self._parameters = [p for p in parameters if p.requires_grad]
        self._means = [torch.zeros_like(p) for p in self._parameters]
        self._squares = [torch.zeros_like(p) for p in self._parameters]
        self._steps = 0

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Go one step down the gradients."""
        self._steps += 1
        small, large = 1 - 0.9**self._steps, 1 - 0.999**self._steps
        for p, mean, square in zip(self._parameters, self._means, self._squares, strict=True):
            if p.grad is not None:
                mean.lerp_(p.grad, 0.1)
                square.mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
                # Roots of subnormal numbers take thirty times longer, and are nothing beside 1e-8.
                root = (square / large).clamp_(min=1e-30).sqrt_().add_(1e-8)
                p.addcdiv_(mean, root, value=-self.rate / small)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what a step depends on besides the rate, by name."""
        means = {f"means.{i}": mean for i, mean in enumerate(self._means)}
        squares = {f"squares.{i}": square for i, square in enumerate(self._squares)}
        return {"steps": torch.tensor(self._steps), **means, **squares}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` returned."""
        self._steps = int(state["steps"])
        for i, (mean, square) in enumerate(zip(self._means, self._squares, strict=True)):
            mean.copy_(state[f"means.{i}"])
            square.copy_(state[f"squares.{i}"])


@dataclass
class Stopwatch:
    """Seconds, of which some may have been spent by an earlier process.

    >>> watch, start = Stopwatch(), time.perf_counter()
    >>> watch.forward(60.0)
    >>> watch() - start >= 60
    True
    """

    before: float = 0.0

    def __call__(self) -> float:
        """Return the seconds; only differences mean anything."""
        return time.perf_counter() + self.before

    def forward(self, seconds: float) -> None:
        """Count so many seconds as spent."""
        self.before += seconds


@dataclass
class Clock:
    """Progress by epochs or, when it runs ahead of them, by the time spent of a budget.

    Parameters
    ----------
    budget
        Seconds from now that training and the closing pass over the data may take; None for any.
    on_progress
        Told the progress in [0, 1] now and then.
    should_stop
        Asked now and then; training ends once it says True.
    closing
        Passes over the data that come after the training, in E-steps.
    watch
        Says what time it is; all clocks made from this one share it.
    """

    budget: float | None = None
    on_progress: Callable[[float], None] = lambda progress: None
    should_stop: Callable[[], bool] = lambda: False
    closing: float = 1
    watch: Stopwatch = field(default_factory=Stopwatch)

    def __post_init__(self) -> None:
        """Start the clock."""
        self.start = self.watch()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self.watch() - self.start

    def progress(self, share: float, one_pass: float) -> float:
        """Return the progress in [0, 1].

        Parameters
        ----------
        share
            Share of the planned epochs that is done.
        one_pass
            Seconds that a pass over the data takes.
        """
        spent = self._spent(self.closing * one_pass)
        progress = 1.0 if self.should_stop() else min(1.0, max(share, spent))
        self.on_progress(progress)
        return progress

    def left(self) -> float:
        """Return the seconds of the budget that are left; infinite without one."""
        if self.budget is None:
            return math.inf
        return self.budget - self.seconds

    def without(self, seconds: float) -> "Clock":
        """Return a clock that leaves so many seconds of the budget untouched."""
        return replace(self, budget=self._rest(seconds))

    def before(self, passes: float) -> "Clock":
        """Return a clock for training that so many passes over the data follow."""
        return replace(
            self,
            budget=self._rest(),
            closing=passes,
        )

    def span(self, first: float, last: float) -> "Clock":
        """Return a clock whose progress from 0 to 1 goes from `first` to `last` of this one."""
        return replace(
            self,
            budget=self._rest(),
            on_progress=lambda done: self.on_progress(first + (last - first) * done),
        )

    def part(self, index: int, n: int) -> "Clock":
        """Return a clock for part `index` (from 0) of `n`, with its share of the time left."""
        share = self.span(index / n, (index + 1) / n)
        return replace(share, budget=None if self.budget is None else self.left() / (n - index))

    def _rest(self, without: float = 0.0) -> float | None:
        return None if self.budget is None else max(self.left() - without, 0.0)

    def _spent(self, closing: float) -> float:
        if self.budget is None:
            return 0.0
        return (self.budget - self.left()) / max(self.budget - closing, 1e-9)


def fit(
    model: Model,
    population: Population,
    data: Data,
    *,
    epochs: int,
    chunks: Chunks,
    search: Sequence[Proposal],
    generator: torch.Generator,
    rate: Callable[[float], float] | None = None,
    minibatch: int = 64,
    threshold: float = 0.01,
    learn_prior_from: float = 0.4,
    closed_form: bool = False,
    clock: Clock | None = None,
    optimizer: Adam | None = None,
    first: int = 0,
) -> Iterator[Epoch]:
    """Train `model` and `population` on `data` in place (Algorithm 1); yield a record per epoch.

    Parameters
    ----------
    model, population
        What is trained.
    data
        The data points, NaN where missing: a tensor (N, D) or anything like it.
    epochs
        Passes through the data.
    chunks
        Draws the chunks of an epoch.
    search
        Proposals, applied in turn.
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
    if closed_form:
        _check_complete(data)
    optimizer = None if closed_form else optimizer or Adam(model.parameters())
    clock, rate = clock or Clock(), rate or OneCycle()
    pace = _Pace(len(data))
    for index in range(first, epochs):
        start, done, bound, substitutions = time.perf_counter(), 0, 0.0, 0
        statistics = Statistics(model, closed_form)
        for chunk in chunks(generator):
            progress = clock.progress((index + done / len(data)) / epochs, pace.one_pass)
            # The epoch before found that there is time for this one: so only the first may find
            # none, and the progress of the last one is 1.
            promised = index > first and done == 0 and not clock.should_stop()
            if progress >= 1 and not promised:
                break
            with pace.measure(chunk):
                for rows in chunk:
                    _, new = e_step(model, population, data, rows, search, generator)
                    bound += float(population.bound(rows).sum())
                    substitutions += int(new.sum())
            rows = torch.cat(chunk)
            if optimizer is not None:
                optimizer.rate = rate(progress)
            m_step(
                model,
                optimizer,
                population,
                data,
                rows,
                statistics,
                generator,
                minibatch=minibatch,
                threshold=threshold,
            )
            done += len(rows)
        if done == 0:
            return
        progress = clock.progress((index + 1) / epochs, pace.one_pass)
        if not closed_form or done == len(data):  # a part of the data does not determine a decoder
            statistics.update(model, prior=progress > learn_prior_from)
        yield Epoch(
            index,
            progress,
            bound / done,
            model.noise.sigma,
            float(model.prior.pi.sum()),
            substitutions,
            time.perf_counter() - start,
        )
        if progress >= 1:
            return


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
    pool = pool_for(search)(model, data[rows], population.words[rows], generator)
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
) -> None:
    """Go once through the data points `rows`, an optimiser step per minibatch (Eq. 9).

    Without an optimiser, only gather the statistics.

    Only states with a responsibility above `threshold` take part; their responsibilities are
    computed anew from the current parameters, and held constant in the gradient.
    """
    threshold = min(threshold, 0.5 / population.words.shape[1])
    rows = rows[torch.randperm(len(rows), generator=generator, device=generator.device)]
    parts = [part.split(minibatch) for part in (data[rows], population.words[rows])]
    massive = (population.responsibilities(rows) > threshold).split(minibatch)
    for x, words, mask in zip(*parts, massive, strict=True):
        point, state = mask.nonzero(as_tuple=True)
        z, column = _distinct_states(words[point, state], model)
        with torch.set_grad_enabled(optimizer is not None):
            outputs = model.decode_dense(z)
            log_likelihood = model.noise.log_likelihood(x, outputs)
        with torch.no_grad():
            log_joint = log_likelihood + model.prior.log_prob(z)
            q = torch.softmax(_only(log_joint, point, column), 1)
        expected = (q * log_likelihood).sum()
        if optimizer is not None:
            optimizer.zero_grad()
            (-expected / x.numel()).backward()
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
) -> Iterator[Posterior]:
    """Go once more through the data with the parameters fixed; yield the moments of each group.

    All states that are offered to a data point take part, not only the S that it keeps.
    """
    for chunk in chunks(generator):
        for rows in chunk:
            pool, _ = e_step(model, population, data, rows, search, generator)
            yield Posterior(rows, *pool.signal())


def _linear(model: Model) -> MLP:
    """Return the decoder if it has a closed form, else raise a ValueError."""
    if not isinstance(model.decoder, MLP) or not model.decoder.is_linear:
        raise ValueError("only a linear decoder has a closed form: see decoders.linear")
    if not isinstance(model.noise, Gaussian):
        raise ValueError("only with Gaussian noise the decoder has a closed form")
    return model.decoder


def _check_complete(data: Data) -> None:
    for rows in torch.arange(len(data)).split(1 << 14):
        if not data[rows].isfinite().all():
            raise ValueError("the closed form needs complete data: use the gradient for NaN")


def _distinct_states(words: Tensor, model: Model) -> tuple[Tensor, Tensor]:
    """Unpack the distinct ones among packed states (n, W), padded with zeros to whole `_ROWS`.

    Returns the states (U, H) and which of them each input is, (n,).
    """
    distinct = bits.unique(words)
    padding = distinct.words.new_zeros(-len(distinct.words) % _ROWS, words.shape[1])
    padded = torch.cat([distinct.words, padding])
    return bits.unpack(padded, model.n_latents, model.prior.pi.dtype), distinct.inverse


def _only(log_joint: Tensor, point: Tensor, column: Tensor) -> Tensor:
    """Return log-joints (B, U) with -inf everywhere but at the given pairs."""
    kept = torch.full_like(log_joint, -math.inf)
    kept[point, column] = log_joint[point, column]
    return kept


class _Pace:
    """How long the E-steps of one pass over N data points take."""

    def __init__(self, n_data: int) -> None:
        self._n_data = n_data
        self._seconds = 0.0
        self._seen = 0

    @property
    def one_pass(self) -> float:
        """Seconds for all data points, 0 as long as nothing is known."""
        return self._seconds / max(self._seen, 1) * self._n_data

    @contextmanager
    def measure(self, chunk: Chunk) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds += time.perf_counter() - start
        self._seen += sum(len(rows) for rows in chunk)


def _half_cosine(share: float) -> float:
    """Rise smoothly from 0 to 1."""
    return 0.5 * (1 - math.cos(math.pi * share))


__all__ = [
    "Adam",
    "Clock",
    "Cyclic",
    "Data",
    "Epoch",
    "LeastSquares",
    "OneCycle",
    "Posterior",
    "Statistics",
    "Stopwatch",
    "e_step",
    "fit",
    "m_step",
    "posterior",
]
