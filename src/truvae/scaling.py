"""Standardised features and back: training works on values of mean 0 and standard deviation 1."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from truvae.noise import Gaussian, Noise
from truvae.training import Epoch

Array = npt.NDArray[Any]


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
        """
        n_features = x.shape[1]
        if noise not in ("gaussian", "gaussian-per-feature"):
            return cls(np.zeros(n_features), np.ones(n_features))
        offset = np.asarray(np.nanmean(x, 0, dtype=np.float64))
        squares = np.square(x - offset)
        each = noise == "gaussian-per-feature"
        spread = np.sqrt(np.nanmean(squares, 0 if each else None))
        # What is constant but for rounding errors has no spread.
        size = np.abs(offset)
        rounding = 8 * np.finfo(x.dtype).eps * (size if each else size.max())
        spread = np.where(spread > rounding, spread, 1.0)
        return cls(offset, np.broadcast_to(spread, n_features).copy())

    @property
    def log_spread(self) -> Array:
        """(D,): what a log-density loses for each observed entry in units of the data, in nats."""
        logs: Array = np.log(self.spread)
        return logs

    def standardise(self, x: Array, device: torch.device) -> Tensor:
        """Return standardised data, float32."""
        return torch.as_tensor((x - self.offset) / self.spread, dtype=torch.float32, device=device)

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


__all__ = ["Scaling"]
