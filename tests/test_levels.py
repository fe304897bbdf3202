"""Levels of noise: found beneath pictures, textured and clipped ones too."""

import numpy as np
import pytest
import torch
from skimage import data

from truvae.levels import noise_level
from truvae.patches import Patches


def with_noise(clean, sigma, seed=0):
    g = torch.Generator().manual_seed(seed)
    clean = torch.as_tensor(clean, dtype=torch.float32)
    return clean + sigma * torch.randn(clean.shape, generator=g)


def level(picture):
    return noise_level(Patches(picture, 8))


@pytest.mark.parametrize("sigma", [0.02, 0.2, 1.0])
def test_it_is_found_beneath_a_smooth_picture(sigma):
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    noisy = with_noise(torch.sin(x / 9) + (y > 50) * torch.cos(y / 7), sigma)
    assert level(noisy) == pytest.approx(sigma, rel=0.05)
    assert level(100 * noisy) == pytest.approx(100 * sigma, rel=0.05)


@pytest.mark.parametrize("sigma", [10, 25, 50])
@pytest.mark.parametrize("name", ["camera", "coins", "moon"])
def test_it_is_found_beneath_real_pictures(name, sigma):
    noisy = with_noise(getattr(data, name)()[:256, :256], sigma)
    assert level(noisy) == pytest.approx(sigma, rel=0.05)


def test_texture_everywhere_but_in_one_corner_is_not_noise():
    g = torch.Generator().manual_seed(1)
    texture = 60 * torch.randn(200, 200, generator=g).cumsum(0).cumsum(1).sin()
    texture[:80, :80] = 0
    assert level(with_noise(texture, 10)) == pytest.approx(10, rel=0.05)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_texture_too_fine_for_low_frequencies_is_not_noise(seed):
    y, x = torch.meshgrid(torch.arange(200.0), torch.arange(200.0), indexing="ij")
    g = torch.Generator().manual_seed(seed)
    threads = torch.randn(1, 202, 202, generator=g)
    cloth = 12 * (threads[0, 1:-1, 1:-1] - torch.nn.functional.avg_pool2d(threads, 3, 1)[0])
    plain = 8 * torch.sin(0.25 * x) + 8 * torch.cos(0.3 * y)
    assert level(with_noise(torch.where(y < 60, plain, cloth), 10)) == pytest.approx(10, rel=0.1)


def test_a_clipped_sky_does_not_hide_the_noise():
    clean = np.full((128, 128), 100.0)
    clean[:60] = 280
    noisy = with_noise(clean, 20).round().clamp(0, 255)
    assert level(noisy) == pytest.approx(20, rel=0.05)


def test_a_black_frame_does_not_hide_the_noise():
    noisy = with_noise(torch.full((100, 100), 128.0), 20)
    assert level(torch.nn.functional.pad(noisy, [30] * 4)) == pytest.approx(20, rel=0.05)


def test_gaps_are_left_out():
    noisy = with_noise(np.zeros((128, 128)), 20)
    noisy[torch.rand(noisy.shape, generator=torch.Generator().manual_seed(2)) < 0.02] = torch.nan
    assert level(noisy) == pytest.approx(20, rel=0.05)


@pytest.mark.parametrize("missing", [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("side", [40, 64, 128])
@pytest.mark.parametrize("name", ["camera", "coins", "moon"])
def test_gaps_everywhere_never_hide_noise(name, side, missing):
    picture = getattr(data, name)()[100 : 100 + side, 100 : 100 + side].astype(float)
    sigma = max(5.0, picture.std() / 3)
    noisy = with_noise(picture, sigma)
    noisy[torch.rand(noisy.shape, generator=torch.Generator().manual_seed(3)) < missing] = torch.nan
    found = noise_level(Patches(noisy, min(8, side // 12)))
    assert 0.85 * sigma < found < 2 * sigma


@pytest.mark.parametrize("missing", [0.05, 0.3, 0.5])
@pytest.mark.parametrize("side", [64, 128])
@pytest.mark.parametrize("value", [0.0, 100.0])
def test_gaps_and_a_constant_band_do_not_hide_noise(value, side, missing):
    noisy = with_noise(data.camera()[100 : 100 + side, 100 : 100 + side].astype(float), 20)
    noisy[: side // 5] = value
    noisy[torch.rand(noisy.shape, generator=torch.Generator().manual_seed(3)) < missing] = torch.nan
    found = noise_level(Patches(noisy, min(8, side // 12)))
    assert found == pytest.approx(20, rel=0.15)


def test_a_line_of_single_pixels_has_a_level():
    assert noise_level(Patches(with_noise(np.zeros((1, 400)), 20), 1)) > 0


@pytest.mark.parametrize("sigma", [50, 80])
@pytest.mark.parametrize("name", ["camera", "coins", "moon"])
def test_strong_noise_that_is_cut_off_at_both_ends_is_found(name, sigma):
    noisy = with_noise(getattr(data, name)()[:256, :256], sigma).round().clamp(0, 255)
    assert level(noisy) == pytest.approx(sigma, rel=0.05)


@pytest.mark.parametrize("sigma", [0, 5, 25])
def test_a_page_in_black_and_white_is_not_noise(sigma):
    page = np.where(data.page()[:128, :128] > 140, 255.0, 0.0)
    assert level(with_noise(page, sigma).round().clamp(0, 255)) == pytest.approx(sigma, rel=0.15)


@pytest.mark.parametrize("lost", ["pixels", "border"])
def test_gaps_and_constant_places_leave_texture_what_it_is(lost):
    g = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(192.0), torch.arange(192.0), indexing="ij")
    texture = 128 + 50 * torch.sin(2.9 * x) * torch.sin(2.7 * y)
    noisy = with_noise(texture, 5)
    if lost == "pixels":
        noisy[torch.rand(noisy.shape, generator=g) < 0.02] = torch.nan
    else:
        noisy = torch.nn.functional.pad(noisy, [50] * 4)
    assert level(noisy) == pytest.approx(5, rel=0.1)
