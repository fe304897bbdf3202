"""Binary data and counts."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from truvae.errors import InputError
from truvae.noise.base import Noise

# Rates grow no further than by the exponential of this.
_LARGEST_LOG_RATE = 30.0


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
        InputError
            If data are not between 0 and 1.
        """
        x, known = _known(x)
        if ((x < 0) | (x > 1)).any():
            raise InputError(
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

    In float32 log-likelihoods of counts n are known to about 1e-7 n log n nats: to a tenth of a nat
    for counts up to about 1e5.

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
        InputError
            If data are negative.
        """
        x, known = _known(x)
        if (x < 0).any():
            raise InputError(f"PoissonNoise needs counts of 0 or more, not {x.min():g}")
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


__all__ = ["BernoulliNoise", "PoissonNoise"]
