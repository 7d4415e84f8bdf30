"""Sphinx: `make site` calls it with the pages of this folder and with whatever of the repository they link to."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import jbn

project = "jbn"
author = "The jbn authors"
version = release = jbn.__version__
html_title = "Batch norm, seen"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "explainer.sphinx_access",
    "explainer.sphinx_docstrings",
    "explainer.sphinx_ext",
    "explainer.sphinx_fields",
    "explainer.sphinx_links",
    "explainer.sphinx_math",
    "explainer.sphinx_mermaid",
]
root_doc = "index"
nitpicky = True
nitpick_ignore_regex = [
    ("py:class", r"jax\.jaxlib\._jax\.Array"),  # as jax.Array calls itself
    ("py:class", r"jbn\.\w+\._(nnx|convert)\.Model"),  # type variables
    ("py:class", r"Run|Drawing"),  # what Results and Picture of experiments are made of
]
default_role = "py:obj"

myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_google_docstring = True
viewcode_line_numbers = True

# Everything is in the folder: no fonts, scripts or formulas from elsewhere, and a search that needs no server.
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_math_renderer = "mathml"
html_show_search_summary = False
html_copy_source = False
html_show_sphinx = False
