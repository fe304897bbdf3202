"""Restoration of arrays: what comes back, what is told, what is learned."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import truvae
from truvae import InputError, job, wishes
from truvae.settings import QUALITIES, choose, is_for_dct, trust_in_dct
from truvae.training import Epoch

SMALL = {"n_latents": 16, "hidden": (32,), "n_states": 8, "epochs": 20}
PLAIN = SMALL | {"covariance": "isotropic"}


def scene(size=48):
    """Return a picture of bars and a disc with grey levels between 40 and 200."""
    y, x = np.mgrid[:size, :size]
    picture = np.where((x // 8) % 2 == 0, 60.0, 160.0)
    picture[(x - size / 2) ** 2 + (y - size / 2) ** 2 < (size / 4) ** 2] = 200.0
    return picture


def noisy_scene(sigma=20.0, seed=0, size=48):
    clean = scene(size)
    return clean, clean + np.random.default_rng(seed).normal(0, sigma, clean.shape)


def rmse(a, b):
    return float(np.sqrt(np.mean((a - b) ** 2)))


def test_noise_goes_and_its_level_is_learned():
    clean, noisy = noisy_scene()
    result = truvae.denoise(noisy, return_result=True, **PLAIN | {"epochs": 50})
    assert rmse(result.restored, clean) < 20 / 2
    assert result.sigma == pytest.approx(20, rel=0.25) and result.sigma_source == "learned"
    assert [epoch.index for epoch in result.history] == list(range(50))
    assert result.history[-1].elbo > result.history[0].elbo
    assert result.elbo == pytest.approx(result.history[-1].elbo, abs=2)
    assert result.n_data == (48 - result.settings.patch_size + 1) ** 2
    assert result.covariances == ["isotropic"] and result.looks == 0


@pytest.mark.parametrize("covariance", ["auto", "dct"])
def test_covariances_and_second_looks_restore_better(covariance):
    clean, noisy = noisy_scene()
    plain = truvae.denoise(noisy, **PLAIN)
    result = truvae.denoise(noisy, covariance=covariance, return_result=True, **SMALL)
    assert rmse(result.restored, clean) < rmse(plain, clean)
    assert result.looks == 2 and result.epochs == 20
    assert result.sigma == pytest.approx(20, rel=0.25)
    if covariance == "dct":
        assert result.covariances == ["dct"] and result.trust_in_dct == 1
        assert result.sigma_source == "estimated" and result.settings.covariance == "dct"
    else:
        assert result.covariances[0] == "isotropic" and len(result.covariances) == 2


def test_once_stopped_no_other_model_is_begun(monkeypatch):
    begun, epochs = [], []
    fit_model = job.fit_model
    monkeypatch.setattr(job, "fit_model", lambda *args: begun.append(args) or fit_model(*args))
    with pytest.warns(UserWarning, match="little time to learn"):
        result = truvae.denoise(
            noisy_scene()[1], return_result=True, quality="best", on_epoch=epochs.append,
            should_stop=lambda: len(epochs) > 1, **SMALL,
        )  # fmt: skip
    assert len(begun) == 1 and result.covariances == ["isotropic"]
    assert np.isfinite(result.restored).all()


def test_what_white_noise_cannot_explain_goes_to_the_other_model():
    assert trust_in_dct(24.0, 25.0) == 0 and trust_in_dct(30.0, 25.0) == 1
    assert 0 < trust_in_dct(25.05, 25.0) < 1
    assert trust_in_dct(50.1, 50.0) == pytest.approx(trust_in_dct(25.05, 25.0))


def training_of(sigmas):
    """Return the records of epochs that learned these noise levels."""
    return [
        Epoch(i, (i + 1) / len(sigmas), 0.0, sigma, 5.0, 0, 1.0) for i, sigma in enumerate(sigmas)
    ]


@given(st.floats(0.9, 1.1), st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_a_level_that_falls_ever_less_is_not_given_up_too_early(last, steps):
    sigmas = np.array([last, *last + np.cumsum(sorted(steps))][::-1])
    epochs = training_of(sigmas)
    early = [is_for_dct(epochs[:n], 1.0) for n in range(len(epochs))]
    assert not any(early) or trust_in_dct(last, 1.0) == 1
    assert early == sorted(early)  # what is known stays known


def test_a_training_that_has_more_time_than_before_goes_on():
    epochs = [replace(epoch, progress=0.6) for epoch in training_of([3.0, 2.0, 1.9])]
    assert not is_for_dct(epochs, 1.0)


def test_a_model_ends_once_the_other_one_is_known_to_do_better(monkeypatch):
    clean, noisy = noisy_scene()
    early = truvae.denoise(noisy, return_result=True, **SMALL)
    monkeypatch.setattr(job, "is_for_dct", lambda epochs, estimate: False)
    whole = truvae.denoise(noisy, return_result=True, **SMALL)
    assert early.covariances == whole.covariances and early.trust_in_dct == 1 == whole.trust_in_dct
    assert early.epochs == whole.epochs == 20 and len(early.history) < len(whole.history) == 40
    assert rmse(early.restored, clean) == pytest.approx(rmse(whole.restored, clean), rel=0.05)


@pytest.mark.parametrize(("n", "kept"), [(1, False), (9, False), (12, True)])
def test_a_model_cut_short_counts_from_half_of_its_epochs_if_the_other_has_no_weight(n, kept):
    clean, noisy = noisy_scene()
    epochs, second = [], []

    def note(epoch):
        (second if epochs and (second or epoch.index == 0) else epochs).append(epoch)

    result = truvae.denoise(
        noisy, return_result=True, on_epoch=note, should_stop=lambda: len(second) >= n, **SMALL
    )
    assert result.covariances == ["isotropic", "dct"][: 1 + kept]
    assert result.epochs == (n if kept else len(epochs))
    # Not looked at again, since it was stopped.
    assert len(epochs) < 20 and rmse(result.restored, clean) < 20 / 1.5


@settings(max_examples=15)
@given(
    st.sampled_from([np.uint8, np.uint16, np.int32, np.float32, np.float64]),
    st.tuples(st.integers(8, 30), st.integers(8, 30)),
    st.integers(0, 99),
)
def test_same_shape_and_type_come_back(dtype, shape, seed):
    picture = np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)
    restored = truvae.denoise(picture, patch_size=4, **SMALL | {"epochs": 1})
    assert restored.shape == picture.shape and restored.dtype == picture.dtype
    assert np.isfinite(restored).all()


@pytest.mark.parametrize("covariance", ["auto", "isotropic", "dct"])
@pytest.mark.parametrize("sigma", [None, 1e-9])
def test_a_picture_without_noise_is_hardly_changed(covariance, sigma):
    """Its noise is estimated as 0."""
    clean = scene()
    options = SMALL | {"covariance": covariance, "sigma": sigma, "epochs": 10}
    restored = truvae.denoise(clean, **options)
    assert np.isfinite(restored).all()
    assert rmse(restored, clean) < 0.35 * clean.std()


@pytest.mark.parametrize("size", [24, 48, 96])
def test_pure_noise_is_known_as_noise(size):
    noisy = np.random.default_rng(0).normal(128, 25, (size, size))
    result = truvae.denoise(noisy, quality="fast", epochs=2, return_result=True)
    assert result.sigma == pytest.approx(25, rel=0.1)
    assert result.restored.std() < 25 / 3


def test_units_do_not_matter():
    """Scaled and shifted input gives the same picture in its own units."""
    _, noisy = noisy_scene()
    options = SMALL | {"epochs": 8, "return_result": True}
    a, b = (truvae.denoise(x, **options) for x in (noisy, noisy * 1000 - 5e5))
    np.testing.assert_allclose(b.restored, a.restored * 1000 - 5e5, atol=0.02 * 1000 * noisy.std())
    assert b.sigma == pytest.approx(1000 * a.sigma, rel=0.02)
    assert b.elbo == pytest.approx(a.elbo - a.settings.patch_size**2 * np.log(1000), rel=0.02)


def test_same_seed_same_bytes():
    _, noisy = noisy_scene()
    options = SMALL | {"epochs": 5}
    first, second, other = (truvae.denoise(noisy, random_state=s, **options) for s in (3, 3, 4))
    assert first.tobytes() == second.tobytes() != other.tobytes()


def test_input_is_left_alone():
    _, noisy = noisy_scene()
    before = noisy.copy()
    truvae.denoise(noisy, **SMALL | {"epochs": 1})
    np.testing.assert_array_equal(noisy, before)


def test_missing_pixels_are_filled_in():
    clean, noisy = noisy_scene(10)
    gaps = np.random.default_rng(1).random(noisy.shape) < 0.2
    noisy[gaps] = np.nan
    result = truvae.denoise(noisy, return_result=True, **SMALL)
    assert np.isfinite(result.restored).all()
    assert result.missing == pytest.approx(gaps.mean())
    assert rmse(result.restored[gaps], clean[gaps]) < 0.5 * clean.std()


def test_given_sigma_is_held():
    _, noisy = noisy_scene()
    result = truvae.denoise(noisy, sigma=17.0, return_result=True, **SMALL)
    assert result.sigma == pytest.approx(17.0, rel=1e-5) and result.sigma_source == "given"
    assert all(epoch.sigma == pytest.approx(17.0, rel=1e-5) for epoch in result.history)


def test_callbacks_see_the_run_and_can_end_it():
    _, noisy = noisy_scene()
    progress, epochs = [], []
    truvae.denoise(noisy, on_progress=progress.append, on_epoch=epochs.append, **SMALL)
    assert progress == sorted(progress) and progress[-1] == 1
    n = len(epochs)
    assert 20 < n <= 40
    options = SMALL | {"should_stop": lambda: len(epochs) > n + 2, "on_epoch": epochs.append}
    with pytest.warns(UserWarning, match="little time to learn"):
        result = truvae.denoise(noisy, return_result=True, **options)
    assert len(result.history) == result.epochs == 3 and np.isfinite(result.restored).all()
    assert result.covariances == ["isotropic"] and result.trust_in_dct == 0 == result.looks
    assert result.elbo < 0


def test_time_budget_ends_the_training(ticking):
    clean, noisy = noisy_scene()
    options = SMALL | {"epochs": 100_000}
    result = truvae.denoise(noisy, time_budget=1e5, return_result=True, **options)
    assert 1 <= len(result.history) < 100_000
    assert result.history[-1].progress == 1
    assert rmse(result.restored, clean) < 10


def test_with_little_time_an_estimate_is_no_worse_than_the_picture(ticking):
    clean, noisy = noisy_scene()
    with pytest.warns(UserWarning, match=r"little time to learn: \d+% of the picture"):
        result = truvae.denoise(noisy, time_budget=3e4, return_result=True, **SMALL)
    assert 0 < result.epochs < 10
    assert rmse(result.restored, clean) < 0.9 * rmse(noisy, clean)
    noisy[3, 4] = np.nan  # where values are missing, what is known is no estimate of all
    result = truvae.denoise(noisy, time_budget=3e4, return_result=True, **SMALL)
    assert 0 < result.epochs < 10
    assert np.isfinite(result.restored).all()


def test_estimates_and_frames_are_averaged_by_how_much_they_err():
    """A made-up estimate that errs by twice as much as the frames: it counts for one fifth."""
    rng, clean = np.random.default_rng(0), scene()
    frame = torch.as_tensor(clean + rng.normal(0, 10, clean.shape))
    estimate = torch.as_tensor(clean + rng.normal(0, 20, clean.shape))
    made = SimpleNamespace(images=frame, told=10.0, _unclipped=lambda images, _: images)
    with pytest.warns(UserWarning, match="(79|80|81)% of the picture"):
        average = job.Job._weighed(made, estimate)
    assert rmse(average.numpy(), clean) == pytest.approx(10 * 0.8**0.5, rel=0.05)
    made.told = 25.0
    assert torch.equal(job.Job._weighed(made, estimate), estimate)


@pytest.mark.parametrize("options", [{"should_stop": lambda: True}, {"time_budget": 1e-9}])
@pytest.mark.parametrize("noise", ["gaussian", "poisson-gaussian"])
def test_without_time_to_learn_a_picture_is_as_it_was(options, noise):
    _, noisy = noisy_scene()
    with pytest.warns(UserWarning, match="no time to learn anything"):
        result = truvae.denoise(noisy, noise=noise, return_result=True, **options, **SMALL)
    assert np.array_equal(result.restored, noisy) and result.epochs == 0
    assert result.sigma_source == "estimated" and result.sigma == pytest.approx(20, rel=0.3)
    assert result.elbo is None and result.history == []
    noisy[3, 4] = np.nan
    with pytest.warns(UserWarning, match="no time to learn anything"):
        filled = truvae.denoise(noisy, noise=noise, **options, **SMALL)
    assert np.isfinite(filled).all()
    assert np.array_equal(filled[np.isfinite(noisy)], noisy[np.isfinite(noisy)])


@pytest.mark.parametrize("noise", ["gaussian", "poisson-gaussian"])
def test_a_channel_without_noise_does_not_outweigh_the_others(noise):
    clean, rng = scene(), np.random.default_rng(0)
    noisy = rng.poisson(clean / 4) * 4.0
    label = np.where(scene() == 200, 255.0, rng.normal(0, 1e-3, clean.shape))
    both = np.stack([noisy, label], -1)
    restored = truvae.denoise(both, channel_axis=-1, noise=noise, **SMALL)
    assert rmse(restored[..., 0], clean) < 0.7 * rmse(noisy, clean)
    assert rmse(restored[..., 1], label) < 0.1 * label.std()


def test_a_channel_that_is_blank_in_some_frames_does_not_hide_its_noise():
    frames = np.stack([np.stack([noisy_scene(seed=2 * k + c)[1] for c in range(2)], -1)
                       for k in range(4)])  # fmt: skip
    frames[::2, ..., 1] = 0
    options = {"channel_axis": -1, "stack": "shared", "covariance": "dct", "return_result": True}
    result = truvae.denoise(frames, **options, **SMALL | {"epochs": 1})
    assert result.sigma_channels == pytest.approx((20, 20), rel=0.1)


@pytest.mark.parametrize(("sigma", "parts"), [(None, (1, 1, 0.5)), (20, (1, 1, 1))])
def test_grey_stored_as_colours_is_restored_as_grey(sigma, parts):
    _, noisy = noisy_scene()
    options = {"covariance": "dct", "sigma": sigma, "return_result": True} | SMALL
    grey = truvae.denoise(noisy, **options)
    colours = noisy[..., None] * parts
    result = truvae.denoise(colours, channel_axis=-1, **options)
    assert result.sigma_channels == pytest.approx(np.multiply(grey.sigma, parts))
    assert rmse(result.restored, grey.restored[..., None] * parts) < 1
    assert result.turn.axes.shape == (3, 1) and result.restored.shape == colours.shape


@pytest.mark.parametrize(("told", "most"), [(None, 0.5), (10, 1.0), (16, 0.85), (24, 0.5)])
def test_noise_that_colours_share_is_told_from_signal(told, most, monkeypatch):
    clean = np.stack([scene(), scene()[::-1], scene().T], -1)
    noise = np.random.default_rng(0).normal(0, 20, clean.shape)
    options = {"channel_axis": -1, "sigma": told, "covariance": "dct"} | SMALL | {"epochs": 10}
    noises = noise[..., :1] + 0 * noise, 0.9 * noise[..., :1] + 0.44 * noise
    for shared in noises if told is None else noises[1:]:
        restored = truvae.denoise(clean + shared, **options)
        assert rmse(restored, clean) < most * rmse(shared, 0)
    if told is None:
        monkeypatch.setattr(wishes, "_CORRELATED", 2)
        without = truvae.denoise(clean + shared, **options)
        assert rmse(restored, clean) < 0.7 * rmse(without, clean)


@pytest.mark.parametrize("size", [1e-40, 1e40])
def test_values_beyond_floating_point_are_told(size):
    with pytest.raises(InputError, match="scale them to between 1e-30 and 1e"):
        truvae.denoise(size * noisy_scene()[1])


def test_odd_sizes_and_levels_end_well():
    _, noisy = noisy_scene()
    line = truvae.denoise(noisy[:1], patch_size=1, **SMALL)
    assert line.shape == (1, 48) and np.isfinite(line).all()
    flat = truvae.denoise(noisy, sigma=9 * np.ptp(noisy), **SMALL | {"epochs": 1})
    assert np.isfinite(flat).all() and flat.std() < noisy.std()


@pytest.mark.parametrize("kind", [bool, complex])
def test_gaps_are_not_filled_in_what_holds_no_numbers(kind):
    picture = (scene() > 100).astype(kind)
    with pytest.raises(InputError, match="holds integers or floats"):
        truvae.inpaint(picture, np.eye(48), **SMALL)
    with pytest.raises(InputError, match="holds integers or floats"):
        truvae.inpaint_audio(picture[:, 0], np.eye(48)[0], sample_rate=8000)


BAD_PICTURES = {
    "rows and columns": np.zeros(9),
    "constant": np.full((20, 20), 7),
    "no known pixel": np.full((20, 20), np.nan),
    "infinite": np.where(np.eye(20) > 0, np.inf, 1.0),
    "complex": np.ones((20, 20), complex),
    "object": np.full((20, 20), None),
    "smaller than a patch": np.random.default_rng(0).random((5, 30)),
}


@pytest.mark.parametrize("message", BAD_PICTURES)
def test_bad_pictures_are_told(message):
    with pytest.raises(InputError, match=message.strip()):
        truvae.denoise(BAD_PICTURES[message])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch_size": 0}, "patch size must be a whole number of 1 or more, not 0"),
        ({"patch_size": 49}, "smaller than a patch of 49 x 49"),
        ({"n_latents": -1}, "latents must be a whole number"),
        ({"hidden": (4, 0)}, "hidden must be a whole number"),
        ({"n_states": 2.5}, "states must be a whole number"),
        ({"n_latents": 3, "n_states": 9}, "3 latents have only 8 states, not 9"),
        ({"sigma": -1.0}, "sigma must be above 0"),
        ({"sigma": float("nan")}, "sigma must be above 0"),
        ({"quality": "superb"}, "no quality 'superb': choose one of fast, balanced, best"),
        ({"covariance": "full"}, "no covariance 'full': choose one of auto, isotropic, dct"),
        ({"device": "tpu"}, "no device 'tpu'"),
    ],
)
def test_bad_options_are_told(options, message):
    with pytest.raises(InputError, match=message):
        truvae.denoise(noisy_scene()[1], **options)


def test_settings_depend_on_size_colour_and_noise_only():
    for quality in QUALITIES:
        small, large = (choose((n, n), 0.3, quality).models[0] for n in (64, 1024))
        assert small.epochs > large.epochs >= 2
        assert (
            choose((256, 256), 1.0, quality).models[0].patch_size
            > choose((256, 256), 0.2, quality).models[0].patch_size
        )
    plans = [choose((256, 256), 0.3, quality) for quality in QUALITIES]
    work = [plan.runs * plan.models[-1].epochs for plan in plans]
    assert work == sorted(work)
    sizes = [(256, 256), (400, 400), (512, 512), (2048, 2048, 3)]
    assert [choose(shape, 0.3, "best").runs for shape in sizes] == [4, 3, 2, 2]
    kinds = [choose(shape, 0.3, "balanced").models for shape in ((256, 256, 1), (64, 64, 3))]
    assert [len(models) for models in kinds] == [2, 1] and kinds[1][0].covariance == "dct"
    (plain,) = choose((64, 64, 3), 0.3, "balanced", "isotropic").models
    assert plain.covariance == "isotropic"
    assert [len(plan.courses) > 1 for plan in plans] == [False, False, True]
    assert plans[2].courses[0] == plans[1].courses[0]
    sides = {side for course in plans[2].courses for sizes in course for side in sizes}
    assert max(sides) - min(sides) == 4
    small = choose((9, 30), 0.3, "best").courses
    assert max(side for course in small for sizes in course for side in sizes) == 9


def test_missing_pixels_need_an_isotropic_model_first():
    _, noisy = noisy_scene()
    noisy[3, 4] = np.nan
    with pytest.raises(InputError, match="without missing pixels: choose auto or isotropic"):
        truvae.denoise(noisy, covariance="dct")
    result = truvae.denoise(noisy, return_result=True, **SMALL)
    assert result.covariances[0] == "isotropic" and result.looks == 2
    assert result.held_out_rmse > 10  # the hidden pixels are noisy


def test_as_many_models_as_planned_within_the_time_given(ticking):
    _, noisy = noisy_scene(size=24)
    small = {name: value for name, value in SMALL.items() if name != "epochs"}
    for quality, n_models in (("fast", 1), ("balanced", 2)):
        result = truvae.denoise(noisy, quality=quality, return_result=True, **small)
        assert len(result.covariances) == n_models
        assert len(result.history) >= n_models * result.epochs / 2
    with pytest.warns(UserWarning, match="little time to learn"):
        result = truvae.denoise(noisy, time_budget=2e4, return_result=True, **small)
    assert len(result.history) <= result.settings.epochs
    assert np.isfinite(result.restored).all()


@pytest.mark.parametrize(("missing", "end"), [(0, 0.92), (1, 0.75), (1000, 0.75)])
def test_it_ends_in_the_midst_of_a_look(missing, end):
    """At a progress at which one of several looks is under way."""
    clean, noisy = noisy_scene()
    noisy.ravel()[np.random.default_rng(0).permutation(noisy.size)[:missing]] = np.nan
    told, asked, stops = [], [], []

    def should_stop():
        asked.append(told[-1:])
        return bool(stops) and len(asked) > stops[0]

    options = SMALL | {"should_stop": should_stop, "on_progress": told.append}
    whole = truvae.denoise(noisy, return_result=True, **options)
    assert told == sorted(told)
    stops.append(sum(at < [end] for at in asked))
    asked.clear(), told.clear()
    cut = truvae.denoise(noisy, return_result=True, **options)
    assert cut.looks < whole.looks and len(asked) < stops[0] + 6
    assert cut.sigma == whole.sigma and cut.epochs == whole.epochs
    assert rmse(cut.restored, clean) < 12
