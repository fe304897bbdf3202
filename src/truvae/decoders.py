"""Decoders: networks from a binary state to the mean of the observables.

Any ``nn.Module`` from (n, H) to (n, D) is a decoder. `MLP` is the one of the paper (Fig. 2); it
also decodes packed codes directly, because a first layer that reads few set bits is a sum of rows.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from truvae import bits


def relu() -> nn.Module:
    """Return a rectifier that works in place."""
    # In place: a linear layer needs nothing of its own output to go backwards.
    return nn.ReLU(inplace=True)


class MLP(nn.Module):
    """Fully connected decoder H0-H1-...-D.

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
        Makes the hidden non-linearities, e.g. ``nn.LeakyReLU``; ReLU if not given.
    output
        Makes the non-linearity of the outputs, e.g. ``nn.Sigmoid``; none if not given.
    generator
        Source of the initial weights, which are then on its device; torch's own generator if not
        given.

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
        activation: Callable[[], nn.Module] = relu,
        output: Callable[[], nn.Module] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        sizes = (n_latents, *hidden, n_observables)
        with generator.device if generator is not None else torch.get_default_device():
            self.first = nn.Linear(sizes[0], sizes[1])
            self.rest = nn.Sequential()
            for fan_in, fan_out in zip(sizes[1:], sizes[2:], strict=False):
                self.rest.extend([activation(), nn.Linear(fan_in, fan_out)])
            if output is not None:
                self.rest.append(output())
        self.apply(lambda module: _glorot(module, generator))

    @property
    def is_linear(self) -> bool:
        """Whether it is the decoder of binary sparse coding: one layer and nothing else."""
        return len(self.rest) == 0

    def forward(self, z: Tensor) -> Tensor:
        """Decode states (n, H) into means (n, D)."""
        out: Tensor = self.rest(self.first(z))
        return out

    def decode(self, codes: bits.RowSums) -> Tensor:
        """Decode packed states: the same means, without the zeros."""
        out: Tensor = self.rest(self._sums(codes).add_(self.first.bias))
        return out

    def slope(self, codes: bits.RowSums, score: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the gradient of a score, a scalar, of the means of packed states along their bits:
        (n, H).
        """
        sums = self._sums(codes).detach().requires_grad_()
        with torch.enable_grad():
            total = score(self.rest(sums + self.first.bias))
        return torch.autograd.grad(total, sums)[0] @ self.first.weight.detach()

    def _sums(self, codes: bits.RowSums) -> Tensor:
        """Return what the first layer makes of packed states, but for its bias."""
        return codes(self.first.weight.t().contiguous())


def linear(n_latents: int, n_observables: int, generator: torch.Generator | None = None) -> MLP:
    """Return the linear decoder of binary sparse coding, mu = W z + b (App. B.3)."""
    return MLP(n_latents, (), n_observables, generator=generator)


def _glorot(module: nn.Module, generator: torch.Generator | None) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_normal_(module.weight, generator=generator)
        nn.init.zeros_(module.bias)


def deepen(decoder: MLP, n_hidden: int = 1) -> MLP:
    """Return a linear decoder with hidden layers below its outputs that change nothing (App. B.3).

    The hidden layers have H rectified units each and start as identities: binary states pass them
    as they are, so that training goes on where that of the linear decoder stopped.

    Parameters
    ----------
    decoder
        A linear decoder H-D; it is left as it is.
    n_hidden
        Number of hidden layers.

    Raises
    ------
    ValueError
        If the decoder is not linear.

    Examples
    --------
    >>> shallow = linear(3, 2)
    >>> torch.equal(deepen(shallow, 2)(torch.eye(3)), shallow(torch.eye(3)))
    True
    """
    if not decoder.is_linear:
        raise ValueError("only a linear decoder can be deepened without changing what it says")
    n_observables, n_latents = decoder.first.weight.shape
    deep = MLP(n_latents, (n_latents,) * n_hidden, n_observables).to(decoder.first.weight)
    *identities, last = [m for m in deep.modules() if isinstance(m, nn.Linear)]
    for layer in identities:
        nn.init.eye_(layer.weight)
    last.load_state_dict(decoder.first.state_dict())
    return deep


__all__ = ["MLP", "deepen", "linear", "relu"]
