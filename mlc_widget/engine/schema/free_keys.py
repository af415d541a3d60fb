"""The properties that no schema names: their keys, and the schemas of their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlc_widget.api.errors import UnsupportedFieldError
from mlc_widget.engine.schema.conjunction import FREE_PROPERTY, path_of
from mlc_widget.engine.schema.finite_patterns import matching_texts
from mlc_widget.engine.schema.keys import KeyPatterns
from mlc_widget.engine.schema.lark import LARGEST, TOO_LARGE, TooCostlyError
from mlc_widget.engine.schema.members import Members
from mlc_widget.engine.schema.sets import Ids, SchemaSets


class FreeKeys:
    """Finds these properties for several schemas at once."""

    def __init__(self, sets: SchemaSets, members: Members, patterns: KeyPatterns, at: str) -> None:
        self._sets = sets
        self._members = members
        self._patterns = patterns
        self._at = at

    def names(self, bases: Sequence[Any]) -> list[str]:
        """The properties that the schemas name in some way."""
        names = dict.fromkeys(n for b in bases for n in b.get("properties", ()))
        names.update(dict.fromkeys(n for b in bases for n in b.get("required", ())))
        for pattern in _patterns_of(bases):  # few enough to be listed: they are names, too
            names.update(dict.fromkeys(matching_texts(pattern) or ()))
        for limit in limits_of(bases):
            if isinstance(limit, Mapping) and ("enum" in limit or "const" in limit):
                values = limit.get("enum", [limit.get("const")])
                names.update(dict.fromkeys(v for v in values if isinstance(v, str)))
        return list(names)

    def options(self, bases: Sequence[Any], names: Sequence[str]) -> list[tuple[str, Ids]]:
        """Each group of such properties: an expression for the keys, and the schemas of the values.

        Raises:
            UnsupportedFieldError: A pattern of keys cannot be enforced.
        """
        patterns = _patterns_of(bases)
        endless = [p for p in patterns if matching_texts(p) is None]
        return self._keys(bases, endless, names, lambda matched: ())

    def witnesses(self, bases: Sequence[Any], names: Sequence[str]) -> list[tuple[str, Ids]] | None:
        """Those of which our keyword `FREE_PROPERTY` requires one; None if it does not occur."""
        wanted = [b[FREE_PROPERTY] for b in bases if FREE_PROPERTY in b]
        if not wanted:
            return None
        patterns = _patterns_of(bases)
        taken = list(names)
        for one in wanted:
            if "matching" in one:
                patterns.append(one["matching"])
            else:
                patterns += one["beside"]["patterns"]
                taken += one["beside"]["names"]
        endless = [p for p in dict.fromkeys(patterns)
                   if matching_texts(p) is None or p not in _patterns_of(bases)]  # fmt: skip

        def value(matched: Sequence[str]) -> Sequence[Any]:
            for one in wanted:
                if "matching" in one:
                    fits = one["matching"] in matched
                else:
                    fits = not set(one["beside"]["patterns"]) & set(matched)
                if not fits:
                    return [False]
            return [one["value"] for one in wanted]

        return self._keys(bases, endless, list(dict.fromkeys(taken)), value)

    def _keys(
        self,
        bases: Sequence[Any],
        endless: Sequence[str],
        names: Sequence[str],
        more: Callable[[Sequence[str]], Sequence[Any]],
    ) -> list[tuple[str, Ids]]:
        limits = limits_of(bases)
        if any(limit is False or (isinstance(limit, Mapping) and limit.keys() & {"enum", "const"})
               for limit in limits):  # fmt: skip
            return []
        found = []
        size = 0
        for matched in self._patterns.combinations(endless):
            ids = self._sets.joined(
                self._members.free(bases, matched), self._sets.ids(more(matched))
            )
            if -1 in ids:
                continue
            keys = self._patterns.keys(matched, endless, names, limits)
            if keys is None:
                of = "patternProperties" if endless else "propertyNames"
                path = next((f"{path_of(b, self._at)}.{of}" for b in bases if of in b), self._at)
                raise UnsupportedFieldError(
                    f"{path}: this pattern cannot be enforced for keys; write ^ only at its "
                    "beginning and $ only at its end.",
                    param=path,
                )
            size += len(keys)
            if size > LARGEST:
                raise TooCostlyError(TOO_LARGE)
            if not (endless or limits) or self._patterns.is_satisfiable(keys):
                found.append((keys, ids))
        return found


def limits_of(bases: Sequence[Any]) -> list[Any]:
    """The values of `propertyNames`."""
    return [b["propertyNames"] for b in bases if "propertyNames" in b]


def _patterns_of(bases: Sequence[Any]) -> list[str]:
    return list(dict.fromkeys(p for b in bases for p in b.get("patternProperties", ())))
