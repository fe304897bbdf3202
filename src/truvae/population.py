"""The variational states Phi: S distinct packed states for each data point, and the pool in which
a few near data points look for better ones.

A `Pool` decodes each distinct state once and scores it against all its data points with one
matrix product: that is cheaper than scoring the pairs that are asked for, and since distinct
columns are compared, the S best of them are distinct without further checks.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from truvae import bits
from truvae.model import Model


@dataclass
class Population:
    """Packed states of all data points and the log-joints found when they were last scored.

    Attributes
    ----------
    words
        (N, S, W) int64, S distinct states for each data point, best first once scored.
    log_joint
        (N, S), log p(x_n, z_s) in nats at the time of the last E-step.
    """

    words: Tensor
    log_joint: Tensor

    @classmethod
    def random(
        cls,
        n_data: int,
        n_states: int,
        n_latents: int,
        probability: float,
        generator: torch.Generator,
    ) -> "Population":
        """Draw Bernoulli states and replace duplicates, so that each point has S distinct ones.

        Raises
        ------
        ValueError
            If there are fewer than `n_states` binary vectors of `n_latents` bits.
        """
        if n_latents < bits.WORD_BITS and n_states > 1 << n_latents:
            raise ValueError(f"{n_states} distinct states need more than {n_latents} latents")
        words = bits.random((n_data, n_states), n_latents, probability, generator)
        _make_distinct(words, n_latents, generator)
        return cls(words, torch.zeros(n_data, n_states, device=words.device))

    def responsibilities(self, rows: Tensor) -> Tensor:
        """Return q_n(z) of Eq. 4 for the states of the data points `rows`: (B, S)."""
        return torch.softmax(self.log_joint[rows], 1)

    def bound(self, rows: Tensor | slice) -> Tensor:
        """Return the ELBO F_n of Eq. 5 of the data points `rows`: (B,) nats."""
        return torch.logsumexp(self.log_joint[rows], 1)

    def keep(self, rows: Tensor, words: Tensor, log_joint: Tensor) -> None:
        """Make `words` (B, S, W) with their `log_joint` (B, S) the states of `rows`."""
        self.words[rows] = words
        self.log_joint[rows] = log_joint.to(self.log_joint.dtype)


class Pool:
    """All distinct states offered to the data points of one chunk, with their log-joints.

    Parameters
    ----------
    model
        The generative model.
    x
        The data of the chunk (B, D); NaN where missing.
    words
        Their current states (B, S, W).
    generator
        Source of every random draw of the proposals.

    Attributes
    ----------
    words
        (U, W), the distinct states; the first ones are the current states of the chunk.
    outputs
        (U, any), what the decoder says of them.
    log_joint
        (B, U) nats, of every state for every data point.
    """

    def __init__(self, model: Model, x: Tensor, words: Tensor, generator: torch.Generator) -> None:
        self.model = model
        self.generator = generator
        self._data_terms = model.noise.data_terms(x)
        self.current = words
        distinct = bits.unique(words.flatten(0, 1))
        self.words, self.keys = distinct.words, distinct.keys
        self.outputs, self.log_joint = self._score(distinct.words)
        self.columns = distinct.inverse.view(words.shape[:2])
        """(B, S), where the current states are in the pool."""
        self._offered: Tensor | None = self._mark(self.columns)

    def offer(self, words: Tensor) -> Tensor:
        """Offer candidates (B, C, W) to their own data points; return their columns (B, C)."""
        distinct = bits.unique(words.flatten(0, 1))
        column, new = self._find(distinct.keys)
        self._append(distinct.words[new], distinct.keys[new])
        columns = column[distinct.inverse].view(words.shape[:2])
        if self._offered is not None:
            self._offered |= self._mark(columns)
        return columns

    def share(self) -> None:
        """Offer every state of the pool, now and to come, to every data point of the chunk."""
        self._offered = None

    def scores(self) -> Tensor:
        """Return the log-joints (B, U), -inf where a state was not offered to a data point."""
        if self._offered is None:
            return self.log_joint
        return self.log_joint.masked_fill(~self._offered, -math.inf)

    def best(self, n_states: int) -> tuple[Tensor, Tensor]:
        """Return the log-joints (B, S) and columns (B, S) of the S best states, best first."""
        found = self.scores().topk(n_states, dim=1)
        return found.values, found.indices

    def flip_gains(self, words: Tensor) -> Tensor:
        """Estimate the gain in log-joint, in nats, of flipping each bit of states (B, C, W).

        First-order, by one backward pass: (B, C, H).
        """
        z = bits.unpack(words, self.model.n_latents, self.outputs.dtype).requires_grad_()
        with torch.enable_grad():
            outputs = self.model.decode_dense(z.flatten(0, 1))
            terms = self.model.noise.state_terms(outputs, self._data_terms.shape[1])
            total = (terms.view(*words.shape[:2], -1) * self._data_terms[:, None]).sum()
            (slope,) = torch.autograd.grad(total, z)
        z = z.detach()
        return (1 - 2 * z) * (slope + self.model.prior.pi.logit())

    def substitutions(self, columns: Tensor) -> int:
        """Count the entries of `columns` (B, S) that are not among the current states."""
        return int((~self._mark(self.columns).gather(1, columns)).sum())

    def _score(self, words: Tensor) -> tuple[Tensor, Tensor]:
        outputs, log_prior = self.model.decode(words)
        terms = self.model.noise.state_terms(outputs, self._data_terms.shape[1])
        return outputs, torch.addmm(log_prior[None], self._data_terms, terms.T)

    def _find(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return the columns of `keys`, counting on where they are new, and which are new."""
        ordered, order = self.keys.sort()
        place = torch.searchsorted(ordered, keys).clamp_(max=len(ordered) - 1)
        new = ordered[place] != keys
        return torch.where(new, len(ordered) + new.cumsum(0) - 1, order[place]), new

    def _append(self, words: Tensor, keys: Tensor) -> None:
        outputs, log_joint = self._score(words)
        self.words = torch.cat([self.words, words])
        self.keys = torch.cat([self.keys, keys])
        self.outputs = torch.cat([self.outputs, outputs])
        self.log_joint = torch.cat([self.log_joint, log_joint], 1)
        if self._offered is not None:
            self._offered = torch.nn.functional.pad(self._offered, (0, len(words)))

    def _mark(self, columns: Tensor) -> Tensor:
        """Return a mask (B, U) that is True at `columns` (B, any)."""
        mask = torch.zeros(len(columns), len(self.words), dtype=torch.bool, device=columns.device)
        return mask.scatter_(1, columns, True)


def _make_distinct(words: Tensor, n_latents: int, generator: torch.Generator) -> None:
    """Flip random bits of repeated states until all states (N, S, W) of a point are distinct."""
    rows = torch.arange(len(words), device=words.device)
    while len(rows):
        repeated = _repeated(words[rows])
        rows, repeated = rows[repeated.any(1)], repeated[repeated.any(1)]
        bit = torch.randint(n_latents, repeated.shape, generator=generator, device=words.device)
        changed = bits.flip(words[rows], bit)
        words[rows] = torch.where(repeated[..., None], changed, words[rows])


def _repeated(words: Tensor) -> Tensor:
    """Mark (B, S) the states of each point that equal another one before them in key order."""
    keys, order = bits.keys(words).sort(dim=1)
    same = torch.zeros_like(keys, dtype=torch.bool)
    same[:, 1:] = keys[:, 1:] == keys[:, :-1]
    return torch.zeros_like(same).scatter_(1, order, same)


__all__ = ["Pool", "Population"]
