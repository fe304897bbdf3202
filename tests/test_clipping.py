"""Noise that was cut off at the ends of the range."""

import numpy as np
import pytest
import torch
from skimage import data

import truvae
from truvae.clipping import unclipped, variance_left
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
