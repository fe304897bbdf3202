"""What tests/test_ranks.py has several processes do: `torchrun ranks_worker.py CASE FOLDER`."""

import os
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_data, make_model, make_population

import truvae
from truvae import (
    Evolution,
    Exhaustive,
    Gaussian,
    NearChunks,
    Neighbours,
    Population,
    ShuffledChunks,
    datasets,
    fitting,
    linear,
    tiles,
)
from truvae import settings as chosen
from truvae.model import Bernoulli, Model
from truvae.moments import Statistics
from truvae.optim import Adam, OneCycle
from truvae.ranks import Ranks
from truvae.training import e_step, fit, m_step

N = 257
OPTIONS = {"epochs": 4, "covariance": "isotropic", "n_latents": 16, "hidden": (16,),
           "n_states": 8, "patch_size": 8}  # fmt: skip


class Recorder(Adam):
    """An optimiser that keeps the gradients of each step and changes nothing."""

    def __init__(self, parameters):
        super().__init__(parameters)
        self.steps = []

    def step(self):
        self.steps.append([p.grad.clone() for p in self._parameters])


def of_all(ranks):
    """One M-step over points of which the ranks have unequal shares, in one step and in several."""
    model = make_model()
    x, population = make_data(model, N, 0.2), make_population(model, N, 8)
    own = ranks.share(N)
    x = x[own]
    mine = Population(population.words[own], population.log_joint[own])
    rows = torch.arange(len(x))
    e_step(model, mine, x, rows, [], torch.Generator())
    found = {}
    for name, minibatch in (("whole", N), ("parts", 17)):
        recorder, statistics = Recorder(model.decoder.parameters()), Statistics(model)
        m_step(model, recorder, mine, x, rows, statistics, torch.Generator(), threshold=0.0,
               minibatch=minibatch, ranks=ranks)  # fmt: skip
        statistics.sum_over(ranks)
        found[name] = {
            "gradient": recorder.steps[0],
            "steps": len(recorder.steps),
            "activity": statistics.activity,
            "sums": statistics.sums,
            "n_data": statistics.n_data,
        }
    return found


def of_unequal(ranks):
    """The mean of gradients of which rank 0 has none."""
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = None if ranks.rank == 0 else torch.tensor([1.0, 2.0]) * ranks.rank
    ranks.mean_gradients_([p], 3 * ranks.rank)
    return p.grad


def of_sums(ranks):
    """Sums through memory that all see, and through the network."""
    found = []
    for each in (ranks, replace(ranks, board=None)):
        tensor = torch.arange(300_000.0) * (1 + ranks.rank)
        each.sum_([tensor])
        found.append((each.board is not None, tensor, each.most(ranks.rank)))
    return found


def of_two_epochs(ranks):
    """The model and the bounds after two epochs; rank 0 alone knows where to start."""
    model = make_model(dtype=torch.float32, seed=9 + ranks.rank)
    x = make_data(make_model(dtype=torch.float32), N)
    x = ranks.own(x)
    population = make_population(model, len(x), 8)
    search, g = [Evolution(3, 2), Neighbours()], torch.Generator().manual_seed(0)
    epochs = list(fit(model, population, x, epochs=2, chunks=NearChunks(x, 30, 2), search=search,
                      generator=g, ranks=ranks))  # fmt: skip
    rows = torch.arange(len(x))
    e_step(model, population, x, rows, [], g)
    before = population.bound(rows)
    e_step(model, population, x, rows, search, g)
    return {
        "model": {name: tensor.clone() for name, tensor in model.state().items()},
        "sigma": [epoch.sigma for epoch in epochs],
        "elbo": [epoch.elbo for epoch in epochs],
        "substitutions": [epoch.substitutions for epoch in epochs],
        "gain": population.bound(rows) - before,
    }


def of_bars(ranks):
    """Bars, learned by gradient and in closed form from a disturbed truth."""
    truth = datasets.bars(6)
    _, data = truth.sample(500, torch.Generator().manual_seed(0))
    found = {}
    for name, closed_form in (("gradient", False), ("closed form", True)):
        g, decoder = torch.Generator().manual_seed(1), linear(6, 9)
        with torch.no_grad():
            decoder.first.weight.copy_(truth.decoder.first.weight)
            decoder.first.weight += 0.4 * torch.randn(9, 6, generator=g)
        model = Model(Bernoulli(torch.full((6,), 1 / 6)), decoder, Gaussian(torch.tensor(0.3)))
        x = ranks.own(data)
        population = Population.random(len(x), 32, 6, 1 / 6, ranks.fork(g))
        chunks = ShuffledChunks(len(x), ranks.part(100))
        *_, last = fit(model, population, x, epochs=22, chunks=chunks, search=[Exhaustive()],
                       generator=g, rate=OneCycle(0.05), minibatch=50, closed_form=closed_form,
                       ranks=ranks)  # fmt: skip
        fields = model.decoder.first.weight.detach().T.clone()
        found[name] = {"fields": fields, "elbo": last.elbo, "sigma": last.sigma}
    return found | {"truth": float(truth.log_likelihood(data).mean())}


def scene():
    """A noisy picture of a few edges."""
    clean = np.add.outer(np.arange(32) // 8 % 2 * 60.0, np.arange(32) // 5 % 3 * 40.0)
    return clean + np.random.default_rng(0).normal(0, 20, clean.shape)


def restored(ranks, **options):
    """Restore the picture; return it with its bound."""
    options = OPTIONS | options
    result = truvae.denoise(scene(), return_result=True, ranks=ranks, **options)
    return {"picture": result.restored, "elbo": result.elbo, "epochs": len(result.history)}


def of_large(ranks):
    """Restore it as if it were large, by nine tiles, of which the ranks have unequal shares."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chosen, "_TRAINED", (200, 200))
        patch.setattr(fitting, "tiles", lambda places, most: tiles.tiles(places, 81))
        return restored(ranks, covariance="dct", time_budget=1000)


class Interrupted(Exception):
    """Stands for a crash."""


def interrupted(ranks, folder, after=2):
    """Restore the picture with a checkpoint, and crash after so many epochs."""

    def crash(epoch):
        if epoch.index + 1 == after:
            raise Interrupted

    try:
        restored(ranks, checkpoint=folder, on_epoch=crash)
    except Interrupted:
        return
    raise AssertionError("there was no crash")


def of_table(ranks):
    """What an estimator knows of a table, with a row of which some is missing."""
    x = np.repeat(np.eye(4), 50, axis=0) + np.random.default_rng(0).normal(0, 0.1, (200, 4))
    x[0, 0] = np.nan
    est = truvae.TVAE(6, (), 8, max_epochs=12, random_state=0, ranks=ranks).fit(x)
    history = [asdict(epoch) | {"seconds": 0} for epoch in est.history_]
    return {"reconstruction": est.reconstruct(x), "words": est.population_.words, "sigma":
            est.sigma_, "history": history}  # fmt: skip


def everything(ranks, folder):
    """All that ranks are compared by."""
    found = {case.__name__: case(ranks) for case in (of_all, of_unequal, of_sums, of_two_epochs,
                                                     of_bars, of_table)}  # fmt: skip
    saved = folder / f"checkpoint-{ranks.size}"
    found["plain"] = restored(ranks)
    interrupted(ranks, saved)
    if ranks.rank == 0:  # for other numbers of ranks to go on from
        shutil.copytree(saved, folder / f"copy-{ranks.size}")
    found["resumed"] = restored(ranks, checkpoint=saved, resume=True)
    found["large"] = of_large(ranks)
    torch.save(found, folder / f"found-{ranks.size}-{ranks.rank}.pt")


def resume(ranks, folder):
    """Go on from a checkpoint of two ranks."""
    found = restored(ranks, checkpoint=folder / "other", resume=True)
    torch.save(found, folder / f"other-{ranks.rank}.pt")


def die(ranks, folder):
    """Restore a file; the last rank is gone in the midst of it."""
    from truvae import cli, training

    if ranks.rank == ranks.size - 1:
        training.m_step = lambda *_, **__: os._exit(7)
    np.save(folder / "in.npy", scene())
    sys.argv = ["truvae", "denoise", str(folder / "in.npy"), "-o", str(folder / "out.npy"), "-q"]
    cli.main()


if __name__ == "__main__":
    globals()[sys.argv[1]](Ranks.join(torch.device("cpu")), Path(sys.argv[2]))
