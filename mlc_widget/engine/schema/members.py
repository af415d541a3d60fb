"""The schemas that an item of an array, or a property of an object, must match."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlc_widget.engine.schema.keys import KeyPatterns
from mlc_widget.engine.schema.sets import Ids, SchemaSets


class Members:
    """Finds the schemas of items and properties."""

    def __init__(self, sets: SchemaSets, patterns: KeyPatterns) -> None:
        self._sets = sets
        self._patterns = patterns

    def item(self, bases: Sequence[Any], index: int) -> Ids:
        """The schemas of the item at an index."""
        found = []
        for base in bases:
            prefix = base.get("prefixItems", ())
            found.append(prefix[index] if index < len(prefix) else base.get("items", True))
        return self._sets.ids(found)

    def property(self, bases: Sequence[Any], name: str) -> Ids:
        """The schemas of a property's value."""
        found: list[Any] = []
        for base in bases:
            mine = [base["properties"][name]] if name in base.get("properties", ()) else []
            mine += [
                schema
                for pattern, schema in base.get("patternProperties", {}).items()
                if self._patterns.matches(pattern, name)
            ]
            found += mine or [base.get("additionalProperties", True)]
        return self._sets.ids(found)

    def free(self, bases: Sequence[Any], matched: Sequence[str]) -> Ids:
        """The schemas of the value of a key that no schema names and that matches some patterns."""
        found: list[Any] = []
        for base in bases:
            own = base.get("patternProperties", {})
            mine = [own[p] for p in matched if p in own]
            found += mine or [base.get("additionalProperties", True)]
        return self._sets.ids(found)
