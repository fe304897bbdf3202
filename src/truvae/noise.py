"""Noise models p(x | z): what lies between the decoder's outputs and the data."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

# Variances, and rates of counts, grow no further than by the exponential of these.
_LARGEST_LOG, _LARGEST_LOG_RATE = 6.0, 30.0


class Noise(ABC):
    """How data lie around what a decoder says of a state.

    A log-likelihood is the product of `data_terms` and `state_terms`, so that one matrix product
    scores all pairs of data and states. Missing observables, NaN in the data, are left out of every
    sum (Eq. 16 of the paper).

    A noise model of one's own needs the three abstract methods and `sample`; what it learns, it
    learns in closed form by `gather` and `update`, or by gradient through its `parameters`.
    """

    @property
    def sigma(self) -> float:
        """Standard deviation in units of the data, rms over the observables; NaN if it has none."""
        return math.nan

    @abstractmethod
    def data_terms(self, x: Tensor) -> Tensor:
        """Return what data points (B, D), NaN where missing, bring to log-likelihoods: (B, K)."""

    @abstractmethod
    def state_terms(self, outputs: Tensor, n_terms: int) -> Tensor:
        """Return what decoded states (U, any) bring to log-likelihoods: (U, n_terms).

        `n_terms` is the K of the `data_terms` that they will meet.
        """

    @abstractmethod
    def mean(self, outputs: Tensor) -> Tensor:
        """Return E[x | z] of decoded states (U, any): (U, D)."""

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw data (n, D) from decoded states (n, any)."""
        raise NotImplementedError(f"{type(self).__name__} does not say how data are drawn")

    def outputs_for(self, mean: Tensor) -> Tensor:
        """Return the decoder outputs, (any,), of a state with the mean (D,): where to start."""
        return mean

    def log_likelihood(self, x: Tensor, outputs: Tensor) -> Tensor:
        """Return log p(x_b | z_u) in nats of data (B, D) under decoded states (U, any): (B, U)."""
        terms = self.data_terms(x)
        return terms @ self.state_terms(outputs, terms.shape[1]).T

    def signal(self, x: Tensor, q: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior of the noise-free data under responsibilities q (B, U).

        Its means (B, D), E_q of the means of states (Eq. 15), and its variances averaged over the D
        observables, (B,).
        """
        means = self.mean(outputs)
        mean = q @ means
        square = q @ means.square().mean(1)
        return mean, (square - mean.square().mean(1)).clamp(min=0)

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return what is learned by gradient, together with the decoder."""
        return ()

    def gather(self, x: Tensor, q: Tensor, outputs: Tensor, log_likelihood: Tensor) -> Tensor:
        """Return sums over data (B, D) from which `update` sets what is learned in closed form.

        Parameters
        ----------
        x, q, outputs
            Data, responsibilities (B, U) and decoded states (U, any).
        log_likelihood
            sum_n E_q[log p(x_n | z)] in nats, which holds the squared error of white noise.
        """
        return log_likelihood.new_zeros(0)

    def update(self, sums: Tensor) -> None:  # noqa: B027  (nothing to learn is a fine default)
        """Set what is learned in closed form (Eq. 10) from the sums over all data."""


def on_device(noise: Noise, device: torch.device) -> Noise:
    """Return a copy of a noise model whose tensors and modules, its attributes, are on a device."""
    copy = deepcopy(noise)
    for name, value in vars(copy).items():
        if isinstance(value, nn.Parameter):
            moved: object = nn.Parameter(value.detach().to(device), value.requires_grad)
        elif isinstance(value, Tensor | nn.Module):
            moved = value.to(device)
        else:
            continue
        setattr(copy, name, moved)
    return copy


@dataclass
class Gaussian(Noise):
    """Gaussian noise, p(x | z) = N(x; mu(z), sigma2 I) (Eq. 1 of the paper).

    Parameters
    ----------
    sigma2
        The variance in squared units of the data: a scalar tensor, or one for each observable,
        (D,).
    fixed
        Whether `sigma2` is known and must not be learned.
    floor
        Least variance that learning may reach.

    Attributes
    ----------
    mean_error
        What Eq. 10 made of the data last: `sigma2`, unless that is fixed.

    Examples
    --------
    >>> noise = Gaussian(torch.tensor(0.01))
    >>> noise.log_likelihood(torch.zeros(1, 2), torch.zeros(1, 2)).exp()  # 1 / (2 pi sigma2)
    tensor([[15.9155]])
    """

    sigma2: Tensor
    fixed: bool = False
    floor: float = 1e-8

    def __post_init__(self) -> None:
        """Start with no data seen."""
        self.mean_error = self.sigma2

    @property
    def sigma(self) -> float:
        """Standard deviation in units of the data, rms over the observables."""
        return math.sqrt(float(self.sigma2.mean()))

    def data_terms(self, x: Tensor) -> Tensor:
        """Return what data points (B, D), NaN where missing, bring to log-likelihoods: (B, K).

        The log-likelihood is ``(x.mu - |mu|^2 / 2 - |x|^2 / 2) / sigma2 + const``: one product of
        these terms with `state_terms` scores all pairs.
        """
        observed = x.isfinite()
        # |mu|^2 is needed entry by entry, but for complete data and one sigma2 as a whole.
        whole = self.sigma2.ndim == 0 and bool(observed.all())
        known = torch.ones_like(x[:, :1]) if whole else observed.to(x.dtype)
        x = x.masked_fill(~observed, 0.0)
        log_norm = math.log(2 * math.pi) + self.sigma2.log()
        constant = (x * x / self.sigma2 + observed * log_norm).sum(1, keepdim=True) / -2
        return torch.cat([x / self.sigma2, known / self.sigma2, constant], 1)

    def state_terms(self, outputs: Tensor, n_terms: int) -> Tensor:
        """Return what decoded states, means (U, D), bring to log-likelihoods: (U, n_terms)."""
        norm = outputs * outputs
        if n_terms != 2 * outputs.shape[1] + 1:
            norm = norm.sum(1, keepdim=True)
        return torch.cat([outputs, norm / -2, torch.ones_like(outputs[:, :1])], 1)

    def mean(self, outputs: Tensor) -> Tensor:
        """Return the outputs: they are the means."""
        return outputs

    def gather(self, x: Tensor, q: Tensor, outputs: Tensor, log_likelihood: Tensor) -> Tensor:
        """Return squared errors and numbers of observed entries, (2,) or (2, D)."""
        observed = x.isfinite()
        if self.sigma2.ndim:
            errors = _squared_errors(x, q, outputs)
            return torch.stack([errors, observed.sum(0).to(errors)])
        entries = observed.sum()
        log_norm = math.log(2 * math.pi) + self.sigma2.log().to(log_likelihood)
        error = -(2 * log_likelihood + entries * log_norm) * self.sigma2
        return torch.stack([error, entries.to(error)])

    def update(self, sums: Tensor) -> None:
        """Set sigma2 by Eq. 10: the mean squared error over all observed entries."""
        error, entries = sums
        mean_error = (error / entries).clamp(min=self.floor).to(self.sigma2)
        self.mean_error = torch.where(entries > 0, mean_error, self.sigma2)
        if not self.fixed:
            self.sigma2 = self.mean_error

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw data around the means `outputs`, same shape."""
        return outputs + self.sigma2.sqrt() * _white(outputs, generator)


@dataclass
class CorrelatedGaussian(Noise):
    """Gaussian noise with one covariance for all states, p(x | z) = N(x; mu(z), B diag(s) B^T).

    The variances s of the coefficients are learned, the basis B is given: with that of the
    cosine transform (`truvae.patches.cosine_basis`), s is the spectrum of stationary noise. It
    extends Eq. 1 of the paper, which is the case of equal variances.

    Parameters
    ----------
    variances
        (D,), in squared units of the data.
    basis
        (D, D), an orthonormal basis in its columns.
    floor
        Least variance that learning may reach.

    Examples
    --------
    >>> noise = CorrelatedGaussian(torch.tensor([1.0, 4.0]), torch.eye(2))
    >>> missing = torch.tensor([[torch.nan, 2.0]])  # N(2; 0, 4)
    >>> noise.log_likelihood(missing, torch.zeros(1, 2)).exp()
    tensor([[0.1210]])
    """

    variances: Tensor
    basis: Tensor
    floor: float = 1e-8

    @property
    def sigma(self) -> float:
        """Standard deviation in units of the data, rms over the observables."""
        return math.sqrt(float(self.variances.mean()))

    def data_terms(self, x: Tensor) -> Tensor:
        """Return what data points (B, D), NaN where missing, bring to log-likelihoods.

        (B, D + 2) for complete data; with gaps each point has a precision of its own, and the terms
        are (B, D + D^2 + 1).
        """
        observed = x.isfinite()
        x = x.masked_fill(~observed, 0.0)
        if observed.all() and self._whole(x, x.shape[1] + 2):
            precision, log_det = self._precision(), self.variances.log().sum().expand(len(x))
            rest = torch.ones_like(x[:, :1])
            scaled = x @ precision
        else:
            precision, log_det = self._precision_of(observed)
            rest = precision.flatten(1)
            scaled = torch.einsum("bde,be->bd", precision, x)
        log_norm = log_det + observed.sum(1).to(x) * math.log(2 * math.pi)
        constant = (torch.linalg.vecdot(scaled, x) + log_norm)[:, None] / -2
        return torch.cat([scaled, rest, constant], 1)

    def state_terms(self, outputs: Tensor, n_terms: int) -> Tensor:
        """Return what decoded states, means (U, D), bring to log-likelihoods: (U, n_terms)."""
        if self._whole(outputs, n_terms):
            rest = torch.linalg.vecdot(outputs @ self._precision(), outputs)[:, None]
        else:
            rest = (outputs[:, :, None] * outputs[:, None]).flatten(1)
        return torch.cat([outputs, rest / -2, torch.ones_like(outputs[:, :1])], 1)

    def mean(self, outputs: Tensor) -> Tensor:
        """Return the outputs: they are the means."""
        return outputs

    def gather(self, x: Tensor, q: Tensor, outputs: Tensor, log_likelihood: Tensor) -> Tensor:
        """Return expected squared coefficients of the noise and the number of data, (2, D).

        Where entries are missing, so is their noise: its moments given the noise of the others take
        its place (the E-step of the EM algorithm).
        """
        observed = x.isfinite()
        if observed.all():
            squares = _squared_errors(x @ self.basis, q, outputs @ self.basis)
        else:
            precision, _ = self._precision_of(observed)
            # Coefficients of the noise from the noise of observed entries.
            gain = self.variances[:, None] * (self.basis.T @ precision)
            rest = (x.nan_to_num()[:, None] - outputs) * observed[:, None]
            expected = (rest @ gain.mT).square().mul(q[..., None]).sum((0, 1))
            explained = torch.einsum("bde,ed->d", gain, self.basis * self.variances)
            squares = expected + len(x) * self.variances - explained
        return torch.stack([squares, torch.full_like(squares, len(x))]).double()

    def update(self, sums: Tensor) -> None:
        """Set the variances: the mean squares of the coefficients."""
        squares, n_data = sums
        self.variances = (squares / n_data).clamp(min=self.floor).to(self.variances)

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw data around the means `outputs`, same shape."""
        coefficients = self.variances.sqrt() * _white(outputs, generator)
        return outputs + coefficients @ self.basis.T

    @staticmethod
    def _whole(like: Tensor, n_terms: int) -> bool:
        """Whether so many terms are those of complete data; a single observable has no such."""
        return 1 < like.shape[1] == n_terms - 2

    def _precision(self) -> Tensor:
        return self.basis / self.variances @ self.basis.T

    def _precision_of(self, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Return the precisions (B, D, D) of observed entries, 0 elsewhere, and the logarithms of
        the determinants of their covariances.
        """
        covariance = self.basis * self.variances @ self.basis.T
        pairs = observed[:, :, None] & observed[:, None]
        eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        # What is missing is put aside as independent entries of variance 1.
        factor = torch.linalg.cholesky(torch.where(pairs, covariance, eye))
        log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
        return torch.cholesky_inverse(factor).masked_fill(~pairs, 0.0), log_det


@dataclass
class BernoulliNoise(Noise):
    """Binary data, p(x_d = 1 | z) = sigmoid(o_d(z)); the decoder's outputs are logits.

    Data between 0 and 1 count as probabilities.

    Examples
    --------
    >>> x, logits = torch.tensor([[1.0, torch.nan]]), torch.tensor([[0.0, 3.0]])
    >>> BernoulliNoise().log_likelihood(x, logits).exp()
    tensor([[0.5000]])
    """

    def data_terms(self, x: Tensor) -> Tensor:
        """Return the data and what is observed of them: (B, D + 1), or (B, 2 D) with gaps.

        Raises
        ------
        ValueError
            If data are not between 0 and 1.
        """
        x, known = _known(x)
        if x.min() < 0 or x.max() > 1:
            raise ValueError(
                f"BernoulliNoise needs data between 0 and 1, not {x.min():g} to {x.max():g}"
            )
        return torch.cat([x, known], 1)

    def state_terms(self, outputs: Tensor, n_terms: int) -> Tensor:
        """Return the logits (U, D) and their log-partitions: (U, n_terms)."""
        return torch.cat([outputs, -_summed(softplus(outputs), n_terms == 2 * outputs.shape[1])], 1)

    def mean(self, outputs: Tensor) -> Tensor:
        """Return the probabilities (U, D)."""
        return outputs.sigmoid()

    def outputs_for(self, mean: Tensor) -> Tensor:
        """Return the logits of probabilities (D,)."""
        return mean.clamp(0.01, 0.99).logit()

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw zeros and ones (n, D)."""
        return torch.bernoulli(outputs.sigmoid(), generator=generator)


@dataclass
class PoissonNoise(Noise):
    """Counts, p(x_d | z) = Poisson(x_d; exp(o_d(z))); the decoder's outputs are log-rates.

    Examples
    --------
    >>> x, log_rates = torch.tensor([[0.0, torch.nan]]), torch.tensor([[0.0, 3.0]])
    >>> PoissonNoise().log_likelihood(x, log_rates).exp()  # exp(-1)
    tensor([[0.3679]])
    """

    def data_terms(self, x: Tensor) -> Tensor:
        """Return the data, what is observed, and log x!: (B, D + 2), or (B, 2 D + 1) with gaps.

        Raises
        ------
        ValueError
            If data are negative.
        """
        x, known = _known(x)
        if x.min() < 0:
            raise ValueError(f"PoissonNoise needs counts of 0 or more, not {x.min():g}")
        return torch.cat([x, known, -torch.lgamma(x + 1).sum(1, keepdim=True)], 1)

    def state_terms(self, outputs: Tensor, n_terms: int) -> Tensor:
        """Return log-rates (U, D) and rates: (U, n_terms)."""
        log_rates = outputs.clamp(max=_LARGEST_LOG_RATE)
        rates = _summed(log_rates.exp(), n_terms == 2 * outputs.shape[1] + 1)
        return torch.cat([log_rates, -rates, torch.ones_like(outputs[:, :1])], 1)

    def mean(self, outputs: Tensor) -> Tensor:
        """Return the rates (U, D)."""
        return outputs.clamp(max=_LARGEST_LOG_RATE).exp()

    def outputs_for(self, mean: Tensor) -> Tensor:
        """Return the logarithms of rates (D,)."""
        return mean.clamp(min=0.01).log()

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw counts (n, D)."""
        return torch.poisson(self.mean(outputs), generator=generator)


@dataclass
class DiagonalGaussian(Noise):
    """Every state has a variance of its own for each coefficient of an orthonormal basis.

    p(x | z) = N(x; B m(z), B (diag v(z) + sigma2 I) B^T): the decoder says, of each state, the
    means m of the coefficients and the logarithms of the variances v of the noise-free
    coefficients in units of `scale`. The posterior mean of the signal under a state is then a
    Wiener estimate around its mean, m + v / (v + sigma2) (B^T x - m). It extends Eq. 1 of the
    paper, which is the case v = 0. The data must be complete.

    Parameters
    ----------
    sigma2
        The variance of the white noise, a scalar tensor, in squared units of the data. It is
        known: learned together with v it falls below the truth, since F cannot tell them apart.
    basis
        (D, D), an orthonormal basis in its columns.
    scale
        (D,), variances that outputs of 0 stand for.

    Examples
    --------
    >>> noise = DiagonalGaussian(torch.tensor(1.0), torch.eye(2), torch.tensor([3.0, 3.0]))
    >>> x, q, outputs = torch.ones(1, 2), torch.ones(1, 1), torch.zeros(1, 4)  # m = 0, v = scale
    >>> noise.signal(x, q, outputs)
    (tensor([[0.7500, 0.7500]]), tensor([0.7500]))
    """

    sigma2: Tensor
    basis: Tensor
    scale: Tensor

    @property
    def sigma(self) -> float:
        """Standard deviation of the white noise, in units of the data."""
        return math.sqrt(float(self.sigma2))

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means m (U, D) and variances v (U, D) that decoder outputs (U, 2 D) say."""
        mean, log_variance = outputs.chunk(2, 1)
        return mean, self.scale * log_variance.clamp(max=_LARGEST_LOG).exp()

    def data_terms(self, x: Tensor) -> Tensor:
        """Return coefficients and their squares of complete data (B, D), and ones: (B, 2 D + 1).

        Raises
        ------
        ValueError
            If data are missing: a covariance ties all entries together.
        """
        if not x.isfinite().all():
            raise ValueError("DiagonalGaussian needs complete data: use Gaussian for data with NaN")
        y = x @ self.basis
        return torch.cat([y, y * y, torch.ones_like(y[:, :1])], 1)

    def state_terms(self, outputs: Tensor, n_terms: int) -> Tensor:
        """Return what decoder outputs (U, 2 D) bring to log-likelihoods: (U, 2 D + 1)."""
        mean, variance = self.split(outputs)
        total = variance + self.sigma2
        scaled = mean / total
        constant = mean * scaled + total.log() + math.log(2 * math.pi)
        return torch.cat([scaled, -0.5 / total, constant.sum(1, keepdim=True) / -2], 1)

    def signal(self, x: Tensor, q: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior means (B, D) and mean variances (B,) of the noise-free data."""
        mean, variance = self.split(outputs)
        gain = variance / (variance + self.sigma2)
        y, rest = x @ self.basis, mean * (1 - gain)
        expected_gain = q @ gain
        estimate = q @ rest + y * expected_gain
        # Between the states: E[(rest + gain y)^2] - E[rest + gain y]^2; within: gain sigma2.
        square = q @ rest.square() + 2 * y * (q @ (rest * gain)) + y.square() * (q @ gain.square())
        between = (square - estimate.square()).mean(1).clamp(min=0)
        return estimate @ self.basis.T, between + self.sigma2 * expected_gain.mean(1)

    def mean(self, outputs: Tensor) -> Tensor:
        """Return the means (U, D) that decoder outputs (U, 2 D) say."""
        return self.split(outputs)[0] @ self.basis.T

    def outputs_for(self, mean: Tensor) -> Tensor:
        """Return the outputs (2 D,) of a state with the mean (D,) and variances of `scale`."""
        return torch.cat([mean @ self.basis, torch.zeros_like(mean)])

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw data (n, D) from decoder outputs (n, 2 D)."""
        mean, variance = self.split(outputs)
        coefficients = mean + (variance + self.sigma2).sqrt() * _white(mean, generator)
        return coefficients @ self.basis.T


def _known(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return data (B, D) with 0 where they are missing, and a one for each point or, if there are
    gaps, for each observed entry.
    """
    observed = x.isfinite()
    known = torch.ones_like(x[:, :1]) if observed.all() else observed.to(x.dtype)
    return x.masked_fill(~observed, 0.0), known


def _summed(values: Tensor, gaps: bool) -> Tensor:
    """Return values (U, D) as they are for data with gaps, else their sums (U, 1)."""
    return values if gaps else values.sum(1, keepdim=True)


def _squared_errors(x: Tensor, q: Tensor, means: Tensor) -> Tensor:
    """Return the sums over data (B, D), NaN where missing, of E_q[(x - mu)^2]: (D,)."""
    observed = x.isfinite()
    x = x.masked_fill(~observed, 0.0)
    spread = q @ means.square() * observed
    return (x.square() - 2 * x * (q @ means) + spread).double().sum(0)


def _white(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


__all__ = [
    "BernoulliNoise",
    "CorrelatedGaussian",
    "DiagonalGaussian",
    "Gaussian",
    "Noise",
    "PoissonNoise",
    "on_device",
]
