"""Units: there and back, and what levels and bounds are in them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truvae.stabilise import PoissonGaussian
from truvae.units import Turn, Units, rms

CPU = torch.device("cpu")


@st.composite
def frames(draw):
    shape = draw(st.tuples(*(st.integers(1, n) for n in (3, 9, 9, 3))))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    return rng.normal(draw(st.floats(-1e4, 1e4)), draw(st.floats(0.1, 1e3)), (*shape,))


@given(frames())
def test_there_and_back(values):
    if values[..., 0].size < 2:
        return
    units = Units.of(values, None)
    standard = units.standardise(values, CPU)
    assert float(standard.mean()) == pytest.approx(0, abs=1e-3)
    assert float(standard.var((0, 1, 2), correction=0).mean()) == pytest.approx(1, rel=1e-3)
    back = units.restore(standard)
    np.testing.assert_allclose(back, values, atol=1e-5 * (abs(values).max() + units.spread.max()))


def test_a_bound_is_one_of_the_density_of_the_data():
    """The log-density of a patch of D values in other units differs by D log(spread)."""
    values = np.random.default_rng(0).normal(3, 7, (1, 8, 8, 2))
    units = Units.of(values, None)
    entries = torch.tensor([9.0, 9.0])
    assert units.bound(0.0, entries) == pytest.approx(-18 * np.log(units.spread[0]))


def test_channels_with_other_noise_get_other_spreads():
    values = np.random.default_rng(0).normal(0, 1, (1, 8, 8, 3))
    units = Units.of(values, None)
    assert units.balanced(np.array([1.0, 1.1, 1.0])) is units
    balanced = units.balanced(np.array([1.0, 2.0, 4.0]))
    np.testing.assert_allclose(balanced.spread / balanced.spread[0], [1, 2, 4])
    assert rms(balanced.spread) == pytest.approx(rms(units.spread))
    np.testing.assert_allclose(balanced.sigma(0.1) / balanced.sigma(0.1)[0], [1, 2, 4])


def test_noise_that_grows_with_the_signal_has_one_level_in_standard_units():
    rng = np.random.default_rng(0)
    noise = PoissonGaussian(4.0, 9.0)
    clean = np.repeat([40.0, 400.0], 20000).reshape(1, 200, 200, 1)
    values = 4 * rng.poisson(clean / 4) + rng.normal(0, 3, clean.shape)
    units = Units.of(values, (noise,))
    standard = units.standardise(values, CPU).numpy()
    dark, bright = (standard[clean == level].std() for level in (40.0, 400.0))
    assert dark == pytest.approx(bright, rel=0.05)
    # The rms noise of the picture is told, and that is what the standardised level stands for.
    level = rms(np.sqrt(4 * clean + 9))
    assert rms(units.sigma((dark + bright) / 2)) == pytest.approx(level, rel=0.05)


def test_a_turn_makes_noise_independent_and_comes_back():
    rng = np.random.default_rng(0)
    mixing = np.array([[1.0, 0.4, 0.0], [0.4, 1.0, 0.4], [0.0, 0.4, 1.0]])
    noise = rng.normal(0, 3, (1, 200, 200, 3)) @ mixing
    values = noise + rng.normal(0, 50, (1, 200, 200, 1))
    turn = Turn.of(values, 9 * mixing @ mixing)
    turned = noise @ turn.axes
    np.testing.assert_allclose(np.corrcoef(turned.reshape(-1, 3).T), np.eye(3), atol=0.02)
    np.testing.assert_allclose(turned.std((0, 1, 2)), turn.noise, rtol=0.02)
    np.testing.assert_allclose(turn.levels(turn.noise), noise.std((0, 1, 2)), rtol=0.02)
    units = Units.of(values, None, turn=turn)
    np.testing.assert_allclose(units.restore(units.standardise(values, CPU)), values, atol=1e-3)


def test_channels_that_are_one_become_one():
    grey = np.random.default_rng(0).normal(9, 3, (1, 20, 20, 1))
    values = grey * [1.0, 1.0, 0.5] + [0, 4, 0]
    turn = Turn.of(values, 9 * np.outer([1, 1, 0.5], [1, 1, 0.5]))
    assert turn.axes.shape == (3, 1)
    np.testing.assert_allclose(turn.inverse(turn.forward(values)), values)
    np.testing.assert_allclose(turn.levels(turn.noise), [3, 3, 1.5])


@pytest.mark.parametrize("seed", range(5))
def test_bright_stays_bright_when_channels_turn(seed):
    """Or noise that grows with the signal would seem to shrink."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(0, 1, (3, 3))
    turn = Turn.of(rng.normal(0, 1, (1, 9, 9, 3)), mixing @ mixing.T)
    dark, bright = (turn.forward(np.full((1, 1, 1, 3), value)) for value in (0.0, 1.0))
    assert (bright > dark).all()
