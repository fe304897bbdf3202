"""States for patches that the model was not trained on."""

import math

import torch

from truvae import fitting
from truvae.checkpoint import NOTHING
from truvae.clock import Clock
from truvae.fitting import Material, fit_model
from truvae.inference import nearest_states
from truvae.population import Population
from truvae.settings import Settings


def test_new_points_get_the_states_of_near_old_ones():
    g = torch.Generator().manual_seed(0)
    old = torch.randn(300, 3, generator=g)
    population = Population.random(300, 4, 20, 0.2, g)
    found = nearest_states(old, old, population, g)
    # In a leaf of the tree with its own twin, each point finds it; a few twins are parted.
    same = (found.words == population.words).all(2).all(1)
    assert same.float().mean() > 0.9
    assert found.log_joint.shape == (300, 4)


def test_one_old_point_serves_all():
    g = torch.Generator().manual_seed(0)
    population = Population.random(1, 4, 20, 0.2, g)
    found = nearest_states(torch.randn(50, 3, generator=g), torch.zeros(1, 3), population, g)
    assert (found.words == population.words).all()


def test_of_one_frame_all_patches_are_trained_and_of_more_as_many_as_one_has():
    g = torch.Generator().manual_seed(0)
    frames = torch.randn(3, 12, 10, 1, generator=g)
    one = Material(frames[:1], 1.0, False, g).sample(settings())
    three = Material(frames, 1.0, False, g).sample(settings())
    assert one.whole and not three.whole
    assert len(one.patches) == len(three.patches) == 9 * 7
    assert one.coordinates.shape == three.coordinates.shape == (63, 16)
    known = {tuple(row.tolist()) for row in three.patches.pixels(torch.arange(63))}
    assert len(known) == 63  # none twice


def test_of_a_large_frame_a_sample_is_trained():
    g = torch.Generator().manual_seed(0)
    material = Material(torch.randn(1, 12, 10, 1, generator=g), 1.0, False, g)
    sample = material.sample(settings(trained=20))
    assert len(sample.patches) == 20 and not sample.whole and len(sample.all[0]) == 63
    assert material.sample(settings(trained=20)) is sample  # models share it
    assert material.sample(settings(trained=63)).whole


def test_a_recording_has_windows_of_one_row_and_learns_from_those_at_every_few_samples():
    g = torch.Generator().manual_seed(0)
    material = Material(torch.randn(1, 1, 100, 2, generator=g), 1.0, False, g)
    sample = material.sample(settings(stride=3, sparse=True))
    places = sample.all[0].lattice(3)
    assert sample.whole and sample.all[0].sides == (1, 4) and len(places) == 33
    rows = torch.arange(33)
    assert torch.equal(sample.patches[rows], sample.all[0][places])
    few = material.sample(settings(trained=20, stride=3, sparse=True))
    assert len(few.patches) == 20 and not few.whole
    firsts = few.patches.pixels(torch.arange(20))[:, 0] // 2
    assert {*firsts.tolist()} < {*places.tolist()} and len(firsts.unique()) == 20


def settings(trained=None, **more):
    return Settings(
        n_latents=8, hidden=(8,), n_states=4, epochs=2, patch_size=4, trained=trained, **more
    )


def test_what_a_sample_leaves_out_is_estimated_once_and_only_when_needed(monkeypatch):
    g = torch.Generator().manual_seed(0)
    material = Material(torch.randn(1, 12, 10, 1, generator=g), 1.0, False, g)
    calls = []
    real = fitting.estimates
    monkeypatch.setattr(fitting, "estimates", lambda *a: calls.append(1) or real(*a))
    run = fit_model(material, settings(trained=20), Clock(), lambda epoch: None, NOTHING, "model")
    assert not calls
    assert run.merged is run.merged and run.merged.shape == (1, 12, 10, 1)
    assert run.merged.isfinite().all() and math.isfinite(run.bound)
    assert len(calls) == 1
    whole = fit_model(material, settings(), Clock(), lambda epoch: None, NOTHING, "model")
    assert whole.merged.isfinite().all() and len(calls) == 1
