"""truvae: restore one noisy picture with nothing but the picture.

A VAE with binary latents whose codes are improved by evolutionary search (TVAE). Names are
imported when they are first used, so that ``import truvae`` is quick.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from truvae import callbacks as callbacks
    from truvae import datasets as datasets
    from truvae import plots as plots
    from truvae import ranks as ranks
    from truvae import training as training
    from truvae.audio import denoise_audio, inpaint_audio
    from truvae.chunks import NearChunks, ShuffledChunks
    from truvae.decoders import MLP, linear
    from truvae.errors import InputError
    from truvae.estimator import TVAE
    from truvae.model import Bernoulli, Model
    from truvae.noise import (
        BernoulliNoise,
        CorrelatedGaussian,
        DiagonalGaussian,
        Gaussian,
        LowRankGaussian,
        Noise,
        PoissonNoise,
    )
    from truvae.population import OwnPool, Pool, Population, SharedPool
    from truvae.presets import preset
    from truvae.proposals import (
        Evolution,
        Exhaustive,
        GradientFlips,
        Neighbours,
        PosteriorSamples,
        PriorSamples,
        Random,
        Sparseflip,
    )
    from truvae.recipes import Recipe
    from truvae.restore import denoise, inpaint
    from truvae.results import AudioResult, Result
    from truvae.saving import load_model, save_model

__version__ = version("truvae")

_HOME = {
    "AudioResult": "results",
    "Bernoulli": "model",
    "BernoulliNoise": "noise",
    "CorrelatedGaussian": "noise",
    "Evolution": "proposals",
    "Exhaustive": "proposals",
    "DiagonalGaussian": "noise",
    "Gaussian": "noise",
    "GradientFlips": "proposals",
    "InputError": "errors",
    "LowRankGaussian": "noise",
    "MLP": "decoders",
    "Model": "model",
    "NearChunks": "chunks",
    "Neighbours": "proposals",
    "Noise": "noise",
    "OwnPool": "population",
    "Pool": "population",
    "Population": "population",
    "PoissonNoise": "noise",
    "PosteriorSamples": "proposals",
    "PriorSamples": "proposals",
    "Random": "proposals",
    "Recipe": "recipes",
    "Result": "results",
    "SharedPool": "population",
    "ShuffledChunks": "chunks",
    "Sparseflip": "proposals",
    "TVAE": "estimator",
    "denoise": "restore",
    "denoise_audio": "audio",
    "inpaint": "restore",
    "inpaint_audio": "audio",
    "linear": "decoders",
    "load_model": "saving",
    "preset": "presets",
    "save_model": "saving",
}
_MODULES = ("callbacks", "datasets", "plots", "ranks", "training")


def __getattr__(name: str) -> Any:
    """Import `name` from its module on first use (PEP 562)."""
    if name in _MODULES:
        return import_module(f"truvae.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'truvae' has no attribute {name!r}")
    return getattr(import_module(f"truvae.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME, *_MODULES])


__all__ = [
    "MLP",
    "TVAE",
    "AudioResult",
    "Bernoulli",
    "BernoulliNoise",
    "CorrelatedGaussian",
    "DiagonalGaussian",
    "Evolution",
    "Exhaustive",
    "Gaussian",
    "GradientFlips",
    "InputError",
    "LowRankGaussian",
    "Model",
    "NearChunks",
    "Neighbours",
    "Noise",
    "OwnPool",
    "PoissonNoise",
    "Pool",
    "Population",
    "PosteriorSamples",
    "PriorSamples",
    "Random",
    "Recipe",
    "Result",
    "SharedPool",
    "ShuffledChunks",
    "Sparseflip",
    "__version__",
    "callbacks",
    "datasets",
    "denoise",
    "denoise_audio",
    "inpaint",
    "inpaint_audio",
    "linear",
    "load_model",
    "plots",
    "preset",
    "ranks",
    "save_model",
    "training",
]
