"""Noise models p(x | z): what lies between the decoder's outputs and the data."""

from truvae.noise.base import Noise, on_device
from truvae.noise.counts import BernoulliNoise, PoissonNoise
from truvae.noise.covariances import DiagonalGaussian, LowRankGaussian
from truvae.noise.gaussian import CorrelatedGaussian, Gaussian

__all__ = [
    "BernoulliNoise",
    "CorrelatedGaussian",
    "DiagonalGaussian",
    "Gaussian",
    "LowRankGaussian",
    "Noise",
    "PoissonNoise",
    "on_device",
]
