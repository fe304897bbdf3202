"""What people are told while a file is restored: notes, warnings, progress, and what it cost."""

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from truvae.training import Epoch

# Options that are handed to the restorations of pictures and recordings as they are.
_IN_COMMON = ("quality", "covariance", "preset", "selection", "sigma", "patch_size", "n_latents",
              "hidden", "n_states", "epochs", "device", "checkpoint", "resume")  # fmt: skip
# Seconds of a time budget that go to starting the interpreter, measuring and writing the result,
# and to drawing a report.
_OVERHEAD, _REPORT_OVERHEAD = 1.5, 3.0


@contextmanager
def caught() -> Iterator[list[str]]:
    """Collect our warnings, which are meant for people, as lines."""
    lines: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield lines
    texts = [str(warning.message) for warning in caught if warning.category is UserWarning]
    lines += dict.fromkeys(texts)


@contextmanager
def progress_bar(
    notes: list[str], options: Mapping[str, Any]
) -> Iterator[tuple[Callable[[float], None], Callable[["Epoch"], None]]]:
    """Show progress on stderr: a bar, and with --verbose a line for every epoch; first the notes,
    once the work has begun, so that bad input is told in one line.
    """
    from tqdm import tqdm

    shape = "{percentage:3.0f}% |{bar}| {elapsed}, {remaining} to go  {desc}"
    with tqdm(
        total=1.0,
        file=sys.stderr,
        disable=options["quiet"],
        leave=False,
        bar_format=shape,
        delay=1,
    ) as bar:
        untold = list(notes)

        def on_progress(progress: float) -> None:
            tell(untold, options)
            untold.clear()
            bar.update(progress - bar.n)

        def on_epoch(epoch: "Epoch") -> None:
            line = (
                f"epoch {epoch.index + 1}  F {epoch.elbo:.2f}  sigma {epoch.sigma:.4g}  "
                f"active latents {epoch.active_latents:.2f}"
            )
            bar.set_description_str(line, refresh=False)
            if options["verbose"]:
                bar.write(f"{line}  {epoch.seconds:.1f} s", file=sys.stderr)

        yield on_progress, on_epoch


def with_progress(
    restore: Callable[..., Any],
    notes: list[str],
    options: Mapping[str, Any],
    start: float,
    should_stop: Callable[[], bool],
) -> tuple[Any, list[str]]:
    """Call a restoration with a progress bar, by all ranks of the job; return its result, and its
    warnings as lines.

    Parameters
    ----------
    restore
        Takes the options that pictures and sounds have in common, by name.
    notes, options
        What is to be told, and the options of the command line.
    start
        When the work began, by `time.perf_counter`.
    should_stop
        Asked now and then.
    """
    from truvae.checks import device_called
    from truvae.ranks import Ranks

    ranks = Ranks.join(device_called(options["device"]))
    with progress_bar(notes, options) as (on_progress, on_epoch), caught() as messages:
        result = restore(
            **given(options, _IN_COMMON),
            time_budget=_time_left(options, start),
            random_state=options["seed"],
            ranks=ranks,
            on_progress=on_progress,
            on_epoch=on_epoch,
            should_stop=should_stop,
            return_result=True,
        )
    return result, messages


def given(options: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return those options of the command line that were given, out of some."""
    return {name: options[name] for name in names if options.get(name) is not None}


def _time_left(options: Mapping[str, Any], start: float) -> float | None:
    """Return the seconds of the time budget that a restoration may take; None for any."""
    budget: float | None = options["time_budget"]
    if budget is None:
        return None
    overhead = _OVERHEAD + _REPORT_OVERHEAD * bool(options["report"])
    return max(budget - overhead - (time.perf_counter() - start), 1e-3)


def tell(notes: list[str], options: Mapping[str, Any]) -> None:
    """Print notes for people on stderr."""
    for note in notes if not options["quiet"] else []:
        print(f"truvae: note: {note}", file=sys.stderr)


def cost(start: float) -> dict[str, float | None]:
    """Return the seconds since `start`, and the highest resident size of this process."""
    return {"seconds": time.perf_counter() - start, "peak_memory_mb": _peak_memory_mb()}


def _peak_memory_mb() -> float | None:
    """Return the highest resident size of this process, None where it cannot be told."""
    with suppress(OSError, StopIteration):  # other systems than Linux
        # `getrusage` would count what the parent held when it started this process.
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


__all__ = ["caught", "cost", "given", "progress_bar", "tell", "with_progress"]
