"""The laws by which parents are drawn."""

from collections.abc import Callable

import torch
from torch import Tensor

Selection = Callable[[Tensor], Tensor]
"""From log-joints (B, S) to the probabilities (B, S) with which states become parents."""


def softmax(log_joint: Tensor, temperature: float = 3.0) -> Tensor:
    """Select parents with probability proportional to exp(log-joint / temperature)."""
    return torch.softmax(log_joint / temperature, 1)


def fitness(log_joint: Tensor, share: float = 1e-3) -> Tensor:
    """Select parents with probability proportional to their fitness (App. A.1).

    The fitness is the log-joint above the smallest one of the data point, plus a small `share` of
    their range so that the weakest state keeps a chance; equal log-joints give equal chances.
    """
    least, most = log_joint.aminmax(dim=1, keepdim=True)
    span = most - least
    raised = torch.where(span > 0, log_joint - least + share * span, 1.0)
    return raised / raised.sum(1, keepdim=True)


def uniform(log_joint: Tensor) -> Tensor:
    """Select parents with equal probability (App. A.1).

    With replacement, as by all laws here; the authors' released code draws these without.
    """
    return torch.full_like(log_joint, 1 / log_joint.shape[1])


def best(log_joint: Tensor) -> Tensor:
    """Select the state with the highest log-joint only."""
    return torch.nn.functional.one_hot(log_joint.argmax(1), log_joint.shape[1]).to(log_joint)


def released(log_joint: Tensor, batch: int = 32) -> Tensor:
    """Select parents as the authors' released code does where the paper says `fitness`.

    Its fitness is normalised over a whole `batch` of data points, but drawn for each of them: of 32
    about 97 % of the draws go past the end, and take the last state. The others are off by one:
    state k - 1 is drawn with the share of state k. The last state is the best one in the first
    generation, and later an arbitrary child. For comparisons with published figures only.
    """
    chances = []
    for part in log_joint.split(batch):
        raised = part - 2 * part.min().clamp(max=0)
        shares = (raised / raised.sum())[:, 1:]
        chances.append(torch.cat([shares, 1 - shares.sum(1, keepdim=True)], 1))
    return torch.cat(chances)


SELECTIONS: dict[str, Selection] = {
    "softmax": softmax,
    "fitness": fitness,
    "uniform": uniform,
    "best": best,
    "released": released,
}
"""The laws by which parents are drawn, by name."""


def draw_parents(words: Tensor, chances: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Draw `n` of the states (B, S, W) of each point with the given chances (B, S)."""
    drawn = torch.multinomial(chances, n, replacement=True, generator=generator)
    return words.gather(1, drawn[..., None].expand(-1, -1, words.shape[-1]))


__all__ = [
    "SELECTIONS",
    "Selection",
    "best",
    "draw_parents",
    "fitness",
    "released",
    "softmax",
    "uniform",
]
