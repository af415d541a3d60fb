"""The documentation site: these pages, and a reference made of the docstrings.

``make docs`` builds it. The pages are plain Markdown that GitHub shows as well; what only the site
needs is added here, when a page is read.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

import mlc_widget

ROOT = Path(__file__).resolve().parent.parent
MERMAID = ROOT / "js" / "node_modules" / "@mermaid-js" / "tiny" / "dist" / "mermaid.tiny.js"

project = "mlc_widget"
author = "The mlc_widget authors"
version = release = mlc_widget.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "mermaid",
    "project_pages",
    "public_api",
]
exclude_patterns = ["_build", "_extensions"]

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["myst.strikethrough"]

# In our docstrings, single backticks name things; what has an entry becomes a link.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"mlc_widget {version}"
html_static_path = ["_static", *([str(MERMAID)] if MERMAID.is_file() else [])]
html_js_files = [("mermaid.tiny.js", {"defer": "defer"}), ("pictures.js", {"defer": "defer"})]
html_css_files = ["pictures.css"]
html_copy_source = False
html_show_sourcelink = False
