"""The public command in a process of its own, as users call it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.report import OUT


def truvae(
    task: str, source: Path, stem: str, *arguments: object, suffix: str = ".png"
) -> dict[str, Any]:
    """Run `truvae denoise` or `truvae inpaint` on a file, keep the result as OUT/stem.png.

    Returns the object that `--json` prints.
    """
    command = [sys.executable, "-m", "truvae", task, source, "-o", OUT / f"{stem}{suffix}",
               *arguments, "--json", "-q"]  # fmt: skip
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    record: dict[str, Any] = json.loads(done.stdout)
    level = record.get("psnr") or record.get("snr") or 0
    print(stem, f"{level:.3f} dB", f"{record['seconds']:.1f} s", file=sys.stderr)
    return record
