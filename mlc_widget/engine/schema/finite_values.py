"""Lists the values that match several schemas, if they are few."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

from mlc_widget.engine.schema.conjunction import HAS_PROPERTY, Wanted, canonical
from mlc_widget.engine.schema.finite_patterns import matching_texts
from mlc_widget.engine.schema.sets import Group, Ids, SchemaSets
from mlc_widget.engine.schema.values import Values

MOST: Final = 64
"""The maximum number of values, and of branches of a choice that are examined."""


class FiniteValues:
    """Lists values."""

    def __init__(self, sets: SchemaSets, values: Values) -> None:
        self._sets = sets
        self._values = values

    def of(self, ids: Ids) -> list[Any] | None:
        """All values that match a set of schemas, each once; None if they are not few."""
        found = self._candidates(ids, frozenset())
        if found is None:
            return None
        differing = {canonical(v): v for v in reversed(found)}
        fitting = [v for v in reversed(differing.values()) if self._values.fits(ids, v)]
        return fitting if len(fitting) <= MOST else None

    def _candidates(self, ids: Ids, done: frozenset[Group]) -> list[Any] | None:
        gathered = self._sets.gather(ids)
        if gathered is None:
            return []
        bases, groups = gathered
        wanted = Wanted(bases)
        if wanted.values is not None:
            return wanted.values
        left = [g for g in groups if g not in done and g[1] != HAS_PROPERTY]
        if left and len(done) < MOST:
            branches = self._sets.branches(left[0])
            found: list[Any] = []
            for branch in branches if len(branches) <= MOST else [True]:
                both = self._sets.joined(ids, self._sets.ids([branch]))
                more = self._candidates(both, done | {left[0]})
                if more is None:
                    return None
                found += more
            return found
        return self._of_kinds(bases, wanted)

    def _of_kinds(self, bases: Sequence[Any], wanted: Wanted) -> list[Any] | None:
        found: list[Any] = []
        for kind in wanted.kinds:
            if kind == "boolean":
                found += [True, False]
            elif kind == "null":
                found.append(None)
            elif kind == "string":
                texts = [t for b in bases if "pattern" in b
                         and (t := matching_texts(b["pattern"])) is not None]  # fmt: skip
                if not texts:
                    return None
                found += texts[0]
            elif kind == "number":
                integers = _integers(wanted)
                if integers is None:
                    return None
                found += integers
            else:
                return None
        return found


def _integers(wanted: Wanted) -> Sequence[int] | None:
    numbers = wanted.numbers
    lows = [n for n in (numbers.low, numbers.above) if n is not None]
    highs = [n for n in (numbers.high, numbers.below) if n is not None]
    if not (numbers.integer and lows and highs):
        return None
    low, high = math.ceil(max(lows)), math.floor(min(highs))
    return range(low, high + 1) if high - low <= MOST else None
