"""Noise of which little is left, since it was cut off."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage import data

import truvae
from truvae.censored import mean_of_evenly_scattered, variance_at_end
from truvae.levels import noise_level
from truvae.patches import Patches


def spots(blur=2.0, side=160, seed=0):
    """Return bright spots on a black background."""
    rng, picture = np.random.default_rng(seed), np.zeros((side, side))
    rows, columns = rng.integers(0, side, (2, 60))
    picture[rows, columns] = rng.uniform(2000, 12_000, 60) * (blur / 2) ** 2
    return gaussian_filter(picture, blur)


def subtracted(clean, sigma, background, seed=0):
    """Return a picture of 8 bit with noise, whose background lies so many sigma above black."""
    noise = np.random.default_rng(seed).normal(0, sigma, clean.shape)
    return np.clip(np.round(clean + background * sigma + noise), 0, 255)


def level(picture):
    return noise_level(Patches(torch.as_tensor(picture, dtype=torch.float32), 8))


@given(st.integers(0, 99), st.floats(-1.5, 0.8), st.floats(0.01, 100.0), st.sampled_from([1, -1]))
def test_a_flat_place_is_known_by_what_is_left_of_it(seed, place, sigma, sign):
    g = torch.Generator().manual_seed(seed)
    left = sigma * (place + torch.randn(128, 128, generator=g)).clamp(min=0)
    left[:20, :20] += 20 * sigma  # there is something else, too
    found = math.sqrt(variance_at_end(Patches(7.0 + sign * left, 8), 7.0, sign))
    assert found == pytest.approx(sigma, rel=0.3) or (found == math.inf and place < -1)


@pytest.mark.parametrize(
    ("values", "mean"), [([5.0], 5), ([1.0, 3.0], 1), ([9.0, 3.0, 2.0, 1.0], 2), ([2.0, 2.0], 2)]
)
def test_the_largest_values_are_left_out_until_the_rest_scatters_evenly(values, mean):
    assert mean_of_evenly_scattered(torch.tensor(values)) == mean


@pytest.mark.parametrize("background", [1.0, 0.0, -1.0, -1.5])
@pytest.mark.parametrize("sigma", [4, 15])
@pytest.mark.parametrize("blur", [1.2, 2.0])
def test_spots_on_a_background_that_was_subtracted(background, sigma, blur):
    noisy, close = subtracted(spots(blur), sigma, background), 0.1 if background > -1.5 else 0.2
    assert level(noisy) == pytest.approx(sigma, rel=close)
    assert level((100 - noisy) / 60) == pytest.approx(sigma / 60, rel=close)


def test_bright_places_know_where_the_background_says_nothing():
    noisy = subtracted(spots(5.0), 15, -3.0)
    assert (noisy == 0).mean() > 0.4
    assert level(noisy) == pytest.approx(15, rel=0.1)


@pytest.mark.parametrize("sigma", [2, 10, 25])
def test_black_and_white_pictures(sigma):
    noisy = subtracted(data.horse()[:200, :300] * 255.0, sigma, 0.0)
    assert level(noisy) == pytest.approx(sigma, rel=0.07)


@pytest.mark.parametrize("picture", [data.horse() * 255.0, data.checkerboard() * 1.0])
def test_shapes_are_no_noise(picture):
    for end, sign in ((picture.min(), 1), (picture.max(), -1)):
        patches = Patches(torch.as_tensor(picture, dtype=torch.float32), 8)
        assert variance_at_end(patches, float(end), sign) == math.inf
    assert level(picture) < 0.01


def dots(kind, seed=0):
    """Return a black picture with bright pixels here and there, none of which is noise."""
    rng = np.random.default_rng(seed)
    bright = {
        "salt": 255.0,
        "stars": rng.exponential(40, (160, 160)),
        "flat": rng.random((160, 160)),
    }
    return {
        **{name: np.where(rng.random((160, 160)) < 0.03, x, 0) for name, x in bright.items()},
        "dither": 255.0 * (rng.random((160, 160)) < data.camera()[100:260, 100:260] / 255),
        "counts": rng.poisson(0.05, (160, 160)) * 1.0,
    }[kind]


@pytest.mark.parametrize("kind", ["salt", "stars", "flat", "dither", "counts"])
def test_dots_are_no_noise_that_was_cut_off(kind):
    picture = dots(kind)
    for end, sign in ((picture.min(), 1), (picture.max(), -1)):
        patches = Patches(torch.as_tensor(picture, dtype=torch.float32), 8)
        assert variance_at_end(patches, float(end), sign) == math.inf


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_noise_of_less_than_a_step_is_not_told_too_high(sigma):
    for background in (0.0, -1.0):
        assert level(subtracted(spots(), sigma, background)) < 1.3 * sigma


def test_detail_beside_a_black_border_is_no_noise():
    """It has the spread of noise, but its pixels lie together."""
    picture = np.pad(data.camera()[100:200, 100:200] * 1.0, 60)
    patches = Patches(torch.as_tensor(picture, dtype=torch.float32), 8)
    assert variance_at_end(patches, 0.0, 1) == math.inf


def test_counts_beside_something_bright_are_no_noise_that_was_cut_off():
    """They are few steps high and in the range of noise, but are not spread like it."""
    picture = np.random.default_rng(0).poisson(0.05, (160, 160)) + spots() / 20
    patches = Patches(torch.as_tensor(picture, dtype=torch.float32), 8)
    assert variance_at_end(patches, float(picture.min()), 1) == math.inf


def test_nothing_at_the_end_tells_nothing():
    g = torch.Generator().manual_seed(0)
    within = 10 + torch.randn(64, 64, generator=g)
    assert variance_at_end(Patches(within, 8), float(within.min()), 1) == math.inf
    few = within[:20, :20].sub(10).clamp(min=0)
    assert variance_at_end(Patches(few, 8), 0.0, 1) == math.inf


def test_a_picture_with_such_a_background_is_restored():
    clean = np.clip(spots(side=96) - 22.5, 0, 255)
    noisy = subtracted(spots(side=96), 15, -1.5)
    options = {"n_latents": 32, "hidden": (32,), "epochs": 10}
    result = truvae.denoise(noisy, quality="fast", return_result=True, **options)
    assert result.sigma == pytest.approx(15, rel=0.1)
    errors = [np.square(x - clean).mean() for x in (noisy, result.restored)]
    assert errors[1] < errors[0] / 2 and result.restored.min() >= 0  # as it was cut off there
