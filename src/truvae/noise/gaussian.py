"""Gaussian noise with one covariance for all states."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from truvae.noise.base import Noise, check_basis, check_variances, white


@dataclass
class Gaussian(Noise):
    """Gaussian noise, p(x | z) = N(x; mu(z), sigma2 I) (Eq. 1 of the paper).

    Parameters
    ----------
    sigma2
        The variance in squared units of the data: a scalar tensor, or one for each observable,
        (D,).
    fixed
        Whether `sigma2` is known and must not be learned.
    floor
        Least variance that learning may reach.

    Raises
    ------
    InputError
        If `sigma2` is no such tensor, or not above 0.

    Attributes
    ----------
    mean_error
        What Eq. 10 made of the data last: `sigma2`, unless that is fixed.

    Examples
    --------
    >>> noise = Gaussian(torch.tensor(0.01))
    >>> noise.log_likelihood(torch.zeros(1, 2), torch.zeros(1, 2)).exp()  # 1 / (2 pi sigma2)
    tensor([[15.9155]])
    """

    sigma2: Tensor
    fixed: bool = False
    floor: float = 1e-8

    def __post_init__(self) -> None:
        """Check the variance; no data were seen."""
        check_variances("sigma2", self.sigma2, most_axes=1)
        self.mean_error = self.sigma2

    @property
    def sigma(self) -> float:
        """Standard deviation in units of the data, rms over the observables."""
        return math.sqrt(float(self.sigma2.mean()))

    def data_terms(self, x: Tensor) -> Tensor:
        """Return what data points (B, D), NaN where missing, bring to log-likelihoods: (B, K).

        The log-likelihood is ``(x.mu - |mu|^2 / 2 - |x|^2 / 2) / sigma2 + const``: one product of
        these terms with `state_terms` scores all pairs.
        """
        observed = x.isfinite()
        # |mu|^2 is needed entry by entry, but for complete data and one sigma2 as a whole.
        whole = self.sigma2.ndim == 0 and bool(observed.all())
        known = torch.ones_like(x[:, :1]) if whole else observed.to(x.dtype)
        x, sigma2 = x.masked_fill(~observed, 0.0), self.sigma2.to(x.dtype)
        log_norm = math.log(2 * math.pi) + sigma2.log()
        constant = (x * x / sigma2 + observed * log_norm).sum(1, keepdim=True) / -2
        return torch.cat([x / sigma2, known / sigma2, constant], 1)

    def state_terms(self, outputs: Tensor, n_terms: int) -> Tensor:
        """Return what decoded states, means (U, D), bring to log-likelihoods: (U, n_terms)."""
        norm = outputs * outputs
        if n_terms != 2 * outputs.shape[1] + 1:
            norm = norm.sum(1, keepdim=True)
        return torch.cat([outputs, norm / -2, torch.ones_like(outputs[:, :1])], 1)

    def mean(self, outputs: Tensor) -> Tensor:
        """Return the outputs: they are the means."""
        return outputs

    def gather(self, x: Tensor, q: Tensor, outputs: Tensor, log_likelihood: Tensor) -> Tensor:
        """Return squared errors and numbers of observed entries, (2,) or (2, D)."""
        observed = x.isfinite()
        if self.sigma2.ndim:
            errors = _squared_errors(x, q, outputs)
            return torch.stack([errors, observed.sum(0).to(errors)])
        entries = observed.sum()
        log_norm = math.log(2 * math.pi) + self.sigma2.log().to(log_likelihood)
        error = -(2 * log_likelihood + entries * log_norm) * self.sigma2
        return torch.stack([error, entries.to(error)])

    def update(self, sums: Tensor) -> None:
        """Set sigma2 by Eq. 10: the mean squared error over all observed entries."""
        error, entries = sums
        mean_error = (error / entries).clamp(min=self.floor).to(self.sigma2)
        self.mean_error = torch.where(entries > 0, mean_error, self.sigma2)
        if not self.fixed:
            self.sigma2 = self.mean_error

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw data around the means `outputs`, same shape."""
        return outputs + self.sigma2.sqrt() * white(outputs, generator)


@dataclass
class CorrelatedGaussian(Noise):
    """Gaussian noise with one covariance for all states, p(x | z) = N(x; mu(z), B diag(s) B^T).

    The variances s of the coefficients are learned, the basis B is given: with that of the
    cosine transform (`truvae.patches.cosine_basis`), s is the spectrum of stationary noise. It
    extends Eq. 1 of the paper, which is the case of equal variances.

    Parameters
    ----------
    variances
        (D,), in squared units of the data.
    basis
        (D, D), an orthonormal basis in its columns.
    floor
        Least variance that learning may reach.

    Raises
    ------
    InputError
        If variances are not above 0, or the basis has another size.

    Examples
    --------
    >>> noise = CorrelatedGaussian(torch.tensor([1.0, 4.0]), torch.eye(2))
    >>> missing = torch.tensor([[torch.nan, 2.0]])  # N(2; 0, 4)
    >>> noise.log_likelihood(missing, torch.zeros(1, 2)).exp()
    tensor([[0.1210]])
    """

    variances: Tensor
    basis: Tensor
    floor: float = 1e-8

    def __post_init__(self) -> None:
        """Check variances and sizes."""
        check_variances("variances", self.variances, most_axes=1)
        check_basis(self.basis, self.variances.numel())

    @property
    def sigma(self) -> float:
        """Standard deviation in units of the data, rms over the observables."""
        return math.sqrt(float(self.variances.mean()))

    def data_terms(self, x: Tensor) -> Tensor:
        """Return what data points (B, D), NaN where missing, bring to log-likelihoods.

        (B, D + 2) for complete data; with gaps each point has a precision of its own, and the terms
        are (B, D + D^2 + 1).
        """
        observed = x.isfinite()
        x = x.masked_fill(~observed, 0.0)
        if observed.all() and self._whole(x, x.shape[1] + 2):
            precision, log_det = self._precision(), self.variances.log().sum().expand(len(x))
            rest = torch.ones_like(x[:, :1])
            scaled = x @ precision
        else:
            precision, log_det = self._precision_of(observed)
            rest = precision.flatten(1)
            scaled = torch.einsum("bde,be->bd", precision, x)
        log_norm = log_det + observed.sum(1).to(x) * math.log(2 * math.pi)
        constant = (torch.linalg.vecdot(scaled, x) + log_norm)[:, None] / -2
        return torch.cat([scaled, rest, constant], 1)

    def state_terms(self, outputs: Tensor, n_terms: int) -> Tensor:
        """Return what decoded states, means (U, D), bring to log-likelihoods: (U, n_terms)."""
        if self._whole(outputs, n_terms):
            rest = torch.linalg.vecdot(outputs @ self._precision(), outputs)[:, None]
        else:
            rest = (outputs[:, :, None] * outputs[:, None]).flatten(1)
        return torch.cat([outputs, rest / -2, torch.ones_like(outputs[:, :1])], 1)

    def mean(self, outputs: Tensor) -> Tensor:
        """Return the outputs: they are the means."""
        return outputs

    def gather(self, x: Tensor, q: Tensor, outputs: Tensor, log_likelihood: Tensor) -> Tensor:
        """Return expected squared coefficients of the noise and the number of data, (2, D).

        Where entries are missing, so is their noise: its moments given the noise of the others take
        its place (the E-step of the EM algorithm).
        """
        observed = x.isfinite()
        if observed.all():
            squares = _squared_errors(x @ self.basis, q, outputs @ self.basis)
        else:
            precision, _ = self._precision_of(observed)
            # Coefficients of the noise from the noise of observed entries.
            gain = self.variances[:, None] * (self.basis.T @ precision)
            rest = (x.nan_to_num()[:, None] - outputs) * observed[:, None]
            expected = (rest @ gain.mT).square().mul(q[..., None]).sum((0, 1))
            explained = torch.einsum("bde,ed->d", gain, self.basis * self.variances)
            squares = expected + len(x) * self.variances - explained
        return torch.stack([squares, torch.full_like(squares, len(x))]).double()

    def update(self, sums: Tensor) -> None:
        """Set the variances: the mean squares of the coefficients."""
        squares, n_data = sums
        self.variances = (squares / n_data).clamp(min=self.floor).to(self.variances)

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw data around the means `outputs`, same shape."""
        coefficients = self.variances.sqrt() * white(outputs, generator)
        return outputs + coefficients @ self.basis.T

    @staticmethod
    def _whole(like: Tensor, n_terms: int) -> bool:
        """Whether so many terms are those of complete data; a single observable has no such."""
        return 1 < like.shape[1] == n_terms - 2

    def _precision(self) -> Tensor:
        return self.basis / self.variances @ self.basis.T

    def _precision_of(self, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Return the precisions (B, D, D) of observed entries, 0 elsewhere, and the logarithms of
        the determinants of their covariances.
        """
        covariance = self.basis * self.variances @ self.basis.T
        pairs = observed[:, :, None] & observed[:, None]
        eye = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        # What is missing is put aside as independent entries of variance 1.
        factor = torch.linalg.cholesky(torch.where(pairs, covariance, eye))
        log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
        return torch.cholesky_inverse(factor).masked_fill(~pairs, 0.0), log_det


def _squared_errors(x: Tensor, q: Tensor, means: Tensor) -> Tensor:
    """Return the sums over data (B, D), NaN where missing, of E_q[(x - mu)^2]: (D,)."""
    observed = x.isfinite()
    x = x.masked_fill(~observed, 0.0)
    spread = q @ means.square() * observed
    return (x.square() - 2 * x * (q @ means) + spread).double().sum(0)


__all__ = ["CorrelatedGaussian", "Gaussian"]
