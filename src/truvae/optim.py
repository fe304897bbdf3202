"""Optimisation: Adam, and learning rates as functions of the progress."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


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
        down = (progress - self.warm_up) / max(1 - self.warm_up, 1e-9)
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


def _half_cosine(share: float) -> float:
    """Rise smoothly from 0 to 1."""
    return 0.5 * (1 - math.cos(math.pi * share))


__all__ = ["Adam", "Cyclic", "OneCycle"]
