"""Channels of a recording: their noise, uncorrelated components of them, and back."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from truvae.spectra import noise_floor
from truvae.units import ALIKE, NOTHING

Array = npt.NDArray[np.float64]

# Channels that correlate less stay apart: to mix them would hide what is sparse in each.
_CORRELATED = 0.3


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
        if levels.max() > ALIKE * levels.min():
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
        return np.asarray(peaks > NOTHING * peaks.max())

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


@dataclass(frozen=True)
class Split:
    """The channels of a recording that hold noise, as components."""

    noisy: npt.NDArray[np.bool_]
    """(K,), which channels these are."""
    components: Components
    whole: Array
    """(n, C), the components without gaps."""
    levels: Array
    """(C,), standard deviation of the noise of each; 0 where there is none."""

    @classmethod
    def of(
        cls,
        recording: Array,
        whole: Array,
        levels: Array,
        sigma: float | None,
        sample_rate: float,
    ) -> "Split":
        """Split channels whose noise, (K,), is `levels`: as told by `sigma`, or estimated.

        Parameters
        ----------
        recording, whole
            (n, K), NaN where missing, and with its gaps filled.
        levels, sigma
            In units of the recording.
        sample_rate
            Samples a second.
        """
        noisy = levels > 0
        seen, whole, levels = recording[:, noisy], whole[:, noisy], levels[noisy]
        components = Components.of(whole, levels)
        parts = components.forward(whole)
        if len(levels) > 1:
            live = components.vary(parts)
            if sigma is None:
                known = np.isfinite(seen).mean()
                floors = _floors(components.forward(seen), parts, known, sample_rate)
                levels = np.where(live, floors, 0.0)
            else:
                levels = components.told(levels, live)
        return cls(noisy, components, parts, levels)


def noise_of(recording: Array, whole: Array, sample_rate: float, sigma: float | None) -> Array:
    """Return the noise of each channel of a recording (n, K), (K,), 0 of constant ones: as given,
    or estimated, from the filled recording, `whole`, where gaps are everywhere.
    """
    if sigma is not None:
        return np.where(np.ptp(whole, 0) > 0, sigma, 0.0)
    return _floors(recording, whole, np.isfinite(recording).mean(0), sample_rate)


def _floors(
    recording: Array, whole: Array, known: Array | np.floating, sample_rate: float
) -> Array:
    """Return the noise floor of channels, (K,); from the filled recording, which has noise in the
    share of its samples that are known, of each or of all, where gaps are everywhere.
    """
    levels = noise_floor(recording, sample_rate)
    if levels.all():
        return levels
    return np.where(levels, levels, noise_floor(whole, sample_rate) / np.sqrt(known))


__all__ = ["Components", "Split", "noise_of"]
