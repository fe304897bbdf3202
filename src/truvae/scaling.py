"""Standardised features and back: training works on values of mean 0 and standard deviation 1."""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from truvae.errors import InputError
from truvae.noise import Gaussian, Noise
from truvae.training import Epoch

Array = npt.NDArray[Any]

# Ratio of the standard deviations of two features from which on one sigma does not suit both.
_UNLIKE = 1000
# Largest standardised value: sums of squares, over variances of the noise, must not overflow.
_LARGEST = 1e12


@dataclass(frozen=True)
class Scaling:
    """Data are `offset + spread * standardised`.

    Parameters
    ----------
    offset, spread
        (D,), in units of the data.
    """

    offset: Array
    spread: Array

    @classmethod
    def of(cls, x: Array, noise: "str | Noise") -> "Scaling":
        """Return the scaling of data (N, D), NaN where missing, that suits a noise model.

        One sigma for all features needs one spread for all of them.

        Warns
        -----
        UserWarning
            If the features differ too much for one sigma.
        """
        n_features = x.shape[1]
        if noise not in ("gaussian", "gaussian-per-feature"):
            return cls(np.zeros(n_features), np.ones(n_features))
        offset = np.asarray(np.nanmean(x, 0, dtype=np.float64))
        squares = np.nanmean(np.square(x - offset), 0)
        # What is constant but for rounding errors has no spread.
        squares[squares <= np.square(8 * np.finfo(x.dtype).eps * offset)] = 0
        if noise == "gaussian":
            _warn_of_unlike(np.sqrt(squares))
            squares = np.full(n_features, np.average(squares, weights=np.isfinite(x).sum(0)))
        return cls(offset, np.sqrt(np.where(squares > 0, squares, 1.0)))

    @property
    def log_spread(self) -> Array:
        """(D,): what a log-density loses for each observed entry in units of the data, in nats."""
        logs: Array = np.log(self.spread)
        return logs

    def standardise(self, x: Array, device: torch.device) -> Tensor:
        """Return standardised data, float32.

        Raises
        ------
        InputError
            If a value is too far from the others for that.
        """
        values = (x - self.offset) / self.spread
        if (far := np.abs(values) > _LARGEST).any():
            row, column = np.argwhere(far)[0]
            raise InputError(
                f"the value {x[row, column]:g} in row {row}, column {column} (from 0) lies "
                f"{abs(values[row, column]):.2g} times the spread of its feature, "
                f"{self.spread[column]:g}, from {self.offset[column]:g}, and {_LARGEST:g} is the "
                "most: correct it, or mark it as missing, NaN"
            )
        return torch.as_tensor(values, dtype=torch.float32, device=device)

    def restore(self, x: Tensor) -> Tensor:
        """Return standardised data (N, D) in units of the data, float64."""
        offset, spread = (torch.as_tensor(v, device=x.device) for v in (self.offset, self.spread))
        return offset + spread * x.double()

    def sigma(self, noise: Noise) -> float | Array:
        """Return the standard deviation of the noise in units of the data, for each feature if it
        has several.
        """
        if isinstance(noise, Gaussian) and noise.sigma2.ndim:
            sigmas: Array = noise.sigma2.sqrt().cpu().double().numpy() * self.spread
            return sigmas
        return noise.sigma * float(self.spread[0])

    def record(self, epoch: Epoch, entries: Array, noise: Noise) -> Epoch:
        """Return the record of an epoch in units of the data.

        `entries` is the mean number of observed entries of a row in each feature, (D,).
        """
        sigma = float(np.sqrt(np.mean(np.square(self.sigma(noise)))))
        return replace(epoch, elbo=epoch.elbo - float(entries @ self.log_spread), sigma=sigma)


def _warn_of_unlike(spread: Array) -> None:
    """Warn if one sigma cannot suit features with these standard deviations, (D,)."""
    least, most = (int(chosen) for chosen in (np.where(spread > 0, spread, np.inf).argmin(),
                                              spread.argmax()))  # fmt: skip
    if spread[most] > _UNLIKE * spread[least] > 0:
        warnings.warn(
            f"the standard deviation of feature {most} is {spread[most]:.3g}, that of feature "
            f"{least} {spread[least]:.3g}: one sigma hardly suits both; scale them, or take the "
            "noise gaussian-per-feature",
            stacklevel=4,
        )


__all__ = ["Scaling"]
