"""Gaussian noise whose log-likelihoods are no matrix product: what takes a system of equations."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from truvae.noise.base import Noise

# Numbers that are handled at a time.
_BLOCK = 1 << 22
# Data points with the same pattern that are handled together where few states are probable.
_TOGETHER = 8

Moments = tuple[Tensor, Tensor]


class Solved(Noise):
    """A noise model that solves a system for each state and each pattern of observed entries.

    Data points with the same pattern share the systems, as all complete ones do. The terms of data
    are the data, 0 where missing, and what is observed of them, (B, 2 D); those of states are the
    decoder's outputs.
    """

    @abstractmethod
    def log_density(self, x: Tensor, columns: Tensor, outputs: Tensor) -> Tensor:
        """Return log p(x_b | z_u) of observed entries (b, d) under decoded states (u, any): (b, u).

        In nats; the entries are those in the `columns` (d,).
        """

    @abstractmethod
    def log_density_of_pairs(self, x: Tensor, known: Tensor, outputs: Tensor) -> Tensor:
        """Return the same (n,) of pairs of data (n, D), 0 where missing, and states (n, any).

        `known` (n, D) is 1 where they are observed, else 0.
        """

    @abstractmethod
    def posterior(self, x: Tensor, columns: Tensor, outputs: Tensor) -> Moments:
        """Return the posterior of the noise-free data under each state, given observed entries.

        Its means (b, u, D), in an orthonormal basis, and its variances averaged over the D entries,
        (u,): see `log_density`.
        """

    @abstractmethod
    def system_size(self, n_observables: int) -> int:
        """Return how many numbers a state takes for each observable: R for loadings (R, D)."""

    def data_terms(self, x: Tensor) -> Tensor:
        """Return data (B, D), 0 where missing, and what is observed of them: (B, 2 D)."""
        known = x.isfinite()
        return torch.cat([x.masked_fill(~known, 0.0), known.to(x)], 1)

    def state_terms(self, outputs: Tensor, n_terms: int) -> Tensor:
        """Return the decoder's outputs (U, any)."""
        return outputs

    def score(self, data_terms: Tensor, state_terms: Tensor, offset: Tensor) -> Tensor:
        """Return the log-likelihoods (B, U) of all pairs plus an offset (U,): see `Noise.score`."""
        x, known = data_terms.chunk(2, 1)
        found, order = [], []
        for columns, rows in patterns(known > 0):
            density = partial(self.log_density, x[rows][:, columns], columns)
            states = state_terms.split(self._states_at_a_time(x.shape[1], len(rows)))
            found.append(torch.cat(_in_blocks(density, states), 1))
            order.append(rows)
        return torch.cat(found)[torch.cat(order).argsort()] + offset

    def score_pairs(self, data_terms: Tensor, state_terms: Tensor) -> Tensor:
        """Return the log-likelihoods (...) of pairs: see `Noise.score_pairs`."""
        shape = torch.broadcast_shapes(data_terms.shape[:-1], state_terms.shape[:-1])
        x, known = data_terms.expand(*shape, -1).flatten(0, -2).chunk(2, 1)
        n = self._states_at_a_time(x.shape[1], 1)
        outputs = state_terms.expand(*shape, -1).flatten(0, -2)
        parts = x.split(n), known.split(n), outputs.split(n)
        return torch.cat(_in_blocks(self.log_density_of_pairs, *parts)).view(shape)

    def log_likelihood(
        self, x: Tensor, outputs: Tensor, pairs: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Return log p(x_b | z_u) in nats of data (B, D) under decoded states (U, any): (B, U).

        If only some `pairs` are asked for, given by their rows b and their columns u, the others
        are 0.
        """
        data = self.data_terms(x)
        states = self.state_terms(outputs, data.shape[1])
        if pairs is None:
            return self.score(data, states, states.new_zeros(len(states)))
        point, column = pairs
        found = self.score_pairs(data[point], states[column])
        return found.new_zeros(len(x), len(outputs)).index_put((point, column), found)

    def signal(self, x: Tensor, q: Tensor, outputs: Tensor) -> Moments:
        """Return the posterior means (B, D) and mean variances (B,) of the noise-free data."""
        mean, square = torch.zeros_like(x), x.new_zeros(len(x))
        for columns, rows, used in self._probable(x, q):
            weights, own = q[rows][:, used], x[rows][:, columns]
            estimates, variances = self.posterior(own, columns, outputs[used])
            mean[rows] += torch.einsum("bu,bud->bd", weights, estimates)
            square[rows] += (weights * (estimates.square().mean(2) + variances)).sum(1)
        return mean, (square - mean.square().mean(1)).clamp(min=0)

    def pairs_of(self, q: Tensor, n_observables: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield rows and columns of responsibilities (B, U) above 0, some at a time."""
        for part in q.nonzero().split(self._states_at_a_time(n_observables, 1)):
            yield part[:, 0], part[:, 1]

    def _probable(self, x: Tensor, q: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield observed columns, some rows of data that have these, and some states.

        States are left out whose responsibilities (B, U) for all these rows are below what rounding
        makes of a one.
        """
        least = torch.finfo(q.dtype).eps / max(1, q.shape[1])
        for columns, all_rows in patterns(x.isfinite()):
            for rows in all_rows.split(_TOGETHER):
                used = (q[rows] > least).any(0).nonzero()[:, 0]
                for part in used.split(self._states_at_a_time(x.shape[1], len(rows))):
                    yield columns, rows, part

    def _states_at_a_time(self, n_observables: int, n_data: int) -> int:
        numbers = n_observables * (self.system_size(n_observables) + n_data)
        return max(1, _BLOCK // numbers)


def patterns(known: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the distinct patterns among masks (B, D), as columns, and the rows that have each.

    >>> for columns, rows in patterns(torch.tensor([[1, 1], [0, 1], [1, 1]]) > 0):
    ...     print(columns.tolist(), rows.tolist())
    [1] [1]
    [0, 1] [0, 2]
    """
    if known.all():  # nothing to sort; also where there are no masks
        rows, columns = (torch.arange(n, device=known.device) for n in known.shape)
        yield columns, rows
        return
    distinct, inverse = known.unique(dim=0, return_inverse=True)
    for number, pattern in enumerate(distinct):
        yield pattern.nonzero()[:, 0], (inverse == number).nonzero()[:, 0]


def factor(matrices: Tensor) -> Tensor:
    """Return the lower Cholesky factors of covariances (..., n, n).

    What rounding may have taken from their eigenvalues is added to the diagonal.
    """
    trace = matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
    jitter = torch.finfo(matrices.dtype).eps * trace
    eye = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    factors: Tensor = torch.linalg.cholesky(matrices + jitter[..., None, None] * eye)
    return factors


def log_det(factors: Tensor) -> Tensor:
    """Return the log-determinants (...) of the covariances with Cholesky factors (..., n, n)."""
    return 2 * factors.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def log_normal(squares: Tensor, log_dets: Tensor, n_entries: Tensor | int) -> Tensor:
    """Return Gaussian log-densities in nats, given squared Mahalanobis distances."""
    return (squares + log_dets + n_entries * math.log(2 * math.pi)) / -2


def _in_blocks(function: Callable[..., Tensor], *parts: Sequence[Tensor]) -> list[Tensor]:
    """Call a function for each block; of several, what a gradient needs is computed again."""
    calls = [*zip(*parts, strict=True)]
    if len(calls) == 1 or not torch.is_grad_enabled():
        return [function(*call) for call in calls]
    again = partial(checkpoint, function, use_reentrant=False, preserve_rng_state=False)
    return [again(*call) for call in calls]


__all__ = ["Solved", "factor", "log_det", "log_normal", "patterns"]
