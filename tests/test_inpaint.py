"""Pictures of every kind: gaps, colours, frames, several levels of noise."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_restore import PLAIN, SMALL, noisy_scene, rmse, scene

import truvae
from truvae import InputError
from truvae.checks import masked

TINY = SMALL | {"epochs": 1, "patch_size": 4}
DCT = SMALL | {"covariance": "dct", "epochs": 10}


def gaps_of(shape, share=0.3, seed=1):
    return np.random.default_rng(seed).random(shape) < share


def coloured(picture):
    """Return a colour picture whose channels differ."""
    return np.stack([picture, 255 - picture, 0.5 * picture + 20], -1)


@st.composite
def damaged_pictures(draw):
    """Draw a picture of any type and shape, with any mask that leaves something known."""
    dtype = draw(st.sampled_from([np.uint8, np.uint16, np.int32, np.float32, np.float64]))
    shape = draw(st.tuples(st.integers(4, 24), st.integers(4, 24)))
    channels = draw(st.sampled_from([None, 1, 3]))
    share = draw(st.sampled_from([0.01, 0.3, 0.8, 0.99]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    picture = rng.integers(0, 200, shape if channels is None else (*shape, channels)).astype(dtype)
    mask = rng.random(picture.shape if draw(st.booleans()) else shape) < share
    mask.flat[0], mask[-1, -1], mask[-1, -2] = True, False, False
    return picture, mask, None if channels is None else -1


@settings(max_examples=25)
@given(damaged_pictures())
def test_known_values_stay_and_all_others_are_filled(case):
    picture, mask, channel_axis = case
    known = np.broadcast_to(~mask if mask.ndim == picture.ndim else ~mask[..., None], picture.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of wide holes
        filled = truvae.inpaint(picture, mask, channel_axis=channel_axis, **TINY)
    assert filled.shape == picture.shape and filled.dtype == picture.dtype
    assert np.isfinite(filled).all()
    np.testing.assert_array_equal(filled[known], picture[known])


def test_gaps_are_filled_much_better_than_by_their_neighbours():
    clean = scene()
    mask = gaps_of(clean.shape)
    result = truvae.inpaint(clean, mask, quality="fast", return_result=True)
    assert rmse(result.restored[mask], clean[mask]) < 0.25 * clean.std()
    assert result.missing == pytest.approx(mask.mean()) and result.looks > 0
    assert 0 < result.held_out_rmse < 0.25 * clean.std()


def test_noise_of_the_known_pixels_goes_only_if_asked_for():
    clean, noisy = noisy_scene()
    mask = gaps_of(clean.shape)
    kept = truvae.inpaint(noisy, mask, **SMALL)
    cleaned = truvae.inpaint(noisy, mask, denoise=True, **SMALL)
    np.testing.assert_array_equal(kept[~mask], noisy[~mask])
    np.testing.assert_array_equal(kept[mask], cleaned[mask])
    assert rmse(cleaned[~mask], clean[~mask]) < 0.7 * 20


def test_values_under_the_mask_do_not_matter():
    clean = scene()
    mask = gaps_of(clean.shape)
    spoiled = np.where(mask, 1e6 * np.random.default_rng(2).normal(size=mask.shape), clean)
    first = truvae.inpaint(clean, mask, **SMALL)
    second = truvae.inpaint(spoiled, mask, **SMALL)
    np.testing.assert_array_equal(first, second)


def test_wide_holes_are_continued_from_outside_and_told():
    """A border between two grey levels goes on through a hole wider than any patch."""
    clean = np.where(np.arange(64) < 30, 60.0, 160.0) * np.ones((64, 1))
    clean += np.random.default_rng(0).normal(0, 1, clean.shape)
    mask = np.zeros(clean.shape, bool)
    mask[20:44, 18:42] = True
    with pytest.warns(UserWarning, match="holes are up to 24 pixels wide"):
        filled = truvae.inpaint(clean, mask, **SMALL | {"epochs": 5})
    assert rmse(filled[mask], clean[mask]) < 15


def test_nan_is_missing_too():
    clean = scene()
    mask = gaps_of(clean.shape)
    np.testing.assert_array_equal(
        truvae.inpaint(np.where(mask, np.nan, clean), **SMALL), truvae.inpaint(clean, mask, **SMALL)
    )


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((48, 48)), "nothing is missing"),
        (np.ones((48, 48)), "no known pixel"),
        (np.ones((48, 47)), r"mask has shape \(48, 47\)"),
        (np.ones(48), r"mask has shape \(48,\)"),
        (np.ones((48, 1)), r"mask has shape \(48, 1\)"),
    ],
)
def test_masks_that_make_no_sense_are_told(mask, message):
    with pytest.raises(InputError, match=message):
        truvae.inpaint(scene(), mask)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_mask_is_of_values_pixels_or_one_frame(axis):
    """Of each shape that it may have it says the same; others are told."""
    stack = np.moveaxis(np.random.default_rng(0).random((2, 8, 9, 3)), -1, axis)
    mask = gaps_of((8, 9))
    values = np.moveaxis(np.broadcast_to(mask[..., None], (2, 8, 9, 3)), -1, axis)
    for same in (mask, np.stack([mask, mask]), values):
        np.testing.assert_array_equal(np.isnan(masked(stack, same, axis)), values)
    for other in (mask[0], mask[None], mask[..., None], values[..., :1]):
        with pytest.raises(InputError, match="they must be equal, but for the channels"):
            masked(stack, other, axis)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_what_a_masked_array_masks_is_missing(dtype):
    clean, mask = scene().astype(dtype), gaps_of((48, 48))
    spoiled = np.ma.masked_array(np.where(mask, 255, clean).astype(dtype), mask)
    filled = truvae.inpaint(spoiled, **TINY)
    assert type(filled) is np.ndarray and filled.dtype == dtype
    np.testing.assert_array_equal(filled, truvae.inpaint(clean, mask, **TINY))
    result = truvae.denoise(spoiled, return_result=True, **TINY)
    assert type(result.restored) is np.ndarray and result.restored.dtype == dtype
    assert result.missing == pytest.approx(mask.mean())


def test_channels_are_restored_together_wherever_their_axis_is():
    rng = np.random.default_rng(0)
    clean = coloured(scene())
    noisy = clean + rng.normal(0, 20, clean.shape)
    last = truvae.denoise(noisy, channel_axis=-1, **TINY)
    first = truvae.denoise(np.moveaxis(noisy, -1, 0), channel_axis=0, **TINY)
    np.testing.assert_array_equal(np.moveaxis(first, 0, -1), last)


def test_channels_help_each_other():
    """They show the same with noise of their own."""
    rng = np.random.default_rng(0)
    clean = np.repeat(scene()[..., None], 3, axis=-1)
    noisy = clean + rng.normal(0, 20, clean.shape)
    together = truvae.denoise(noisy, channel_axis=-1, **DCT)
    alone = truvae.denoise(noisy[..., 0], **DCT)
    assert rmse(together[..., 0], clean[..., 0]) < 0.9 * rmse(alone, clean[..., 0])


def test_an_axis_of_three_or_four_is_taken_for_colour_with_a_warning():
    noisy = coloured(noisy_scene(size=24)[1])
    with pytest.warns(UserWarning, match="channel_axis=-1"):
        guessed = truvae.denoise(noisy, **TINY)
    np.testing.assert_array_equal(guessed, truvae.denoise(noisy, channel_axis=-1, **TINY))
    mask = gaps_of(noisy.shape[:2])
    with pytest.warns(UserWarning, match="channel_axis=-1"):
        guessed = truvae.inpaint(noisy, mask, **TINY)
    np.testing.assert_array_equal(guessed, truvae.inpaint(noisy, mask, channel_axis=-1, **TINY))
    with pytest.raises(InputError, match="there is no channel_axis 5"):
        truvae.inpaint(noisy, mask, channel_axis=5)


def test_channels_may_have_noise_of_their_own():
    rng = np.random.default_rng(0)
    clean = coloured(scene())
    noisy = clean + rng.normal(0, 1, clean.shape) * [10.0, 20.0, 40.0]
    result = truvae.denoise(noisy, channel_axis=-1, return_result=True, **DCT)
    # Of a picture so small the estimate takes some signal for noise.
    np.testing.assert_allclose(result.sigma_channels, [10, 20, 40], rtol=0.35)
    for k, level in enumerate((10, 20, 40)):
        assert rmse(result.restored[..., k], clean[..., k]) < level


def test_a_constant_channel_stays_and_changes_nothing_else():
    """As in pictures of one fluorescent colour."""
    _, noisy = noisy_scene()
    grey = truvae.denoise(noisy, return_result=True, **TINY)
    green = np.stack([np.zeros_like(noisy), noisy, np.full_like(noisy, 7)], -1)
    result = truvae.denoise(green, channel_axis=-1, return_result=True, **TINY)
    np.testing.assert_array_equal(result.restored[..., 1], grey.restored)
    assert (result.restored[..., 0] == 0).all() and (result.restored[..., 2] == 7).all()
    assert result.sigma == pytest.approx(grey.sigma)
    assert result.sigma_channels == (0, pytest.approx(grey.sigma), 0)


def stack_of(n, sigma=20.0):
    """Return frames that show the same thing, moved a little, and their clean versions."""
    clean = np.stack([np.roll(scene(), 2 * i, axis=1) for i in range(n)])
    return clean, clean + np.random.default_rng(0).normal(0, sigma, clean.shape)


def test_frames_are_restored_as_if_alone():
    _, noisy = stack_of(4)
    noisy = noisy.reshape(2, 2, 48, 48)
    result = truvae.denoise(noisy, return_result=True, **TINY)
    assert result.frames == 4 and result.restored.shape == noisy.shape
    np.testing.assert_array_equal(result.restored[1, 0], truvae.denoise(noisy[1, 0], **TINY))


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_frames_that_share_models_are_restored_as_well(missing):
    clean, noisy = stack_of(2)
    noisy[gaps_of(noisy.shape, missing)] = np.nan
    alone = truvae.denoise(noisy, return_result=True, **PLAIN)
    shared = truvae.denoise(noisy, stack="shared", return_result=True, **PLAIN)
    assert shared.frames == 2 and shared.n_data == alone.n_data
    assert len(shared.history) == len(alone.history) / 2
    assert rmse(shared.restored, clean) < 1.1 * rmse(alone.restored, clean)
    assert shared.sigma == pytest.approx(20, rel=0.5)


def test_frames_that_were_not_begun_stay_as_they_are():
    _, noisy = stack_of(3)
    epochs = []
    with pytest.warns(UserWarning) as told:
        stopped = truvae.denoise(
            noisy, on_epoch=epochs.append, should_stop=lambda: len(epochs) > 1, **PLAIN
        )
    messages = [str(one.message) for one in told]
    assert "little time to learn" in messages[0]
    assert messages[1] == "there was no time for 2 of 3 frames: they are as they were"
    np.testing.assert_array_equal(stopped[1:], noisy[1:])
    assert (stopped[0] != noisy[0]).any()


def test_a_given_level_is_held_where_pixels_are_missing_too():
    _, noisy = noisy_scene()
    noisy[gaps_of(noisy.shape, 0.05)] = np.nan
    result = truvae.denoise(noisy, sigma=30.0, return_result=True, **SMALL | {"epochs": 3})
    assert result.sigma == pytest.approx(30) and result.sigma_source == "given"
    assert all(epoch.sigma == pytest.approx(30) for epoch in result.history)


def test_the_bound_is_that_of_all_patches_however_short_the_training():
    (_, noisy), asked = noisy_scene(), []
    with pytest.warns(UserWarning, match="little time to learn"):
        result = truvae.denoise(
            noisy,
            should_stop=lambda: asked.append(0) or len(asked) > 1,
            return_result=True,
            **PLAIN,
        )
    assert result.epochs == 1
    # A model that learned next to nothing knows the spread of the picture at best.
    size, spread = result.settings.patch_size**2, noisy.std()
    assert result.elbo < -size * np.log(spread)


def test_frames_that_are_all_constant_are_told():
    for stack in ("frames", "shared"):
        with pytest.raises(InputError, match="constant in each of 2 frames"):
            truvae.denoise(np.stack([np.zeros((32, 32)), np.ones((32, 32))]), stack=stack)
    with pytest.raises(InputError, match="no known pixel in frame 2"):
        frames = np.random.default_rng(0).random((2, 32, 32))
        frames[1] = np.nan
        truvae.denoise(frames, stack="shared")
    with pytest.raises(InputError, match="no known pixel"):
        truvae.denoise(np.zeros((0, 16)))


def test_constant_frames_stay_as_they_are_unless_models_are_shared():
    _, noisy = stack_of(3)
    noisy[0], noisy[1], noisy[1, 0, 0] = 0, 5, np.nan
    progress = []
    with pytest.warns(UserWarning, match="frames 1, 2 of 3 are constant: .* but for gaps"):
        result = truvae.denoise(noisy, on_progress=progress.append, return_result=True, **TINY)
    alone = truvae.denoise(noisy[2], return_result=True, **TINY)
    assert (result.restored[0] == 0).all() and (result.restored[1] == 5).all()
    np.testing.assert_array_equal(result.restored[2], alone.restored)
    assert (result.sigma, result.elbo, result.n_data) == (alone.sigma, alone.elbo, alone.n_data)
    assert result.frames == 3 and result.missing == pytest.approx(1 / noisy.size)
    assert min(progress) < 0.3 and progress[-1] == 1
    restored = truvae.denoise(noisy, stack="shared", **TINY)
    assert np.isfinite(restored).all() and np.abs(restored[1] - 5).mean() < 40


def test_frames_without_gaps_take_no_part_in_the_filling_of_others():
    _, noisy = stack_of(3)
    noisy[1:2][gaps_of((1, 48, 48), 0.2)] = np.nan
    known = np.isfinite(noisy)
    with pytest.warns(UserWarning, match="nothing is missing in 2 of 3 frames: they stay"):
        result = truvae.inpaint(noisy, return_result=True, **TINY)
    alone = truvae.inpaint(noisy[1], return_result=True, **TINY)
    np.testing.assert_array_equal(result.restored[1], alone.restored)
    np.testing.assert_array_equal(result.restored[known], noisy[known])
    assert (result.sigma, result.n_data) == (alone.sigma, alone.n_data)
    assert result.frames == 3 and result.missing == pytest.approx(1 - known.mean())
    # All are cleaned if noise is to go, or one has to be learned from.
    assert truvae.inpaint(noisy, denoise=True, return_result=True, **TINY).n_data > result.n_data
    noisy[1] = np.where(known[1], 7, np.nan)
    with pytest.warns(UserWarning) as told:
        filled = truvae.inpaint(noisy, **TINY)
    assert str(told[0].message) == (
        "frame 2 of 3 is constant: it stays as it is, but for gaps, which get the same value"
    )
    assert (filled[1] == 7).all()
    np.testing.assert_array_equal(filled[[0, 2]], noisy[[0, 2]])


def test_noise_that_grows_with_the_signal_is_told_and_handled():
    """Gaussian noise of one level does too little where it is bright, or too much where dark."""
    rng = np.random.default_rng(0)
    clean = scene(96)
    noisy = 8 * rng.poisson(clean / 8) + rng.normal(0, 4, clean.shape)
    result = truvae.denoise(noisy, return_result=True, **DCT)
    plain = truvae.denoise(noisy, noise="gaussian", **DCT)
    assert result.noise is not None and result.noise[0].gain == pytest.approx(8, rel=0.3)
    assert rmse(result.restored, clean) < rmse(plain, clean)
    assert result.restored.mean() == pytest.approx(clean.mean(), rel=0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": "salt"}, "no noise 'salt'"),
        ({"stack": "all"}, "no stack 'all'"),
        ({"channel_axis": 5}, "no channel_axis 5"),
        ({"noise": "poisson-gaussian", "sigma": 3.0}, "leave one of both out"),
    ],
)
def test_bad_options_are_told(options, message):
    with pytest.raises(InputError, match=message):
        truvae.denoise(noisy_scene()[1], **options)
