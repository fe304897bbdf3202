"""The commands about models of tables: fit, encode, reconstruct, score, sample, info."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from truvae import torchrun
from truvae.console import caught, tell
from truvae.errors import InputError
from truvae.options import RUN_OPTIONS, SEED, finite, numbers, one_of, with_options
from truvae.signals import StopSignals
from truvae.threads import use_threads

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_OUTPUT = click.option("-o", "--output", required=True, metavar="OUT", help="NPY, CSV or TSV.")
_MODEL = click.argument("model", metavar="MODEL_DIR")
_DATA = click.argument("data", metavar="DATA")


@click.command()
@_DATA
@click.option("-o", "--output", required=True, metavar="MODEL_DIR", help="A new folder.")
@one_of(
    "--noise",
    "gaussian gaussian-per-feature bernoulli poisson",
    "gaussian",
    "How data lie around what the decoder says.",
)
@click.option("--latents", "n_latents", type=int, default=64, show_default=True, metavar="H")
@click.option(
    "--hidden",
    callback=numbers,
    default="64",
    show_default=True,
    metavar="N[,N]",
    help="Units of hidden layers; 0 for a linear decoder.",
)
@click.option("--states", "n_states", type=int, default=64, show_default=True, metavar="S")
@click.option("--epochs", "max_epochs", type=int, default=50, show_default=True, metavar="E")
@click.option(
    "--time-budget",
    type=click.FloatRange(min=0, min_open=True),
    callback=finite,
    metavar="SECONDS",
    help="Train no longer than this.",
)
@with_options(RUN_OPTIONS)
def fit(data: str, output: str, **options: Any) -> int:
    """Learn binary codes of the rows of DATA (NPY, CSV, HDF5; NaN or nothing where missing)."""
    start = time.perf_counter()
    from truvae.saving import check_folder
    from truvae.tables import read_named_table

    check_folder(Path(output))
    with caught() as notes:
        x, columns = read_named_table(data)
    use_threads(options["threads"])
    from truvae import callbacks
    from truvae.checks import device_called
    from truvae.estimator import TVAE
    from truvae.ranks import Ranks

    names = ("noise", "n_latents", "n_states", "max_epochs", "time_budget", "device")
    hidden = () if tuple(options["hidden"]) == (0,) else options["hidden"]
    first = torchrun.rank() == 0
    with StopSignals(options["quiet"] or not first) as stop:
        called: list[callbacks.Callback] = []
        if options["verbose"] and first:
            called.append(_tell_epoch)
        if not options["quiet"] and first:
            called.append(callbacks.progress_bar(leave=False))
        chosen = {name: options[name] for name in names}
        chosen |= {"should_stop": lambda: stop.received is not None, "callbacks": called}
        with _told_in_one_line(), caught() as warned:
            ranks = Ranks.join(device_called(options["device"]))
            est = TVAE(**chosen, hidden=hidden, ranks=ranks, random_state=options["seed"]).fit(x)
        status = 128 + stop.received if stop.received else 0
        if not first:
            return status
        tell(notes + warned, options)
        if columns:
            est.feature_names_in_ = columns
        est.save(output)
    record = {"input": data, "output": output, "kind": "table", "seed": options["seed"],
              "interrupted": stop.received is not None, **_describe(est),
              "seconds": time.perf_counter() - start}  # fmt: skip
    _print(record, options, "{output}  {n_data} rows of {n_features} features  "
           f"F {est.elbo_:.2f}  sigma {_rounded(record['sigma'])}  "
           "{active_latents:.2f} active latents  {epochs} epochs in {seconds:.1f} s")  # fmt: skip
    return status


@click.command()
@_MODEL
@_DATA
@_OUTPUT
@click.option("--means", is_flag=True, help="Posterior means of the latents instead of the codes.")
@_JSON
def encode(model: str, data: str, output: str, means: bool, as_json: bool) -> int:
    """Write the most probable binary code of each row of DATA."""
    return _apply(model, data, output, as_json, lambda est: est.transform if means else est.encode)


@click.command()
@_MODEL
@_DATA
@_OUTPUT
@_JSON
def reconstruct(model: str, data: str, output: str, as_json: bool) -> int:
    """Write estimates of DATA without noise and gaps."""
    return _apply(model, data, output, as_json, lambda est: est.reconstruct)


@click.command()
@_MODEL
@_DATA
@_OUTPUT
@_JSON
def score(model: str, data: str, output: str, as_json: bool) -> int:
    """Write the ELBO of each row of DATA, in nats."""
    return _apply(model, data, output, as_json, lambda est: est.score_samples)


@click.command()
@_MODEL
@click.option("-n", "n_samples", type=click.IntRange(min=1), default=16, show_default=True)
@_OUTPUT
@SEED
@_JSON
def sample(model: str, n_samples: int, output: str, seed: int, as_json: bool) -> int:
    """Draw data from a model."""
    from truvae.estimator import TVAE
    from truvae.tables import check_table_output, write_table

    check_table_output(Path(output))
    values = TVAE.load(model).sample(n_samples, seed)
    write_table(Path(output), values)
    record = {"model": model, "output": output, "seed": seed, "shape": list(values.shape)}
    return _print(record, {"as_json": as_json}, "{output}  {shape}")


@click.command()
@_MODEL
@_JSON
def info(model: str, as_json: bool) -> int:
    """Say what a saved model is."""
    from truvae.saving import damage_told, read_head

    head = read_head(Path(model))
    with damage_told(model):
        record = {"model": model, **_told(head)}
    if as_json:
        print(json.dumps(record, allow_nan=False))
    else:
        known = {name: value for name, value in record.items() if value is not None}
        for name, value in known.items():
            print(f"{name:12} {json.dumps(value) if isinstance(value, dict) else value}")
    return 0


def _told(head: dict[str, Any]) -> dict[str, Any]:
    """Return what there is to tell of the configuration of a saved model."""
    config = head["config"]
    history = config.get("history", [])
    return {
        "truvae": head["truvae"],
        "kind": config.get("kind", "estimator" if "params" in config else "model"),
        "decoder": head["decoder"],
        "noise": head["noise"],
        "n_features": config.get("n_features"),
        "patch_size": config.get("patch_size"),
        "epochs": len(history) or config.get("epochs"),
        "elbo": history[-1]["elbo"] if history else config.get("elbo"),
    }


COMMANDS = (fit, encode, reconstruct, score, sample, info)


def _apply(
    model: str, data: str, output: str, as_json: bool, method: Callable[[Any], Callable[..., Any]]
) -> int:
    """Write what a method of a saved estimator makes of a table."""
    from truvae.io import check_apart
    from truvae.tables import check_table_output, read_named_table, write_table

    check_table_output(Path(output))
    check_apart(Path(output), Path(data))
    with caught() as notes:
        x, columns = read_named_table(data)
    from truvae.estimator import TVAE

    est = TVAE.load(model)
    # Not kept: scikit-learn would warn of the table, an array, which has no names.
    known = est.__dict__.pop("feature_names_in_", None)
    if columns and known is not None:
        _check_columns(data, columns, [*known])
    with _told_in_one_line():
        values = method(est)(x)
    write_table(Path(output), values)
    tell(notes, {"quiet": False})
    record = {"model": model, "input": data, "output": output, "shape": list(values.shape),
              "mean": float(values.mean())}  # fmt: skip
    return _print(record, {"as_json": as_json}, "{output}  {shape}  mean {mean:.6g}")


def _check_columns(data: str, columns: list[str], known: list[str]) -> None:
    """Raise an `InputError` unless columns are called as those that a model was trained on."""
    if len(columns) != len(known):
        raise InputError(
            f"{data} has {len(columns)} columns, the model was trained on {len(known)}"
        )
    for number, (found, wanted) in enumerate(zip(columns, known, strict=True), 1):
        if found != wanted:
            raise InputError(
                f"column {number} of {data} is {found!r}, of the model {wanted!r}: give the "
                "columns that it was trained on, in the same order"
            )


@contextmanager
def _told_in_one_line() -> Iterator[None]:
    """Tell what an estimator refuses as bad input, in one line."""
    try:
        yield
    except ValueError as error:
        raise InputError(str(error)) from None


def _describe(est: Any) -> dict[str, Any]:
    import numpy as np

    sigma = np.asarray(est.sigma_, float)
    return {
        "n_data": len(est.population_.words),
        "n_features": est.n_features_in_,
        "n_latents": est.n_latents,
        "n_states": est.n_states,
        "epochs": est.n_epochs_,
        "elbo": None if np.isnan(est.elbo_) else est.elbo_,
        "sigma": None if np.isnan(sigma).any() else sigma.tolist(),
        "active_latents": float(est.pi_.sum()),
        "device": str(est.model_.prior.pi.device),
    }


def _rounded(sigma: float | list[float] | None) -> str:
    """Return four digits of a number; of the numbers of all features their range.

    Examples
    --------
    >>> _rounded(0.123456), _rounded([0.5, 0.25, 2 / 3]), _rounded(None)
    ('0.1235', '0.25 to 0.6667', 'none')
    """
    if sigma is None:
        return "none"
    return f"{min(sigma):.4g} to {max(sigma):.4g}" if isinstance(sigma, list) else f"{sigma:.4g}"


def _tell_epoch(epoch: Any) -> None:
    from tqdm import tqdm

    tqdm.write(  # above the bar
        f"epoch {epoch.index + 1}  F {epoch.elbo:.2f}  sigma {epoch.sigma:.4g}  active latents "
        f"{epoch.active_latents:.2f}  {epoch.seconds:.1f} s",
        file=sys.stderr,
    )


def _print(record: dict[str, Any], options: dict[str, Any], line: str) -> int:
    """Print a record as JSON, or as a line for people."""
    print(json.dumps(record, allow_nan=False) if options["as_json"] else line.format(**record))
    return 0
