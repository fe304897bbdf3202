"""What benchmarks share: the machine they ran on, and the sections of RESULTS.md."""

import os
import platform
import subprocess
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

FOLDER = Path(__file__).parent
OUT = FOLDER / "out"


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))


def machine() -> str:
    """Return in one line what the figures depend on."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("truvae", "torch", "numpy"))
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{processor()}{gpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"float32; Python {platform.python_version()}, "
        f"{packages}; commit {_commit()}, {date.today()}"
    )


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=FOLDER
    )
    return done.stdout.strip() or "unknown"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def publish(name: str, text: str) -> None:
    """Print a result and put it into its section of RESULTS.md."""
    print(text)
    path = FOLDER / "RESULTS.md"
    start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    content = path.read_text() if path.exists() else "# Results\n"
    section = f"{start}{text.strip()}\n{end}"
    if start in content:
        before, rest = content.split(start)
        content = before + section + rest.split(end)[1]
    else:
        content += f"\n{section}"
    path.write_text(content)
