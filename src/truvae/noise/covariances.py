"""Gaussian noise with a covariance for each state."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from truvae.noise.base import Noise, white

# Variances grow no further than by the exponential of this.
_LARGEST_LOG = 6.0


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
        coefficients = mean + (variance + self.sigma2).sqrt() * white(mean, generator)
        return coefficients @ self.basis.T


__all__ = ["DiagonalGaussian"]
