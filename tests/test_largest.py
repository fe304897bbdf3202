"""The k largest of each row."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from truvae.largest import largest


@given(
    st.integers(1, 60),
    st.integers(1, 1500),
    st.floats(0, 1),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 99),
)
def test_they_are_those_that_torch_finds(n_rows, n_columns, share, dtype, seed):
    numbers = torch.randn(n_rows, n_columns, generator=torch.Generator().manual_seed(seed)).to(
        dtype
    )
    k = max(1, int(share * n_columns))
    found = largest(numbers, k)
    assert found.shape == (n_rows, k)
    assert all(len(set(row)) == k for row in found.tolist())
    assert torch.equal(numbers.gather(1, found).sort(1).values, numbers.topk(k, 1).values.flip(1))


@pytest.mark.parametrize("n_columns", [100, 3000])
def test_ties_and_infinities(n_columns):
    numbers = torch.zeros(200, n_columns)
    numbers[:, ::3] = -torch.inf
    numbers[:, 1], numbers[:, 2] = 1.0, torch.inf
    found = largest(numbers, 20)
    assert all(len(set(row)) == 20 for row in found.tolist())
    best = numbers.gather(1, found).sort(1).values[:, -3:]
    assert torch.equal(best, torch.tensor([0.0, 1.0, torch.inf]).expand(200, -1))
    with pytest.raises(RuntimeError):
        largest(numbers, n_columns + 1)


@pytest.mark.parametrize("finite", [0, 5])
def test_rows_of_minus_infinity_have_distinct_columns_of_their_own(finite):
    numbers = torch.full((99, 993), -torch.inf)
    numbers[:, :finite] = 1.0
    found = largest(numbers, 8)
    assert found.max() < 993
    assert all(len(set(row)) == 8 for row in found.tolist())
    assert torch.equal(numbers.gather(1, found).isfinite().sum(1), torch.full((99,), finite))
