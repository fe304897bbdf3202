"""Noise that is correlated from pixel to pixel: its spectrum from one picture, and whitening.

Cameras interpolate, smooth and resample: noise of neighbours is then alike and looks like detail. A
linear filter makes such noise white. What is estimated of the filtered picture is filtered back,
since posterior means go along with linear maps.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from truvae.clipping import variance_left

Array = npt.NDArray[Any]

# Side of the blocks of which spectra are taken, and about the most blocks; the fewest of a frame to
# do without those that are cut off at the ends of the range.
_BLOCK, _MOST, _FEWEST = 16, 1 << 14, 100
# Rows and columns of the smallest pictures that have flat blocks enough.
SMALLEST = 96
# Share of the blocks that count as flat, and how often they are chosen by the spectrum of those
# before; the most pixels of a block, as a share, that lie at the ends of the range of the picture,
# or in areas that are constant, and the most at the ends where hardly any block has so few.
_FLAT, _ROUNDS, _CUT, _HALF = 0.1, 6, 0.02, 0.6
# Noise is not correlated over so many pixels that frequencies below the first of these, in half
# periods for each block, have more power than those from there to the second: shading has.
_LOW, _ABOVE = 2.5, 4.5
# Least power beside the greatest, so that whitening does not blow up what is hardly there.
_LEAST = 0.03
# What it takes to call noise correlated: so high a correlation of neighbours; so small a share of
# the level at high frequencies, the last so many, since texture with white noise has more there;
# and such shares of blocks without any signal, since texture is not the same everywhere.
_CORRELATION, _HIGH_SHARE, _HIGH, _EMPTY = 0.35, 0.35, 5, (0.4, 0.4)


@dataclass(frozen=True)
class Spectrum:
    """The power of noise, frequency by frequency.

    Parameters
    ----------
    powers
        (B, B), mean squares of the cosine coefficients of the noise in blocks of B x B pixels, in
        squared units of the picture: at k / (2 B) cycles per pixel along columns and along rows.
    empty
        Shares of the blocks of the picture, in [0, 1], that hold hardly anything but noise: where
        it is strong, and at all frequencies; 0 where noise was cut off nearly everywhere.

    Examples
    --------
    >>> white = Spectrum(np.full((16, 16), 9.0), (1.0, 1.0))
    >>> white.level, max(white.correlation) < 1e-9, white.is_clear
    (3.0, True, False)
    """

    powers: Array
    empty: tuple[float, float]

    @classmethod
    def of(cls, frames: Array) -> "Spectrum | None":
        """Estimate the spectrum of the noise of frames from their flattest blocks.

        Half of the frequencies, as on a chessboard, choose the blocks that are flat beside the
        noise, and the others tell their power there, of which noise makes that choice independent
        (the principle of `levels.noise_level`; Colom and Buades 2013, doi:10.5201/ipol.2013.45, and
        Lebrun, Colom and Morel 2015, doi:10.5201/ipol.2015.125, estimate noise so, too).

        Parameters
        ----------
        frames
            (F, R, C), finite.

        Returns
        -------
        The spectrum; None if the frames are too small or have no noise.

        Examples
        --------
        >>> white = np.random.default_rng(0).normal(size=(1, 129, 128))
        >>> spectrum = Spectrum.of((white[:, 1:] + white[:, :-1]) / 2)
        >>> round(spectrum.correlation[0], 1), round(spectrum.level, 1)
        (0.5, 0.7)
        """
        spread = float(frames.std())
        if min(frames.shape[1:]) < SMALLEST or spread == 0:
            return None
        most = _MOST // len(frames)
        standard = (frames - frames.mean()) / spread
        blocks = [_squares(frame, most) for frame in standard]
        squares, cut = (np.concatenate([block[k] for block in blocks]) for k in (0, 1))
        black, white = _halves()
        powers = np.median(squares, 0) / 0.455  # what the median is of a square of mean 1
        if not powers[black | white].all():
            return None
        n = math.ceil(_FLAT * len(squares))
        for _ in range(_ROUNDS):
            told, floored = powers.copy(), _floored(powers)
            for choose, tell in ((black, white), (white, black)):
                energy = squares[:, choose] @ (1 / floored[choose])
                flattest = np.argpartition(energy, n - 1)[:n]
                told[tell] = squares[flattest][:, tell].mean(0)
                told[tell] /= variance_left(float(cut[flattest].mean()))
            powers = told
            if not powers[black | white].all():
                return None
        powers = _without_shading(powers)
        strong, all_ = (_empty(squares, p, black | white) for p in (_floored(powers), powers))
        if not all(sound for _, _, sound in blocks):  # what is hardly seen is never clear
            strong = all_ = 0.0
        return cls(spread**2 * powers.reshape(_BLOCK, _BLOCK).astype(float), (strong, all_))

    @property
    def level(self) -> float:
        """Standard deviation of the noise."""
        return math.sqrt(self.powers.mean())

    @property
    def correlation(self) -> tuple[float, float]:
        """Correlation of the noise of neighbours in a column, and in a row."""
        first, second = (_of_neighbours(self.powers.sum(axis)) for axis in (1, 0))
        return first, second

    @property
    def is_clear(self) -> bool:
        """Whether this is clearly correlated noise, no texture and no white noise."""
        high = math.sqrt(self.powers[-_HIGH:, -_HIGH:].mean())
        is_low = max(self.correlation) >= _CORRELATION and high <= _HIGH_SHARE * self.level
        return is_low and all(np.greater_equal(self.empty, _EMPTY))

    def whiten(self, frames: Array) -> Array:
        """Return frames (F, R, C) whose noise is white, and of the same level."""
        return _filtered(frames, 1 / self._gains(frames.shape[1:]))

    def colour(self, frames: Array) -> Array:
        """Return the frames (F, R, C) that `whiten` makes these of."""
        return _filtered(frames, self._gains(frames.shape[1:]))

    def log_slope(self, shape: tuple[int, ...]) -> float:
        """Return the mean logarithm, over frequencies, of how much whitening of pictures of a shape
        (R, C) stretches them.
        """
        return -float(np.log(self._gains(shape)).mean())

    def _gains(self, shape: tuple[int, ...]) -> Array:
        """Return the amplitude of the noise at the frequencies of a picture, 1 in the rms."""
        known = np.arange(_BLOCK) / _BLOCK
        rows, columns = (
            np.stack([np.interp(np.arange(n) / n, known, unit) for unit in np.eye(_BLOCK)])
            for n in shape
        )
        gains = np.exp(rows.T @ (np.log(_floored(self.powers)) / 2) @ columns)
        return np.asarray(gains / math.sqrt(np.square(gains).mean()))


def _floored(powers: Array) -> Array:
    """Return powers of which none is so small that nothing but signal counts there."""
    return np.asarray(np.maximum(powers, _LEAST * powers.max()))


def _filtered(frames: Array, gains: Array) -> Array:
    """Return frames (F, R, C) with cosine coefficients times `gains` (R, C)."""
    from scipy.fft import dctn, idctn

    def filtered(frame: Array) -> Array:
        return np.asarray(idctn(dctn(frame, norm="ortho") * gains, norm="ortho"))

    return np.stack([filtered(frame) for frame in frames.astype(float)])


def _squares(frame: Array, most: int) -> tuple[Array, Array, bool]:
    """Return the squares of the cosine coefficients of blocks of a frame (R, C), about so many at
    most, (n, B^2), and the shares of their pixels at the ends of the range, where noise may be cut
    off, (n,). Blocks of which much is constant, as margins are, are left out, and those with much
    at the ends if most are others; else all count, as if nothing were cut off. And whether
    there were enough without any of that.
    """
    from scipy.fft import dctn

    step = math.ceil(max(_BLOCK / 4, math.sqrt(frame.size / most)))
    ends = np.isin(frame, (frame.min(), frame.max()))
    blocks, cut, constant = (
        sliding_window_view(x, (_BLOCK, _BLOCK))[::step, ::step].reshape(-1, _BLOCK, _BLOCK)
        for x in (frame.astype(np.float32), ends, _is_constant(frame) & ~ends)
    )
    cut, constant = cut.mean((1, 2)), constant.mean((1, 2))
    whole = constant <= _CUT
    sound, half = whole & (cut <= _CUT), whole & (cut <= _HALF)
    if sound.sum() >= _FEWEST:
        chosen = sound
    elif half.sum() >= max(_FEWEST, len(half) / 2):
        chosen = half
    else:  # what is left are the few places with signal
        chosen, cut = np.ones_like(whole), np.zeros_like(cut)
    blocks = np.asarray(dctn(blocks[chosen], axes=(1, 2), norm="ortho"))
    return (blocks**2).reshape(-1, _BLOCK**2), cut[chosen], chosen is sound


def _is_constant(frame: Array) -> Array:
    """Return where a pixel of a frame (R, C) is as those to the right, below and in between."""
    squares = sliding_window_view(np.pad(frame, ((0, 1), (0, 1)), "edge"), (2, 2))
    return np.asarray(squares.min((2, 3)) == squares.max((2, 3)))


def _halves() -> tuple[Array, Array]:
    """Return two halves of the frequencies, but for the lowest, as masks (B^2,)."""
    sums = np.add.outer(np.arange(_BLOCK), np.arange(_BLOCK)).ravel()
    return (sums >= 2) & (sums % 2 == 0), (sums >= 2) & (sums % 2 == 1)


def _without_shading(powers: Array) -> Array:
    """Return powers (B^2,) of which the lowest are no more than those of higher frequencies."""
    frequency = np.hypot(*np.indices((_BLOCK, _BLOCK))).ravel()
    above = np.median(powers[(frequency >= _LOW) & (frequency < _ABOVE)])
    capped = np.where(frequency < _LOW, np.minimum(powers, above), powers)
    return np.where(frequency <= 1, above, capped)


def _empty(squares: Array, powers: Array, frequencies: Array) -> float:
    """Return the share of blocks (n, B^2) with no more energy than noise of these powers has."""
    energy = (squares[:, frequencies] / powers[frequencies]).mean(1)
    return float((energy < 1 + 3 * math.sqrt(2 / frequencies.sum())).mean())


def _of_neighbours(powers: Array) -> float:
    """Return the correlation of neighbours that powers (B,) from frequency 0 to 1 stand for."""
    ends = [*powers, powers[-1]]
    waves = np.cos(np.linspace(0, np.pi, len(ends)))
    total = sum(a + b for a, b in pairwise(ends))
    return float(sum(a + b for a, b in pairwise(ends * waves)) / total)


__all__ = ["SMALLEST", "Spectrum"]
