"""Hidden pixels as judges."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truvae import fill
from truvae.fill import Hidden, nearest_known, settle


def damaged(share=0.3, sigma=0.0, seed=0, size=40):
    """Return a standardised scene and the same with gaps and noise."""
    y, x = np.mgrid[:size, :size]
    clean = torch.tensor(np.sin(x / 2.5) + (y > size / 2) - 0.5, dtype=torch.float32)
    g = torch.Generator().manual_seed(seed)
    noisy = clean + sigma * torch.randn(clean.shape, generator=g)
    return clean, noisy.masked_fill(torch.rand(clean.shape, generator=g) < share, torch.nan), g


def settled(image, hidden, sigma, real=None, known=False, looks=10, sizes=(6,),
            go_on=lambda taken: True):  # fmt: skip
    estimate = nearest_known(hidden.away(image))
    return settle(image, estimate, hidden, sigma=sigma, real=real or sigma, known=known,
                  sizes=sizes, looks=looks, go_on=go_on)  # fmt: skip


@given(st.integers(0, 99), st.sampled_from([(50, 40), (50, 40, 3)]))
def test_hidden_pixels_are_known_ones_with_all_their_channels(seed, shape):
    g = torch.Generator().manual_seed(seed)
    image = torch.randn(shape, generator=g)
    image[torch.rand(shape[:2], generator=g) < 0.3] = torch.nan
    hidden = Hidden.draw(image, g)
    assert image[hidden.mask].isfinite().all() and len(hidden) == hidden.mask.sum()
    if len(hidden):
        assert 64 <= hidden.n_pixels < 200
    if len(shape) == 3:
        assert (hidden.mask.any(2) == hidden.mask.all(2)).all()
    away = hidden.away(image)
    assert (away.isnan() == (image.isnan() | hidden.mask)).all()
    assert len(hidden) == 0 or hidden.rmse(image) == 0


def test_too_few_pixels_judge_nothing():
    image = torch.randn(20, 20)
    assert len(Hidden.draw(image, torch.Generator().manual_seed(0))) == 0


@pytest.mark.parametrize(("side", "n"), [(64, 250), (300, 1800)])
def test_of_a_small_picture_a_larger_share_is_hidden(side, n):
    hidden = Hidden.draw(torch.randn(side, side, 3), torch.Generator().manual_seed(0))
    assert hidden.n_pixels == pytest.approx(n, rel=0.2) and len(hidden) == 3 * hidden.n_pixels


def test_noise_that_is_not_there_is_found_out():
    """A first level ten times too high, as models of white noise learn it, is brought down."""
    clean, image, g = damaged(size=80)
    hidden = Hidden.draw(image, g)
    filled = settled(image, hidden, sigma=0.5)
    assert filled.sigma < 0.25
    first = nearest_known(image)
    gaps = image.isnan()
    assert (filled.estimate - clean)[gaps].std() < 0.3 * (first - clean)[gaps].std()
    assert filled.rmse < 0.05  # of the best look before those that see the hidden pixels


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("noise", "channels"), [(0.0, 1), (0.0, 3), (0.3, 1)])
def test_errors_of_a_poor_estimate_do_not_pass_for_noise(noise, channels, seed):
    """Nor does noise pass for errors, though few pixels judge."""
    clean, image, g = damaged(sigma=noise, size=48, seed=seed)
    clean, image = (x[..., None].expand(-1, -1, channels).contiguous() for x in (clean, image))
    hidden = Hidden.draw(image, g)
    learned = noise or 1.2 * hidden.noise(nearest_known(hidden.away(image)))
    filled = settled(image, hidden, sigma=learned, looks=7)
    assert filled.sigma == learned if noise else filled.sigma < learned / 3
    assert (filled.estimate - clean).square().mean().sqrt() < max(0.06, noise / 2)


def test_where_there_is_noise_its_level_is_the_real_one():
    _, image, g = damaged(sigma=0.3, size=64)
    hidden = Hidden.draw(image, g)
    assert settled(image, hidden, sigma=0.35, real=0.3).sigma == 0.3
    assert settled(image, Hidden.none(image), sigma=0.35, real=0.3).sigma == 0.3


def test_a_known_level_is_kept():
    _, image, g = damaged(sigma=0.3)
    assert settled(image, Hidden.draw(image, g), sigma=0.3, known=True).sigma == 0.3


@pytest.mark.parametrize("sure", [0, 600])
def test_where_looking_ends_the_best_whole_look_counts(sure, monkeypatch):
    monkeypatch.setattr(fill, "_SURE", sure)
    _, image, g = damaged()
    hidden, told = Hidden.draw(image, g), []
    options = {"sigma": 0.5, "looks": 5, "sizes": (6, 4)}
    whole = settled(image, hidden, go_on=lambda taken: told.append(taken) or True, **options)
    assert told == sorted(told) and told[0] == 0 and 4 < told[-1] < 5 and whole.looks == 5
    for end, looks in ((0.3, 0), (0.9, 0), (1.5, 1), (3.5, 3)):
        told.clear()

        def go_on(taken, end=end):
            told.append(taken)
            return taken < end

        part = settled(image, hidden, go_on=go_on, **options)
        assert part.looks == looks or sure
        assert sum(taken >= end for taken in told) == 1
        assert part.rmse >= whole.rmse and part.estimate.isfinite().all()


def test_without_looks_the_estimate_stays():
    _, image, _ = damaged()
    hidden = Hidden.none(image)
    filled = settled(image, hidden, sigma=0.3, looks=0, sizes=())
    assert filled.looks == 0 and filled.rmse is None
    assert (filled.estimate == nearest_known(image)).all()


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([None, 2]), st.integers(0, 99))
def test_nearest_known_fills_all_and_changes_nothing_else(rows, columns, channels, seed):
    g = torch.Generator().manual_seed(seed)
    shape = (rows, columns) if channels is None else (rows, columns, channels)
    image = torch.randn(shape, generator=g)
    gaps = torch.rand(shape, generator=g) < 0.5
    gaps[0, 0] = False
    filled = nearest_known(image.masked_fill(gaps, torch.nan))
    assert filled.isfinite().all() and (filled[~gaps] == image[~gaps]).all()
    assert set(filled.flatten().tolist()) <= set(image[~gaps].flatten().tolist())
