"""Finds out whether a given value matches several schemas."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlc_widget.engine.schema.conjunction import (
    FREE_PROPERTY,
    HAS_PROPERTY,
    NOT_MATCHING,
    NOT_ONE_OF,
    Wanted,
    canonical,
    kind_of,
    string_of,
    unlisted,
)
from mlc_widget.engine.schema.keys import KeyPatterns
from mlc_widget.engine.schema.members import Members
from mlc_widget.engine.schema.sets import Ids, SchemaSets
from mlc_widget.engine.schema.witnesses import is_witness


class Values:
    """Validates JSON values against schemas."""

    def __init__(
        self,
        sets: SchemaSets,
        members: Members,
        patterns: KeyPatterns,
        satisfiable: Callable[[str], bool],
    ) -> None:
        self._sets = sets
        self._members = members
        self._patterns = patterns
        self._satisfiable = satisfiable

    def fits(self, ids: Ids, value: Any) -> bool:
        """Whether a value matches a set of schemas."""
        gathered = self._sets.gather(ids)
        if gathered is None:
            return False
        bases, groups = gathered
        if not self.fits_bases(bases, value):
            return False
        for group in groups:
            if group[1] == HAS_PROPERTY:  # a keyword of the bases, checked above
                continue
            fitting = sum(self.fits(self._sets.ids([b]), value)
                          for b in self._sets.branches(group))  # fmt: skip
            if not fitting or (group[1] == "oneOf" and fitting > 1):
                return False
        return True

    def fits_bases(self, bases: Sequence[Any], value: Any, *, listed: bool = False) -> bool:
        """Whether a value matches schemas, apart from their choices.

        Args:
            bases: The schemas.
            value: A JSON value.
            listed: Whether it is known to be one of the values of their enum.
        """
        wanted = Wanted(unlisted(bases) if listed else bases)
        if wanted.values is not None and canonical(value) not in map(canonical, wanted.values):
            return False
        kind = kind_of(value)
        if kind not in wanted.kinds:
            return False
        if kind == "number":
            return wanted.numbers.has(value)
        if kind == "string":
            strings: list[Mapping[str, Any]] = [s for b in bases if (s := string_of(b))]
            return not any(
                value in b.get(NOT_ONE_OF, ())
                or any(self._patterns.matches(p, value) for p in b.get(NOT_MATCHING, ()))
                for b in bases
            ) and (not strings or self.some_string([{"enum": [value]}, *strings]))
        if kind == "array":
            return wanted.is_count("Items", len(value)) and self._fits_array(bases, value)
        if kind == "object":
            return wanted.is_count("Properties", len(value)) and self._fits_object(
                bases, wanted, value
            )
        return True

    def _fits_array(self, bases: Sequence[Any], value: Sequence[Any]) -> bool:
        if any(b.get("uniqueItems") for b in bases) and len({*map(canonical, value)}) < len(value):
            return False
        for base in bases:
            if "contains" in base:
                found = sum(self.fits(self._sets.ids([base["contains"]]), v) for v in value)
                if not base.get("minContains", 1) <= found <= base.get("maxContains", found):
                    return False
        return all(self.fits(self._members.item(bases, i), v) for i, v in enumerate(value))

    def _fits_object(self, bases: Sequence[Any], wanted: Wanted, value: Mapping[str, Any]) -> bool:
        limits = [b["propertyNames"] for b in bases if "propertyNames" in b]
        return (
            all(self.is_key(limits, str(n)) for n in value)
            and set(wanted.required) <= set(value)
            and all(self.fits(self._members.property(bases, n), v) for n, v in value.items())
            and all(self._has_property(b[k], value)
                    for b in bases for k in (HAS_PROPERTY, FREE_PROPERTY) if k in b)
        )  # fmt: skip

    def _has_property(self, wanted: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
        ids = self._sets.ids([wanted["value"]])
        return any(
            is_witness(wanted, name, self._patterns) and self.fits(ids, part)
            for name, part in value.items()
        )

    def is_key(self, limits: Sequence[Any], name: str) -> bool:
        """Whether the values of `propertyNames` allow a name."""
        return all(
            limit is not False and (limit is True or self.fits_bases([limit], name))
            for limit in limits
        )

    def some_string(self, strings: Sequence[Mapping[str, Any]]) -> bool:
        """Whether some string matches all of several schemas."""
        wanted = strings[0] if len(strings) == 1 else {"allOf": strings}
        return self._satisfiable(f"start: %json {json.dumps({'type': 'string', **wanted})}")
