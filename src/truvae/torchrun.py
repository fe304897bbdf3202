"""What torchrun tells a process of its job: environment variables, read without importing torch."""

import os
import signal
import time

# Seconds after which torchrun has ended all processes of a job of which one has failed.
_ENDED = 10


def rank() -> int:
    """Return the number of this process, from 0; 0 if there is no other."""
    return int(os.environ["RANK"]) if size() > 1 else 0


def local_rank() -> int:
    """Return its number among those on this machine."""
    return int(os.environ.get("LOCAL_RANK", rank()))


def size() -> int:
    """Return the number of processes in the job; 1 without torchrun.

    >>> size()
    1
    """
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def on_one_machine() -> bool:
    """Tell whether all processes are on this machine."""
    return os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE")


def let_first_tell() -> None:
    """Wait before telling of a mistake, unless this is rank 0.

    Most mistakes are seen by all ranks. Rank 0 tells of them, and by its end torchrun ends the
    others; where that does not happen the mistake is one of this rank alone.
    """
    if rank() > 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(_ENDED)


__all__ = ["let_first_tell", "local_rank", "on_one_machine", "rank", "size"]
