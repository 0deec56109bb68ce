"""How Sphinx builds the documentation (`make docs`): neither it nor its pages need the network."""

from functools import partial

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

import scgpt_core

project = "scGPT, rebuilt whole"
author = "The scGPT pipeline authors"
copyright = f"2026, {author}"  # noqa: A001
version = release = scgpt_core.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {release}"
html_show_sourcelink = False

# Tutorials run anew in every build; one that fails, or says anything on stderr, fails it.
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_execution_show_tb = True
nb_output_stderr = "error"
nb_merge_streams = True

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {
    "members": True,
    "undoc-members": False,
    "exclude-members": "model_config",
}
napoleon_google_docstring = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 88
default_role = "code"


_said: dict[str, list[str]] = {}
"""What attributes say, while napoleon works on it."""


def setup(app: Sphinx) -> None:
    """Write formulas as MathML, which browsers draw by themselves: no script, no network.

    And keep what attributes say from napoleon, which takes all before a colon for a type.
    """
    app.connect("autodoc-process-docstring", keep_attribute, priority=400)
    app.connect("autodoc-process-docstring", restore_attribute, priority=600)
    inline, block = partial(write_formula, as_block=False), partial(write_formula, as_block=True)
    app.add_html_math_renderer("mathml", (inline, None), (block, None))


def write_formula(writer: HTML5Translator, node: nodes.Node, *, as_block: bool) -> None:
    """Visit a formula, and nothing below it."""
    writer.body.append(tex2mathml(node.astext(), as_block=as_block))
    raise nodes.SkipNode


def keep_attribute(_app: Sphinx, what: str, name: str, *rest: list[str]) -> None:
    """Put the lines of an attribute aside."""
    if what in {"attribute", "data", "property"}:
        _said[name] = list(rest[-1])


def restore_attribute(_app: Sphinx, _what: str, name: str, *rest: list[str]) -> None:
    """Put them back."""
    rest[-1][:] = _said.pop(name, rest[-1])
