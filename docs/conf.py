"""Sphinx configuration. `make docs` builds without the network; Read the Docs adds links to other projects."""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

about = tomllib.loads((HERE.parent / "pyproject.toml").read_text("utf-8"))["project"]
project = "Perturbia"
author = "Perturbia developers"
copyright = f"2026, {author}"
version = release = about["version"]
repository = about["urls"]["Source"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinxcontrib.bibtex",
    "api_pages",
    "mathml",
    "measure_tables",
]
if os.environ.get("READTHEDOCS"):
    extensions.append("sphinx.ext.intersphinx")
intersphinx_mapping = {
    "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
    "matplotlib": ("https://matplotlib.org/stable/", None),
    "numpy": ("https://numpy.org/doc/stable/", None),
    "pandas": ("https://pandas.pydata.org/docs/", None),
    "python": ("https://docs.python.org/3", None),
    "scipy": ("https://docs.scipy.org/doc/scipy/", None),
    "scvi": ("https://docs.scvi-tools.org/en/stable/", None),
    "torch": ("https://docs.pytorch.org/docs/stable/", None),
}

# Notebooks are stored executed (`make tutorials`); a build shows what they hold.
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

api_namespaces = [
    "perturbia",
    "perturbia.datasets",
    "perturbia.demo",
    "perturbia.errors",
    "perturbia.metrics",
    "perturbia.model",
    "perturbia.model.alignment",
    "perturbia.model.base",
    "perturbia.nn",
    "perturbia.perturbation",
    "perturbia.pl",
    "perturbia.pp",
    "perturbia.stats",
    "perturbia.tl",
]
autosummary_generate = False  # api_pages writes the pages
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90
python_display_short_literal_types = True
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Returns"]  # ours are prose: types stand in the signature
default_role = "literal"
add_module_names = False
toc_object_entries_show_parents = "hide"

nitpicky = True
nitpick_ignore_regex = [
    # Other projects, which a build without the network can not look up, and the standard library.
    (r"py:.*", r"(anndata|collections|lightning|matplotlib|numpy|pandas|scanpy|scipy|scvi|torch|typing)\..*"),
    (
        r"py:(exc|class)",
        r"(BaseException|ImportError|IndexError|KeyError|RuntimeError|TypeError|UserWarning|ValueError)",
    ),
]

exclude_patterns = ["_build", "_ext", "models/_results", "evaluation/_results", "**.ipynb_checkpoints"]
templates_path: list[str] = []
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}
suppress_warnings = ["autosummary.import_cycle", "myst.header"]

html_theme = "sphinx_book_theme"
html_title = "Perturbia"
html_static_path = ["_static"]
html_css_files = ["perturbia.css"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False
html_extra_path = ["llms.txt"]
html_theme_options = {
    "repository_url": repository,
    "use_repository_button": True,
    "use_issues_button": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "path_to_docs": "docs",
    "repository_branch": "main",
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "home_page_in_toc": False,
    "navbar_persistent": [],
    "logo": {"text": "Perturbia"},
}


def _copy_tutorials() -> None:
    """Bring the notebooks beside their index; the copies are ignored by git."""
    target = HERE / "tutorials"
    kept = set()
    for notebook in sorted((HERE.parent / "tutorials").glob("*.ipynb")):
        copy = target / notebook.name
        kept.add(copy)
        if not copy.exists() or copy.read_bytes() != notebook.read_bytes():
            shutil.copyfile(notebook, copy)
    for stale in set(target.glob("*.ipynb")) - kept:
        stale.unlink()


_copy_tutorials()
