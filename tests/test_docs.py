"""The reference of the documentation: every public name is in it, once."""

import re
from importlib import import_module
from pathlib import Path

import pytest

import truvae

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
_DIRECTIVE = re.compile(r"\.\. (\S+):: (\S+)")


def entries():
    """Return the full names of all entries, as often as they occur."""
    names = []
    for page in sorted(REFERENCE.glob("*.rst")):
        home = ""
        for kind, name in filter(None, map(directive, page.read_text().splitlines())):
            if kind.endswith("module"):
                home = name
            if kind.startswith("auto") or kind in ("py:data", "py:module"):
                names.append(name if name.startswith("truvae.") else f"{home}.{name}")
    return names


def directive(line):
    """Return the name of the directive in a line and its argument; None if there is none."""
    found = _DIRECTIVE.match(line)
    return found and found.groups()


def resolve(name):
    """Return what a full name stands for."""
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


@pytest.mark.parametrize("name", truvae.__all__)
def test_every_public_name_is_in_the_reference(name):
    assert f"truvae.{name}" in entries()


@pytest.mark.parametrize("name", ["callbacks", "datasets", "plots", "training"])
def test_every_name_of_the_public_modules_is_in_the_reference(name):
    module = import_module(f"truvae.{name}")
    assert {f"truvae.{name}.{public}" for public in module.__all__} <= set(entries())


def test_every_object_is_there_once():
    objects = [resolve(name) for name in entries() if not name.endswith("__version__")]
    twice = {str(each) for each in objects if sum(each is other for other in objects) > 1}
    assert not twice
