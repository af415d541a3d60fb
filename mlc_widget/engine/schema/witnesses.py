"""The alternatives for which property of an object matches a schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlc_widget.engine.schema.conjunction import FREE_PROPERTY
from mlc_widget.engine.schema.keys import KeyPatterns

_NAMES: Final = 64
"""The maximum number of named properties that are tried."""


def witness_branches(
    bases: Sequence[Any], wanted: Mapping[str, Any], patterns: KeyPatterns
) -> list[Any]:
    """Schemas of which an object matches one if it has the required property.

    Args:
        bases: The other schemas that the object must match.
        wanted: The value of our keyword `HAS_PROPERTY`.
        patterns: Tells which names match.
    """
    names = dict.fromkeys(n for b in bases for n in (*b.get("properties", ()),
                                                      *b.get("required", ())))  # fmt: skip
    found = [n for n in names if is_witness(wanted, n, patterns)][:_NAMES]
    named = [{"required": [n], "properties": {n: wanted["value"]}} for n in found]
    return [*named, {FREE_PROPERTY: wanted}]


def is_witness(wanted: Mapping[str, Any], name: str, patterns: KeyPatterns) -> bool:
    """Whether a property of this name may be the required one."""
    if "matching" in wanted:
        return patterns.matches(wanted["matching"], name)
    beside = wanted["beside"]
    return name not in beside["names"] and not any(
        patterns.matches(p, name) for p in beside["patterns"]
    )
