"""Processes side by side: results, crashes, and that none outlives the program."""

import os
import signal
import time
from contextlib import closing
from pathlib import Path

import pytest

from truvae.workers import Crash, side_by_side


def half_of(number, should_stop):
    """Return half of a number; of 0 and 1 what happens to processes."""
    if number == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 1:
        os._exit(3)
    return number / 2


def wait_in(path, should_stop):
    """Say in a file which process this is; wait until told to stop; tidy up in any case."""
    path.write_text(str(os.getpid()))
    try:
        while not should_stop():
            time.sleep(0.01)
        return "stopped"
    finally:
        path.unlink()


def break_in(path, should_stop):
    """Do the same, and fail when interrupted, as a module in the midst of its import may."""
    try:
        wait_in(path, should_stop)
    except SystemExit:
        raise RecursionError from None


def is_gone(pid):
    """Tell whether a process ends, within some seconds."""
    for _ in range(200):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_process_that_dies_costs_its_task_only():
    done = dict(side_by_side(half_of, [4, 0, 6, 1, 8], 2, lambda: False))
    assert done == {4: 2, 6: 3, 8: 4, 0: Crash(-signal.SIGKILL), 1: Crash(3)}
    assert str(done[0]) == "was killed by SIGKILL" and str(done[1]) == "ended with exit status 3"


def test_tasks_finish_when_asked_and_no_more_are_begun(tmp_path):
    paths, seen = [tmp_path / name for name in "abc"], set()

    def both_began():
        seen.update(filter(Path.exists, paths))
        return len(seen) >= 2

    results = dict(side_by_side(wait_in, paths, 2, both_began))
    assert results == dict.fromkeys(paths[:2], "stopped") and not paths[2].exists()


@pytest.mark.parametrize("function", [wait_in, break_in])
def test_no_process_outlives_the_iterator(function, tmp_path, capfd):
    path, pids = tmp_path / "a", []

    def interrupted():
        if path.exists() and path.read_text():
            pids.append(int(path.read_text()))
            raise KeyboardInterrupt
        return False

    results = side_by_side(function, [path], 1, interrupted)
    with pytest.raises(KeyboardInterrupt), closing(results):
        next(results)
    assert is_gone(pids[0]) and not path.exists()
    assert capfd.readouterr().err == ""
