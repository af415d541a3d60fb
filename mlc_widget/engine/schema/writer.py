"""The state that the parts of a grammar share while they are written."""

from __future__ import annotations

from collections.abc import Set

from mlc_widget.engine.schema.keys import KeyPatterns
from mlc_widget.engine.schema.lark import LarkText


class Writer:
    """Collects the rules of objects and arrays, and the nodes to which they refer (`used`)."""

    def __init__(self, lark: LarkText, patterns: KeyPatterns, alive: Set[str]) -> None:
        self.lark = lark
        self.patterns = patterns
        self.used: set[str] = set()
        self._alive = alive

    def is_alive(self, node: str) -> bool:
        """Whether some value matches a node."""
        return node in self._alive

    def use(self, node: str) -> str:
        """Refer to a node."""
        self.used.add(node)
        return node
