"""Noise that grows with brightness: transforms against simulation, estimates against truth."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from truvae.stabilise import PoissonGaussian, is_signal_dependent

_MICROSCOPY = Path(__file__).resolve().parents[2] / "shared" / "data" / "microscopy"


def simulate(mean, gain, read, offset=0.0, seed=0):
    """Return Poisson-Gaussian data around `offset + mean`, same shape; without gain, Gaussian."""
    rng = np.random.default_rng(seed)
    events = gain * rng.poisson(mean / gain) if gain else mean
    return events + rng.normal(offset, read, np.shape(mean))


def scene(rows, columns, seed=0):
    """Return a noise-free picture in 10..220: a smooth ground, and discs with sharp edges."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:rows, :columns] / max(rows, columns)
    picture = 60 + 50 * np.sin(4 * x + 1) * np.cos(3 * y)
    for _ in range(12):
        centre, radius = rng.random(2), rng.uniform(0.05, 0.2)
        picture[np.hypot(y - centre[0], x - centre[1]) < radius] = rng.uniform(10, 220)
    return picture


@pytest.mark.parametrize("events", [0.5, 1, 2, 4, 10, 50, 200])
@pytest.mark.parametrize("read", [0.0, 0.5, 2.0, 10.0])  # in gains
@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (5.0, 100.0)])
def test_inverse_is_unbiased(events, read, gain, offset):
    mean = np.full(200_000, gain * events)
    x = simulate(mean, gain, read * gain, offset)
    noise = PoissonGaussian(gain, (read * gain) ** 2 - gain * offset)
    scatter = np.sqrt(events + read**2) / np.sqrt(x.size)
    error = (noise.inverse(noise.forward(x).mean()) - offset) / gain - events
    assert abs(error) < 0.05 + 4 * scatter


@pytest.mark.parametrize("events", [4.5, 10, 100])
@pytest.mark.parametrize("read", [0.0, 1.0, 10.0])
def test_forward_gives_noise_of_unit_deviation(events, read):
    noise = PoissonGaussian(3.0, (3 * read) ** 2)
    x = simulate(np.full(100_000, 3.0 * events), 3.0, 3 * read)
    assert noise.forward(x).std() == pytest.approx(1, abs=0.04)


def test_sigma_is_that_of_the_data():
    x = simulate(np.full(100_000, 80.0), 4.0, 6.0, offset=50.0)
    assert PoissonGaussian(4.0, 36.0 - 200.0).sigma(x.mean()) == pytest.approx(x.std(), rel=0.02)


def test_inverse_undoes_forward_at_high_counts():
    noise = PoissonGaussian(2.0, -150.0)
    x = np.linspace(1e4, 1e6, 50)
    # They differ by the quarter of an event that the mean of a concave function lies below.
    np.testing.assert_allclose(noise.inverse(noise.forward(x)), x + 2.0 / 4, atol=1e-2)


@pytest.mark.parametrize("gain", [0.0, 1e-300, 1e-12, 1e-7])
def test_vanishing_gain_makes_both_affine(gain):
    noise = PoissonGaussian(gain, 25.0)
    x = np.linspace(-100, 300, 41)
    np.testing.assert_allclose(noise.forward(x), x / 5, atol=1e-4)
    np.testing.assert_allclose(noise.inverse(x / 5), x, atol=1e-3)


@pytest.mark.parametrize("variance", [-40.0, -1.5, 0.0, 1e-9, 30.0])
@pytest.mark.parametrize("gain", [1e-3, 2.0, 50.0])
def test_both_are_monotone_and_finite(gain, variance):
    noise = PoissonGaussian(gain, variance)
    x = np.linspace(-500, 1000, 2001)
    y = noise.forward(x)
    assert (np.diff(y) >= 0).all()
    inverse = noise.inverse(np.linspace(y.min() - 5, y.max(), 2001))
    assert np.isfinite(inverse).all() and (np.diff(inverse) >= -1e-9 * np.abs(inverse[1:])).all()


def test_transforms_keep_gaps_and_single_precision():
    noise = PoissonGaussian(2.0, 5.0)
    x = np.array([[1.0, np.nan], [300.0, 4.0]], dtype=np.float32)
    for out in (noise.forward(x), noise.inverse(x), noise.sigma(x)):
        assert out.dtype == np.float32
        np.testing.assert_array_equal(np.isnan(out), np.isnan(x))


@pytest.mark.parametrize(
    ("gain", "variance"), [(-1.0, 4.0), (0.0, 0.0), (0.0, -1.0), (np.nan, 1.0), (1.0, np.inf)]
)
def test_impossible_noise_is_refused(gain, variance):
    with pytest.raises(ValueError, match="variance|finite"):
        PoissonGaussian(gain, variance)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("gain", "read", "offset"), [(1.0, 3.0, 0.0), (4.0, 10.0, 0.0), (15.0, 5.0, 40.0)]
)
def test_estimate_finds_planted_noise(gain, read, offset, seed):
    clean = scene(200, 240, seed)
    picture = simulate(clean, gain, read, offset, seed)
    noise = PoissonGaussian.estimate(picture)
    assert noise.gain == pytest.approx(gain, rel=0.15)
    true = np.sqrt(gain * np.array([20.0, 60.0, 200.0]) + read**2)
    np.testing.assert_allclose(noise.sigma(offset + np.array([20.0, 60.0, 200.0])), true, rtol=0.12)
    assert is_signal_dependent(picture)


@pytest.mark.parametrize("sigma", [3.0, 25.0])
@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (160, 160)])
def test_gaussian_noise_does_not_depend_on_the_signal(shape, sigma):
    for seed in range(8):
        assert not is_signal_dependent(simulate(scene(*shape, seed), 0.0, sigma, seed=seed))


@pytest.mark.parametrize("sigma", [15.0, 50.0])
def test_clipping_is_not_taken_for_signal_dependence(sigma):
    for seed in range(3):
        noisy = simulate(scene(160, 160, seed), 0.0, sigma, seed=seed)
        assert not is_signal_dependent(noisy.round().clip(0, 255))


@pytest.mark.parametrize(("share", "rel"), [(0.02, 0.15), (0.5, 0.3)])
def test_missing_pixels_are_left_out(share, rel):
    picture = simulate(scene(256, 256), 4.0, 5.0)
    picture[np.random.default_rng(1).random(picture.shape) < share] = np.nan
    assert PoissonGaussian.estimate(picture).gain == pytest.approx(4.0, rel=rel)


def test_estimate_follows_the_units():
    picture = simulate(scene(128, 128), 4.0, 5.0)
    noise, scaled = PoissonGaussian.estimate(picture), PoissonGaussian.estimate(picture / 255)
    assert scaled.gain == pytest.approx(noise.gain / 255)
    assert scaled.variance == pytest.approx(noise.variance / 255**2, abs=1e-9)


@given(st.integers(8, 40), st.integers(8, 40), st.integers(0, 99), st.sampled_from([0.0, 0.3, 0.9]))
def test_small_pictures_do_not_fail(rows, columns, seed, share):
    picture = simulate(scene(rows, columns, seed), 2.0, 4.0, seed=seed)
    picture[np.random.default_rng(seed).random(picture.shape) < share] = np.nan
    if np.isfinite(picture).any():
        noise = PoissonGaussian.estimate(picture)
        is_signal_dependent(picture)
        assert np.isfinite(noise.forward(picture[np.isfinite(picture)])).all()


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((24, 24)),
        np.full((1, 1), 7.0),
        np.ones((1, 50)),
        np.full((40, 40), 255.0),
        np.eye(30),
        np.arange(4.0).reshape(2, 2),
        np.where(np.eye(20) > 0, 3.0, np.nan),
        -np.abs(scene(32, 32)),
    ],
)
def test_odd_pictures_have_no_signal_dependent_noise(picture):
    noise = PoissonGaussian.estimate(picture)
    assert (noise.gain > 0 or noise.variance > 0) and not is_signal_dependent(picture)


@pytest.mark.parametrize("shape", [(5,), (4, 4, 3)])
def test_only_two_axes_are_taken(shape):
    with pytest.raises(ValueError, match="rows, columns"):
        PoissonGaussian.estimate(np.zeros(shape))


def test_nothing_observed_is_refused():
    with pytest.raises(ValueError, match="observed"):
        PoissonGaussian.estimate(np.full((9, 9), np.nan))


# The gains are those of the variances around the averages of many shots, level by level.
@pytest.mark.skipif(not _MICROSCOPY.is_dir(), reason=f"no data in {_MICROSCOPY}")
@pytest.mark.parametrize(("name", "gain"), [("Confocal_FISH", 20.0), ("TwoPhoton_MICE", 9.0)])
def test_real_microscopy(name, gain):
    from PIL import Image

    picture = np.asarray(Image.open(_MICROSCOPY / f"{name}_noisy.png"), dtype=np.float64)
    assert is_signal_dependent(picture)
    assert PoissonGaussian.estimate(picture).gain == pytest.approx(gain, rel=0.15)
