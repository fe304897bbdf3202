"""Missing values in a table, digits with 30 % missing, beside imputers of scikit-learn."""

import argparse
import time
import warnings

import numpy as np
from sklearn.datasets import load_digits
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

from benchmarks.report import publish, table
from benchmarks.series import Record, seeds, series
from benchmarks.series import add_arguments as add_series
from truvae import TVAE

SHARE = 0.3
METHODS = ("TVAE", "TVAE, looks=0", "KNNImputer", "IterativeImputer", "SimpleImputer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_series(parser, seeds="0,1,2,3,4", epochs=None)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Fill in what has not been filled in yet, and write the table."""
    rows = []
    for method in METHODS:
        keys = [{"method": method, "seed": seed, "epochs": options.epochs}
                for seed in seeds(options)]  # fmt: skip
        runs = series("tables", keys, fill, options)
        errors = [run["rmse"] for run in runs]
        rows.append([method, str(len(runs)), f"{np.mean(errors):.3f} ({np.std(errors):.3f})",
                     f"{np.median([run['took'] for run in runs]):.1f}"])  # fmt: skip
    text = (
        f"scikit-learn's digits (1797 x 64, values 0 to 16), {SHARE:.0%} of the values missing at "
        f"random, rms error of what was filled in; all settings by default. Seeds {options.seeds}. "
        f"{runs[-1]['machine']}."
    )
    header = ["method", "draws", "rms error (sd)", "seconds, median"]
    publish("tables", f"{text}\n\n{table(header, rows)}")


def fill(method: str, seed: int, epochs: int | None) -> Record:
    """Fill in one draw by one method."""
    x = load_digits().data
    missing = np.random.default_rng(seed).random(x.shape) < SHARE
    damaged = np.where(missing, np.nan, x)
    start = time.perf_counter()
    filled = _filled(method, damaged, seed, epochs)
    took = time.perf_counter() - start
    return {"rmse": float(np.sqrt(np.mean((filled - x)[missing] ** 2))), "took": took}


def _filled(method: str, damaged: np.ndarray, seed: int, epochs: int | None) -> np.ndarray:
    if method.startswith("TVAE"):
        est = TVAE(random_state=seed, **({} if epochs is None else {"max_epochs": epochs}))
        return est.fit(damaged).reconstruct(damaged, looks=0 if "looks=0" in method else 2)
    imputers = {
        "KNNImputer": KNNImputer(),
        "IterativeImputer": IterativeImputer(random_state=seed),
        "SimpleImputer": SimpleImputer(),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that ten rounds are not all that it takes
        return np.asarray(imputers[method].fit_transform(damaged))
