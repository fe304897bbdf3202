"""Sums through shared memory, by threads that stand for processes."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from truvae import board
from truvae.board import Board, reserve

if not board._FOLDER.is_dir():
    pytest.skip("no folder of files in memory", allow_module_level=True)


def together(size, work):
    """Return what `work(board, rank)` returns on each of so many ranks."""
    folder, listener = reserve(size)

    def one(rank):
        shared = Board(folder, rank, size, listener if rank == 0 else None, 20)
        with closing(shared):
            return work(shared, rank)

    with ThreadPoolExecutor(size) as pool:
        found = list(pool.map(one, range(size)))
    assert not os.path.exists(folder)
    return found


@settings(deadline=None, max_examples=20)
@given(
    size=st.integers(2, 4),
    lengths=st.lists(st.integers(0, 700), min_size=1, max_size=5),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.int64]),
    page=st.sampled_from([64, 1000 // 8 * 8, 1 << 20]),
)
def test_all_ranks_get_what_one_process_would(size, lengths, dtype, page):
    g = torch.Generator().manual_seed(0)
    rows = [torch.randn(size, n, generator=g).mul(100).to(dtype) for n in lengths]

    def work(board, rank):
        found = []
        for each in rows:
            for combine in (torch.add, torch.maximum):
                tensor = each[rank].clone()
                board.reduce_(tensor, combine)
                found.append(tensor)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(board, "_PAGE", page)
        results = together(size, work)
    for i, each in enumerate(rows):
        # In the order of the ranks, as a process alone would add them.
        total = sum(each[1:], each[0].clone())
        for found in results:
            assert torch.equal(found[2 * i], total)
            assert torch.equal(found[2 * i + 1], each.amax(0))


def test_numbers_without_axes_count_as_one():
    def work(board, rank):
        number = torch.tensor(float(rank))
        board.reduce_(number, torch.maximum)
        return number.item()

    assert together(3, work) == [2, 2, 2]


def test_a_rank_that_has_ended_is_noticed():
    def work(board, rank):
        if rank == 1:
            return None
        with pytest.raises(OSError):
            board.reduce_(torch.zeros(1), torch.add)
        return True

    assert together(3, work) == [True, None, True]


def test_without_memory_there_is_no_board(monkeypatch, tmp_path):
    monkeypatch.setattr(board, "_FOLDER", tmp_path)
    monkeypatch.setattr(board.os, "posix_fallocate", full)
    assert reserve(2) is None and not [*tmp_path.iterdir()]
    monkeypatch.setattr(board, "_FOLDER", tmp_path / "none")
    assert reserve(2) is None


def full(*_):
    raise OSError("no space left")
