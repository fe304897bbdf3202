"""What a noise model is, and what all of them share."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from copy import deepcopy

import torch
from torch import Tensor, nn

from truvae.errors import InputError


class Noise(ABC):
    """How data lie around what a decoder says of a state.

    A log-likelihood is the product of `data_terms` and `state_terms`, so that one matrix product
    scores all pairs of data and states; where it is not, `score`, `score_pairs` and
    `log_likelihood` say what to do with these terms instead. Missing observables, NaN in the data,
    are left out of every sum (Eq. 16 of the paper).

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

    def score(self, data_terms: Tensor, state_terms: Tensor, offset: Tensor) -> Tensor:
        """Return the log-likelihoods (B, U) in nats of all pairs of data and states, given what
        these bring to them, plus an offset (U,) for each state.
        """
        return torch.addmm(offset[None], data_terms, state_terms.T)

    def score_pairs(self, data_terms: Tensor, state_terms: Tensor) -> Tensor:
        """Return the log-likelihoods (...) in nats of pairs of data (..., K) and states (..., K').

        The leading axes of both are broadcast.
        """
        # Several times faster than a batched product of matrices with vectors.
        scores: Tensor = torch.linalg.vecdot(state_terms, data_terms)
        return scores

    def log_likelihood(
        self, x: Tensor, outputs: Tensor, pairs: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Return log p(x_b | z_u) in nats of data (B, D) under decoded states (U, any): (B, U).

        If only some `pairs` are asked for, given by their rows b and their columns u, the others
        may be any finite numbers.
        """
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


def check_variances(name: str, value: object, most_axes: int = 0, positive: bool = True) -> None:
    """Raise an `InputError` that names a parameter unless it is a tensor of finite variances.

    Parameters
    ----------
    name, value
        The parameter.
    most_axes
        0 for one number, 1 if there may be one for each observable.
    positive
        Whether 0 is none.
    """
    least = "above 0" if positive else "of 0 or more"
    right = f"{name} must be a tensor of floats {least}, " + (
        "a single one or (D,)" if most_axes else "a single one"
    )
    if not isinstance(value, Tensor):
        raise InputError(f"{right}, not {value!r}: torch.tensor(1.0) is one")
    if value.ndim > most_axes or not value.is_floating_point():
        raise InputError(f"{right}, not {value.dtype} of shape {tuple(value.shape)}")
    if not (value.isfinite() & ((value > 0) | (not positive and value == 0))).all():
        raise InputError(f"{right}; the least is {value.min():g}, the greatest {value.max():g}")


def check_basis(basis: Tensor, n: int) -> None:
    """Raise an `InputError` unless a basis has the shape (n, n) that as many variances need."""
    if basis.shape != (n, n):
        raise InputError(f"basis must have shape ({n}, {n}), not {tuple(basis.shape)}")


def white(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw white noise of variance 1 in the shape of a tensor."""
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


__all__ = ["Noise", "check_basis", "check_variances", "on_device", "white"]
