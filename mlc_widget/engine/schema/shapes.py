"""The objects and arrays that several schemas allow, before they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from mlc_widget.api.errors import UnsupportedFieldError
from mlc_widget.engine.schema.conjunction import Wanted, path_of
from mlc_widget.engine.schema.finite_patterns import matching_texts
from mlc_widget.engine.schema.keys import KeyPatterns
from mlc_widget.engine.schema.layout import FREE_KEYS, ArrayShape, ObjectShape
from mlc_widget.engine.schema.members import Members
from mlc_widget.engine.schema.sets import NOTHING, Ids
from mlc_widget.engine.schema.values import Values

DECLARED_KEYS: Final = 256
"""Properties that no schema names, where the schema says what they are."""
FREE_ITEMS: Final = 256
"""Items in an array without a schema."""


class Shapes:
    """Makes the shapes of objects and arrays; their parts are nodes."""

    def __init__(
        self,
        members: Members,
        values: Values,
        patterns: KeyPatterns,
        node: Callable[[Ids], str],
        at: str,
    ) -> None:
        self._members = members
        self._values = values
        self._patterns = patterns
        self._node = node
        self._at = at

    def array(self, bases: list[Any], wanted: Wanted) -> ArrayShape:
        """The arrays that several schemas allow."""
        low, high = wanted.counts("Items")
        length = max((len(b.get("prefixItems", ())) for b in bases), default=0)
        prefix = [self._node(self._members.item(bases, i)) for i in range(length)]
        rest = self._members.item(bases, length)
        if not rest and high is None:
            high = max(FREE_ITEMS, length, low)
        return ArrayShape(prefix, self._node(rest), low, high)

    def object(self, bases: list[Any], wanted: Wanted) -> ObjectShape:
        """The objects that several schemas allow.

        Raises:
            UnsupportedFieldError: Keys cannot be held to a pattern.
        """
        low, high = wanted.counts("Properties")
        patterns = list(dict.fromkeys(p for b in bases for p in b.get("patternProperties", ())))
        limits = [b["propertyNames"] for b in bases if "propertyNames" in b]
        names = self._names(bases, wanted, patterns, limits)
        named = []
        for n in names:
            ids = self._members.property(bases, n) if self._values.is_key(limits, n) else NOTHING
            named.append((n, self._node(ids), n in wanted.required))
        declared = patterns or any("additionalProperties" in b for b in bases)
        bound = DECLARED_KEYS if declared else FREE_KEYS
        at = next((path_of(b, self._at) for b in bases if "minProperties" in b), self._at)
        free = self._free(bases, patterns, limits, names)
        return ObjectShape(named, free, low, high, bound, at)

    @staticmethod
    def _names(
        bases: list[Any], wanted: Wanted, patterns: list[str], limits: list[Any]
    ) -> list[str]:
        names = dict.fromkeys(n for b in bases for n in b.get("properties", ()))
        names.update(dict.fromkeys(wanted.required))
        for pattern in patterns:  # few enough to be listed: they are names, too
            names.update(dict.fromkeys(matching_texts(pattern) or ()))
        for limit in limits:
            if isinstance(limit, Mapping) and ("enum" in limit or "const" in limit):
                values = limit.get("enum", [limit.get("const")])
                names.update(dict.fromkeys(v for v in values if isinstance(v, str)))
        return list(names)

    def _free(
        self, bases: list[Any], patterns: list[str], limits: list[Any], names: list[str]
    ) -> list[tuple[str, str]]:
        """Keys that no schema names, as expressions, and the node of the values of each kind."""
        if any(limit is False or (isinstance(limit, Mapping) and "enum" in limit)
               for limit in limits):  # fmt: skip
            return []
        endless = [p for p in patterns if matching_texts(p) is None]
        free = []
        for matched in self._patterns.combinations(endless):
            ids = self._members.free(bases, matched)
            if -1 in ids:
                continue
            keys = self._patterns.keys(matched, endless, names, limits)
            if keys is None:
                of = "patternProperties" if patterns else "propertyNames"
                path = next((f"{path_of(b, self._at)}.{of}" for b in bases if of in b), self._at)
                raise UnsupportedFieldError(
                    f"{path}: keys cannot be held to this pattern; write ^ only at its beginning "
                    "and $ only at its end.",
                    param=path,
                )
            if not (patterns or limits) or self._patterns.is_satisfiable(keys):
                free.append((keys, self._node(ids)))
        return free
