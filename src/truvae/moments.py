"""Sufficient statistics: what the M-step sums over data points to set parameters in closed form."""

import torch
from torch import Tensor

from truvae.decoders import MLP
from truvae.model import Model
from truvae.noise import Gaussian
from truvae.ranks import Ranks


class Statistics:
    """Sums over data points from which Eq. 10 sets the noise and the prior."""

    def __init__(self, model: Model, closed_form: bool = False) -> None:
        self.moments = LeastSquares(_linear(model)) if closed_form else None
        self.activity = torch.zeros_like(model.prior.pi, dtype=torch.float64)
        self.noise, self.sums = model.noise, torch.zeros(())
        self.n_data = 0

    def sum_over(self, ranks: Ranks) -> None:
        """Add up the sums of all ranks."""
        moments = [] if self.moments is None else self.moments.tensors
        ranks.sum_([self.activity, self.sums, *moments])
        self.n_data = int(*ranks.sum(self.n_data))

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

    @property
    def tensors(self) -> list[Tensor]:
        """All sums."""
        return [self.states, self.data, self.norm]

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


def _linear(model: Model) -> MLP:
    """Return the decoder if it has a closed form, else raise a ValueError."""
    if type(model.decoder) is not MLP or not model.decoder.is_linear:
        raise ValueError("only a linear decoder has a closed form: see decoders.linear")
    if not isinstance(model.noise, Gaussian):
        raise ValueError("only with Gaussian noise the decoder has a closed form")
    return model.decoder


__all__ = ["LeastSquares", "Statistics"]
