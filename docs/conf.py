"""Sphinx's configuration: ``nox -s docs`` builds the site, with every warning an error.

Nothing on the site is fetched when it is read: mathematics, search and the step viewer work from a
folder of files. What a page shows as output was printed while it was built (``_extensions``).
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "docs" / "_extensions"), str(ROOT / "examples")]

import gallery  # noqa: E402 - found by the line above

import optimlab  # noqa: E402

project = "optimlab"
author = "The optimlab authors"
project_copyright = author
version = release = optimlab.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "directives",
    "docstrings",
    "gallery",
    "references",
    "step_viewer",
]
exclude_patterns = ["_build", "**/README.md", "gallery_source", "gallery/*.py"]
# The source of a page is one click away in the repository; a second copy would double the site.
html_copy_source = False

# Markdown.
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "attrs_inline", "fieldlist"]
myst_heading_anchors = 3
myst_dmath_double_inline = True

# Docstrings.
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Source", "notes_style"), ("Sources", "notes_style")]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88

# Other projects' references, whose lists of names are fetched at build.
references = {
    "python": "https://docs.python.org/3",
    "torch": "https://docs.pytorch.org/docs/stable",
    "numpy": "https://numpy.org/doc/stable",
}

# A name that is meant to be linked has to be there. What other projects document can be linked only
# where their lists of names can be fetched.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(torch|numpy|np|collections|typing|types|pathlib|os|fractions|nn)\..*"),
]

# The gallery.
sphinx_gallery_conf = {
    "examples_dirs": "gallery_source",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "ignore_pattern": rf"/(?!({'|'.join(gallery.TITLES)})\.py)[^/]*$",
    "within_subsection_order": "gallery.order",
    "image_scrapers": ("gallery.scrape",),
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,  # a page that fetches its table's scripts
    "download_all_examples": False,
}

# Appearance.
html_theme = "pydata_sphinx_theme"
html_title = "optimlab"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_search_summary = False  # it would fetch pages, which a browser refuses to do from files
html_context = {"default_mode": "auto"}
html_theme_options = {
    "show_nav_level": 1,
    "navigation_depth": 3,
    "header_links_before_dropdown": 4,
    "navbar_end": ["theme-switcher"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
# Pages that stand alone have the width of the navigation for themselves.
ALONE = (
    *("index", "viewer/index", "inside", "bits/index", "checkpoints", "own", "errors"),
    *("parity", "bench/bench", "equivalence", "external-optimizers", "decisions", "changelog"),
)
html_sidebars: dict[str, list[str]] = {page: [] for page in ALONE}
