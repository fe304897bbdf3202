"""Units: what lies between the values of a picture and the standardised ones of its models."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from truvae.stabilise import PoissonGaussian
from truvae.training import Epoch
from truvae.whitening import Spectrum

Array = npt.NDArray[Any]

# Levels of noise of two channels that differ by less than this factor count as one.
ALIKE = 1.2
# A channel that varies by less than this share of what others do holds rounding errors.
NOTHING = 1e-9


@dataclass(frozen=True)
class Units:
    """The units of a picture, channel by channel: x = offset + spread * standardised x.

    Where noise depends on the signal, x is the stabilised picture (`truvae.stabilise`); where it is
    correlated between channels, x has other channels (`Turn`), K of them; and where it is so from
    pixel to pixel, x is the whitened picture (`truvae.whitening`).
    """

    offset: Array
    """(K,), the mean of each channel; 0 with a preset."""
    spread: Array
    """(K,), the standard deviation of the picture, the same for all channels unless their noise
    differs: then in proportion to it, so that one level of noise suits all. With a preset what the
    paper divides by."""
    noise: tuple[PoissonGaussian, ...] | None
    """Noise of each channel that depends on the signal."""
    level: Array
    """(K,), the rms noise of the picture where that of the stabilised one is 1."""
    log_slope: Array
    """(K,), mean logarithm of the slope of the stabilising transform."""
    turn: "Turn | None" = None
    """To channels whose noise is independent."""
    spectra: tuple[Spectrum, ...] | None = None
    """Of noise of each channel that is correlated from pixel to pixel."""

    @classmethod
    def of(
        cls,
        frames: Array,
        noise: tuple[PoissonGaussian, ...] | None,
        scale: float | None = None,
        turn: "Turn | None" = None,
        spectra: tuple[Spectrum, ...] | None = None,
    ) -> "Units":
        """Return units in which the channels have mean 0 and, all together, variance 1.

        Parameters
        ----------
        frames
            (F, R, C, any), NaN where missing.
        noise
            Noise of each channel if it depends on the signal.
        scale
            If given, the frames are divided by it and nothing else.
        turn
            To channels whose noise is independent.
        spectra
            Of noise of each channel, stabilised, if it is correlated from pixel to pixel.
        """
        shape = frames.shape[1:3]
        frames = frames if turn is None else turn.forward(frames)
        n_channels = frames.shape[3]
        zeros, ones = np.zeros(n_channels), np.ones(n_channels)
        units = cls(zeros, ones, noise, ones, zeros)
        if noise is not None:
            level, log_slope = _levels(frames.reshape(-1, n_channels), noise)
            units = replace(units, level=level, log_slope=log_slope)
        if scale is not None:
            return replace(units, spread=scale * ones, turn=turn)
        if spectra is not None:
            slopes = np.array([spectrum.log_slope(shape) for spectrum in spectra])
            units = replace(units, spectra=spectra, log_slope=units.log_slope + slopes)
        values = units.stabilise(frames).reshape(-1, n_channels)
        spread = rms(np.nanstd(values, 0)) * ones
        return replace(units, offset=np.nanmean(values, 0), spread=spread, turn=turn)

    def balanced(self, levels: Array) -> "Units":
        """Return units in which all channels have one level of noise.

        Parameters
        ----------
        levels
            (K,), standard deviation of the noise of each channel of the stabilised picture.
        """
        if levels.max() <= ALIKE * levels.min() or levels.min() <= 0:
            return self
        return replace(self, spread=self.spread * levels / rms(levels))

    def stabilise(self, frames: Array) -> Array:
        """Return frames (F, R, C, any) with white noise of one level in each of K channels."""
        frames = frames if self.turn is None else self.turn.forward(frames)
        return _by_channel(_by_channel(frames, self.noise, "forward"), self.spectra, "whiten")

    def standardise(self, frames: Array, device: torch.device) -> Tensor:
        """Return frames (F, R, C, any) in standardised units, (F, R, C, K)."""
        standard = (self.stabilise(frames) - self.offset) / self.spread
        return torch.as_tensor(standard, dtype=torch.float32, device=device)

    def restore(self, images: Tensor) -> Array:
        """Return standardised estimates (F, R, C, K) in the units of the picture."""
        values = images.cpu().double().numpy() * self.spread + self.offset
        values = _by_channel(values, self.spectra, "colour")
        restored = _by_channel(values, self.noise, "inverse")
        return restored if self.turn is None else self.turn.inverse(restored)

    def sigma(self, standard: float) -> Array:
        """Return a standardised level of noise as one of each channel of the picture."""
        levels: Array = standard * self.spread * self.level
        return levels if self.turn is None else self.turn.levels(levels)

    def bound(self, elbo: float, entries: Tensor) -> float:
        """Turn a lower bound of standardised data into one of the data.

        `entries` (K,) are the mean numbers of observed entries of a data point by channel.
        """
        return elbo + float(entries.cpu().numpy() @ (self.log_slope - np.log(self.spread)))

    def record(self, epoch: Epoch, entries: Tensor) -> Epoch:
        """Return the record of an epoch in units of the picture."""
        sigma = rms(self.sigma(epoch.sigma))
        return replace(epoch, elbo=self.bound(epoch.elbo, entries), sigma=sigma)


@dataclass(frozen=True)
class Turn:
    """From the channels of a picture to others whose noise is independent, and back.

    Grey that was stored as red, green and blue has one such channel.
    """

    axes: Array
    """(C, K), orthonormal: what K new channels are of C old ones."""
    mean: Array
    """(C,), of the old channels."""
    noise: Array
    """(K,), standard deviation of the noise of the new channels."""

    @classmethod
    def of(cls, frames: Array, covariance: Array) -> "Turn":
        """Return the turn to independent noise.

        Parameters
        ----------
        frames
            (F, R, C, K), finite.
        covariance
            (K, K), of their noise.
        """
        mean = frames.mean((0, 1, 2))
        variances, axes = np.linalg.eigh(covariance)
        axes *= np.where(axes.sum(0) < 0, -1, 1)  # noise may grow with the signal, not with less
        spread = ((frames - mean) @ axes).std((0, 1, 2))
        varies = spread > NOTHING * spread.max()
        return cls(axes[:, varies], mean, np.sqrt(variances[varies].clip(min=0)))

    def forward(self, frames: Array) -> Array:
        """Return frames of the old channels, in the last axis, in the new ones."""
        turned: Array = (frames - self.mean) @ self.axes
        return turned

    def inverse(self, frames: Array) -> Array:
        """Return frames of the new channels, in the last axis, in the old ones."""
        turned: Array = frames @ self.axes.T + self.mean
        return turned

    def levels(self, levels: Array) -> Array:
        """Return the levels of noise (K,) of new channels as those of the old ones, (C,)."""
        old: Array = np.sqrt(np.square(self.axes) @ np.square(levels))
        return old


def _by_channel(frames: Array, maps: tuple[Any, ...] | None, direction: str) -> Array:
    """Return what maps, one for each channel, make of frames (F, R, C, K) in one direction."""
    if maps is None:
        return frames
    return np.stack([getattr(each, direction)(frames[..., k]) for k, each in enumerate(maps)], -1)


def _levels(channels: Array, noise: tuple[PoissonGaussian, ...]) -> tuple[Array, Array]:
    """Return `Units.level` and `Units.log_slope` of channels (n, K)."""
    sigma = np.stack([n.sigma(x) for n, x in zip(noise, channels.T, strict=True)], 1)
    # The variance is linear in the signal: its mean over noisy values is that over clean ones.
    level = np.sqrt(np.nanmean(sigma**2, 0))
    # Where the variance would be 0 or less, the transform stops; so does its slope.
    return level, -np.nanmean(np.log(np.maximum(sigma, 0.1 * level)), 0)


def rms(values: npt.ArrayLike) -> float:
    """Return the root of the mean square."""
    return float(np.sqrt(np.mean(np.square(values))))


__all__ = ["ALIKE", "NOTHING", "Turn", "Units", "rms"]
