"""Memory: estimates grow with what is asked for, limits are kept, and too low ones are told."""

import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import truvae
from truvae import InputError, files, limits
from truvae.limits import GB, needed, total, within
from truvae.presets import preset
from truvae.restore import memory_needed
from truvae.settings import choose, plan_of

SIDES = st.integers(16, 5000)


def balanced(rows, columns):
    return choose((rows, columns), 0.5, "balanced")


@given(SIDES, SIDES)
def test_larger_pictures_take_more(rows, columns):
    plan = balanced(rows, columns)
    one, two = (needed(plan, (n, rows, columns, 1)) for n in (1, 2))
    assert 0 < one < two
    assert needed(plan.override({"n_states": 64}), (1, rows, columns, 1)) > one


@given(SIDES, SIDES, st.floats(0.01, 8))
def test_limits_are_kept_or_the_least_that_would_do_is_told(rows, columns, limit):
    plan, shape = balanced(rows, columns), (1, rows, columns, 1)
    try:
        assert needed(within(plan, shape, limit), shape) <= limit * GB
    except InputError as error:
        least = float(re.search(r"at least ([0-9.]+) GB", str(error))[1])
        assert least > limit
        assert needed(within(plan, shape, least), shape) <= least * GB
        with pytest.raises(InputError):
            within(plan, shape, least - 0.11)


def test_with_room_enough_nothing_changes():
    plan = balanced(4096, 4096)
    assert within(plan, (1, 4096, 4096, 1), 64) == plan


def test_without_a_limit_half_of_the_memory_is_aimed_at_and_nothing_refused(monkeypatch):
    plan, shape = balanced(4096, 4096), (1, 4096, 4096, 1)
    monkeypatch.setattr(limits, "total", lambda: 64.0 * GB)
    assert within(plan, shape, None) == plan
    monkeypatch.setattr(limits, "total", lambda: 1.0 * GB)
    assert within(plan, shape, None).models[0].trained == 1 << 14


def test_the_memory_of_the_machine_is_known():
    assert total() > 1e8


def test_presets_cannot_do_with_less():
    plan, shape = plan_of(preset("paper:denoise-house-25")), (1, 1024, 1024, 1)
    with pytest.raises(InputError, match="1024 x 1024 pixels: give at least [0-9.]+ GB"):
        within(plan, shape, 1.5)
    assert within(plan, shape, 1000) == plan


def test_a_limit_is_an_option_of_restorations():
    noisy = np.random.default_rng(0).normal(0, 1, (16, 16))
    with pytest.raises(InputError, match=r"0\.2 GB of memory are not enough.*at least 0\.\d GB"):
        truvae.denoise(noisy, memory_limit=0.2)
    for limit in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="the memory limit must be above 0 GB"):
            truvae.denoise(noisy, memory_limit=limit)
    small = {"n_latents": 8, "hidden": (8,), "n_states": 4, "epochs": 1}
    assert np.isfinite(truvae.denoise(noisy, memory_limit=2, **small)).all()


def test_what_a_large_picture_takes_is_told_before_it_is_restored():
    assert files._memory(np.zeros((1000, 1000)), False, {}) == []
    (line,) = files._memory(np.zeros((2, 1024, 512, 3), np.uint8), True, {"n_states": 32})
    size = memory_needed((2, 1024, 512, 3), n_states=32)
    assert f"{size:.1f} GB" in line and "--memory-limit" in line
    assert memory_needed((2, 1024, 512, 3), n_states=64) > size


def test_the_command_tells_a_limit_that_is_too_low_in_one_line(tmp_path):
    np.save(tmp_path / "in.npy", np.random.default_rng(0).normal(0, 1, (16, 16)))
    command = [sys.executable, "-m", "truvae", "denoise", "in.npy", "-o", "out.npy"]
    done = subprocess.run(
        [*command, "--memory-limit", "0.1"], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2 and not (tmp_path / "out.npy").exists()
    assert re.fullmatch(
        r"truvae: error: 0\.1 GB of memory are not enough .* at least 0\.\d GB .*\n", done.stderr
    )
