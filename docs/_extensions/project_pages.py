"""The repository's own pages (CONTRIBUTING and the like) on the site, and tables of contents.

On GitHub a page's links are its table of contents. The site has a menu beside the page, made of the
same links, so that nothing is listed twice.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

_PAGES = ("CONTRIBUTING", "CHANGELOG", "SECURITY")
_FOLDER = "project"
_WITH_MENU = ("index", "decisions/README")
_LINK = re.compile(r"\]\(([\w./-]+?\.(?:md|rst))\)")


def _write_pages(app: Sphinx, config: Config) -> None:
    """Copy the repository's pages to where Sphinx finds them; untouched if nothing changed."""
    folder = Path(app.srcdir) / _FOLDER
    folder.mkdir(exist_ok=True)
    for page in _PAGES:
        text = (Path(app.srcdir).parent / f"{page}.md").read_text(encoding="utf-8")
        text = text.replace("](docs/", "](../")
        copy = folder / f"{page}.md"
        if not copy.is_file() or copy.read_text(encoding="utf-8") != text:
            copy.write_text(text, encoding="utf-8")


def _adapt(app: Sphinx, docname: str, source: list[str]) -> None:
    """Have links to the repository's pages lead to their copies, and add menus."""
    text = source[0]
    up = "../" * docname.count("/")
    for page in _PAGES:
        text = text.replace(f"]({up}../{page}.md", f"]({up}{_FOLDER}/{page}.md")
    if docname in _WITH_MENU:
        text += _menus(text)
    source[0] = text


def _menus(text: str) -> str:
    """A hidden menu for each section, of the pages that it links to."""
    menus = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE):
        title = section.partition("\n")[0].lstrip("# ")
        pages = list(dict.fromkeys(_LINK.findall(section)))
        if pages:
            listed = "\n".join(pages)
            menus.append(f"\n\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n{listed}\n```")
    return "".join(menus)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect both."""
    app.connect("config-inited", _write_pages)
    app.connect("source-read", _adapt)
    return {"parallel_read_safe": True}
