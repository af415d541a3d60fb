"""The reference: every name of `mlc_widget.__all__`, found by itself and sorted by its kind.

A public name, or a public member of a public class, without a docstring is a warning, and warnings
fail the build.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

import mlc_widget
from mlc_widget.api.errors import MLCEngineError

logger = logging.getLogger(__name__)
PACKAGE = mlc_widget.__name__


def kind_of(value: Any) -> str:
    """The section that a public name belongs to."""
    if inspect.isclass(value):
        if issubclass(value, MLCEngineError):
            return "errors"
        if hasattr(value, "class_traits"):
            return "widgets"
        if value.__name__.endswith(("Engine", "EngineInterface")):
            return "engines"
        return "types"
    return "functions" if inspect.isroutine(value) else "data"


def names_of(kind: str) -> list[str]:
    """The public names of one kind; of classes, bases come before what inherits from them."""
    found = {name: getattr(mlc_widget, name) for name in mlc_widget.__all__ if name[0] != "_"}
    names = [name for name, value in found.items() if kind_of(value) == kind]
    return sorted(names, key=lambda name: (len(getattr(found[name], "__mro__", ())), name))


def members_of(cls: type) -> dict[str, Any]:
    """A class's public members that this package defines and describes, wherever in its bases.

    What overrides another package's method without a word is that package's to describe.
    """
    members: dict[str, Any] = {}
    others = [base for base in cls.__mro__ if not _is_ours(base)]
    for base in filter(_is_ours, cls.__mro__):
        for name, value in vars(base).items():
            foreign = any(hasattr(other, name) for other in others)
            if not name.startswith("_") and not (foreign and not value.__doc__):
                members.setdefault(name, value)
    return members


def _is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == PACKAGE


def undocumented() -> list[str]:
    """Public names and members of public classes that nothing explains."""
    missing = []
    for name in mlc_widget.__all__:
        value = getattr(mlc_widget, name)
        if name.startswith("_"):
            continue
        if not inspect.getdoc(value) and (inspect.isclass(value) or callable(value)):
            missing.append(name)
        if inspect.isclass(value):
            missing += [
                f"{name}.{member}"
                for member, found in members_of(value).items()
                if _is_documentable(found) and not inspect.getdoc(getattr(value, member))
            ]
    return missing


def _is_documentable(member: Any) -> bool:
    return inspect.isroutine(member) or isinstance(member, property | classmethod | staticmethod)


class PublicAPI(SphinxDirective):
    """``.. public-api:: kind``: an entry for each public name of that kind."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        """Have autodoc write the entries."""
        lines: list[str] = []
        for name in names_of(self.arguments[0]):
            value = getattr(mlc_widget, name)
            full = f"{PACKAGE}.{name}"
            if inspect.isclass(value):
                lines += [f".. autoclass:: {full}", "   :show-inheritance:", ""]
                if not issubclass(value, MLCEngineError):
                    lines += self._members(full, value)
            else:
                kind = "function" if inspect.isroutine(value) else "data"
                lines += [f".. auto{kind}:: {full}", ""]
        return self.parse_text_to_nodes("\n".join(lines))

    def _members(self, full: str, cls: type) -> list[str]:
        lines = []
        for name, value in members_of(cls).items():
            if _is_documentable(value):
                kind = "property" if isinstance(value, property) else "method"
                lines += [f"   .. auto{kind}:: {full}.{name}", ""]
        return lines


def _check(app: Sphinx) -> None:
    for name in undocumented():
        logger.warning("the public name %s.%s has no docstring", PACKAGE, name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive and the check."""
    app.add_directive("public-api", PublicAPI)
    app.connect("builder-inited", _check)
    return {"parallel_read_safe": True}
