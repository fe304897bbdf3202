"""Proposals: where candidate states come from."""

from truvae.proposals.base import Proposal, pool_for
from truvae.proposals.evolution import Evolution
from truvae.proposals.gradient import GradientFlips
from truvae.proposals.operators import Mutation, Sparseflip, crossover, randflip
from truvae.proposals.samples import PosteriorSamples, PriorSamples, Random
from truvae.proposals.selections import (
    SELECTIONS,
    Selection,
    best,
    fitness,
    released,
    softmax,
    uniform,
)
from truvae.proposals.shared import Exhaustive, Neighbours

__all__ = [
    "SELECTIONS",
    "Evolution",
    "Exhaustive",
    "GradientFlips",
    "Mutation",
    "Neighbours",
    "PosteriorSamples",
    "PriorSamples",
    "Proposal",
    "Random",
    "Selection",
    "Sparseflip",
    "best",
    "crossover",
    "fitness",
    "pool_for",
    "randflip",
    "released",
    "softmax",
    "uniform",
]
