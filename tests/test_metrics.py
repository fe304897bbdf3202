"""Metrics against their formulas."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truvae import InputError
from truvae.metrics import data_range, psnr, ssim


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
    for metric in (psnr, ssim):
        with pytest.raises(InputError, match=r"\(2, 3\).*\(3, 2\)"):
            metric(np.zeros((2, 3)), np.zeros((3, 2)))


def test_a_constant_float_picture_has_no_peak():
    assert math.isnan(psnr(np.full((4, 4), 100.0), np.full((4, 4), 99.0)))
