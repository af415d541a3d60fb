"""Describes strings, numbers, booleans and null with one spelling each, for `uniqueItems`.

If the possible items are too many to list, the runtime compares their texts. So no two texts may
stand for the same value, as 1 and 1.0 do.
"""

from __future__ import annotations

import itertools
from typing import Any, Final

from mlc_widget.engine.schema.conjunction import HAS_PROPERTY, Wanted, kind_of
from mlc_widget.engine.schema.emptiness import Emptiness
from mlc_widget.engine.schema.keys import KeyPatterns
from mlc_widget.engine.schema.lark import json_text, quoted, regex
from mlc_widget.engine.schema.layout import Scalars
from mlc_widget.engine.schema.numbers import CannotBeWrittenError, Range, decimal_text
from mlc_widget.engine.schema.sets import Group, Ids, SchemaSets
from mlc_widget.engine.schema.strings import Strings
from mlc_widget.engine.schema.values import Values

_ONE_SPELLING: Final = r"0|-?[1-9][0-9]*|-?(0|[1-9][0-9]{0,5})\.[0-9]{0,8}[1-9]"
"""Numbers without an exponent or trailing zeros; no two are read as the same double."""
_CHOICES: Final = 64
"""The maximum number of nested choices, and of branches of one."""


class NotScalarError(Exception):
    """Some values are objects or arrays, or cannot be restricted to one spelling."""


class ScalarFinder:
    """Describes the values that match a set of schemas."""

    def __init__(
        self,
        sets: SchemaSets,
        values: Values,
        strings: Strings,
        emptiness: Emptiness,
        patterns: KeyPatterns,
    ) -> None:
        self._sets = sets
        self._values = values
        self._strings = strings
        self._emptiness = emptiness
        self._patterns = patterns

    def of(self, ids: Ids) -> Scalars:
        """The values that match a set of schemas; if it allows any value, those without parts.

        Raises:
            NotScalarError: They include objects, arrays, or values that cannot be told apart.
        """
        found = _Found()
        self._collect(ids, frozenset(), found)
        return found.scalars()

    def _collect(self, ids: Ids, done: frozenset[Group], found: _Found) -> None:
        gathered = self._sets.gather(ids)
        if gathered is None:
            return
        bases, groups = gathered
        left = [g for g in groups if g not in done and g[1] != HAS_PROPERTY]
        if not left:
            self._add(bases, found)
            return
        group = left[0]
        branches = self._sets.branches(group)
        if max(len(branches), len(done)) > _CHOICES:
            raise NotScalarError
        made = done | {group}
        chosen = [self._sets.joined(ids, self._sets.ids([b])) for b in branches]
        if group[1] == "oneOf" and not all(
            self._emptiness.is_empty(self._sets.joined(a, b), made)
            for a, b in itertools.combinations(chosen, 2)
        ):
            raise NotScalarError
        for one in chosen:
            self._collect(one, made, found)

    def _add(self, bases: list[Any], found: _Found) -> None:
        wanted = Wanted(bases)
        if wanted.values is not None:
            for value in wanted.values:
                if self._values.fits_bases(bases, value, listed=True):
                    found.constant(value)
            return
        is_told = any("type" in b for b in bases)
        for kind in wanted.kinds:
            if kind == "string":
                if one := self._strings.one_spelling(bases):
                    text, count = one
                    found.string(text, count or self._patterns.at_least(text))
            elif kind == "number":
                self._add_numbers(wanted.numbers, found)
            elif kind == "boolean":
                found.constant(True)
                found.constant(False)
            elif kind == "null":
                found.constant(None)
            elif is_told:
                raise NotScalarError

    def _add_numbers(self, numbers: Range, found: _Found) -> None:
        try:
            pattern = numbers.pattern()
        except CannotBeWrittenError:
            raise NotScalarError from None
        if pattern is None:
            return
        text = f"{regex(pattern)} & {regex(_ONE_SPELLING)}"
        if numbers.fractional:
            text += r" & /.*\..*/"
        if self._patterns.is_satisfiable(text):
            found.other(text, numbers.count() or self._patterns.at_least(text))


class _Found:
    """Collects expressions, and how many values each has."""

    def __init__(self) -> None:
        self._strings: dict[str, float] = {}
        self._others: dict[str, float] = {}
        self._listed_strings: dict[str, None] = {}
        self._listed: dict[str, None] = {}

    def string(self, text: str, count: float) -> None:
        self._strings[text] = count

    def other(self, text: str, count: float) -> None:
        self._others[text] = count

    def constant(self, value: Any) -> None:
        kind = kind_of(value)
        if kind in ("object", "array"):
            raise NotScalarError
        if kind == "string":
            text = quoted(json_text(value)[1:-1]) if value else "/(?s:.){0}/"
            self._listed_strings[text] = None
        else:
            text = decimal_text(value) if kind == "number" else json_text(value)
            self._listed[quoted(text)] = None

    def scalars(self) -> Scalars:
        strings, others = dict(self._strings), dict(self._others)
        if self._listed_strings:
            strings[" | ".join(self._listed_strings)] = len(self._listed_strings)
        if self._listed:
            others[" | ".join(self._listed)] = len(self._listed)
        string_count = max(strings.values(), default=0)
        count = max([string_count, *others.values()])
        return Scalars(tuple(strings), tuple(others), count, string_count)
