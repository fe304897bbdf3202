"""Noise that was cut off at the ends of the range."""

import numpy as np
import pytest
import torch
from skimage import data

import truvae.job
from truvae.clipping import clipped, unclipped, variance_left
from truvae.experiments import add_noise


def noise(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("end", [1, -1])
def test_what_was_cut_off_is_made_up_for_on_average(place, end):
    shape = 1, 300, 300, 1
    clean = torch.full(shape, place)
    clipped = end * (clean + noise(shape)).clamp(min=0)
    found = unclipped(clipped, 1.0, end * clean)
    assert float(found.mean()) == pytest.approx(end * place, abs=0.01)
    assert torch.equal(found[clipped != 0], clipped[clipped != 0])


def test_a_guess_from_the_surroundings_comes_close():
    dark = torch.linspace(0, 40, 200).expand(1, 200, 200)[..., None]
    clipped = (dark + 20 * noise(dark.shape)).clamp(min=0)
    before, after = ((x - dark)[:, :, :50].mean() for x in (clipped, unclipped(clipped, 20.0)))
    assert before > 5
    assert abs(after) < 1


def test_pictures_within_their_range_stay_as_they_are():
    image = noise((2, 40, 40, 3))
    assert torch.equal(unclipped(image, 1.0), image)
    assert torch.equal(clipped(2 * image, image), 2 * image)


@pytest.mark.parametrize("end", [1, -1])
def test_an_estimate_goes_not_beyond_an_end_at_which_noise_was_cut_off(end):
    image, estimate = noise((2, 40, 40, 3)), 5 * noise((2, 40, 40, 3), seed=1)
    image[..., 1] = end * (end * image[..., 1]).clamp(min=-0.5)
    image[0, 3, 4, 1] = torch.nan
    found = clipped(estimate, image)
    assert torch.equal(found[..., ::2], estimate[..., ::2])
    assert torch.equal(found[..., 1], end * (end * estimate[..., 1]).clamp(min=-0.5))


def test_borders_without_noise_stay_as_they_are():
    image = torch.nn.functional.pad(100 + 20 * noise((1, 30, 30, 1)), (0, 0, 20, 20, 20, 20))
    for estimate in (None, torch.zeros_like(image)):
        found = unclipped(image, 20.0, estimate)
        assert torch.equal(found[:, :17], image[:, :17])


def test_gaps_stay_gaps():
    clean = torch.full((1, 60, 60, 1), 5.0)
    clipped = (clean + 30 * noise(clean.shape)).clamp(min=0)
    clipped[0, 3, 4] = torch.nan
    found = unclipped(clipped, 30.0, clean)
    assert torch.equal(found.isnan(), clipped.isnan())
    assert float(found.nanmean()) == pytest.approx(5, abs=1)


def test_the_model_of_the_paper_takes_pictures_as_they_are(monkeypatch):
    def fail(*_):
        raise AssertionError

    monkeypatch.setattr(truvae.job, "unclipped", fail)
    clipped = noise((24, 24)).clamp(min=0).numpy()
    truvae.denoise(clipped, covariance="isotropic", epochs=1)
    with pytest.raises(AssertionError):
        truvae.denoise(clipped, epochs=1)


def test_the_variance_left_is_that_of_clipped_noise():
    for share in (0.1, 0.3, 0.5):
        draws = noise(1_000_000)
        kept = draws.clamp(min=float(draws.quantile(share)))
        assert variance_left(share) == pytest.approx(float(kept.var()), rel=0.01)


def test_dark_places_come_back_as_dark_as_they_were():
    clean = data.camera()[100:196, 180:276].astype(float) * 0.6  # a black coat
    clipped = add_noise(clean, 40, 0).clip(0, 255).round().astype(np.uint8)
    restored = truvae.denoise(clipped, quality="fast", epochs=8).astype(float)
    dark = clean < 15
    assert clipped[dark].mean() > clean[dark].mean() + 8
    assert restored[dark].mean() == pytest.approx(clean[dark].mean(), abs=5)
