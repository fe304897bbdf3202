"""The variational states Phi: S distinct packed states for each data point, and the pools in which
the data points of a group look for better ones.
"""

import math
import threading
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from truvae import bits
from truvae.largest import largest
from truvae.model import Model
from truvae.ranks import Ranks

# Numbers that the decoder puts out at a time, so that they stay in the cache.
_BLOCK = 1 << 20
# Parameters of a decoder from which on it pays to look for repeated states before decoding.
_COSTLY = 1 << 16
# Data points with states of their own for which the signal is found at a time.
_TOGETHER = 8
# An odd number with well spread bits: 2^64 over the golden ratio.
_MIX = 0x9E3779B97F4A7C15 - (1 << 64)
# Held while scores are kept: the first ones of a higher precision make new room for all.
_KEEPING = threading.Lock()
# Nats below the best state of a point beyond which states count as if they were no worse.
_DEEPEST = 60.0
# Data points whose first states are made distinct together.
_ROWS = 1 << 9


@dataclass
class Population:
    """Packed states of all data points and the log-joints found when they were last scored.

    Attributes
    ----------
    words
        (N, S, W) int64, S distinct states for each data point, in no order.
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
            If there are fewer than `n_states` binary vectors of `n_latents` bits, or the
            probability is not between 0 and 1.
        """
        if n_latents < bits.WORD_BITS and n_states > 1 << n_latents:
            raise ValueError(f"{n_states} distinct states need more than {n_latents} latents")
        if not 0 < probability < 1:
            raise ValueError(f"the probability of a bit is between 0 and 1, not {probability}")
        if n_latents <= bits.MOST_ENUMERABLE and n_states > (1 << n_latents) // 4:
            words = _without_replacement(n_data, n_states, n_latents, probability, generator)
        else:
            words = bits.random((n_data, n_states), n_latents, probability, generator)
            _make_distinct(words, n_latents, generator)
        return cls(words, torch.zeros(n_data, n_states, device=words.device))

    def gather(self, ranks: Ranks, n_data: int) -> "Population":
        """Put the states of the points of all ranks, `n_data` in all, together."""
        return Population(*(ranks.gather(part, n_data) for part in (self.words, self.log_joint)))

    def responsibilities(self, rows: Tensor) -> Tensor:
        """Return q_n(z) of Eq. 4 for the states of the data points `rows`: (B, S)."""
        return torch.softmax(self.log_joint[rows], 1)

    def bound(self, rows: Tensor | slice) -> Tensor:
        """Return the ELBO F_n of Eq. 5 of the data points `rows`: (B,) nats."""
        return torch.logsumexp(self.log_joint[rows], 1)

    def keep(self, rows: Tensor, words: Tensor, log_joint: Tensor) -> None:
        """Make `words` (B, S, W) with their `log_joint` (B, S) the states of `rows`."""
        with _KEEPING:
            self.words[rows] = words
            self.log_joint = self.log_joint.to(log_joint.dtype)
            self.log_joint[rows] = log_joint


class Pool(ABC):
    """The states that a group of data points has and is offered, with their log-joints.

    Parameters
    ----------
    model
        The generative model.
    x
        The data of the group (B, D); NaN where missing.
    words
        Their current states (B, S, W).
    generator
        Source of every random draw of the proposals.

    Attributes
    ----------
    current
        (B, S, W), the current states.
    log_joint
        (B, S), their log-joints in nats at the current parameters.
    """

    log_joint: Tensor

    def __init__(self, model: Model, x: Tensor, words: Tensor, generator: torch.Generator) -> None:
        self.model = model
        self.generator = generator
        self.current = words
        self._x = x
        self._data_terms = model.noise.data_terms(x)

    @abstractmethod
    def offer(self, words: Tensor) -> Tensor:
        """Offer candidates (B, C, W) to their data points; return their log-joints (B, C).

        A leading axis of length 1 offers the same candidates to all.
        """

    @abstractmethod
    def best(self, n_states: int) -> tuple[Tensor, Tensor, Tensor]:
        """Find the S best distinct states of each data point.

        Returns
        -------
        Their log-joints (B, S), the states (B, S, W), and a mask (B, S) of those that are new.
        """

    @abstractmethod
    def signal(self) -> tuple[Tensor, Tensor]:
        """Return the posterior of the noise-free data, given all states: see `Noise.signal`."""

    def flip_gains(self, words: Tensor) -> Tensor:
        """Estimate the gain in log-joint, in nats, of flipping each bit of states (B, C, W).

        First-order, by one backward pass: (B, C, H).
        """

        def score(outputs: Tensor) -> Tensor:
            terms = self.model.noise.state_terms(outputs, self._data_terms.shape[1])
            return self._score_pairs(self._data_terms, terms, words.shape[1]).sum()

        slope = self.model.slope(words.flatten(0, 1), score).view(*words.shape[:2], -1)
        z = bits.unpack(words, self.model.n_latents, slope.dtype)
        return (1 - 2 * z) * (slope + self.model.prior.pi.logit())

    def _decode(self, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the decoder's outputs, the state terms and log p(z) of states (U, W)."""
        outputs, log_prior = self.model.decode(words)
        return outputs, self.model.noise.state_terms(outputs, self._data_terms.shape[1]), log_prior

    def _score_pairs(self, data_terms: Tensor, terms: Tensor, n_states: int) -> Tensor:
        """Return the log-likelihoods (b, C) of data under C states each, with terms (b C, any)."""
        own = terms.view(len(data_terms), n_states, -1)
        return self.model.noise.score_pairs(data_terms[:, None], own)


class OwnPool(Pool):
    """Every data point looks among states of its own (Algorithm 1 of the paper).

    All states are scored, also repeated ones, which are left out once, when the best are chosen;
    only a large decoder gets each state once.
    """

    def __init__(self, model: Model, x: Tensor, words: Tensor, generator: torch.Generator) -> None:
        super().__init__(model, x, words, generator)
        size = sum(p.numel() for p in model.decoder.parameters())
        self._costly = size > _COSTLY
        self._words, self._scores = [words], [self._score(words)]
        self.log_joint = self._scores[0]

    def offer(self, words: Tensor) -> Tensor:
        """Offer candidates (B, C, W) to their data points; return their log-joints (B, C)."""
        words = words.expand(len(self.current), -1, -1)
        self._words.append(words)
        self._scores.append(self._score(words))
        return self._scores[-1]

    def best(self, n_states: int) -> tuple[Tensor, Tensor, Tensor]:
        """Find the S best distinct states of each data point (see `Pool.best`)."""
        words, scores = self._distinct()
        column = largest(scores, n_states)
        kept = words.gather(1, column[..., None].expand(-1, -1, words.shape[2]))
        return scores.gather(1, column), kept, column >= self.current.shape[1]

    def signal(self) -> tuple[Tensor, Tensor]:
        """Return the posterior of the noise-free data, given all states: see `Noise.signal`."""
        words, scores = self._distinct()
        parts = [part.split(_TOGETHER) for part in (self._x, words, _responsibilities(scores))]
        found = [self._signal(*part) for part in zip(*parts, strict=True)]
        mean, variance = zip(*found, strict=True)
        return torch.cat(mean), torch.cat(variance)

    def _signal(self, x: Tensor, words: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same for a few data points with states of their own."""
        distinct = bits.unique(words.flatten(0, 1))
        columns = distinct.inverse.view(words.shape[:2])
        chances = q.new_zeros(len(words), len(distinct.words)).scatter_add_(1, columns, q)
        return self.model.noise.signal(x, chances, self._decode(distinct.words)[0])

    def _score(self, words: Tensor) -> Tensor:
        """Return the log-joints (B, C) of states (B, C, W), in blocks that stay in the cache."""
        n_terms = self._data_terms.shape[1]
        if self._costly:
            distinct = bits.unique(words.flatten(0, 1))
            blocks = distinct.words.split(max(256, _BLOCK // n_terms))
            scores = torch.cat([self._score_all(block) for block in blocks], 1)
            return scores.gather(1, distinct.inverse.view(words.shape[:2]))
        n_points = max(1, _BLOCK // (words.shape[1] * n_terms))
        parts = zip(words.split(n_points), self._data_terms.split(n_points), strict=True)
        return torch.cat([self._score_own(*part) for part in parts])

    def _score_all(self, words: Tensor) -> Tensor:
        """Return the log-joints (B, U) of states (U, W) for all data points."""
        _, terms, log_prior = self._decode(words)
        return self.model.noise.score(self._data_terms, terms, log_prior)

    def _score_own(self, words: Tensor, data_terms: Tensor) -> Tensor:
        """Return the log-joints (b, C) of states (b, C, W) for a few data points."""
        _, terms, log_prior = self._decode(words.flatten(0, 1))
        pairs = self._score_pairs(data_terms, terms, words.shape[1])
        return pairs + log_prior.view(words.shape[:2])

    def _distinct(self) -> tuple[Tensor, Tensor]:
        """Return all states (B, C, W) and their log-joints, -inf for repetitions."""
        words, scores = torch.cat(self._words, 1), torch.cat(self._scores, 1)
        return words, scores.masked_fill(_repeated(words), -math.inf)


class SharedPool(Pool):
    """All data points of the group look among all of its states.

    Each distinct state is decoded once, and one matrix product scores it for all data points. For
    near data points, which share most of their states, that is cheaper than scoring the pairs that
    are asked for; and the best of distinct columns are distinct without further checks.

    Attributes
    ----------
    words
        (U, W), the distinct states.
    outputs
        (U, any), what the decoder says of them.
    scores
        (B, U) nats, the log-joint of every state for every data point.
    """

    def __init__(self, model: Model, x: Tensor, words: Tensor, generator: torch.Generator) -> None:
        super().__init__(model, x, words, generator)
        distinct = bits.unique(words.flatten(0, 1))
        self.words, self.keys = distinct.words, distinct.keys
        outputs, self.scores = self._score(distinct.words)
        self._outputs = [outputs]
        self._columns = distinct.inverse.view(words.shape[:2])
        self.log_joint = self.scores.gather(1, self._columns)

    @property
    def outputs(self) -> Tensor:
        """(U, any), what the decoder says of the states."""
        return torch.cat(self._outputs)

    def offer(self, words: Tensor) -> Tensor:
        """Offer candidates (B, C, W) to all; return the log-joints (B, C) of one's own."""
        distinct = bits.unique(words.flatten(0, 1))
        column, new = self._find(distinct.keys)
        self._append(distinct.words[new], distinct.keys[new])
        columns = column[distinct.inverse].view(words.shape[:2])
        return self.scores.gather(1, columns.expand(len(self.scores), -1))

    def best(self, n_states: int) -> tuple[Tensor, Tensor, Tensor]:
        """Find the S best distinct states of each data point (see `Pool.best`)."""
        column = largest(self.scores, n_states)
        had = torch.zeros_like(self.scores, dtype=torch.bool).scatter_(1, self._columns, True)
        return self.scores.gather(1, column), self.words[column], ~had.gather(1, column)

    def signal(self) -> tuple[Tensor, Tensor]:
        """Return the posterior of the noise-free data, given all states: see `Noise.signal`."""
        q = _responsibilities(self.scores)
        return self.model.noise.signal(self._x, q, self.outputs)

    def _score(self, words: Tensor) -> tuple[Tensor, Tensor]:
        outputs, terms, log_prior = self._decode(words)
        return outputs, self.model.noise.score(self._data_terms, terms, log_prior)

    def _find(self, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Return the columns of `keys`, counting on where they are new, and which are new."""
        ordered, order = self.keys.sort()
        place = torch.searchsorted(ordered, keys).clamp_(max=len(ordered) - 1)
        new = ordered[place] != keys
        return torch.where(new, len(ordered) + new.cumsum(0) - 1, order[place]), new

    def _append(self, words: Tensor, keys: Tensor) -> None:
        outputs, scores = self._score(words)
        self.words = torch.cat([self.words, words])
        self.keys = torch.cat([self.keys, keys])
        self._outputs.append(outputs)  # together only if somebody asks for them
        self.scores = torch.cat([self.scores, scores], 1)


def _responsibilities(log_joint: Tensor) -> Tensor:
    """Return the softmax of log-joints (B, U) in nats, of which the least are raised until it holds
    no subnormal numbers: a few per cent of these slow products down five times.
    """
    least = log_joint.amax(1, keepdim=True) - _DEEPEST
    return torch.softmax(torch.maximum(log_joint, least), 1)


def _without_replacement(
    n_data: int, n_states: int, n_latents: int, probability: float, generator: torch.Generator
) -> Tensor:
    """Draw Bernoulli states (N, S, 1) one after the other, each among those not yet drawn."""
    words = bits.all_states(n_latents, generator.device)
    weight = bits.count(words) * math.log(probability / (1 - probability))
    noise = torch.empty(n_data, len(words), device=words.device)
    gumbel = -noise.exponential_(generator=generator).log()
    return words[(weight + gumbel).topk(n_states, 1).indices]


def _make_distinct(words: Tensor, n_latents: int, generator: torch.Generator) -> None:
    """Flip random bits of repeated states until all states (N, S, W) of a point are distinct."""
    rows = torch.arange(len(words), device=words.device)
    while len(rows):
        # In blocks: the keys of long codes take many times the memory of the codes.
        again = torch.cat([_repeated(words[part]) for part in rows.split(_ROWS)])
        rows, again = rows[again.any(1)], again[again.any(1)]
        bit = torch.randint(n_latents, again.shape, generator=generator, device=words.device)
        parts = (whole.split(_ROWS) for whole in (rows, again, bit))
        for part, repeated, places in zip(*parts, strict=True):
            changed = bits.flip(words[part], places)
            words[part] = torch.where(repeated[..., None], changed, words[part])


def _repeated(words: Tensor) -> Tensor:
    """Mark (B, S) the states (B, S, W) of each point that equal an earlier one of it.

    Keys are mixed, so that each has room for its place in its last bits: one sort of plain numbers
    then brings equal states together, first come first. Two different states of n are taken for
    equal with probability n / 2^64.
    """
    n = words.shape[1]
    room = (1 << (n - 1).bit_length()) - 1
    mixed = (bits.keys(words) * _MIX) & ~room
    ordered = _sorted(mixed | torch.arange(n, device=words.device))
    again = torch.zeros(words.shape[:2], dtype=torch.bool, device=words.device)
    again[:, 1:] = (ordered[:, 1:] & ~room) == (ordered[:, :-1] & ~room)
    return torch.zeros_like(again).scatter_(1, ordered & room, again)


def _sorted(numbers: Tensor) -> Tensor:
    """Sort rows in ascending order; NumPy's vectorised sort is many times faster than torch's."""
    if numbers.device.type == "cpu":
        return torch.from_numpy(np.sort(numbers.numpy(), axis=1))
    return numbers.sort(dim=1).values


__all__ = ["OwnPool", "Pool", "Population", "SharedPool"]
