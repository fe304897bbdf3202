"""Small models, data and populations that the tests share."""

import os
import signal
from itertools import count, product

import pytest
import torch
from hypothesis import settings

from truvae import MLP, Bernoulli, Gaussian, Model, Population
from truvae.clock import Stopwatch

collect_ignore = ["fuzz_readers.py"]  # needs atheris
# Models of this size do not gain from threads, and on a busy machine they lose much.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the command line
os.environ.setdefault("MPLBACKEND", "Agg")  # no windows
# A shell that starts the tests in the background has them, and their children, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Nor is time a property to test.
settings.register_profile("truvae", deadline=None, max_examples=50)
settings.load_profile("truvae")


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request):
    return request.param


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def ticking(monkeypatch):
    """By the watch, every look at it takes a thousand seconds: no work is long beside that."""
    seconds = count(step=1000.0)
    monkeypatch.setattr(Stopwatch, "__call__", lambda watch: next(seconds) + watch.before)


def all_states(n_latents):
    """Return all 2^H binary states, (2^H, H)."""
    return torch.tensor(list(product([0.0, 1.0], repeat=n_latents)))


def make_model(n_latents=6, hidden=(7,), n_observables=5, dtype=torch.float64, seed=0):
    """Return a model with weights and parameters that nothing is special about."""
    g = torch.Generator().manual_seed(seed)
    decoder = MLP(n_latents, hidden, n_observables, generator=g).to(dtype)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=g, dtype=dtype)
    pi = 0.1 + 0.5 * torch.rand(n_latents, generator=g, dtype=dtype)
    return Model(Bernoulli(pi), decoder, Gaussian(torch.tensor(0.3, dtype=dtype)))


def make_data(model, n_data=40, missing=0.0, seed=1):
    """Return data drawn from the model, with NaN for a share of the entries."""
    g = torch.Generator().manual_seed(seed)
    _, x = model.sample(n_data, g)
    gaps = torch.rand(x.shape, generator=g) < missing
    gaps[:, 0] = False
    return x.masked_fill(gaps, torch.nan)


def make_population(model, n_data, n_states, seed=2):
    g = torch.Generator().manual_seed(seed)
    population = Population.random(n_data, n_states, model.n_latents, 0.3, g)
    population.log_joint = population.log_joint.to(model.prior.pi.dtype)
    return population
