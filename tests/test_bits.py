"""Packed codes against plain boolean arithmetic."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from truvae import bits

codes = st.integers(1, 150).flatmap(
    lambda h: st.integers(1, 20).flatmap(lambda n: arrays(bool, (n, h)))
)


@given(codes)
def test_unpack_undoes_pack(z):
    z = torch.from_numpy(z)
    assert torch.equal(bits.unpack(bits.pack(z), z.shape[1], torch.bool), z)


@given(codes)
def test_count_counts_the_set_bits(z):
    z = torch.from_numpy(z)
    assert torch.equal(bits.count(bits.pack(z)), z.sum(1))


@given(codes, st.integers(1, 9))
def test_row_sums_are_the_matrix_product(z, n_columns):
    z = torch.from_numpy(z)
    matrix = torch.randn(z.shape[1], n_columns, dtype=torch.float64)
    sums = bits.RowSums(bits.pack(z), z.shape[1])
    torch.testing.assert_close(sums(matrix), z.double() @ matrix)
    torch.testing.assert_close(sums(matrix[:, :1]), z.double() @ matrix[:, :1])


def test_all_states_are_all():
    z = bits.unpack(bits.all_states(5), 5)
    assert len(torch.unique(z, dim=0)) == 32
    with pytest.raises(ValueError, match="too many states"):
        bits.all_states(17)


@given(codes, st.data())
def test_flip_changes_one_bit_and_twice_none(z, data):
    z = torch.from_numpy(z)
    at = torch.tensor(
        data.draw(st.lists(st.integers(0, z.shape[1] - 1), min_size=len(z), max_size=len(z)))
    )
    flipped = bits.flip(bits.pack(z), at)
    expected = z.clone()
    expected[torch.arange(len(z)), at] ^= True
    assert torch.equal(bits.unpack(flipped, z.shape[1], torch.bool), expected)
    assert torch.equal(bits.flip(flipped, at), bits.pack(z))


@given(codes)
def test_unique_finds_the_set_of_codes(z):
    words = bits.pack(torch.from_numpy(z))
    distinct = bits.unique(words)
    assert {tuple(w) for w in distinct.words.tolist()} == {tuple(w) for w in words.tolist()}
    assert len(distinct.words) == len({tuple(w) for w in words.tolist()})
    assert torch.equal(distinct.words[distinct.inverse], words)
    assert (distinct.keys[1:] > distinct.keys[:-1]).all()


@pytest.mark.parametrize("n_latents", [100, 128, 136])
def test_keys_of_sparse_codes_do_not_collide(n_latents):
    """All codes with up to three set bits, among them those in the top bits of the words."""
    index = torch.combinations(torch.arange(n_latents), 3)
    z = torch.zeros(len(index), n_latents, dtype=torch.bool).scatter_(1, index, True)
    for rows in (z, z & (torch.arange(n_latents) % 2 == 0)):
        words = bits.pack(rows)
        distinct_words = torch.unique(words, dim=0)
        assert len(torch.unique(bits.keys(words))) == len(distinct_words)


@pytest.mark.parametrize("probability", [0.5, 5 / 256, 0.3])
def test_random_bits_are_independent_with_the_given_probability(probability, generator):
    n = 40_000
    z = bits.unpack(bits.random((n,), 70, probability, generator), 128)
    assert z[:, 70:].sum() == 0
    z = z[:, :70]
    deviation = (z.mean(0) - probability) / (probability * (1 - probability) / n) ** 0.5
    assert deviation.abs().max() < 5
    correlation = torch.corrcoef(z.T).fill_diagonal_(0)
    assert correlation.abs().max() < 5.5 / n**0.5
