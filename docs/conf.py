"""The documentation: `make docs` builds it into site/, and it can be read without a network."""

import os
from importlib.metadata import version as version_of
from typing import Any

import matplotlib
import numpy as np
from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from numpy.typing import ArrayLike, NDArray
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, NumpyDocstring
from sphinx.util import logging
from sphinx.util.typing import stringify_annotation

matplotlib.use("Agg")
# Models of this size do not gain from threads, and on a busy machine they lose much.
os.environ.setdefault("OMP_NUM_THREADS", "1")

project = "truvae"
author = "The truvae developers"
copyright = "the truvae developers, Apache-2.0"
release = version = version_of("truvae")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["tutorials"]
default_role = "py:obj"  # `name` in a docstring: a link where there is such a name

html_theme = "furo"
html_title = f"truvae {version}"
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["site.css"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88

sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "gallery_of_tutorials",
    "filename_pattern": r"\.py$",  # all of them are executed
    "abort_on_example_error": True,
    "capture_repr": (),
    "write_computation_times": False,
    "show_signature": False,
    "remove_config_comments": True,
    "download_all_examples": False,
}

_SHORT = {
    stringify_annotation(ArrayLike, "smart"): "ArrayLike",
    stringify_annotation(NDArray[Any], "smart"): "ndarray",
    stringify_annotation(NDArray[np.float64], "smart"): "ndarray",
}


def mathml(node: nodes.Element, block: bool) -> str:
    """Return a formula as MathML, which browsers show without scripts, fonts or a network."""
    try:
        return tex2mathml(node.astext(), as_block=block)
    except MathError as error:
        logging.getLogger(__name__).warning("formula: %s", error, location=node)
        return ""


def visit_math(self: Any, node: nodes.math) -> None:
    """Write a formula in a line."""
    self.body.append(mathml(node, block=False))
    raise nodes.SkipNode


def visit_displayed_math(self: Any, node: nodes.math_block) -> None:
    """Write a formula of its own."""
    self.body.append(f'<div class="formula">{mathml(node, block=True)}</div>')
    raise nodes.SkipNode


def read_docstring(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Turn a NumPy docstring into reStructuredText.

    Not by the extension napoleon itself: it takes what stands before a colon in the docstring of an
    attribute for its type, and the text of our section Returns too.
    """
    if what in ("attribute", "property", "data"):
        return
    config = Config(
        napoleon_use_param=False, napoleon_use_ivar=True, napoleon_custom_sections=["Returns"]
    )
    lines[:] = NumpyDocstring(lines, config, app, what, name, obj, options).lines()


def shorten_types(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str, returns: str
) -> tuple[str, str]:
    """Let signatures call arrays by their short names; leave those out that cannot be read."""
    if "<function" in (signature or ""):
        return "", ""
    for long, short in _SHORT.items():
        signature, returns = (text and text.replace(long, short) for text in (signature, returns))
    return signature, returns


def link_results(app: Sphinx, docname: str, source: list[str]) -> None:
    """Let links to benchmarks/RESULTS.md, as GitHub wants them, lead to the page of the site."""
    source[0] = source[0].replace("(../benchmarks/RESULTS.md)", "(results.md)")


def setup(app: Sphinx) -> None:
    """Register what is above."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_displayed_math, None))
    app.connect("source-read", link_results)
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("autodoc-process-signature", shorten_types)
