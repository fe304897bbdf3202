"""Processes side by side: each does one task after the other, and none outlives this process."""

import _thread
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from truvae.signals import held

Task = TypeVar("Task")
Result = TypeVar("Result")
# What a process does: a task, and whom to ask now and then whether to finish with what there is.
Function = Callable[[Task, Callable[[], bool]], Result]

# Seconds between looks at whether to stop.
_TICK = 0.1
# Seconds that a process has to clean up before it is killed.
_PATIENCE = 5.0


@dataclass(frozen=True)
class Crash:
    """A process ended before its task was done."""

    status: int
    """Its exit status; below 0, the signal that killed it."""

    def __str__(self) -> str:
        """Say it in a part of a line."""
        if self.status >= 0:
            return f"ended with exit status {self.status}"
        return f"was killed by {signal.Signals(-self.status).name}"


def side_by_side(
    function: Function[Task, Result],
    tasks: Sequence[Task],
    n_processes: int,
    should_stop: Callable[[], bool],
) -> Generator[tuple[Task, Result | Crash], None, None]:
    """Do tasks in several processes; yield each with its result as they come.

    The processes are spawned, see neither Ctrl-C nor SIGTERM, and import nothing but what
    `function` needs. They end with the iterator (close it) or with this process, whatever ends it:
    a task in progress is then left by a SystemExit.

    Parameters
    ----------
    function
        What to do with each task; it, the tasks and the results are pickled.
    tasks
        What to do. A task that costs its process the life has a `Crash` for a result, and a new
        process goes on with the others.
    n_processes
        How many at most.
    should_stop
        Asked every now and then; once it says True, tasks in progress are told to finish with what
        they have, and no other is begun.
    """
    waiting = deque(tasks)
    idle: list[_Worker[Task, Result]] = []
    busy: dict[Connection, _Worker[Task, Result]] = {}
    try:
        while busy or (waiting and not should_stop()):
            while waiting and len(busy) < n_processes and not should_stop():
                worker = idle.pop() if idle else _Worker(function)
                busy[worker.tasks] = worker
                worker.begin(waiting.popleft())
            for tasks_of_one in wait([*busy], _TICK):
                worker = busy[tasks_of_one]  # type: ignore[index]
                result = worker.result()
                del busy[worker.tasks]
                if not isinstance(result, Crash):
                    idle.append(worker)
                yield worker.task, result
            if should_stop():
                for worker in busy.values():
                    worker.ask_to_finish()
    finally:
        workers = [*idle, *busy.values()]
        for worker in workers:
            worker.let_go(at_once=worker in busy.values())
        for worker in workers:
            worker.end()


class _Worker(Generic[Task, Result]):
    """A process, and the two pipes to it: one for tasks and results, one to be told when to stop.

    The second one is closed when this process ends, even if it is killed.
    """

    task: Task

    def __init__(self, function: Function[Task, Result]) -> None:
        context = get_context("spawn")
        self.tasks, tasks = context.Pipe()
        control, self._control = context.Pipe(duplex=False)
        self._asked = False
        self._process = context.Process(target=_work, args=(function, tasks, control))
        resource_tracker.ensure_running()  # its start would let the signals through
        with held():
            self._process.start()
        tasks.close()  # so that the pipe ends with the process
        control.close()

    def begin(self, task: Task) -> None:
        """Have a task done."""
        self.task = task
        with suppress(OSError):  # of a process that ended while idle; the result says so
            self.tasks.send(task)

    def result(self) -> Result | Crash:
        """Return the result of the task, or that there is none."""
        try:
            result: Result = self.tasks.recv()
        except (EOFError, OSError):
            self._process.join()
            return Crash(self._process.exitcode or 0)
        return result

    def ask_to_finish(self) -> None:
        """Tell it, once, to finish its task with what it has."""
        if not self._asked:
            self._asked = True
            with suppress(OSError):
                self._control.send(None)

    def let_go(self, at_once: bool) -> None:
        """Let it end: at once, in the midst of its task, or as it has none."""
        if at_once:
            self._control.close()
        self.tasks.close()

    def end(self) -> None:
        """Wait for its end, but not for long."""
        self._process.join(_PATIENCE)
        self._process.kill()
        self._process.join()


def _work(function: Function[Any, Any], tasks: Connection, control: Connection) -> None:
    """Do tasks as they come, until there will be no more."""
    signal.signal(signal.SIGINT, _leave)
    asked, alone = threading.Event(), threading.Event()
    threading.Thread(target=_listen, args=(control, asked, alone), daemon=True).start()

    def should_stop() -> bool:
        if alone.is_set():
            _leave()  # again: an import or a callback may have swallowed the first one
        return asked.is_set()

    try:
        _do_each(function, tasks, should_stop)
    except Exception:
        if alone.is_set():  # a module interrupted in its import can fail in any way
            raise SystemExit from None
        raise


def _do_each(
    function: Function[Any, Any], tasks: Connection, should_stop: Callable[[], bool]
) -> None:
    """Do tasks until the pipe ends."""
    while True:
        try:
            task = tasks.recv()
        except (EOFError, OSError):
            return
        result = function(task, should_stop)
        with suppress(OSError):  # nobody is there to hear it
            tasks.send(result)


def _leave(*_: object) -> None:
    """End from wherever we are, with everything tidied up on the way out, and without a word."""
    sys.unraisablehook = lambda _: None  # of a callback that cannot be left
    raise SystemExit


def _listen(control: Connection, asked: threading.Event, alone: threading.Event) -> None:
    """Wait to be asked to finish; at the end of the pipe, interrupt the task."""
    with suppress(EOFError, OSError):
        control.recv()
        asked.set()
        control.recv()
    alone.set()
    _thread.interrupt_main()


__all__ = ["Crash", "side_by_side"]
