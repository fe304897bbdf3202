"""The tutorials run, with short trainings: `make docs` runs them in full."""

import runpy
from pathlib import Path

import pytest

import truvae
from truvae import training

plt = pytest.importorskip("matplotlib.pyplot", reason="the tutorials draw with matplotlib")

FOLDER = Path(__file__).parents[1] / "docs" / "tutorials"
TUTORIALS = sorted(FOLDER.glob("*.py"))


def shortened(function, name):
    """Return `function` with its keyword `name` set to 2."""
    return lambda *args, **options: function(*args, **{**options, name: 2})


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda file: file.stem)
def test_tutorial_runs(tutorial, monkeypatch):
    monkeypatch.setattr(training, "fit", shortened(training.fit, "epochs"))
    monkeypatch.setattr(truvae, "denoise", shortened(truvae.denoise, "epochs"))
    fit = truvae.TVAE.fit
    monkeypatch.setattr(truvae.TVAE, "fit", lambda est, x: fit(est.set_params(max_epochs=2), x))
    plt.switch_backend("Agg")
    try:
        runpy.run_path(str(tutorial))
        assert plt.get_fignums()
    finally:
        plt.close("all")
