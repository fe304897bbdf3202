"""The second look, against a dense and slow one."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truvae import neighbours
from truvae.groups import _by_coefficients, _by_entries
from truvae.refine import refine


def scene(rows=30, columns=26, sigma=0.4, seed=0):
    y, x = np.mgrid[:rows, :columns]
    clean = torch.tensor(np.sin(x / 2.5) + (y > rows / 2), dtype=torch.float64)
    g = torch.Generator().manual_seed(seed)
    return clean, clean + sigma * torch.randn(clean.shape, generator=g, dtype=torch.float64)


def rms(error):
    return float(error.square().mean().sqrt())


def test_one_group_of_all_patches_is_the_wiener_filter_of_their_covariance():
    """With all patches as neighbours there is one Gaussian, and one reference does for all."""
    clean, noisy = scene(11, 11)
    size, n, sigma = 4, 64, 0.4
    corners = [(i, j) for i in range(8) for j in range(8)]

    def cut(picture):
        return np.stack([picture[i : i + 4, j : j + 4].numpy().ravel() for i, j in corners])

    prior = cut(clean)
    covariance = np.cov(prior.T, bias=True)
    gain = np.linalg.solve(covariance + sigma**2 * np.eye(16), covariance)
    patches = prior.mean(0) + (cut(noisy) - prior.mean(0)) @ gain
    total, count = np.zeros((11, 11)), np.zeros((11, 11))
    for (i, j), patch in zip(corners, patches, strict=True):
        total[i : i + 4, j : j + 4] += patch.reshape(4, 4)
        count[i : i + 4, j : j + 4] += 1
    found = refine(noisy, clean, sigma, size, n_near=n, reach=20)
    np.testing.assert_allclose(found, total / count, atol=1e-8)


def test_it_brings_a_rough_estimate_nearer():
    clean, noisy = scene()
    g = torch.Generator().manual_seed(1)
    rough = clean + 0.2 * torch.randn(clean.shape, generator=g, dtype=torch.float64)
    refined = refine(noisy, rough, 0.4, 6)
    assert rms(refined - clean) < 0.75 * rms(rough - clean)


def smooth(picture):
    """Average a picture (R, C) over 15 x 15 pixels, as patches of 8 x 8 do where it is flat."""
    return torch.nn.functional.avg_pool2d(picture[None], 15, 1, 7, count_include_pad=False)[0]


@pytest.mark.parametrize(
    ("columns", "slope", "most"),
    [(96, 0.0, 0.85), (240, 0.0, 0.85), (96, 0.02, 1.02), (96, 0.1, 1.02)],
)
def test_flat_places_become_flatter_than_by_the_nearest_patches(columns, slope, most, monkeypatch):
    """Those nearest in an estimate share its error: their average has it, too. Shading stays."""
    clean = slope * torch.arange(float(columns)).expand(96, columns)
    noisy = clean + torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    first = smooth(noisy)
    drawn = rms(refine(noisy, first, 1.0, 8) - clean)
    monkeypatch.setattr(neighbours, "_TOO_VARIED", 0.0)  # the nearest ones everywhere
    assert drawn < most * rms(refine(noisy, first, 1.0, 8) - clean)


def distances(means, far=None, n=4, sigma=1.0):
    """Return what becomes of distances of 0.1, or more, of patches of 64 entries with means."""
    means = torch.as_tensor(means).view(len(means), -1)
    distance = torch.full((1, len(means)), 0.1) if far is None else far[None]
    drawn = (torch.arange(len(means))[None] + 0.5) / len(means)
    return neighbours.scattered(distance, drawn, means, n, sigma, 64 * means.shape[1])[0]


@given(st.integers(16, 200), st.sampled_from([0.0, 30.0, -1e3]), st.integers(0, 2**16))
def test_patches_are_drawn_of_those_alike_only(n, offset, seed):
    g = torch.Generator().manual_seed(seed)
    same = offset + 0.1 * torch.randn(n, generator=g) / 8
    far = torch.where(torch.arange(n) % 4 == 0, 100.0, 0.1)
    drawn = distances(same, far)
    assert ((drawn == far) == (far == 100)).all()
    assert (drawn[far < 100].diff() > 0).all() and drawn[far < 100].max() < 64**0.5
    assert (distances(same, n=n) == 0.1).all()  # too few to choose from
    assert (distances(same, sigma=1e-3) == 0.1).all()  # not alike beside so little noise
    # Means that vary by more than noise, 1 / 8, does: of a channel, or of one against another.
    varied = offset + torch.where(torch.arange(n) % 2 == 0, -0.2, 0.2)
    assert (distances(varied) == 0.1).all()
    assert (distances(torch.stack([varied, same, -varied], 1)) == 0.1).all()


@given(st.integers(41, 1100), st.integers(41, 80), st.integers(0, 2**16))
def test_they_are_drawn_from_all_around(columns, rows, seed):
    """A mean of 32 random ones of 41 x 41 places would be 0.177 of their deviation away."""
    places = (1, rows, columns)
    row, column = (axis.flatten() for axis in np.mgrid[:41, :41])
    order = neighbours._order(torch.as_tensor(row * columns + column), places)
    first = int(np.random.default_rng(seed).integers(len(row)))
    drawn = ((order - order[first]) % 0x10000).topk(32, largest=False).indices.numpy()
    for axis in (row, column):
        assert abs(axis[drawn].mean() - 20) < 0.4 * axis.std()
        assert 0.7 < axis[drawn].std() / axis.std() < 1.3


@pytest.mark.parametrize("missing", [False, True])
def test_large_patches_on_two_threads(missing):
    """Batches of systems of 192 equations are more than some solvers take on several threads."""
    g = torch.Generator().manual_seed(0)
    noisy = torch.randn(24, 24, 3, generator=g)
    if missing:
        noisy[4, 5] = torch.nan
    # With a little noise, so that no two patches are equally near.
    pilot = torch.linspace(0, 1, 24)[:, None] + 0.1 * torch.randn(24, 24, 3, generator=g)
    threads, found = torch.get_num_threads(), []
    for n in (1, 2):
        torch.set_num_threads(n)
        found.append(refine(noisy, pilot, 1.0, 8))
    torch.set_num_threads(threads)
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def test_no_noise_changes_nothing():
    clean, _ = scene()
    flat = torch.arange(30.0).div(10).floor().expand(26, 30)
    for picture in (clean, flat, torch.full((12, 12), 0.3, dtype=torch.float64)):
        for sigma in (1e-6, 0.0):
            np.testing.assert_allclose(refine(picture, picture, sigma, 5), picture, atol=1e-6)
        gap = picture.clone()
        gap[7, 9] = torch.nan
        assert refine(gap, picture, 0.0, 5).isfinite().all()


def test_missing_pixels_follow_the_others():
    """What is given for them is never used; repeated looks find the mean of their neighbours."""
    clean, noisy = scene()
    gaps = torch.rand(clean.shape, generator=torch.Generator().manual_seed(2)) < 0.1
    damaged = noisy.masked_fill(gaps, torch.nan)
    estimate = torch.where(gaps, clean.mean(), clean)
    for _ in range(8):
        estimate = refine(damaged, estimate, 0.4, 6)
    assert estimate.isfinite().all()
    assert rms((estimate - clean)[gaps]) < 0.5 * rms((clean.mean() - clean)[gaps])


@pytest.mark.parametrize(("n", "entries"), [(5, 9), (9, 5), (12, 30)])
@pytest.mark.parametrize("spare2", [0.0, 0.02])
def test_both_systems_have_one_solution(n, entries, spare2):
    """The posterior mean given the observed entries, against its formula with dense inverses."""
    g = torch.Generator().manual_seed(n)
    deviations = torch.randn(2, n, entries, generator=g, dtype=torch.float64)
    known = torch.rand(2, 3, entries, generator=g) < 0.5
    residual = torch.randn(2, 3, entries, generator=g, dtype=torch.float64) * known
    found = [
        solve(deviations, residual, known.double(), 0.3, spare2)
        for solve in (_by_coefficients, _by_entries)
    ]
    for b in range(2):
        covariance = deviations[b].T @ deviations[b] + spare2 * torch.eye(entries)
        for k in range(3):
            o = known[b, k].nonzero()[:, 0]
            inner = covariance[o][:, o] + 0.3 * torch.eye(len(o))
            expected = covariance[:, o] @ torch.linalg.solve(inner, residual[b, k, o])
            for estimate in found:
                np.testing.assert_allclose(estimate[b, k], expected, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("shape", [(8, 8), (8, 40), (9, 8), (33, 17)])
def test_any_shape_from_one_patch_up(shape):
    picture = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    refined = refine(picture, picture, 0.1, 8)
    assert refined.shape == shape and refined.isfinite().all()


def still(n_frames):
    """Frames of one scene, each with noise and a rough estimate of its own: (F, R, C, 1)."""
    g = torch.Generator().manual_seed(3)
    clean = scene()[0].expand(n_frames, -1, -1)[..., None]
    noise = torch.randn(2, *clean.shape, generator=g, dtype=torch.float64)
    return clean, clean + 0.4 * noise[0], clean + 0.2 * noise[1]


def test_frames_of_one_scene_help_each_other():
    clean, noisy, rough = still(5)
    together = refine(noisy, rough, 0.4, 6)
    alone = torch.stack([refine(*pair, 0.4, 6) for pair in zip(noisy, rough, strict=True)])
    assert rms(together - clean) < 0.9 * rms(alone - clean)


def test_candidates_are_compared_in_parts(monkeypatch):
    _, noisy, rough = still(3)
    found = refine(noisy, rough, 0.4, 6)
    compared, distances = [], torch.cdist

    def told(some, others):
        compared.append(len(others))
        return distances(some, others)

    monkeypatch.setattr(torch, "cdist", told)
    monkeypatch.setattr(neighbours, "_COMPARED", 37)
    torch.testing.assert_close(refine(noisy, rough, 0.4, 6), found)
    assert max(compared) == 37


def test_only_frames_nearby_that_look_alike_have_a_part():
    _, noisy, rough = still(9)
    found = refine(noisy, rough, 0.4, 6)
    # A reference looks three frames ahead, and those there three more.
    torch.testing.assert_close(refine(noisy[:7], rough[:7], 0.4, 6)[:1], found[:1])
    assert not torch.equal(refine(noisy[:6], rough[:6], 0.4, 6)[:1], found[:1])
    apart = 100.0 * torch.arange(9.0)[:, None, None, None]  # nothing alike in other frames
    frames = zip(noisy + apart, rough + apart, strict=True)
    alone = torch.stack([refine(*pair, 0.4, 6) for pair in frames])
    torch.testing.assert_close(refine(noisy + apart, rough + apart, 0.4, 6), alone)


@pytest.mark.parametrize("gaps", [False, True])
def test_it_is_asked_again_and_again_whether_to_go_on(gaps):
    _, noisy = scene()
    rough = noisy.clone()
    if gaps:
        noisy[3, 4] = torch.nan
    told = []
    found = refine(noisy, rough, 0.4, 6, go_on=lambda done: told.append(done) or True)
    torch.testing.assert_close(found, refine(noisy, rough, 0.4, 6))
    assert len(told) > 3 and told == pytest.approx(np.arange(len(told)) / len(told))
    for end in told:
        assert refine(noisy, rough, 0.4, 6, go_on=lambda done, end=end: done < end) is rough
