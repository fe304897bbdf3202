"""Channels of a recording: uncorrelated components of them, and back."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# Channels that correlate less stay apart: to mix them would hide what is sparse in each.
_CORRELATED = 0.3
# Levels of noise that differ by less than this factor count as one.
_ALIKE = 1.2
# Components with so little, over what is in all channels, hold errors of rounding.
_NOTHING = 1e-9


@dataclass(frozen=True)
class Components:
    """Uncorrelated components of channels: x `weights`, and z `back` from them.

    What channels have in common, sounds and noise, is in one component, so that each can be
    restored on its own. The transform keeps volumes: bounds of densities stay as they are.
    """

    weights: Array
    """(K, K), the components of K channels in columns, that with the most power first."""
    back: Array
    """(K, K), the inverse."""

    @classmethod
    def of(cls, recording: Array, levels: Array) -> "Components":
        """Return the principal components of channels scaled to one level of noise.

        Parameters
        ----------
        recording
            (n, K), without gaps.
        levels
            (K,), standard deviation of the noise of each channel, above 0; levels that are about
            the same count as equal.

        Examples
        --------
        >>> both = np.random.default_rng(0).normal(0, 1, (100, 1)).repeat(2, 1)  # stored twice
        >>> middle, side = Components.of(both, np.ones(2)).forward(both).T
        >>> bool(np.abs(middle).max() > 1), bool(np.abs(side).max() < 1e-9)
        (True, True)
        """
        n_channels = recording.shape[1]
        if n_channels < 2:
            return cls(np.eye(n_channels), np.eye(n_channels))
        scale = np.ones(n_channels)
        if levels.max() > _ALIKE * levels.min():
            scale = levels / np.exp(np.log(levels).mean())
        covariance = np.cov((recording / scale).T)
        spread = np.sqrt(covariance.diagonal())
        related = np.abs(covariance) >= _CORRELATED * spread * spread[:, None]
        _, axes = np.linalg.eigh(np.where(related, covariance, 0.0))
        axes = axes[:, ::-1]
        return cls(axes / scale[:, None], axes.T * scale)

    def forward(self, recording: Array) -> Array:
        """Return the components (n, K) of channels (n, K); NaN where a channel is NaN."""
        return recording if len(self.back) < 2 else recording @ self.weights

    def backward(self, components: Array) -> Array:
        """Return the channels (n, K) of components (n, K)."""
        return components if len(self.back) < 2 else components @ self.back

    def vary(self, components: Array) -> npt.NDArray[np.bool_]:
        """Tell which components (n, K) are more than errors of rounding: (K,)."""
        peaks = np.ptp(components, 0)
        return np.asarray(peaks > _NOTHING * peaks.max())

    def told(self, sigma: Array, live: npt.NDArray[np.bool_]) -> Array:
        """Return the noise of the components, (K,), where that of each channel was told, (K,).

        Components that do not vary hold none: where channels are the same, their noise is too.
        """
        shares = self.back[live].T ** 2
        variances = np.zeros(len(live))
        variances[live] = np.linalg.lstsq(shares, sigma**2, rcond=None)[0]
        return np.sqrt(np.where(live, variances.clip(min=sigma.min() ** 2), 0.0))

    def of_channels(self, levels: Array) -> Array:
        """Return the noise of each channel, (K,), from that of the components, (K,)."""
        return levels if len(self.back) < 2 else np.sqrt(levels**2 @ self.back**2)


__all__ = ["Components"]
