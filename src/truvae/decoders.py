"""Decoders: networks from a binary state to the mean of the observables.

Any ``nn.Module`` from (n, H) to (n, D) is a decoder. `MLP` is the one of the paper (Fig. 2); it
also decodes packed codes directly, because a first layer that reads few set bits is a sum of rows.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from truvae import bits


class MLP(nn.Module):
    """Fully connected decoder H0-H1-...-D with a linear output layer.

    Weights are Glorot-normal and biases zero (App. B.1 of the paper).

    Parameters
    ----------
    n_latents
        H, the number of binary latents.
    hidden
        Units of each hidden layer; empty for a linear decoder (binary sparse coding).
    n_observables
        D, the number of observables.
    activation
        Module class of the hidden non-linearity.
    generator
        Source of the initial weights; torch's own generator if not given.

    Examples
    --------
    >>> decoder = MLP(8, (16,), 4)
    >>> decoder(torch.eye(8)).shape
    torch.Size([8, 4])
    """

    def __init__(
        self,
        n_latents: int,
        hidden: Sequence[int],
        n_observables: int,
        activation: type[nn.Module] = nn.ReLU,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = (n_latents, *hidden, n_observables)
        self.first = nn.Linear(sizes[0], sizes[1])
        self.rest = nn.Sequential()
        for fan_in, fan_out in zip(sizes[1:], sizes[2:], strict=False):
            self.rest.extend([activation(), nn.Linear(fan_in, fan_out)])
        self.apply(lambda module: _glorot(module, generator))

    def forward(self, z: Tensor) -> Tensor:
        """Decode states (n, H) into means (n, D)."""
        out: Tensor = self.rest(self.first(z))
        return out

    def decode_active(self, active: bits.Active) -> Tensor:
        """Decode states given by their set bits: the same means, without the zeros."""
        pre = nn.functional.embedding_bag(
            active.indices,
            self.first.weight.t().contiguous(),
            active.offsets,
            mode="sum",
            include_last_offset=True,
        )
        out: Tensor = self.rest(pre + self.first.bias)
        return out


def linear(n_latents: int, n_observables: int, generator: torch.Generator | None = None) -> MLP:
    """Return the linear decoder of binary sparse coding, mu = W z + b (App. B.3)."""
    return MLP(n_latents, (), n_observables, generator=generator)


def _glorot(module: nn.Module, generator: torch.Generator | None) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight, generator=generator)
        nn.init.zeros_(module.bias)


__all__ = ["MLP", "linear"]
