"""How `make docs` builds these pages, with a reference of every module's public names."""

import sla1tools

project = "sla1tools"
author = "the sla1tools developers"
release = version = sla1tools.__version__

extensions = ["myst_nb", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary"]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "alabaster"
html_theme_options = {
    "description": (sla1tools.__doc__ or "").partition("\n")[0],
    "page_width": "1100px",
    "sidebar_width": "230px",
}
html_show_sphinx = html_show_copyright = False

myst_heading_anchors = 3  # as GitHub makes them: a link to a heading works in both
nb_execution_mode = "off"
default_role = "code"  # what docstrings put between single backticks
autodoc_typehints = "none"  # a docstring's own types say shapes and units
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
autodoc_default_options = {"exclude-members": "cKDTree, set"}  # scipy's, and what matplotlib adds to each artist
