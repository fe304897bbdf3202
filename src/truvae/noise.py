"""Noise models p(x | z): what lies between the decoder's outputs and the data."""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# Variances grow no further than by the exponential of this.
_LARGEST_LOG = 6.0


class Noise(Protocol):
    """How data lie around what a decoder says of a state.

    A log-likelihood is the product of `data_terms` and `state_terms`, so that one matrix product
    scores all pairs of data and states.
    """

    sigma2: Tensor
    """Variance of the white noise, a scalar, in squared units of the data."""

    def data_terms(self, x: Tensor) -> Tensor:
        """Return what data points (B, D) bring to log-likelihoods: (B, K)."""
        ...

    def state_terms(self, outputs: Tensor, n_terms: int) -> Tensor:
        """Return what decoded states (U, any) bring to log-likelihoods: (U, n_terms).

        `n_terms` is the K of the `data_terms` that they will meet.
        """
        ...

    def log_likelihood(self, x: Tensor, outputs: Tensor) -> Tensor:
        """Return log p(x_b | z_u) in nats of data (B, D) under decoded states (U, any): (B, U)."""
        ...

    def signal(self, x: Tensor, q: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior of the noise-free data under responsibilities q (B, U).

        Its means (B, D), and its variances averaged over the D entries, (B,).
        """
        ...

    def update(self, log_likelihood: Tensor, entries: Tensor) -> None:
        """Set the variance from sums over all data (Eq. 10), unless it is known."""
        ...

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw data (n, D) from decoded states (n, any)."""
        ...


@dataclass
class Gaussian:
    """White Gaussian noise, p(x | z) = N(x; mu(z), sigma2 I) (Eq. 1 of the paper).

    Missing observables, NaN in the data, are left out of every sum (Eq. 16).

    Parameters
    ----------
    sigma2
        The variance, a scalar tensor, in squared units of the data.
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

    def log_likelihood(self, x: Tensor, outputs: Tensor) -> Tensor:
        """Return log p(x_b | z_u) of data (B, D), NaN where missing, under means (U, D): (B, U)."""
        terms = self.data_terms(x)
        return terms @ self.state_terms(outputs, terms.shape[1]).T

    def data_terms(self, x: Tensor) -> Tensor:
        """Return what data points (B, D), NaN where missing, bring to log-likelihoods: (B, K).

        The log-likelihood is ``(x.mu - |mu|^2 / 2 - |x|^2 / 2) / sigma2 + const``: one product of
        these terms with `state_terms` scores all pairs.
        """
        observed = x.isfinite()
        entries = observed.sum(1, keepdim=True).to(x.dtype)
        # Without gaps |mu|^2 is needed as a whole, with gaps entry by entry.
        known = torch.ones_like(x[:, :1]) if observed.all() else observed.to(x.dtype)
        x = x.masked_fill(~observed, 0.0)
        half_norm = (x * x).sum(1, keepdim=True) / 2
        constant = entries * (math.log(2 * math.pi) + self.sigma2.log()) / 2
        return torch.cat(
            [x / self.sigma2, known / self.sigma2, -half_norm / self.sigma2 - constant], 1
        )

    def state_terms(self, outputs: Tensor, n_terms: int) -> Tensor:
        """Return what decoded states, means (U, D), bring to log-likelihoods: (U, n_terms).

        `n_terms` is the K of the `data_terms` that they will meet.
        """
        norm = outputs * outputs
        if n_terms != 2 * outputs.shape[1] + 1:
            norm = norm.sum(1, keepdim=True)
        return torch.cat([outputs, norm / -2, torch.ones_like(outputs[:, :1])], 1)

    def signal(self, x: Tensor, q: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return E_q[mu(z)] (Eq. 15), (B, D), and Var_q[mu(z)] averaged over the entries, (B,)."""
        mean = q @ outputs
        square = q @ outputs.square().mean(1)
        return mean, (square - mean.square().mean(1)).clamp(min=0)

    def update(self, log_likelihood: Tensor, entries: Tensor) -> None:
        """Set sigma2 by Eq. 10: the mean squared error over all observed entries.

        Parameters
        ----------
        log_likelihood
            sum_n E_q[log p(x_n | z)] in nats at the present sigma2; it holds the squared error.
        entries
            Number of observed entries.
        """
        log_norm = math.log(2 * math.pi) + self.sigma2.log().to(log_likelihood)
        mean_error = -(2 * log_likelihood / entries + log_norm) * self.sigma2
        self.mean_error = mean_error.clamp(min=self.floor).to(self.sigma2)
        if not self.fixed:
            self.sigma2 = self.mean_error

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw data around the means `outputs`, same shape."""
        return outputs + self.sigma2.sqrt() * _white(outputs, generator)


@dataclass
class DiagonalGaussian:
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

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means m (U, D) and variances v (U, D) that decoder outputs (U, 2 D) say."""
        mean, log_variance = outputs.chunk(2, 1)
        return mean, self.scale * log_variance.clamp(max=_LARGEST_LOG).exp()

    def log_likelihood(self, x: Tensor, outputs: Tensor) -> Tensor:
        """Return log p(x_b | z_u) of complete data (B, D) under outputs (U, 2 D): (B, U)."""
        terms = self.data_terms(x)
        return terms @ self.state_terms(outputs, terms.shape[1]).T

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

    def update(self, log_likelihood: Tensor, entries: Tensor) -> None:
        """Leave the variance as it is: it is known."""

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw data (n, D) from decoder outputs (n, 2 D)."""
        mean, variance = self.split(outputs)
        coefficients = mean + (variance + self.sigma2).sqrt() * _white(mean, generator)
        return coefficients @ self.basis.T


def _white(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


__all__ = ["DiagonalGaussian", "Gaussian", "Noise"]
