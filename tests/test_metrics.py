"""Metrics against their formulas."""

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import structural_similarity

from truvae import InputError
from truvae.metrics import data_range, psnr, segmental_snr, snr, ssim


@given(st.floats(0.5, 100), st.integers(0, 99))
def test_psnr_of_noise_is_20_log10_of_peak_over_sigma(sigma, seed):
    clean = np.full((200, 200), 128, np.uint8)
    noisy = clean + np.random.default_rng(seed).normal(0, sigma, clean.shape)
    assert psnr(clean, noisy) == pytest.approx(20 * math.log10(255 / sigma), abs=0.1)


def test_psnr_of_equal_pictures_is_infinite():
    picture = np.eye(4)
    assert psnr(picture, picture) == math.inf


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        (np.zeros((2, 2), np.uint8), 255),
        (np.zeros((2, 2), np.uint16), 65535),
        (np.array([[0.0, 0.5]]), 1),
        (np.array([[-1.0, 300.0]]), 301),
    ],
)
def test_data_range(reference, expected):
    assert data_range(reference) == expected


def test_ssim_falls_with_noise():
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 255, (32, 32)).astype(np.uint8)
    values = [ssim(clean, clean + rng.normal(0, s, clean.shape)) for s in (0, 10, 50)]
    assert values[0] == pytest.approx(1)
    assert values == sorted(values, reverse=True)


def test_pixels_unknown_in_the_reference_do_not_count():
    reference = np.array([[1.0, np.nan], [0.0, 0.5]])
    assert psnr(reference, np.nan_to_num(reference) + 0.1) == pytest.approx(20)


def test_different_shapes_are_an_error():
    for metric in (psnr, ssim, snr, partial(segmental_snr, sample_rate=16_000)):
        with pytest.raises(InputError, match=r"\(2, 3\).*\(3, 2\)"):
            metric(np.zeros((2, 3)), np.zeros((3, 2)))


def test_a_constant_float_picture_has_no_peak():
    assert math.isnan(psnr(np.full((4, 4), 100.0), np.full((4, 4), 99.0)))


@pytest.mark.parametrize("shape", [(1100, 20), (513, 9, 3), (8, 600)])
def test_ssim_by_bands_is_that_of_the_whole(shape):
    rng = np.random.default_rng(0)
    clean = rng.integers(0, 255, shape).astype(np.uint8)
    noisy = clean + rng.normal(0, 20, shape)
    axis = -1 if len(shape) == 3 else None
    whole = structural_similarity(clean.astype(float), noisy, data_range=255, channel_axis=axis)
    assert ssim(clean, noisy, channels=len(shape) == 3) == pytest.approx(whole, abs=1e-12)


@given(st.floats(-20, 40), st.integers(1, 2), st.integers(0, 9))
def test_snr_is_the_level_of_the_noise_that_was_added(level, channels, seed):
    generator = np.random.default_rng(seed)
    clean, noise = generator.normal(size=(2, 20_000, channels))
    noisy = clean + 10 ** (-level / 20) * noise
    assert snr(clean, noisy) == pytest.approx(level, abs=0.2)
    assert segmental_snr(clean, noisy, 16_000) == pytest.approx(min(max(level, -10), 35), abs=0.3)


def test_snr_counts_all_channels_together():
    clean = np.array([[3.0, 0.0], [4.0, 0.0]])
    assert snr(clean, clean + [[0.0, 0.5], [0.0, 0.0]]) == pytest.approx(20)


def test_snr_of_silence_and_of_no_error():
    silence, ones = np.zeros(99), np.ones(99)
    assert math.isnan(snr(silence, ones)) and math.isnan(segmental_snr(silence, ones, 100))
    assert snr(ones, ones) == math.inf
    assert math.isnan(snr(ones, np.full(99, np.nan)))


def test_samples_unknown_in_the_reference_do_not_count_in_the_snr():
    assert snr(np.array([1.0, np.nan]), np.array([1.1, 5.0])) == pytest.approx(20)


def test_integers_do_not_wrap_in_the_snr():
    clean = np.array([100, -100], np.int8)
    assert snr(clean, -clean) == pytest.approx(-20 * math.log10(2))
    assert segmental_snr(clean, -clean, 16_000) == pytest.approx(-20 * math.log10(2))


def test_segmental_snr_leaves_silent_frames_out_and_clamps_the_others():
    rate, clean = 16_000, np.zeros(16_000)
    clean[:8192] = 1  # then silence, where the error is large
    error = np.where(np.arange(16_000) < 4096, 0.1, 10)
    # 15 frames of 512 at 20 dB, one half at each level, 16 at -20 dB that count as -10; the
    # frame half in silence counts too.
    mixed = 10 * math.log10(512 / (256 * (0.01 + 100)))
    expected = (15 * 20 + max(mixed, -10) + 16 * -10) / 32
    assert segmental_snr(clean, clean + error, rate) == pytest.approx(expected)


def test_no_window_fits_two_rows():
    assert math.isnan(ssim(np.eye(2, 9), np.eye(2, 9)))
