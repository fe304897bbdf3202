"""Large pictures: a sample is trained on, and tiles cover everything, without seams."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_model, make_population
from hypothesis import given
from hypothesis import strategies as st
from test_restore import SMALL, noisy_scene, rmse

import truvae
from truvae import Neighbours, fitting, job, tiles
from truvae import settings as chosen
from truvae.clock import Clock
from truvae.patches import Features, Patches, merge
from truvae.settings import Settings
from truvae.tiles import Trained, estimates

SIZE = 3
SHAPES = st.tuples(st.integers(1, 2), st.integers(3, 9), st.integers(3, 9), st.integers(1, 2))


def frames(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def trained(patches, n_trained, n_features=4):
    """Return a model that nothing is special about, as if it were trained on some patches."""
    model = make_model(n_observables=patches.n_entries, dtype=torch.float32)
    some = patches.some(torch.arange(n_trained))
    features = Features.of(patches, n_features)
    return Trained(model, make_population(model, n_trained, 4), features, features(some), some)


def found(patches, known, tile=1000, seed=0, **settings):
    """Return numbers, means and bounds of all patches as the tiles yield them."""
    settings = Settings(n_latents=5, hidden=(), n_states=4, epochs=1, patch_size=SIZE, **settings)
    numbers = torch.arange(len(patches)).view(patches.places)
    for box in tiles.tiles(patches.places, tile):
        g, some = torch.Generator().manual_seed(seed), patches.cut(*box)
        for estimate, bound in estimates(
            known, box, some, some, settings, (Neighbours(),), g, Clock()
        ):
            yield replace(estimate, rows=numbers[box].flatten()[estimate.rows]), bound


@given(SHAPES, st.integers(1, 4), st.integers(1, 4))
def test_a_lattice_of_patches_covers_all_pixels(shape, size, stride):
    if size > min(shape[1:3]):
        return
    patches = Patches(frames(shape), size)
    rows = patches.lattice(stride)
    assert len(rows.unique()) == len(rows)
    assert len(patches.pixels(rows).unique()) == patches.shape.numel()
    if stride == 1:
        assert rows.tolist() == list(range(len(patches)))


@given(SHAPES, st.integers(0, 99))
def test_some_patches_are_those_of_their_numbers(shape, seed):
    patches = Patches(frames(shape), SIZE)
    g = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(patches), (7,), generator=g)
    order = torch.randint(7, (5,), generator=g)
    some = patches.some(rows).some(order)
    assert len(some) == 5
    assert torch.equal(some[torch.arange(5)], patches[rows[order]])
    assert torch.equal(some.pixels(torch.arange(5)), patches.pixels(rows[order]))


@given(SHAPES, st.data())
def test_a_box_of_places_is_a_picture_of_its_own(shape, data):
    patches = Patches(frames(shape), SIZE)
    box = [
        slice(*sorted(data.draw(st.tuples(st.integers(0, n - 1), st.just(n)))))
        for n in patches.places
    ]
    inside = torch.zeros(patches.places, dtype=torch.bool)
    inside[tuple(box)] = True
    assert torch.equal(patches.begin_in(*box), inside.flatten())
    cut, numbers = patches.cut(*box), inside.flatten().nonzero()[:, 0]
    assert torch.equal(cut[torch.arange(len(cut))], patches[numbers])
    pixels = torch.arange(patches.shape.numel()).view(shape)[patches.box(*box)].flatten()
    assert torch.equal(pixels[cut.pixels(torch.arange(len(cut)))], patches.pixels(numbers))


@given(st.tuples(*[st.integers(1, 30)] * 3), st.integers(1, 200))
def test_tiles_hold_every_place_once(places, most):
    times = torch.zeros(places)
    for tile in tiles.tiles(places, most):
        times[tile] += 1
        assert times[tile].numel() <= most
    assert (times == 1).all()


@given(SHAPES, st.integers(1, 40), st.integers(1, 6), st.integers(0, 2), st.integers(0, 99))
def test_every_patch_is_estimated_once(shape, tile, n_trained, local_epochs, seed):
    patches = Patches(frames(shape, seed), SIZE)
    known = trained(patches, min(n_trained, len(patches)))
    parts = [*found(patches, known, tile, seed, local_epochs=local_epochs)]
    rows = torch.cat([estimate.rows for estimate, _ in parts])
    assert sorted(rows.tolist()) == list(range(len(patches)))
    bounds = torch.cat([bound for _, bound in parts])
    assert bounds.shape == rows.shape and bounds.isfinite().all()
    merged = merge(patches, (estimate for estimate, _ in parts), 0.1)
    assert merged.shape == shape and merged.isfinite().all()


@pytest.mark.parametrize("tile", [1, 37, 64, 500])
def test_tiles_leave_no_seams(tile):
    """Where all start from the same states, it makes no difference how they are portioned out."""
    patches = Patches(frames((1, 20, 19, 1)), SIZE)
    known = trained(patches, 1)
    pictures = [
        merge(patches, (estimate for estimate, _ in found(patches, known, n)), 0.1)
        for n in (len(patches), tile)
    ]
    torch.testing.assert_close(*pictures, rtol=0, atol=1e-5)


def test_a_tile_learns_for_itself_and_leaves_the_model_as_it_was():
    patches = Patches(torch.cat([frames((1, 20, 40, 1)), 5 + frames((1, 20, 40, 1))], 1), SIZE)
    known = trained(patches, 20)
    before = [p.clone() for p in known.model.state().values()]
    totals = [
        sum(float(bound.sum()) for _, bound in found(patches, known, 400, local_epochs=n))
        for n in (0, 4)
    ]
    assert totals[1] > totals[0] + len(patches)  # by more than a nat for each patch
    assert all(
        torch.equal(*pair) for pair in zip(before, known.model.state().values(), strict=True)
    )


def test_memory_is_bounded_by_sample_and_tile(monkeypatch):
    patches = Patches(frames((1, 60, 50, 1)), SIZE)
    known, sizes = trained(patches, 100), []
    real = tiles.near_groups
    monkeypatch.setattr(
        tiles, "near_groups", lambda x, size, g: sizes.append(len(x)) or real(x, size, g)
    )
    groups = [len(estimate.rows) for estimate, _ in found(patches, known, 300)]
    assert len(sizes) == 12 and max(sizes) <= 300 + 100
    assert sum(groups) == len(patches) and max(groups) <= 300
    monkeypatch.setattr(tiles, "_GROUP", 32)
    assert max(len(estimate.rows) for estimate, _ in found(patches, known, 300)) < 100


def test_new_patches_take_the_states_of_those_most_like_them():
    patches = Patches(frames((1, 9, 9, 1)), SIZE)
    known, g = trained(patches, len(patches), n_features=9), torch.Generator().manual_seed(0)
    rows = torch.tensor([12, 29])
    nearest = known.states(torch.arange(10, 30), known.coordinates[rows], g)
    assert torch.equal(nearest.words, known.population.words[rows])
    box = tiles.Tile(slice(0, 1), slice(2, 3), slice(4, 6))
    assert known.around(box, 3).tolist() == [0, 1, 2, 18, 19]


def test_models_of_larger_pictures_learn_on_in_tiles_and_are_of_one_kind():
    def kinds(side, **options):
        plan = chosen.choose((side, side), 0.4, "balanced", **options)
        return [(model.covariance, model.local_epochs > 0) for model in plan.models]

    assert kinds(256) == [("isotropic", False), ("dct", False)]
    assert kinds(512) == [("isotropic", False), ("dct", True)]
    assert kinds(513) == [("dct", True)]
    assert kinds(513, covariance="isotropic") == kinds(513, complete=False) == kinds(256)[:1]


def test_models_with_covariances_flip_bits_in_the_first_half_of_a_training_alone(monkeypatch):
    """Also where they learn on in a tile; what is estimated in the end takes no flips."""
    monkeypatch.setattr(chosen, "_TRAINED", (500, 500))
    asked, real = [], Settings.search_at

    def search_at(settings, progress):
        found = real(settings, progress)
        asked.append((settings.epochs, progress, len(found) == 2))
        return found

    monkeypatch.setattr(Settings, "search_at", search_at)
    options = SMALL | {"covariance": "dct", "epochs": 8, "return_result": True}
    result = truvae.denoise(noisy_scene()[1], **options)
    flipped = {(epochs, progress < 0.5, flips) for epochs, progress, flips in asked}
    n_local = result.settings.local_epochs
    assert flipped == {(n, early, early) for n in (8, n_local) for early in (True, False)}
    assert any(progress == 1 for _, progress, _ in asked)


def test_other_models_flip_bits_all_along():
    plan = chosen.choose((64, 64), 0.4, "balanced")
    assert [(model.covariance, model.share_from) for model in plan.models] == [
        ("isotropic", float("inf")),
        ("dct", 0.5),
    ]


def test_a_large_picture_with_a_few_gaps_is_left_to_the_model_that_learns_on(monkeypatch):
    clean, noisy = noisy_scene()
    noisy[5:8, 20] = np.nan
    monkeypatch.setattr(chosen, "_TRAINED", (1000, 1000))
    monkeypatch.setattr(chosen, "_LARGE", 1000)
    options = {name: value for name, value in SMALL.items() if name != "epochs"}
    result = truvae.denoise(noisy, return_result=True, **options)
    assert result.covariances == ["isotropic", "dct"] and result.trust_in_dct == 1
    assert result.settings.local_epochs > 0 and rmse(result.restored, clean) < 12


@pytest.mark.parametrize("covariance", ["auto", "isotropic", "dct"])
def test_a_picture_just_too_large_is_restored_like_one_that_is_not(monkeypatch, covariance):
    clean, noisy = noisy_scene()
    options = SMALL | {"covariance": covariance, "sigma": 20.0, "return_result": True, "epochs": 8}
    whole = truvae.denoise(noisy, **options)
    assert whole.n_trained == whole.n_data
    monkeypatch.setattr(chosen, "_TRAINED", (whole.n_data - 100, whole.n_data - 100))
    sampled = truvae.denoise(noisy, **options)
    assert sampled.n_trained == sampled.n_data - 100
    assert rmse(sampled.restored, whole.restored) < 4  # other noise in training, of a fifth
    assert rmse(sampled.restored, clean) < 1.1 * rmse(whole.restored, clean)
    assert sampled.elbo == pytest.approx(whole.elbo, abs=0.03 * abs(whole.elbo))


@pytest.mark.parametrize(("trust", "n_estimates"), [(0.0, 2), (0.5, 2), (1.0, 1)])
def test_a_model_without_weight_in_the_result_estimates_nothing(monkeypatch, trust, n_estimates):
    calls, real = [], fitting.tiles
    monkeypatch.setattr(chosen, "_TRAINED", (100, 100))
    monkeypatch.setattr(job, "trust_in_dct", lambda learned, estimate: trust)
    monkeypatch.setattr(fitting, "tiles", lambda *a: calls.append(1) or real(*a))
    noisy = noisy_scene(size=24)[1]
    result = truvae.denoise(noisy, return_result=True, **SMALL | {"epochs": 1})
    assert len(result.covariances) == 2 and len(calls) == n_estimates
    assert np.isfinite(result.restored).all() and np.isfinite(result.elbo)


@given(st.tuples(st.integers(10, 20), st.integers(10, 20)), st.sampled_from([0.0, 0.2]))
def test_large_pictures_of_any_shape_come_back_whole(shape, missing):
    rng = np.random.default_rng(0)
    picture = rng.normal(0, 1, shape)
    picture[rng.random(shape) < missing] = np.nan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chosen, "_TRAINED", (15, 15))
        result = truvae.denoise(picture, patch_size=4, return_result=True, **SMALL | {"epochs": 1})
    assert result.n_trained == 15 < result.n_data
    assert result.restored.shape == shape and np.isfinite(result.restored).all()


def test_frames_of_a_stack_share_a_sample_of_the_size_of_one(monkeypatch):
    frames = np.stack([noisy_scene(seed=seed)[1] for seed in range(3)])
    options = SMALL | {"stack": "shared", "return_result": True, "epochs": 2}
    result = truvae.denoise(frames, **options)
    assert result.n_data == 3 * result.n_trained
    monkeypatch.setattr(chosen, "_TRAINED", (500, 500))
    assert truvae.denoise(frames, **options).n_trained == 500


def test_a_time_budget_holds_for_large_pictures(monkeypatch, ticking):
    monkeypatch.setattr(chosen, "_TRAINED", (500, 500))
    options = SMALL | {"epochs": 100_000}
    result = truvae.denoise(noisy_scene()[1], time_budget=2e5, return_result=True, **options)
    assert result.epochs < 100_000 and result.n_trained == 500
    assert rmse(result.restored, noisy_scene()[0]) < 20


def test_after_the_signal_to_stop_a_quarter_of_the_patches_is_estimated(monkeypatch):
    monkeypatch.setattr(chosen, "_TRAINED", (500, 500))
    (clean, noisy), counts, epochs, real = noisy_scene(), [], [], fitting.estimates
    monkeypatch.setattr(fitting, "estimates", lambda *a: counts.append(len(a[2])) or real(*a))
    options = SMALL | {"epochs": 8, "covariance": "dct", "on_epoch": epochs.append}
    truvae.denoise(noisy, **options)
    epochs.clear()
    short = truvae.denoise(noisy, should_stop=lambda: len(epochs) == 8, **options)
    assert counts[0] / 5 < counts[1] < counts[0] / 3
    assert rmse(short, clean) < 0.7 * rmse(noisy, clean)


def test_presets_train_on_all_patches(monkeypatch):
    monkeypatch.setattr(chosen, "_TRAINED", (10, 10))
    noisy = noisy_scene(size=16)[1]
    result = truvae.denoise(noisy, preset="paper:denoise-house-25", epochs=1, return_result=True)
    assert result.n_trained == result.n_data == 81
