"""What there is to tell of a restored picture or recording."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from truvae.model import Model
from truvae.settings import Course, Settings
from truvae.stabilise import PoissonGaussian
from truvae.training import Epoch
from truvae.units import Turn
from truvae.whitening import Spectrum

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Result:
    """A restored picture and how it came about; all values in the units of the input.

    Of a stack of frames it holds all of them. If each was restored on its own, levels, bounds and
    errors are means over those that were not left as they are, and the model is of their first.
    """

    restored: Array
    """The restored picture: shape and dtype of the input."""
    sigma: float
    """Standard deviation of the noise: given, learned by the isotropic models, estimated, or chosen
    by hidden pixels. Of several channels, or of noise that depends on the signal, its rms."""
    sigma_source: str
    """"given", "learned", "estimated" or "held-out". Learned and estimated levels both take some
    signal for noise where a picture has much fine detail, so that the smaller one is published."""
    sigma_channels: tuple[float, ...]
    """The same for each channel."""
    noise: tuple[PoissonGaussian, ...] | None
    """Gain and variance of the noise of each channel if it depends on the signal."""
    spectra: tuple[Spectrum, ...] | None
    """Spectrum of the noise of each channel, stabilised if it depends on the signal, if it is
    correlated from pixel to pixel; of frames that are restored one by one, that of the first."""
    elbo: float | None
    """Mean over the patches of the lower bound F_n in nats (Eq. 5), by `model`, or by what became
    of it in each tile of a large picture; None where there was no time to learn anything."""
    held_out_rmse: float | None
    """Root mean squared error at known pixels that were hidden from the models and predicted (it
    holds their noise); None where no pixel is missing, as then none is hidden."""
    history: list[Epoch]
    """One record for each epoch, run after run."""
    model: Model
    """The first model of the kind that the picture owes most to, of patches of
    `(x - offset) / spread`; of stabilised values where the noise depends on the signal, and of
    whitened ones where it is correlated."""
    offset: Array
    """(K,), mean of each channel; 0 with a preset."""
    spread: Array
    """(K,), standard deviation of the picture; with a preset what the paper divides by."""
    turn: Turn | None
    """Where noise is correlated between channels: what x has for channels instead, K of them
    (`units.Turn`); of a stack, in its first frame."""
    settings: Settings
    """The settings of `model`."""
    covariances: list[str]
    """The kind of each model that was fitted, in turn."""
    trust_in_dct: float
    """Share in [0, 1] of the models of kind "dct" in the first estimate."""
    looks: int
    """How often the picture was looked at again (`refine`)."""
    look_sizes: Course
    """Sides in pixels of the patches of each look; where there are several rows of looks, their
    last estimates were averaged."""
    epochs: int
    """Passes through all patches in the training of `model`."""
    n_data: int
    """Number of patches."""
    n_trained: int
    """Number of patches that `model` was trained on: of large pictures and stacks a sample."""
    missing: float
    """Share of the values that were missing."""
    frames: int
    """Number of frames, 1 if it is no stack."""
    device: str
    """Where it was computed."""

    @property
    def active_latents(self) -> float:
        """Expected number of active latents of a patch: the sum of pi."""
        return float(self.model.prior.pi.sum())


@dataclass(frozen=True)
class AudioResult:
    """A restored recording and how it came about; all values in the units of the input."""

    restored: Array
    """The restored recording: shape and dtype of the input."""
    sample_rate: float
    """Samples a second."""
    sigma: float
    """Standard deviation of the noise; of several channels its rms."""
    sigma_source: str
    """"given", "estimated" from the noise floor, or "learned" with a preset."""
    sigma_channels: tuple[float, ...]
    """The same for each channel."""
    elbo: float | None
    """Mean over the windows of the lower bound F_n in nats (Eq. 5), by the first model of each
    component; None if no model was needed, or there was no time to learn anything."""
    history: list[Epoch]
    """One record for each epoch, run after run."""
    model: Model | None
    """The first model, of windows of the columns of `(x @ components - offset) / spread`; None if
    none was needed."""
    components: Array
    """(K, 1), what `model` knows of K channels: these are restored as uncorrelated components, that
    with the most power first, each by models of its own. [[1]] of a single channel, (K, 0) without
    a model."""
    offset: Array
    """(1,), mean of this component; 0 with a preset. (0,) without a model."""
    spread: Array
    """The same of its standard deviation; with a preset the peak of the recording."""
    settings: Settings
    """The settings of the models."""
    covariances: list[str]
    """The kind of each model that was fitted, in turn."""
    looks: int
    """How often the first component was looked at again."""
    epochs: int
    """Passes through the windows in the training of `model`."""
    n_data: int
    """Number of windows."""
    missing: float
    """Share of the samples that were missing."""
    device: str
    """Where it was computed."""

    @classmethod
    def together(cls, results: "Sequence[AudioResult]") -> "AudioResult":
        """Return the first result with a model, which tells of the models of all, in turn."""
        first = next((result for result in results if result.model is not None), results[0])
        bounds = [result.elbo for result in results if result.elbo is not None]
        return replace(
            first,
            elbo=float(np.mean(bounds)) if bounds else None,
            history=[epoch for result in results for epoch in result.history],
            covariances=[kind for result in results for kind in result.covariances],
            n_data=sum(result.n_data for result in results),
        )

    @property
    def active_latents(self) -> float | None:
        """Expected number of active latents of a window: the sum of pi."""
        return None if self.model is None else float(self.model.prior.pi.sum())


__all__ = ["AudioResult", "Result"]
