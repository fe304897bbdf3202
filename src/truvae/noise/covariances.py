"""Gaussian noise with a covariance for each state."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from truvae.errors import InputError
from truvae.noise.base import Noise, check_basis, check_variances, white
from truvae.noise.gaussian import Gaussian
from truvae.noise.systems import Moments, Solved, factor, log_det, log_normal

# Variances grow no further than by the exponential of this.
_LARGEST_LOG = 6.0


@dataclass
class DiagonalGaussian(Solved):
    """Every state has a variance of its own for each coefficient of an orthonormal basis.

    p(x | z) = N(x; B m(z), B (diag v(z) + sigma2 I) B^T): the decoder says, of each state, the
    means m of the coefficients and the logarithms of the variances v of the noise-free
    coefficients in units of `scale`. The posterior mean of the signal under a state is then a
    Wiener estimate around its mean, m + v / (v + sigma2) (B^T x - m). It extends Eq. 1 of the
    paper, which is the case v = 0.

    Missing entries leave mean and covariance, so that nothing depends on them. Complete data take
    one matrix product; each state and each pattern of missing entries take a system of as many
    equations as entries are missing.

    Parameters
    ----------
    sigma2
        The variance of the white noise, a scalar tensor, in squared units of the data. It is
        known: learned together with v it falls below the truth, since F cannot tell them apart.
    basis
        (D, D), an orthonormal basis in its columns.
    scale
        (D,), variances that outputs of 0 stand for.

    Raises
    ------
    InputError
        If variances are below 0, or the basis has another size.

    Examples
    --------
    >>> noise = DiagonalGaussian(torch.tensor(1.0), torch.eye(2), torch.tensor([3.0, 3.0]))
    >>> x, q, outputs = torch.ones(1, 2), torch.ones(1, 1), torch.zeros(1, 4)  # m = 0, v = scale
    >>> noise.signal(x, q, outputs)
    (tensor([[0.7500, 0.7500]]), tensor([0.7500]))
    >>> noise.log_likelihood(torch.tensor([[torch.nan, 0.0]]), outputs).exp()  # N(0; 0, 3 + 1)
    tensor([[0.1995]])
    """

    sigma2: Tensor
    basis: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        """Check variances and sizes."""
        check_variances("sigma2", self.sigma2, positive=False)
        check_variances("scale", self.scale, most_axes=1, positive=False)
        check_basis(self.basis, self.scale.numel())

    @property
    def sigma(self) -> float:
        """Standard deviation of the white noise, in units of the data."""
        return math.sqrt(float(self.sigma2))

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means m (U, D) and variances v (U, D) that decoder outputs (U, 2 D) say."""
        mean, log_variance = outputs.chunk(2, 1)
        return mean, self.scale * log_variance.clamp(max=_LARGEST_LOG).exp()

    def data_terms(self, x: Tensor) -> Tensor:
        """Return coefficients and their squares of complete data (B, D), and ones: (B, 2 D + 1).

        With gaps, the data and what is observed of them: (B, 2 D).
        """
        if not x.isfinite().all():
            return super().data_terms(x)
        y = x @ self.basis
        return torch.cat([y, y * y, torch.ones_like(y[:, :1])], 1)

    def state_terms(self, outputs: Tensor, n_terms: int) -> Tensor:
        """Return what decoder outputs (U, 2 D) bring to log-likelihoods: (U, n_terms)."""
        if n_terms == outputs.shape[1]:
            return outputs
        mean, variance = self.split(outputs)
        total = variance + self.sigma2
        scaled = mean / total
        constant = mean * scaled + total.log() + math.log(2 * math.pi)
        return torch.cat([scaled, -0.5 / total, constant.sum(1, keepdim=True) / -2], 1)

    def score(self, data_terms: Tensor, state_terms: Tensor, offset: Tensor) -> Tensor:
        """Return the log-likelihoods (B, U) of all pairs plus an offset (U,): see `Noise.score`."""
        if self._whole(data_terms):
            return Noise.score(self, data_terms, state_terms, offset)
        return super().score(data_terms, state_terms, offset)

    def score_pairs(self, data_terms: Tensor, state_terms: Tensor) -> Tensor:
        """Return the log-likelihoods (...) of pairs: see `Noise.score_pairs`."""
        if self._whole(data_terms):
            return Noise.score_pairs(self, data_terms, state_terms)
        return super().score_pairs(data_terms, state_terms)

    def log_likelihood(
        self, x: Tensor, outputs: Tensor, pairs: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Return log p(x_b | z_u) in nats of data (B, D) under decoder outputs (U, 2 D): (B, U)."""
        if x.isfinite().all():
            return Noise.log_likelihood(self, x, outputs)
        return super().log_likelihood(x, outputs, pairs)

    def log_density(self, x: Tensor, columns: Tensor, outputs: Tensor) -> Tensor:
        """Return log p(x_b | z_u) of observed entries (b, d): (b, u), see `Solved.log_density`."""
        if len(columns) == len(self.basis):
            return Noise.log_likelihood(self, x, outputs)
        absent = self._absent(columns)
        y, mean, precision = x @ self.basis[columns], *self._without(absent, outputs)
        half, log_dets = self._missing(absent, precision)
        half = half * precision[:, None]
        explained = (y @ half.flatten(0, 1).T).unflatten(1, half.shape[:2])
        explained = explained - torch.einsum("umk,uk->um", half, mean)
        squares = y.square() @ precision.T - 2 * y @ (mean * precision).T
        squares = squares + (mean.square() * precision).sum(1) - explained.square().sum(2)
        return log_normal(squares, log_dets, len(columns))

    def log_density_of_pairs(self, x: Tensor, known: Tensor, outputs: Tensor) -> Tensor:
        """Return the same (n,) of pairs: see `Solved.log_density_of_pairs`."""
        n_missing = int((1 - known).sum(1).max()) if len(known) else 0
        first = known.argsort(dim=1, stable=True)[:, :n_missing]
        # Points with fewer missing entries get rows of 0, and equations of their own.
        more = known.gather(1, first)
        absent = self.basis[first] * (1 - more)[..., None]
        mean, precision = self._without(absent, outputs)
        rest = x @ self.basis - mean
        half, log_dets = self._missing(absent, precision, torch.diag_embed(more))
        explained = torch.einsum("nmk,nk->nm", half, precision * rest).square().sum(1)
        squares = (rest.square() * precision).sum(1) - explained
        return log_normal(squares, log_dets, known.sum(1))

    def posterior(self, x: Tensor, columns: Tensor, outputs: Tensor) -> Moments:
        """Return the posterior of the noise-free coefficients: see `Solved.posterior`.

        Data are filled in by their means given the observed ones; then it is as for complete data.
        """
        absent = self._absent(columns)
        mean, precision = self._without(absent, outputs)
        half, _ = self._missing(absent, precision)
        rest = (x @ self.basis[columns])[:, None] - mean
        filled = torch.einsum("umk,buk->bum", half * precision[:, None], rest)
        rest = rest - torch.einsum("bum,umk->buk", filled, half)
        mean, variance = self.split(outputs)
        gain = variance * precision
        spread = self.sigma2 * gain + (half * gain[:, None]).square().sum(1)
        return mean + gain * rest, spread.mean(1)

    def system_size(self, n_observables: int) -> int:
        """Return D: so many rows of the basis may be missing."""
        return n_observables

    def signal(self, x: Tensor, q: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior means (B, D) and mean variances (B,) of the noise-free data."""
        if not x.isfinite().all():
            estimate, spread = super().signal(x, q, outputs)
            return estimate @ self.basis.T, spread
        mean, variance = self.split(outputs)
        gain = variance / (variance + self.sigma2)
        y, rest = x @ self.basis, mean * (1 - gain)
        expected_gain = q @ gain
        estimate = q @ rest + y * expected_gain
        # Between the states: E[(rest + gain y)^2] - E[rest + gain y]^2; within: gain sigma2.
        square = q @ rest.square() + 2 * y * (q @ (rest * gain)) + y.square() * (q @ gain.square())
        between = (square - estimate.square()).mean(1).clamp(min=0)
        return estimate @ self.basis.T, between + self.sigma2 * expected_gain.mean(1)

    def mean(self, outputs: Tensor) -> Tensor:
        """Return the means (U, D) that decoder outputs (U, 2 D) say."""
        return self.split(outputs)[0] @ self.basis.T

    def outputs_for(self, mean: Tensor) -> Tensor:
        """Return the outputs (2 D,) of a state with the mean (D,) and variances of `scale`."""
        return torch.cat([mean @ self.basis, torch.zeros_like(mean)])

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw data (n, D) from decoder outputs (n, 2 D)."""
        mean, variance = self.split(outputs)
        coefficients = mean + (variance + self.sigma2).sqrt() * white(mean, generator)
        return coefficients @ self.basis.T

    def _whole(self, data_terms: Tensor) -> bool:
        """Whether these are the terms of complete data."""
        return data_terms.shape[-1] == 2 * len(self.basis) + 1

    def _absent(self, columns: Tensor) -> Tensor:
        """Return the rows of the basis (m, D) of the entries that are not in the columns."""
        absent = torch.ones(len(self.basis), dtype=torch.bool, device=columns.device)
        absent[columns] = False
        return self.basis[absent]

    def _without(self, absent: Tensor, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means (U, D) of coefficients of data that are 0 where entries are missing, and
        their precisions if none were, given the rows of the basis (..., m, D) of these entries.
        """
        mean, variance = self.split(outputs)
        missing = (absent @ mean[..., None]).mT @ absent
        return mean - missing[..., 0, :], 1 / (variance + self.sigma2)

    @staticmethod
    def _missing(
        absent: Tensor, precision: Tensor, aside: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return L^-1 A (U, m, D) and the log-determinants (U,) of covariances of observed entries.

        A (..., m, D) are the rows of the basis of the missing entries. Of their precisions given
        the others, A diag(precision) A^T, and of `aside` (..., m, m) if given, L is the factor.
        """
        system = (absent * precision[:, None]) @ absent.mT
        factors = factor(system if aside is None else system + aside)
        half = torch.linalg.solve_triangular(
            factors, absent.expand(len(factors), -1, -1), upper=False
        )
        return half, log_det(factors) - precision.log().sum(1)


@dataclass
class LowRankGaussian(Solved):
    """Every state has loadings of its own: a mixture of factor analysers with one noise for all.

    p(x | z) = N(x; mu(z), V(z)^T V(z) + sigma2 I): the decoder says, of each state, the mean mu and
    the R loadings V (R, D), in this order. So x = mu + V^T w + noise with w ~ N(0, I), and the
    noise-free signal under a state is estimated as mu + V^T E[w | x]. It extends Eq. 1 of the
    paper, which is the case R = 0; the factors w are integrated out exactly, by systems of R
    equations (Woodbury's identity). Missing entries leave mean and covariance.

    Parameters
    ----------
    sigma2
        The variance of the white noise, a scalar tensor, in squared units of the data.
    rank
        R, the number of loadings of each state, 0 or more.
    fixed
        Whether `sigma2` is known and must not be learned.
    floor
        Least variance that learning may reach.

    Raises
    ------
    InputError
        If `rank` is negative, or `sigma2` no such tensor or not above 0.

    References
    ----------
    Ghahramani and Hinton, The EM algorithm for mixtures of factor analyzers, technical report
    CRG-TR-96-1, University of Toronto, 1996.

    Examples
    --------
    >>> noise = LowRankGaussian(torch.tensor(1.0), rank=1)
    >>> outputs = torch.tensor([[0.0, 0.0, 1.0, 1.0]])  # mu = 0, a loading of (1, 1)
    >>> x, q = torch.tensor([[3.0, torch.nan]]), torch.ones(1, 1)
    >>> noise.log_likelihood(x, outputs).exp()  # N(3; 0, 1 + 1)
    tensor([[0.0297]])
    >>> noise.signal(x, q, outputs)
    (tensor([[1.5000, 1.5000]]), tensor([0.5000]))
    """

    sigma2: Tensor
    rank: int
    fixed: bool = False
    floor: float = 1e-8

    def __post_init__(self) -> None:
        """Check the variance and the number of loadings."""
        check_variances("sigma2", self.sigma2)
        if self.rank < 0:
            raise InputError(f"the rank is the number of loadings, 0 or more, not {self.rank}")

    @property
    def sigma(self) -> float:
        """Standard deviation of the white noise, in units of the data."""
        return math.sqrt(float(self.sigma2))

    def split(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means mu (U, D) and the loadings V (U, R, D) that outputs (U, D + R D) say."""
        parts = outputs.unflatten(1, (1 + self.rank, -1))
        return parts[:, 0], parts[:, 1:]

    def log_density(self, x: Tensor, columns: Tensor, outputs: Tensor) -> Tensor:
        """Return log p(x_b | z_u) of observed entries (b, d): (b, u), see `Solved.log_density`."""
        mean, loadings = (part[..., columns] for part in self.split(outputs))
        whitened, factors = self._whitened(loadings)
        offset = torch.einsum("urd,ud->ur", whitened, mean)
        factor_scores = (x @ whitened.flatten(0, 1).T).unflatten(1, offset.shape) - offset
        squares = x.square().sum(1)[:, None] - 2 * (x @ mean.T) + mean.square().sum(1)
        return self._log_normal(squares, len(columns)) + self._explained(factor_scores, factors)

    def log_density_of_pairs(self, x: Tensor, known: Tensor, outputs: Tensor) -> Tensor:
        """Return the same (n,) of pairs: see `Solved.log_density_of_pairs`."""
        rest, _, factor_scores, factors = self._scored(x, known, outputs)
        isotropic = self._log_normal(rest.square().sum(1), known.sum(1))
        return isotropic + self._explained(factor_scores, factors)

    def posterior(self, x: Tensor, columns: Tensor, outputs: Tensor) -> Moments:
        """Return the posterior of the noise-free data: see `Solved.posterior`."""
        mean, loadings = self.split(outputs)
        whitened, _ = self._whitened(loadings, columns)
        rest = x[:, None] - mean[:, columns]
        factor_scores = torch.einsum("urd,bud->bur", whitened[..., columns], rest)
        estimates = mean + torch.einsum("bur,urd->bud", factor_scores, whitened)
        return estimates, self.sigma2 * whitened.square().sum(1).mean(1)

    def system_size(self, n_observables: int) -> int:
        """Return R: a state has loadings (R, D)."""
        return self.rank

    def mean(self, outputs: Tensor) -> Tensor:
        """Return the means (U, D) that decoder outputs (U, D + R D) say."""
        return self.split(outputs)[0]

    def outputs_for(self, mean: Tensor) -> Tensor:
        """Return the outputs (D + R D,) of a state with the mean (D,) and small, even loadings.

        Loadings of 0 would never grow: there, nothing tells which way.
        """
        entries = torch.arange(len(mean)).to(mean) + 0.5
        waves = torch.arange(self.rank).to(mean)[:, None] * (torch.pi / len(mean))
        loadings = (waves * entries).cos() * (self.sigma2 / len(mean)).sqrt()
        return torch.cat([mean, loadings.flatten()])

    def gather(self, x: Tensor, q: Tensor, outputs: Tensor, log_likelihood: Tensor) -> Tensor:
        """Return expected squares of the noise and the number of observed entries, (2,).

        Expected over states and, given each of them, over the factors w (the E-step of the EM
        algorithm).
        """
        if self.fixed:
            return super().gather(x, q, outputs, log_likelihood)
        x, known = self.data_terms(x).chunk(2, 1)
        squares = log_likelihood.new_zeros(())
        for point, column in self.pairs_of(q, x.shape[1]):
            rest, whitened, factor_scores, _ = self._scored(x[point], known[point], outputs[column])
            errors = rest - torch.einsum("nrd,nr->nd", whitened, factor_scores)
            spread = self.sigma2 * whitened.square().sum((1, 2))
            squares += (q[point, column] * (errors.square().sum(1) + spread)).sum()
        return torch.stack([squares, known.sum(dtype=squares.dtype)])

    def update(self, sums: Tensor) -> None:
        """Set sigma2 to the mean of the expected squares: no such step lowers F."""
        if not self.fixed:
            isotropic = Gaussian(self.sigma2, floor=self.floor)
            isotropic.update(sums)
            self.sigma2 = isotropic.sigma2

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw data (n, D) from decoder outputs (n, D + R D)."""
        mean, loadings = self.split(outputs)
        factors = white(loadings[..., 0], generator)
        signal = mean + torch.einsum("nr,nrd->nd", factors, loadings)
        return signal + self.sigma2.sqrt() * white(signal, generator)

    def _scored(self, x: Tensor, known: Tensor, outputs: Tensor) -> tuple[Tensor, ...]:
        """Return x - mu (n, D), L^-1 V (n, R, D), L^-1 V (x - mu) (n, R) and L (n, R, R) of pairs.

        All with 0 where entries are missing: see `_whitened`.
        """
        mean, loadings = self.split(outputs)
        whitened, factors = self._whitened(loadings * known[:, None])
        rest = x - mean * known
        return rest, whitened, torch.einsum("nrd,nd->nr", whitened, rest), factors

    def _whitened(self, loadings: Tensor, columns: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return L^-1 V (..., R, D) of loadings V, and L (..., R, R), the Cholesky factor of
        sigma2 I + V V^T, with only the `columns` of V in this product if not all are observed.
        """
        observed = loadings if columns is None else loadings[..., columns]
        eye = torch.eye(self.rank, dtype=observed.dtype, device=observed.device)
        factors = factor(observed @ observed.mT + self.sigma2 * eye)
        return torch.linalg.solve_triangular(factors, loadings, upper=False), factors

    def _log_normal(self, squares: Tensor, n_entries: Tensor | int) -> Tensor:
        """Return the log-densities of squared distances under the white noise alone."""
        return log_normal(squares / self.sigma2, self.sigma2.log() * n_entries, n_entries)

    def _explained(self, factor_scores: Tensor, factors: Tensor) -> Tensor:
        """Return by how much loadings raise log-likelihoods (..., u) over those of white noise.

        Woodbury: (sigma2 I + V^T V)^-1 = (I - V^T (sigma2 I + V V^T)^-1 V) / sigma2, and the
        determinant is sigma2^(d - R) |sigma2 I + V V^T|. `factor_scores` are L^-1 V (x - mu).
        """
        log_dets = log_det(factors) - self.rank * self.sigma2.log()
        return (factor_scores.square().sum(-1) / self.sigma2 - log_dets) / 2


__all__ = ["DiagonalGaussian", "LowRankGaussian"]
