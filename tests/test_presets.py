"""Presets: the rows of the paper's Table 1, and that they run as they are."""

import numpy as np
import pytest
import torch
from test_restore import noisy_scene

import truvae
from truvae import Evolution, Exhaustive, InputError, Random
from truvae.presets import PRESETS, preset
from truvae.proposals import SELECTIONS, fitness, randflip, released, uniform
from truvae.settings import plan_of

# Name: H0-H1-..., least and highest rate, epochs of a cycle, batch, S, Np, Nc, Ng.
TABLE_1 = {
    "paper:bars-8": ((8, 8), 1e-4, 0.05, 20, 32, 64, 3, 2, 1),
    "paper:bars-6-fit-randflip": ((6, 8), 1e-4, 0.05, 20, 32, 32, 5, 4, 1),
    "paper:bars-8-rand-randflip": ((8, 8), 1e-4, 0.05, 20, 32, 64, 5, 4, 1),
    "paper:patches": ((300, 300), 1e-4, 0.001, 10, 32, 100, 8, 7, 2),
    "paper:denoise-house-15": ((64, 64), 1e-4, 0.01, 20, 32, 200, 10, 9, 4),
    "paper:denoise-house-25": ((64, 64), 1e-4, 0.01, 20, 32, 200, 10, 9, 4),
    "paper:denoise-house-50-64": ((64, 64), 1e-4, 0.01, 20, 32, 200, 10, 9, 4),
    "paper:denoise-house-50": ((512, 512), 1e-4, 0.05, 20, 32, 64, 5, 4, 1),
    "paper:denoise-barbara-50-500-500": ((50, 500, 500), 1e-4, 0.001, 160, 512, 100, 5, 4, 1),
    "paper:denoise-barbara-256-256-512": ((256, 256, 512), 1e-4, 0.001, 160, 512, 100, 5, 4, 1),
    "paper:inpaint-house-50": ((512, 512), 1e-4, 0.01, 20, 32, 64, 5, 4, 1),
    "paper:inpaint-castle-50": ((512, 512), 1e-4, 0.00125, 20, 32, 32, 5, 4, 1),
    "paper:inpaint-castle-80": ((512, 512), 1e-4, 0.001, 20, 32, 64, 5, 4, 1),
    "paper:cifar-32-512": ((32, 512), 4e-4, 0.009, 160, 128, 20, 15, 10, 1),
    "paper:cifar-50-500-500": ((50, 500, 500), 4e-4, 0.009, 160, 128, 20, 15, 10, 1),
    "paper:cifar-1024-256-512": ((1024, 256, 512), 4e-4, 0.009, 160, 128, 20, 15, 10, 1),
    "paper:cifar-1024-512": ((1024, 512), 4e-4, 0.009, 160, 128, 20, 15, 10, 1),
    "paper:audio": ((200, 512), 1e-4, 0.001, 160, 512, 20, 15, 1, 1),
}


@pytest.mark.parametrize("name", TABLE_1)
def test_presets_are_table_1(name):
    recipe = PRESETS[name].recipe
    (search,) = recipe.search
    assert (
        (recipe.n_latents, *recipe.hidden),
        recipe.least_rate,
        recipe.peak_rate,
        recipe.cycle,
        recipe.minibatch,
        recipe.n_states,
        search.n_parents,
        search.n_children,
        search.n_generations,
    ) == TABLE_1[name]
    assert search.selection is (uniform if "rand-rand" in name else fitness)
    assert search.mutation is randflip and not search.cross
    assert recipe.active == 1 and recipe.learn_prior_from == 0  # pi = 1 / H, always learned
    leaky = name.startswith(("paper:cifar", "paper:denoise-barbara"))
    assert (recipe.activation is torch.nn.LeakyReLU) is leaky
    assert (recipe.output is torch.nn.Sigmoid) is name.startswith("paper:cifar")
    starts_from_data = leaky or name == "paper:audio"
    assert recipe.sigma2 == (None if starts_from_data else 0.01)
    assert recipe.group % recipe.minibatch == 0


def test_other_searches_of_table_1():
    correlated = PRESETS["paper:bars-correlated"].recipe
    assert isinstance(correlated.search[0], Exhaustive) and correlated.n_states == 2**8
    assert (correlated.peak_rate, correlated.cycle) == (0.1, 50)
    for size in ("6", "8"):
        (random,) = PRESETS[f"paper:bars-{size}-random"].recipe.search
        assert random == Random(20)
        (crossed,) = PRESETS[f"paper:bars-{size}-fit-cross-randflip"].recipe.search
        assert crossed.cross and crossed.n_parents == 5


def test_every_preset_says_where_it_is_from():
    for name, row in PRESETS.items():
        assert name.startswith("paper:") and row.source.startswith("Fig. ")
        (search,) = row.recipe.search
        by_fitness = getattr(search, "selection", None) is fitness
        assert ("fitness normalised over the batch" in row.differs) is by_fitness
        assert row.recipe.epochs == (160 if "barbara" in name else 200 if "bars" in name else 500)
        assert row.scale == (255 if "barbara" in name or "cifar" in name else 1)


@pytest.mark.parametrize("name", [name for name in PRESETS if ":denoise-" in name])
def test_denoising_presets_run(name):
    clean, noisy = noisy_scene(size=24)
    result = truvae.denoise(noisy, preset=name, epochs=2, return_result=True)
    recipe = PRESETS[name].recipe
    settings = result.settings
    assert (settings.n_latents, settings.hidden) == (recipe.n_latents, recipe.hidden)
    assert settings.patch_size == PRESETS[name].patch_size
    assert result.restored.shape == clean.shape and np.isfinite(result.restored).all()
    assert result.looks == 0 and result.covariances == ["isotropic"]
    assert result.offset == 0 and result.spread == PRESETS[name].scale


def test_selection_replaces_the_parents_of_a_preset():
    (settings,) = plan_of(preset("paper:denoise-house-25"), "released").models
    assert settings.search == (Evolution(10, 9, 4, released),)
    noisy = noisy_scene(size=24)[1]
    one, other = (
        truvae.denoise(noisy, preset="paper:denoise-house-25", selection=name, epochs=2)
        for name in ("fitness", "released")
    )
    assert not np.array_equal(one, other)
    assert set(SELECTIONS) == {"fitness", "uniform", "best", "softmax", "released"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "paper:none"}, "no preset 'paper:none': choose one of paper:bars-8"),
        ({"preset": "paper:bars-8"}, "not for restoring pictures"),
        ({"preset": "paper:denoise-house-25", "selection": "good"}, "no selection 'good'"),
        ({"selection": "released"}, "goes with a preset"),
        ({"preset": "paper:denoise-house-25", "n_latents": 8}, "9 children of a parent"),
    ],
)
def test_wrong_presets_are_errors(options, message):
    with pytest.raises(InputError, match=message):
        truvae.denoise(noisy_scene(size=24)[1], **options)


def test_a_picture_smaller_than_the_patches_of_a_preset_is_an_error():
    with pytest.raises(InputError, match="10 x 11 pixels is smaller than a patch of 12 x 12"):
        truvae.denoise(np.arange(110.0).reshape(10, 11), preset="paper:denoise-house-50")
