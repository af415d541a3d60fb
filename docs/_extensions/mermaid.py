"""Fences of `mermaid` become pictures, drawn by the reader's browser."""

from __future__ import annotations

from html import escape
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Mermaid(SphinxDirective):
    """The text of a picture, which `pictures.js` draws; without JavaScript it stays text."""

    has_content: ClassVar[bool] = True

    def run(self) -> list[nodes.Node]:
        """Put it on the page as it is."""
        text = escape("\n".join(self.content))
        return [nodes.raw("", f'<pre class="mermaid">{text}</pre>', format="html")]


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive, and read GitHub's fences as it."""
    app.add_directive("mermaid", Mermaid)
    app.config.myst_fence_as_directive = {"mermaid"}
    return {"parallel_read_safe": True}
