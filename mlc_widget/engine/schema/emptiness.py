"""Finds out whether no value matches several schemas at once, as far as this is quickly seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from mlc_widget.engine.schema.conjunction import HAS_PROPERTY, Wanted
from mlc_widget.engine.schema.free_keys import FreeKeys, limits_of
from mlc_widget.engine.schema.keys import KeyPatterns
from mlc_widget.engine.schema.members import Members
from mlc_widget.engine.schema.numbers import CannotBeWrittenError
from mlc_widget.engine.schema.sets import Group, Ids, SchemaSets
from mlc_widget.engine.schema.strings import Strings
from mlc_widget.engine.schema.values import Values
from mlc_widget.engine.schema.witnesses import witness_branches

_PROBES: Final = 2_000
"""The maximum number of sets of schemas that are examined for one answer."""
_IN_ALL: Final = 30_000
"""The same for one grammar; after that, no more contradictions are found."""
_DEPTH: Final = 6
"""The maximum depth of choices and parts that are examined."""
_BRANCHES: Final = 64
_ITEMS: Final = 8


class Emptiness:
    """Looks for contradictions between schemas; false where none was found."""

    def __init__(
        self,
        sets: SchemaSets,
        members: Members,
        values: Values,
        strings: Strings,
        free_keys: FreeKeys,
        patterns: KeyPatterns,
        tick: Callable[[], None],
    ) -> None:
        self._sets = sets
        self._members = members
        self._values = values
        self._strings = strings
        self._free_keys = free_keys
        self._patterns = patterns
        self._tick = tick
        self._in_all = _IN_ALL
        self._left = 0

    def is_empty(self, ids: Ids, done: frozenset[Group], *, choices: bool = True) -> bool:
        """Whether no value matches all of some schemas.

        Args:
            ids: The schemas.
            done: Choices that were made.
            choices: Examine the remaining choices, too.
        """
        self._left = min(_PROBES, self._in_all)
        started = self._left
        found = self._look(ids, done, _DEPTH, choices=choices)
        self._in_all -= started - self._left
        return found

    def _look(self, ids: Ids, done: frozenset[Group], depth: int, *, choices: bool = True) -> bool:
        self._left -= 1
        self._tick()
        if self._left < 0:
            return False
        gathered = self._sets.gather(ids)
        if gathered is None:
            return True
        bases, groups = gathered
        left = [g for g in groups if g not in done]
        if left and depth and choices:
            if bases and self._contradict(bases, 0):  # otherwise each branch would find it again
                return True
            group = left[0]
            branches = self.branches(group, bases)
            return len(branches) <= _BRANCHES and all(
                self._look((*ids, *self._sets.ids([b])), done | {group}, depth - 1)
                for b in branches
            )
        return bool(bases) and self._contradict(bases, depth)

    def _contradict(self, bases: Sequence[Any], depth: int) -> bool:
        """Whether no value matches these schemas, apart from their choices."""
        wanted = Wanted(bases)
        if wanted.values is not None:
            return not any(self._values.fits_bases(bases, v, listed=True) for v in wanted.values)
        return all(self._is_kind_empty(kind, bases, wanted, depth) for kind in wanted.kinds)

    def branches(self, group: Group, bases: Sequence[Any]) -> Sequence[Any]:
        """The branches of a choice, given the other schemas."""
        if group[1] == HAS_PROPERTY:
            wanted = self._sets.schema(group)[HAS_PROPERTY]
            return [self._sets.same(b) for b in witness_branches(bases, wanted, self._patterns)]
        return self._sets.branches(group)

    def _is_kind_empty(self, kind: str, bases: Sequence[Any], wanted: Wanted, depth: int) -> bool:
        if kind == "number":
            try:
                return wanted.numbers.pattern() is None
            except CannotBeWrittenError:
                return False
        if kind == "string":
            return self._strings.is_empty(bases)
        if kind == "array":
            return self._is_array_empty(bases, wanted, depth)
        return kind == "object" and self._is_object_empty(bases, wanted, depth)

    def _is_array_empty(self, bases: Sequence[Any], wanted: Wanted, depth: int) -> bool:
        low, high = wanted.counts("Items")
        if high is not None and low > high:
            return True
        return depth > 0 and any(
            self._look(self._members.item(bases, i), frozenset(), depth - 1)
            for i in range(min(low, _ITEMS))
        )

    def _is_object_empty(self, bases: Sequence[Any], wanted: Wanted, depth: int) -> bool:
        low, high = wanted.counts("Properties")
        if high is not None and max(low, len(wanted.required)) > high:
            return True
        limits = limits_of(bases)
        if depth == 0:
            return False
        for name in wanted.required:
            if not self._values.is_key(limits, name) or self._look(
                self._members.property(bases, name), frozenset(), depth - 1
            ):
                return True
        witnesses = self._free_keys.witnesses(bases, self._free_keys.names(bases))
        return witnesses is not None and all(
            self._look(ids, frozenset(), depth - 1) for _, ids in witnesses
        )
