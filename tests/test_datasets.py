"""Data sets: bars with exact likelihoods, and patches that are white."""

import numpy as np
import pytest
import torch

from truvae import datasets


@pytest.mark.parametrize(
    ("make", "n_bars", "likelihood", "tolerance"),
    [
        (datasets.bars, 8, 9.66, 0.05),
        (datasets.correlated_bars, 8, 9.93, 0.05),
        (datasets.bars, 6, 4.15, 0.03),
    ],
)
def test_true_likelihoods_of_bars(make, n_bars, likelihood, tolerance):
    """Oracle 8: the mean over ten data sets."""
    model = make(n_bars)
    values = [
        float(
            model.log_likelihood(model.sample(500, torch.Generator().manual_seed(seed))[1]).mean()
        )
        for seed in range(10)
    ]
    assert np.mean(values) == pytest.approx(likelihood, abs=tolerance)
    assert max(abs(np.array(values) - likelihood)) < 0.3


def noise_free(*active):
    with torch.no_grad():
        fields = datasets.bars(8).decoder(torch.eye(8))
    return fields[list(active)].sum(0)[None]


@pytest.mark.parametrize(
    ("active", "likelihood"), [((), 19.84), ((0,), 19.03), ((2,), 18.74), ((2, 3), 17.64)]
)
def test_correlated_bars_by_their_likelihood(active, likelihood):
    """Oracle 8, noise-free points under the true model."""
    found = datasets.correlated_bars().log_likelihood(noise_free(*active))
    assert float(found) == pytest.approx(likelihood, abs=0.01)


@pytest.mark.parametrize("pair", [(0, 1), (6, 7)])
def test_discouraged_pairs_do_not_happen(pair):
    model = datasets.correlated_bars()
    assert float(model.log_likelihood(noise_free(*pair))) == pytest.approx(-180, abs=2)
    z, x = model.sample(4000, torch.Generator().manual_seed(0))
    both = noise_free(*pair)[0] > 0.5
    alone = noise_free(pair[0])[0] > 0.5, noise_free(pair[1])[0] > 0.5
    shown = [(x[:, part] > 0.5).all(1) for part in alone]
    others = (x[:, ~both] < 0.5).all(1)
    assert not (shown[0] & shown[1] & others).any()


@pytest.mark.parametrize(("make", "n_bars"), [(datasets.bars, 5), (datasets.correlated_bars, 2)])
def test_impossible_numbers_of_bars_are_errors(make, n_bars):
    with pytest.raises(ValueError, match=str(n_bars)):
        make(n_bars)


def test_patches_are_white_in_what_is_kept():
    rng = np.random.default_rng(0)
    pictures = [rng.normal(size=(60, 70)).cumsum(0).cumsum(1) for _ in range(2)]
    x = datasets.whitened_patches(pictures, 3001, 6, keep=0.95)
    assert x.shape == (3001, 36)
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-9)
    variances = np.linalg.eigvalsh(np.cov(x.T))
    kept = variances > 0.5
    np.testing.assert_allclose(variances[kept], 1, rtol=1e-6)
    np.testing.assert_allclose(variances[~kept], 0, atol=1e-9)
    assert 0 < kept.sum() < 36
    assert np.array_equal(x, datasets.whitened_patches(pictures, 3001, 6, keep=0.95))


def test_components_are_kept_up_to_their_share_of_the_variance():
    """With variances 100, 10, 1, 0.1 the first two hold 99.0 %."""
    x = np.random.default_rng(0).normal(size=(20_000, 4)) * np.sqrt([100, 10, 1, 0.1])
    for keep, n_kept in ((0.5, 1), (0.95, 2), (0.995, 3), (1.0, 4)):
        variances = np.linalg.eigvalsh(np.cov(datasets.zca(x, keep).T))
        assert (variances > 0.5).sum() == n_kept


def test_the_brightest_pixels_are_clamped():
    picture = np.zeros((20, 20))
    picture[0, :4] = [1000.0, 10.0, 11.0, 12.0]
    picture += np.random.default_rng(0).normal(size=picture.shape)
    same = picture.copy()
    same[0, 0] = 1e9
    one, other = (datasets.whitened_patches([p], 50, 3) for p in (picture, same))
    np.testing.assert_allclose(one, other)
