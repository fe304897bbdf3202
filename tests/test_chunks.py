"""Chunks: every data point once, and near ones together."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truvae import NearChunks, ShuffledChunks
from truvae.chunks import near_groups


@given(st.integers(1, 300), st.integers(1, 50), st.integers(0, 99))
def test_every_point_is_in_one_group(n, size, seed):
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(n, 3, generator=g)
    for chunks in (ShuffledChunks(n, size), NearChunks(features, size, 3)):
        rows = torch.cat([group for chunk in chunks(g) for group in chunk])
        assert rows.sort().values.tolist() == list(range(n))


@given(st.integers(10, 400), st.integers(2, 40))
def test_groups_have_equal_sizes(n, size):
    groups = near_groups(torch.randn(n, 2), size, torch.Generator().manual_seed(0))
    sizes = [len(group) for group in groups]
    assert max(sizes) - min(sizes) <= 1
    assert size / 1.5 <= sum(sizes) / len(sizes) <= 1.5 * size or len(groups) == 1


def test_equal_points_are_no_trouble(generator):
    assert sum(map(len, near_groups(torch.zeros(50, 2), 10, generator))) == 50


def test_groups_are_near(generator):
    """Most of the scatter of random points is between the groups, not within them."""
    features = torch.randn(4096, 4, generator=generator)
    within = torch.stack(
        [
            group.var(0).sum()
            for group in map(features.__getitem__, near_groups(features, 64, generator))
        ]
    )
    assert within.mean() < 0.45 * features.var(0).sum()


def test_trees_differ_from_epoch_to_epoch(generator):
    features = torch.randn(512, 4, generator=generator)
    first, second = (
        {frozenset(group.tolist()) for group in near_groups(features, 64, generator)}
        for _ in range(2)
    )
    assert not first & second


@pytest.mark.parametrize("n", [1, 5])
def test_fewer_points_than_a_group(n, generator):
    assert [len(g) for g in near_groups(torch.randn(n, 2), 128, generator)] == [n]


def test_what_is_missing_does_not_part_neighbours(generator):
    features = torch.randn(4096, 4, generator=generator)
    features[0, 0], features[1:9] = torch.nan, torch.nan
    groups = NearChunks(features, 64, 8)(generator)
    within = [features[group].nan_to_num().var(0).sum() for chunk in groups for group in chunk]
    assert torch.stack(within).mean() < 0.45 * 4


def test_whole_numbers_are_coordinates(generator):
    groups = near_groups(torch.arange(8)[:, None], 2, generator)
    assert sorted(sorted(group.tolist()) for group in groups) == [[0, 1], [2, 3], [4, 5], [6, 7]]
