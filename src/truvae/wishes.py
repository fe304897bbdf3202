"""What was asked for, and what it means for frames: their noise, and the plan to restore them."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from truvae.errors import InputError
from truvae.levels import noise_level
from truvae.limits import within
from truvae.patches import Patches
from truvae.presets import preset as preset_called
from truvae.settings import NOISES, Plan, check_choice, choose, plan_of
from truvae.stabilise import PoissonGaussian, is_signal_dependent
from truvae.units import Turn, Units, rms
from truvae.whitening import SMALLEST, Spectrum

Array = npt.NDArray[Any]

# Side of the patches from which the noise is estimated, in pixels.
_NOISE_PATCH = 8
# Most frames of a stack that take part in that.
_NOISE_FRAMES = 8
# Correlation of the noise of two channels that counts: less may be texture that they share. It is
# found from the middle of one picture, so many pixels wide, and of so many channels at most.
_CORRELATED, _MIDDLE, _COLOURS = 0.5, 256, 4
# From how many pixels away on correlated noise counts as independent.
_APART = 3
# By what factor channels differ at most in the share that noise has of their spread.
_MOST_APART = 10.0


@dataclass(frozen=True)
class Wishes:
    """What was asked for, for every frame."""

    noise: str
    sigma: float | None
    quality: str
    covariance: str
    preset: str | None
    selection: str | None
    memory_limit: float | None
    overrides: dict[str, Any]
    n_frames: int = 1
    """All of those in memory, whether they are restored together or not."""

    def check(self) -> None:
        """Raise an `InputError` for wishes that make no sense, whatever the picture."""
        check_choice("noise", self.noise, NOISES)
        if self.sigma is not None and self.noise == "poisson-gaussian":
            raise InputError("sigma is the level of gaussian noise: leave one of both out")
        if self.preset is not None and self.noise in ("poisson-gaussian", "correlated"):
            raise InputError("a preset reckons with gaussian noise: leave noise or preset out")
        if self.preset is None and self.selection is not None:
            raise InputError("a selection goes with a preset: give one, or leave selection out")
        if self.memory_limit is not None and not 0 < self.memory_limit < np.inf:
            raise InputError(f"the memory limit must be above 0 GB, not {self.memory_limit:g}")
        replace(self, memory_limit=None).plan((1 << 10, 1 << 10, 1), 0.5, True)

    def check_frames(self, frames: Array, name: str = "") -> None:
        """Raise an `InputError` that names frames (F, R, C, K) without the noise asked for."""
        if self.noise != "correlated":
            return
        if np.isnan(frames).any():
            raise InputError(f"{name}correlated noise needs a picture without missing pixels")
        if _spectra(frames[..., _varies(frames)]) is None:
            raise _no_spectrum(name)

    def options(self) -> dict[str, Any]:
        """Return all of it by name."""
        first = {name: value for name, value in vars(self).items() if name != "overrides"}
        return first | self.overrides

    def plan(
        self, shape: tuple[int, ...], noise: float, complete: bool, whitened: bool = False
    ) -> Plan:
        """Return the plan for pictures (R, C, K) whose noise has this share of their spread.

        Whether they were `whitened`: then the level that their spectrum tells holds, and no model
        is to learn another one.
        """
        if self.preset is not None:
            plan = plan_of(preset_called(self.preset), self.selection)
        else:
            covariance = "dct" if whitened and self.covariance == "auto" else self.covariance
            plan = choose(shape, noise, self.quality, covariance, complete)
        return within(plan.override(self.overrides), (self.n_frames, *shape), self.memory_limit)

    def units(self, frames: Array) -> tuple[Units, Array]:
        """Return the units of frames, which know noise that depends on the signal or is correlated
        between channels or pixels, and the level of noise to reckon with in each of their channels,
        (K,).
        """
        noise, apart = self._stabilisers(frames), 1
        distant = self._of_distant_pixels(frames)
        correlated = self._is_correlated(frames, distant)
        if correlated:
            noise, apart = distant, _APART
        turn = self._turn(frames, noise is not None, correlated)
        if turn is not None and noise is not None:
            noise = self._stabilisers(turn.forward(frames[:, ::apart, ::apart]))
        units = Units.of(frames, noise, turn=turn)
        spectra = _spectra(units.stabilise(frames)) if correlated else None
        if self.noise == "correlated" and spectra is None:
            raise _no_spectrum()
        if spectra is not None:
            units = Units.of(frames, noise, turn=turn, spectra=spectra)
            found = np.array([spectrum.level for spectrum in spectra])
            if self.sigma is not None:
                found *= self.sigma / rms(found if turn is None else turn.levels(found))
            levels = _comparable(found, units.stabilise(frames))
        elif turn is not None and self.sigma is not None:
            levels = _comparable(turn.noise, units.stabilise(frames))
        else:
            levels = _noise_levels(units.stabilise(frames), self.sigma)
        if noise is not None:
            # Stabilised noise is 1, but less where hardly any events are counted, often most of a
            # picture.
            levels = np.maximum(levels, 1.0)
        return units, levels

    def _of_distant_pixels(self, frames: Array) -> tuple[PoissonGaussian, ...] | None:
        """Return the same as `_stabilisers` of pixels so far from each other that correlated noise
        is independent: that of neighbours says too little.
        """
        wanted = self.noise in ("auto", "correlated") and min(frames.shape[1:3]) >= SMALLEST
        some = frames[:, ::_APART, ::_APART]
        # So few may be constant, or missing, though the frames are not.
        return self._stabilisers(some) if wanted and _varies(some).all() else None

    def _turn(self, frames: Array, by_signal: bool, correlated: bool) -> Turn | None:
        """Return the turn of frames to channels whose noise is independent, if that of theirs is
        clearly not. Whether it is `correlated` from pixel to pixel.
        """
        colours = 1 < frames.shape[3] <= _COLOURS
        if self.preset is not None or not colours or np.isnan(frames).any():
            return None
        some = _centre(_some(frames))
        estimated = _levels_of_spectra if correlated else _estimated
        levels = estimated(_channels(some))
        if not levels.all():
            return None
        correlation = _correlation(some / levels, estimated)
        if np.abs(correlation - np.eye(len(levels))).max() < _CORRELATED:
            return None
        if self.sigma is not None:
            levels = levels * (self.sigma / rms(levels))
        turn = Turn.of(frames, correlation * np.outer(levels, levels))
        # Noise that depends on the signal of a channel does not on that of a mixture.
        return None if by_signal and len(turn.noise) > 1 else turn

    def _is_correlated(self, frames: Array, by_signal: tuple[PoissonGaussian, ...] | None) -> bool:
        """Tell whether the noise of frames is to count as correlated from pixel to pixel, be it as
        it is or stabilised as noise that depends on the signal so.
        """
        if self.noise == "correlated":
            return True
        if self.noise != "auto" or self.preset is not None or np.isnan(frames).any():
            return False
        ways = [frames]
        if by_signal is not None:
            ways.append(Units.of(frames, by_signal).stabilise(frames))
        return any(spectrum.is_clear for way in ways for spectrum in _spectra(way) or ())

    def _stabilisers(self, frames: Array) -> tuple[PoissonGaussian, ...] | None:
        """Return the noise of each channel of frames if it is to count as signal-dependent."""
        if self.sigma is not None or self.preset is not None or self.noise == "gaussian":
            return None
        channels = _channels(_some(frames))
        if self.noise != "poisson-gaussian":
            planes = (plane for channel in channels for plane in channel)
            if not any(is_signal_dependent(plane) for plane in planes):
                return None
        # All frames above each other have one noise.
        noises = [PoissonGaussian.estimate(np.concatenate([*frames])) for frames in channels]
        pairs = zip(noises, channels, strict=True)
        levels = np.array([rms(noise.sigma(x[np.isfinite(x)])) for noise, x in pairs])
        raised = _comparable(levels, frames)
        return tuple(
            noise if least <= level else PoissonGaussian(0.0, least**2)
            for noise, level, least in zip(noises, levels, raised, strict=True)
        )


def _varies(frames: Array) -> Array:
    """Return which channels of frames (F, R, C, K) have no gaps and more than one value, (K,)."""
    varies: Array = frames.max((0, 1, 2)) > frames.min((0, 1, 2))
    return varies


def _no_spectrum(name: str = "") -> InputError:
    """Return the error for frames, by name, whose noise has no spectrum."""
    return InputError(
        f"{name}correlated noise can be told of pictures of {SMALLEST} x {SMALLEST} pixels or more "
        "that have noise everywhere: take noise gaussian"
    )


def _levels_of_spectra(channels: Sequence[Array]) -> Array:
    """Return the level of correlated noise of channels (F, R, C), (K,); 0 where there is none."""
    found = map(Spectrum.of, channels)
    return np.array([0.0 if spectrum is None else spectrum.level for spectrum in found])


def _spectra(frames: Array) -> tuple[Spectrum, ...] | None:
    """Return the spectrum of the noise of each channel of frames, if all have one."""
    found = [Spectrum.of(channel) for channel in _channels(_some(frames))]
    spectra = tuple(spectrum for spectrum in found if spectrum is not None)
    return spectra if len(spectra) == len(found) else None


def _comparable(levels: Array, frames: Array) -> Array:
    """Return the levels of noise (K,) of the channels of frames, more than was found where one has
    hardly any beside the others: scaled to one level of noise its signal would outweigh theirs.
    """
    spreads = np.nanstd(frames, (0, 1, 2))
    raised: Array = np.maximum(levels, spreads * (levels / spreads).max() / _MOST_APART)
    return raised


def _channels(frames: Array) -> list[Array]:
    """Return the channels (F, R, C) of frames (F, R, C, K)."""
    return [frames[..., k] for k in range(frames.shape[3])]


def _some(frames: Array) -> Array:
    """Return at most a few frames, evenly spaced, and none that is constant."""
    rough = [frame for frame in frames if np.nanstd(frame) > 0]
    return np.stack(rough[:: -(-len(rough) // _NOISE_FRAMES)])


def _noise_levels(frames: Array, sigma: float | None) -> Array:
    """Return the level of noise of each channel, (K,): as given, or estimated."""
    channels = _channels(_some(frames))
    if sigma is not None:
        return np.full(len(channels), float(sigma))
    return _comparable(_estimated(channels), frames)


def _centre(frames: Array) -> Array:
    """Return the middle of the first of frames."""
    firsts = [max(0, (n - _MIDDLE) // 2) for n in frames.shape[1:3]]
    rows, columns = (slice(first, first + _MIDDLE) for first in firsts)
    return frames[:1, rows, columns]


def _correlation(frames: Array, estimated: Callable[[Sequence[Array]], Array]) -> Array:
    """Return the correlation (K, K) of the noise of the channels of frames whose noise is 1: by its
    level in the sums and differences of two channels.
    """
    correlation = np.eye(frames.shape[3])
    for pair in itertools.combinations(range(len(correlation)), 2):
        one, other = (frames[..., k] for k in pair)
        both, apart = estimated([one + other, one - other])
        correlation[pair] = correlation[pair[::-1]] = np.clip((both**2 - apart**2) / 4, -1, 1)
    return correlation


def _estimated(channels: Sequence[Array]) -> Array:
    """Return the estimated level of noise of channels (F, R, C), (K,); 0 of constant ones."""
    # One plane may be constant though others are not: that says nothing of its noise.
    rough = [[plane for plane in planes if np.nanstd(plane) > 0] for planes in channels]
    return np.array([rms([_noise_level(plane) for plane in some] or [0.0]) for some in rough])


def _noise_level(plane: Array) -> float:
    # Small pictures have too few patches for the covariance of large ones.
    size = min(_NOISE_PATCH, max(2, round(plane.size**0.5) // 12), *plane.shape)
    offset, spread = float(np.nanmean(plane)), float(np.nanstd(plane))
    standard = torch.as_tensor((plane - offset) / spread, dtype=torch.float32)
    return spread * noise_level(Patches(standard, size))


__all__ = ["Wishes"]
