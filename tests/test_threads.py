"""Work that is done side by side."""

import threading
import time
import weakref

import pytest
import torch

from truvae.threads import at_a_time, helpers, side_by_side

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2, 9])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_few_pieces_of_work_are_ahead_of_what_is_taken(threads):
    begun, before = [], threading.active_count()
    found = side_by_side(lambda n: begun.append(n) or n, iter(range(1000)), CPU)
    assert next(found) == 0
    assert len(begun) <= 4 * 8
    found.close()
    assert torch.get_num_threads() == threads and threading.active_count() == before


def test_work_comes_back_in_order_and_leaves_the_threads_as_they_were(threads):
    seen = []

    def work(n):
        seen.append((threading.get_ident(), torch.get_num_threads()))
        time.sleep(0.01 * (n % 3))
        return n

    with helpers(CPU) as start:
        assert [*start(work, range(20))] == [*range(20)]
    workers = {ident for ident, _ in seen}
    assert len(workers) <= min(threads, 4) and (threads == 1 or len(workers) > 1)
    assert all(len(workers) * n <= threads for _, n in seen)
    assert [*side_by_side(work, iter(range(70)), CPU)] == [*range(70)]
    with pytest.raises(ZeroDivisionError), helpers(CPU) as start:
        [*start(lambda n: 1 / n, [1, 2, 0, 3])]
    assert torch.get_num_threads() == threads


def test_work_goes_on_beside_the_caller_if_there_are_threads(threads):
    begun = threading.Event()
    with helpers(CPU) as start:
        found = start(lambda n: begun.set() or n, [1])
        assert begun.wait(5.0 if threads > 1 else 0.0) == (threads > 1)
        assert [*found] == [1]


def test_the_caller_does_what_nobody_has_begun(threads):
    caller, helped = threading.get_ident(), threading.Event()

    def work(n):
        if threading.get_ident() == caller:
            helped.set()
        return n, helped.wait(5.0)  # helpers wait until the caller does something

    with helpers(CPU) as start:
        assert [*start(work, range(12))] == [(n, True) for n in range(12)]


def test_what_nobody_asks_for_is_not_begun_any_more(threads):
    begun = []
    with helpers(CPU) as start:
        start(lambda n: time.sleep(0.05) or begun.append(n), range(100))
    assert len(begun) < 10


def test_work_within_work_is_not_parted(threads):
    def outer(n):
        with helpers(CPU) as start:
            return at_a_time(CPU), {ident for ident in start(lambda _: threading.get_ident(), "ab")}

    with helpers(CPU) as start:
        found = [*start(outer, range(6))]
    assert all(n == 1 and len(idents) == 1 for n, idents in found)
    assert at_a_time(CPU) == min(threads, 4)


def test_what_was_taken_is_not_kept(threads):
    class Thing:
        pass

    with helpers(CPU) as start:
        results = start(lambda n: time.sleep(0.001) or Thing(), range(8))
        taken = []
        for thing in results:
            taken.append(weakref.ref(thing))
            del thing
            assert sum(ref() is not None for ref in taken[:-2]) == 0
    assert len(taken) == 8


def test_another_device_has_its_own_threads():
    assert at_a_time(torch.device("cuda")) == 1
