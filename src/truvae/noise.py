"""Noise models p(x | z): what lies between the decoder's mean and the data."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


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

    Examples
    --------
    >>> noise = Gaussian(torch.tensor(0.01))
    >>> noise.log_likelihood(torch.zeros(1, 2), torch.zeros(1, 2)).exp()  # 1 / (2 pi sigma2)
    tensor([[15.9155]])
    """

    sigma2: Tensor
    fixed: bool = False
    floor: float = 1e-8

    def log_likelihood(self, x: Tensor, mean: Tensor) -> Tensor:
        """Return log p(x_b | z_u) of data (B, D), NaN where missing, under means (U, D): (B, U)."""
        terms = self.data_terms(x)
        return terms @ self.mean_terms(mean, terms.shape[1]).T

    def data_terms(self, x: Tensor) -> Tensor:
        """Return what data points (B, D), NaN where missing, bring to log-likelihoods: (B, K).

        The log-likelihood is (x.mu - |mu|^2 / 2 - |x|^2 / 2) / sigma2 + const: one product of
        these terms with `mean_terms` scores all pairs.
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

    def mean_terms(self, mean: Tensor, n_terms: int) -> Tensor:
        """Return what decoded states (U, D) bring to log-likelihoods: (U, n_terms).

        `n_terms` is the K of the `data_terms` that they will meet.
        """
        norm = mean * mean
        if n_terms != 2 * mean.shape[1] + 1:
            norm = norm.sum(1, keepdim=True)
        return torch.cat([mean, norm / -2, torch.ones_like(mean[:, :1])], 1)

    def update(self, log_likelihood: Tensor, entries: Tensor) -> None:
        """Set sigma2 by Eq. 10: the mean squared error over all observed entries.

        Parameters
        ----------
        log_likelihood
            sum_n E_q[log p(x_n | z)] in nats at the present sigma2; it holds the squared error.
        entries
            Number of observed entries.
        """
        if self.fixed:
            return
        log_norm = math.log(2 * math.pi) + self.sigma2.log().to(log_likelihood)
        mean_error = -(2 * log_likelihood / entries + log_norm) * self.sigma2
        self.sigma2 = mean_error.clamp(min=self.floor).to(self.sigma2)

    def sample(self, mean: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw data around `mean`, same shape."""
        white = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return mean + self.sigma2.sqrt() * white


__all__ = ["Gaussian"]
