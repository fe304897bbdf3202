"""Flips by the gradient of the decoder."""

from dataclasses import dataclass

import torch
from torch import Tensor

from truvae import bits
from truvae.errors import check_whole
from truvae.largest import largest
from truvae.population import Pool
from truvae.proposals.selections import Selection, draw_parents, softmax


@dataclass(frozen=True)
class GradientFlips:
    """Flip bits where the gradient of the log-joint promises a gain.

    The gain of flipping a bit of a parent is estimated to first order, for all bits from one
    backward pass of the decoder. Flips are drawn without replacement with probability
    proportional to exp(gain / temperature).

    Parameters
    ----------
    n_parents
        Parents, drawn with replacement.
    n_children
        Children of each parent, with different flips; at most one for each latent.
    selection
        The law by which parents are drawn.
    temperature
        In nats: how far to trust the estimate.
    swaps
        Whether to swap an active bit with an inactive one instead of flipping a single bit.
    """

    n_parents: int = 1
    n_children: int = 16
    selection: Selection = softmax
    temperature: float = 3.0
    swaps: bool = False

    def __post_init__(self) -> None:
        """Refuse to offer nothing."""
        check_whole("n_parents", self.n_parents)
        check_whole("n_children", self.n_children)

    def __call__(self, pool: Pool) -> None:
        """Offer the most promising changes of the group's current states."""
        parents = draw_parents(
            pool.current, self.selection(pool.log_joint), self.n_parents, pool.generator
        )
        gain = pool.flip_gains(parents) / self.temperature
        # Gumbel noise: four times faster than by way of exponential_.
        share = torch.rand(gain.shape, generator=pool.generator, device=gain.device)
        gain -= share.log_().neg_().log_()
        n_children = min(self.n_children, gain.shape[-1])
        if not self.swaps:
            bit = largest(gain.flatten(0, 1), n_children).view(*gain.shape[:2], n_children)
            pool.offer(_flipped(parents, bit).flatten(1, 2))
            return
        active = bits.unpack(parents, gain.shape[-1]) > 0
        on = gain.masked_fill(active, -torch.inf).topk(n_children, dim=-1).indices
        off = gain.masked_fill(~active, -torch.inf).argmax(-1, keepdim=True)
        # A state with nothing active has nothing to give up: there it is a flip.
        kept = _flipped(parents, off)[:, :, 0]
        kept = torch.where(active.any(-1, keepdim=True), kept, parents)
        # Nor can more bits be taken up than are inactive: then it is the parent again.
        full = active.gather(-1, on)[..., None]
        swapped = torch.where(full, parents[:, :, None], _flipped(kept, on))
        pool.offer(swapped.flatten(1, 2))


def _flipped(parents: Tensor, bit: Tensor) -> Tensor:
    """Return children (B, P, C, W) of parents (B, P, W), each with one of the bits (B, P, C)."""
    return bits.flip(parents[:, :, None].expand(*bit.shape, -1), bit)


__all__ = ["GradientFlips"]
