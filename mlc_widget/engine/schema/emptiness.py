"""Whether no value fits several schemas at once, as far as it is soon seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError
from mlc_widget.engine.schema.conjunction import Wanted, string_of
from mlc_widget.engine.schema.members import Members
from mlc_widget.engine.schema.numbers import CannotBeWrittenError
from mlc_widget.engine.schema.sets import Group, Ids, SchemaSets
from mlc_widget.engine.schema.values import Values

_PROBES: Final = 200_000
_DEPTH: Final = 6
"""Levels of choices and parts that are looked into."""
_BRANCHES: Final = 64
_ITEMS: Final = 8


class Emptiness:
    """Looks for contradictions between schemas; false where none was found."""

    def __init__(self, sets: SchemaSets, members: Members, values: Values, at: str) -> None:
        self._sets = sets
        self._members = members
        self._values = values
        self._at = at
        self._probes = 0

    def is_empty(self, ids: Ids, done: frozenset[Group], depth: int = _DEPTH) -> bool:
        """Whether no value fits all of these.

        Args:
            ids: The schemas.
            done: Choices that were made.
            depth: How far to look.

        Raises:
            BadRequestError: That takes too long.
        """
        self._probes += 1
        if self._probes > _PROBES:
            raise too_large(self._at)
        gathered = self._sets.gather(tuple(dict.fromkeys(ids)))
        if gathered is None:
            return True
        bases, groups = gathered
        left = [g for g in groups if g not in done]
        if left and depth:
            group = left[0]
            branches = self._sets.branches(group)
            return len(branches) <= _BRANCHES and all(
                self.is_empty((*ids, *self._sets.ids([b])), done | {group}, depth - 1)
                for b in branches
            )
        if not bases:
            return False
        wanted = Wanted(bases)
        if wanted.values is not None:
            return not any(self._values.fits_bases(bases, v, listed=True) for v in wanted.values)
        return all(self._is_kind_empty(kind, bases, wanted, depth) for kind in wanted.kinds)

    def _is_kind_empty(self, kind: str, bases: Sequence[Any], wanted: Wanted, depth: int) -> bool:
        if kind == "number":
            try:
                return wanted.numbers.pattern() is None
            except CannotBeWrittenError:
                return False
        if kind == "string":
            strings = [s for b in bases if (s := string_of(b))]
            return len(strings) > 1 and not self._values.some_string(strings)
        if kind == "array":
            low, high = wanted.counts("Items")
            if high is not None and low > high:
                return True
            return depth > 0 and any(
                self.is_empty(self._members.item(bases, i), frozenset(), depth - 1)
                for i in range(min(low, _ITEMS))
            )
        if kind == "object":
            return depth > 0 and any(
                self.is_empty(self._members.property(bases, name), frozenset(), depth - 1)
                for name in wanted.required
            )
        return False


def too_large(at: str) -> BadRequestError:
    """The refusal of a schema whose parts are too many."""
    return BadRequestError(
        f"{at}: the schema is too large, or has too many choices within each other; "
        "make it smaller.",
        param=at,
    )
