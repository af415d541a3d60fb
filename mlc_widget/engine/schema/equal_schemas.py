"""Finds schemas that are equal, and their lengths, though their parts may be shared many times."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

_REFERENCE: Final = '"$ref"'


class EqualSchemas:
    """Keeps one of several equal schemas.

    Each object is looked at once, so what is given must not change any more.
    """

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self._known: dict[int, tuple[Any, int]] = {}
        self._costs: list[int] = []
        self._kept: dict[int, Any] = {}

    def same(self, schema: Any) -> Any:
        """The same object for the same schema, since schemas are known by identity."""
        return self._kept.setdefault(self._number(schema), schema)

    def cost(self, schema: Any) -> int:
        """How costly a schema is: the length of its JSON text; references cost most."""
        return self._costs[self._number(schema)]

    def _number(self, value: Any) -> int:
        """A number that equal values have in common."""
        if not isinstance(value, dict | list):
            text = json.dumps(value)
            return self._numbered(text, lambda: len(text) + 1000 * text.count(_REFERENCE))
        known = self._known.get(id(value))
        if known is not None:
            return known[1]
        if isinstance(value, dict):
            keys = [json.dumps(k) for k in value]
            parts = [self._number(v) for v in value.values()]
            own = sum(len(k) + 2 + 1000 * k.count(_REFERENCE) for k in keys)
            key: Any = ("{", *zip(keys, parts, strict=True))
        else:
            parts = [self._number(v) for v in value]
            own = 0
            key = ("[", *parts)
        number = self._numbered(
            key, lambda: 2 * max(len(parts), 1) + own + sum(self._costs[p] for p in parts)
        )
        self._known[id(value)] = (value, number)  # kept, as it is known by identity
        return number

    def _numbered(self, key: Any, cost: Callable[[], int]) -> int:
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._costs)
            self._costs.append(cost())
        return number
