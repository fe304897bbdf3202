"""Filling of holes: known structure goes on across them, and nothing is ever garbage."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from skimage.restoration import inpaint_biharmonic

from truvae import holes
from truvae.fill import nearest_known
from truvae.holes import deep, fill_holes, widest


def grid(rows=64, columns=64):
    y, x = np.mgrid[:rows, :columns]
    return torch.tensor(y, dtype=torch.float32), torch.tensor(x, dtype=torch.float32)


def cut(image, *squares):
    """Return the picture without some squares (row, column, side), and where they are."""
    gaps = torch.zeros(image.shape[:2], dtype=torch.bool)
    for row, column, side in squares:
        gaps[row : row + side, column : column + side] = True
    damaged = image.clone()
    damaged[gaps] = torch.nan
    return damaged, gaps


def rms(error):
    return float(error.square().mean().sqrt())


def stripes():
    y, x = grid()
    return torch.sin(0.8 * x + 0.3 * y)


def edge():
    y, x = grid()
    return torch.tanh((y - 0.6 * x - 12) / 0.7)


def checks():
    y, x = grid()
    return ((y // 4 + x // 4) % 2) * 2 - 1


def coloured():
    picture = torch.stack([stripes(), edge(), stripes().roll(2, 1)], 2)
    return picture / picture.std()


def ring_by_ring(image, size):
    """Fill as the module says, one patch after the other in plain loops: (R, C) only."""
    image = image.double().numpy()
    depth = holes._depth(torch.tensor(np.isnan(image))).numpy()
    last = [n - size for n in image.shape]
    windows = np.lib.stride_tricks.sliding_window_view(image, (size, size))
    complete = windows[np.isfinite(windows).all((2, 3))]
    filled = image.copy()
    for ring in range(1, depth.max() + 1):
        total, weight = np.zeros(image.shape), np.zeros(image.shape)
        at = np.argwhere(depth == ring)
        middles = product({(size - 1) // 2, size // 2}, repeat=2)
        corners = {tuple(np.clip(p - m, 0, last).tolist()) for m in middles for p in at}
        for i, j in corners:
            place = slice(i, i + size), slice(j, j + size)
            known = np.isfinite(filled[place])
            difference = np.array([((filled[place] - c)[known] ** 2).mean() for c in complete])
            best = np.argsort(difference)[:4]
            least = difference[best]
            weights = np.exp(-(least - least[0]) / (2 * max(least[0], 1e-4)))
            total[place] += known.mean() ** 4 * np.average(complete[best], 0, weights)
            weight[place] += known.mean() ** 4
        filled[depth == ring] = (total / np.where(weight == 0, 1, weight))[depth == ring]
    return filled


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 9), st.data())
def test_deep_is_a_chessboard_distance(rows, columns, n_known, data):
    """In colour a pixel is known if one of its channels is."""
    size = data.draw(st.integers(1, min(rows, columns)))
    missing = torch.ones(rows, columns, 2, dtype=torch.bool)
    places = st.tuples(*(st.integers(0, n - 1) for n in missing.shape))
    known = data.draw(st.lists(places, min_size=n_known, max_size=n_known))
    for place in known:
        missing[place] = False
    for i in range(rows):
        for j in range(columns):
            depth = min((max(abs(i - y), abs(j - x)) for y, x, _ in known), default=math.inf)
            assert deep(missing, size)[i, j] == (depth > size // 2)
    assert torch.equal(deep(missing.all(2), size), deep(missing, size))


def test_the_widest_hole_is_told():
    missing = torch.zeros(40, 50, dtype=torch.bool)
    assert widest(missing) == 0
    missing[3:7, 3:30] = True
    missing[15:35, 20:48] = True
    assert widest(missing) == 20


@pytest.mark.parametrize("size", [5, 8])
@pytest.mark.parametrize("square", [(9, 8, 7), (0, 0, 6), (20, 12, 9)])
def test_it_is_what_plain_loops_find(size, square):
    """Borders, corners, and even patches, which have no pixel in the middle."""
    picture = torch.randn(26, 24, generator=torch.Generator().manual_seed(0))
    damaged, gaps = cut(picture, square)
    found = fill_holes(damaged.double(), size)
    np.testing.assert_allclose(found, ring_by_ring(damaged, size), atol=1e-6)


@pytest.mark.parametrize("scene", [stripes, edge, checks, coloured])
@pytest.mark.parametrize("squares", [[(22, 20, 22)], [(8, 0, 16), (0, 48, 16)]])
def test_structure_goes_on_across_holes(scene, squares):
    """Inside of the picture, at its border and in its corner."""
    picture = scene()
    damaged, gaps = cut(picture, *squares)
    error = rms((fill_holes(damaged, 8) - picture)[gaps])
    assert error < min(0.32, 0.5 * rms((nearest_known(damaged) - picture)[gaps]))


def test_structure_goes_on_in_spite_of_noise():
    picture = stripes()
    noise = 0.2 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    damaged, gaps = cut(picture + noise, (22, 20, 22))
    assert rms((fill_holes(damaged, 8) - picture)[gaps]) < 0.3


def test_texture_is_not_smeared_to_nothing():
    """In the middle of a hole too it is rougher than a smooth surface between the rims."""
    noise = torch.randn(1, 66, 66, generator=torch.Generator().manual_seed(0))
    picture = torch.nn.functional.avg_pool2d(noise, 3, 1)[0] * 3
    damaged, gaps = cut(picture, (20, 20, 24))
    smooth = inpaint_biharmonic(damaged.nan_to_num(0.0).numpy(), gaps.numpy())
    true, found, surface = (
        float(torch.as_tensor(x)[26:38, 26:38].diff(dim=1).std())
        for x in (picture, fill_holes(damaged, 8), smooth)
    )
    assert max(0.2 * true, 1.5 * surface) < found < 1.1 * true


def test_known_pixels_stay_and_the_picture_given_too():
    damaged, gaps = cut(coloured(), (20, 20, 18))
    before = damaged.clone()
    filled = fill_holes(damaged, 8)
    assert torch.equal(filled[~gaps], damaged[~gaps])
    assert torch.equal(damaged.nan_to_num(7.0), before.nan_to_num(7.0))
    assert torch.equal(filled, fill_holes(damaged, 8))


def test_a_complete_picture_has_nothing_to_fill():
    assert torch.equal(fill_holes(stripes(), 8), stripes())


def test_turned_channels_and_strides_do_not_matter():
    picture = coloured()
    damaged, gaps = cut(picture, (20, 20, 18))
    turned = damaged.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    torch.testing.assert_close(fill_holes(turned, 8), fill_holes(damaged, 8))


def test_candidates_are_thinned_out_and_found_far_away(monkeypatch):
    """Whether they are many or few, a hole in a periodic pattern is filled alike."""
    damaged, gaps = cut(checks(), (22, 20, 22))
    monkeypatch.setattr(holes, "_REACH", 1)
    assert rms((fill_holes(damaged, 8) - checks())[gaps]) < 0.2
    monkeypatch.setattr(holes, "_CANDIDATES", 40)
    complete = torch.ones(57, 57, dtype=torch.bool)
    found = holes._candidates(complete, torch.tensor([57 * 30 + 30]))
    assert 20 <= len(found) <= 40 and len(found.unique()) == len(found)
    assert fill_holes(damaged, 8).isfinite().all()


def test_nothing_known_is_an_error():
    with pytest.raises(ValueError, match="at least one must be known"):
        fill_holes(torch.full((9, 9), torch.nan), 4)


@settings(max_examples=150)
@given(
    rows=st.integers(1, 30),
    columns=st.integers(1, 30),
    channels=st.sampled_from([None, 1, 3]),
    size=st.integers(1, 12),
    known=st.sampled_from([0.0, 0.003, 0.02, 0.5, 0.98]),
    boxes=st.lists(st.tuples(*[st.integers(0, 30)] * 4), max_size=3),
    seed=st.integers(0, 99),
)
@example(rows=30, columns=30, channels=3, size=8, known=0.0, boxes=[], seed=0)
@example(rows=9, columns=30, channels=None, size=8, known=1.0, boxes=[(0, 9, 10, 30)], seed=0)
@example(rows=30, columns=30, channels=None, size=2, known=1.0, boxes=[(3, 20, 3, 20)], seed=0)
def test_the_result_is_always_in_range(rows, columns, channels, size, known, boxes, seed):
    """Down to one known pixel, and pictures no larger than a patch."""
    g = torch.Generator().manual_seed(seed)
    shape = (rows, columns) if channels is None else (rows, columns, channels)
    image = torch.randn(shape, generator=g)
    gaps = torch.rand(rows, columns, generator=g) >= known
    for top, bottom, left, right in boxes:
        gaps[top:bottom, left:right] = True
    gaps[rows // 2, columns // 3] = False
    image[gaps] = torch.nan
    filled = fill_holes(image, size)
    assert filled.shape == image.shape and filled.dtype == image.dtype
    assert filled.isfinite().all()
    assert torch.equal(filled[~gaps], image[~gaps])
    lowest, highest = image[~gaps].amin(0), image[~gaps].amax(0)
    assert (filled >= lowest - 1e-5).all() and (filled <= highest + 1e-5).all()
