"""Smoke test of the installed wheel: `make check` runs it in a fresh environment."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import truvae


def check(holds: bool, what: str) -> None:
    """Stop with a message unless `holds`."""
    if not holds:
        sys.exit(f"smoke test: {what}")


check(Path(truvae.__file__).is_relative_to(sys.prefix), f"not the wheel: {truvae.__file__}")
heavy = {"torch", "matplotlib"} & sys.modules.keys()
check(not heavy, f"`import truvae` imports {sorted(heavy)}")

expected = version("truvae")
check(truvae.__version__ == expected, f"__version__ is {truvae.__version__}, not {expected}")
command = [Path(sys.executable).with_name("truvae"), "--version"]
printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
check(expected in printed.split(), f"`truvae --version` prints {printed!r}")

import numpy as np  # noqa: E402  (after the look at what `import truvae` loads)

noisy = np.random.default_rng(0).normal(128, 25, (24, 24)).clip(0, 255).astype(np.uint8)
clean = truvae.denoise(noisy, quality="fast", random_state=0)
check((clean.dtype, clean.shape) == (noisy.dtype, noisy.shape), f"{clean.dtype} {clean.shape}")
check(clean.std() < noisy.std() / 2, f"std {noisy.std():.1f} before, {clean.std():.1f} after")
print(f"smoke test: truvae {expected} works")
