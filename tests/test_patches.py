"""Patches: a view of the picture, and merging that undoes cutting."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import unfold

from truvae.patches import Features, Patches, cosine_basis, merge, merge_moments
from truvae.training import Posterior


def picture_of(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.sampled_from([None, 1, 3]))
def test_patches_are_all_windows(rows, columns, size, channels):
    if size > min(rows, columns):
        return
    image = picture_of(rows, columns * (channels or 1))
    if channels is not None:
        image = image.view(rows, columns, channels)
    patches = Patches(image, size)
    expected = unfold(image.view(rows, columns, -1).permute(2, 0, 1)[None], size)[0].T
    assert patches.n_entries == expected.shape[1]
    assert len(patches) == len(expected)
    assert torch.equal(patches[torch.arange(len(patches))], expected)
    assert torch.equal(torch.cat(list(patches.blocks(7))), expected)
    assert torch.equal(image.flatten()[patches.pixels(torch.arange(len(patches)))], expected)


def test_patches_are_a_view():
    image = picture_of(20, 20)
    patches = Patches(image, 4)
    image[:] = 7
    assert (patches[torch.arange(3)] == 7).all()


@given(st.integers(5, 14), st.integers(5, 14), st.integers(1, 5), st.integers(0, 99))
def test_merging_untouched_patches_returns_the_picture(rows, columns, size, seed):
    """Oracle 9, whatever the weights and the order of the patches."""
    image = picture_of(rows, columns)
    patches = Patches(image, size)
    g = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(patches), generator=g)
    parts = [
        Posterior(part, patches[part], torch.rand(len(part), generator=g))
        for part in order.split(5)
    ]
    torch.testing.assert_close(merge(patches, parts, 0.1), image.double(), rtol=0, atol=1e-6)


def test_merging_weighs_by_the_posterior_variance():
    patches = Patches(torch.zeros(1, 2), 1)
    image = torch.zeros(2, 3)
    patches = Patches(image, 2)
    rows = torch.tensor([0, 1])
    mean = torch.tensor([[1.0] * 4, [5.0] * 4])
    variance = torch.tensor([0.0, 0.3])
    merged = merge(patches, [Posterior(rows, mean, variance)], 0.1)
    middle = (1.0 / 0.1 + 5.0 / 0.4) / (1 / 0.1 + 1 / 0.4)
    torch.testing.assert_close(merged[0], torch.tensor([1.0, middle, 5.0], dtype=torch.float64))


def test_moments_are_merged_with_the_same_weights():
    patches, g = Patches(torch.zeros(7, 6), (2, 3)), torch.Generator().manual_seed(0)
    rows = torch.arange(len(patches))
    mean, variance = torch.randn(len(rows), 6, generator=g), torch.rand(len(rows), generator=g)
    expected = merge(patches, [Posterior(rows, mean, variance)], 0.1)
    spread = merge(patches, [Posterior(rows, variance[:, None].expand_as(mean), variance)], 0.1)
    parts = [Posterior(part, mean[part], variance[part]) for part in rows.split(4)]
    torch.testing.assert_close(merge_moments(patches, parts, 0.1), (expected, spread))


def test_patches_may_have_two_sides():
    image = picture_of(6, 16).view(6, 8, 2)
    patches = Patches(image, (2, 5))
    expected = unfold(image.permute(2, 0, 1)[None], (2, 5))[0].T
    assert patches.grid == (5, 4) and torch.equal(patches[torch.arange(20)], expected)
    assert torch.equal(image.flatten()[patches.pixels(torch.arange(20))], expected)
    basis = cosine_basis((2, 5), 2)
    torch.testing.assert_close(basis.T @ basis, torch.eye(20))
    torch.testing.assert_close(cosine_basis((3, 3)), cosine_basis(3))


def test_mean_observed_counts_the_known_entries():
    image = picture_of(9, 8)
    image[3, 4] = torch.nan
    image[0, 0] = torch.nan
    patches = Patches(image, 3)
    expected = unfold(image.isfinite().float()[None, None], 3)[0].sum(0).mean()
    assert patches.mean_observed().item() == pytest.approx(float(expected))
    both = Patches(torch.stack([image, picture_of(9, 8)], 2), 3)
    assert both.mean_observed().tolist() == pytest.approx([float(expected), 9])


def test_principal_features_are_those_of_pca():
    patches = Patches(picture_of(20, 20), 3)
    data = patches[torch.arange(len(patches))]
    features = Features.of(patches, 4)(patches)
    centred = data - data.mean(0)
    scale = torch.linalg.svdvals(centred)[:4].square()
    torch.testing.assert_close(features.square().sum(0).flip(0), scale, rtol=1e-3, atol=1e-3)


def test_frames_have_the_patches_of_each_one_after_the_other():
    frames = torch.randn(3, 7, 6, 2, generator=torch.Generator().manual_seed(0))
    together = Patches(frames, 3)
    alone = [Patches(frame, 3) for frame in frames]
    everything = torch.cat([block for patches in alone for block in patches.blocks()])
    assert len(together) == len(everything) == 3 * 5 * 4
    rows = torch.arange(len(together))
    torch.testing.assert_close(together[rows], everything)
    torch.testing.assert_close(frames.flatten()[together.pixels(rows)], everything)
    some = torch.tensor([59, 3, 24])
    sample = Patches(frames, 3, some)
    assert len(sample) == 3
    torch.testing.assert_close(sample[torch.tensor([2, 0])], everything[some[[2, 0]]])
    torch.testing.assert_close(sample.pixels(torch.tensor([1])), together.pixels(some[[1]]))
