"""Everything works on a GPU as on the CPU, as far as that can be told without one."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils import backend_registration

import truvae

WORKER = Path(__file__).with_name("pretended_gpu.py")
# How far apart both may be, in units of the result: decoders learn in another way on a GPU, so that
# errors of rounding differ, and a state of the search after them.
CASES = {"isotropic": 2, "best": 0.1, "counts": 2, "cut off": 2, "gaps": 2, "few gaps": 0.5,
         "colour": 0.1, "stack": 2, "preset": 0.1, "sound": 0.01, "rows": 1e-3,
         "rows with gaps": 1e-3, "bits": 1e-3, "numbers": 1e-3, "large": 0.5,
         "reported": 0.1, "loop": 1e-3}  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What came of everything on the CPU and on a pretended GPU."""
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch knows no devices written in Python")
    path = tmp_path_factory.mktemp("gpu") / "found.pt"
    done = subprocess.run([sys.executable, WORKER, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = torch.load(path, weights_only=False)
    assert {name for name, *_ in results} == CASES.keys()
    return results


@pytest.mark.parametrize("name", CASES)
def test_it_does_the_same_on_a_gpu(name, found):
    here, there = found[name, "cpu"], found[name, "cuda"]
    assert not isinstance(here, str), here
    assert not isinstance(there, str), there
    assert there.shape == here.shape and np.abs(there - here).max() <= CASES[name]


@pytest.mark.parametrize("name", CASES)
def test_no_tensor_leaves_the_gpu_while_it_learns(name, found):
    source = Path(truvae.__file__).parent
    core = ["training", "population", "model", "bits", "decoders", "chunks", "optim", "moments"]
    parts = {*(f"{part}.py" for part in core), *(p.name for p in source.glob("proposals/*.py"))}
    parts |= {path.name for path in source.glob("noise/*.py")}
    copied = found[name, "cuda", "copied"]
    if name == "large":  # a checkpoint holds what the optimiser knows
        copied = copied - {"optim.py"}
    assert not copied & parts
    assert copied or name == "loop"  # results are arrays
