"""What several schemas together require of one value."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlc_widget.engine.schema.located import LocatedSchema
from mlc_widget.engine.schema.numbers import Range, exact

KINDS: Final = ("object", "array", "string", "number", "boolean", "null")
# Keywords of our own, for what `complement` writes:
NOT_ONE_OF: Final = "notOneOf"
"""Strings that the value must not be; it may be of another type."""
NOT_MATCHING: Final = "notMatching"
"""Patterns that the string must not match."""
NOT_INTEGER: Final = "notInteger"
"""The number must not be an integer."""
HAS_PROPERTY: Final = "hasProperty"
"""The object must have a property whose key is ``matching`` a pattern or ``beside`` some names and
patterns, and whose ``value`` matches a schema."""
FREE_PROPERTY: Final = "freeProperty"
"""The same, for a key that no schema names."""
_NUMBERS: Final[Mapping[str, str]] = {
    "minimum": "low", "maximum": "high", "exclusiveMinimum": "above", "exclusiveMaximum": "below",
}  # fmt: skip
_STRINGS: Final = ("minLength", "maxLength", "pattern", "format")


class Wanted:
    """What several schemas together require of a value's type, size and choice.

    Attributes:
        kinds: The types that it may have.
        values: The values that it may be; None if they are not listed.
        numbers: The range that it must be in if it is a number.
        required: The properties that it must have if it is an object.
    """

    def __init__(self, bases: Sequence[Any]) -> None:
        self._bases = bases
        kinds = list(KINDS)
        integer = fractional = False
        lists: list[list[Any]] = []
        self.required: dict[str, None] = {}
        for base in bases:
            if "type" in base:
                given = base["type"] if isinstance(base["type"], list) else [base["type"]]
                integer = integer or ("integer" in given and "number" not in given)
                given = ["number" if g == "integer" else g for g in given]
                kinds = [k for k in kinds if k in given]
            fractional = fractional or base.get(NOT_INTEGER, False)
            lists += [base["enum"]] if "enum" in base else []
            lists += [[base["const"]]] if "const" in base else []
            self.required.update(dict.fromkeys(base.get("required", ())))
        self.kinds = kinds
        self.values = _common(lists) if lists else None
        self.numbers = Range(integer=integer, fractional=fractional)
        for base in bases:
            bounds = {f: base[n] for n, f in _NUMBERS.items() if n in base}
            multiples = (base["multipleOf"],) if "multipleOf" in base else ()
            if bounds or multiples:
                self.numbers = self.numbers.within(Range(**bounds, multiples_of=multiples))

    def is_count(self, of: str, count: int) -> bool:
        """Whether this number of Items or Properties is allowed."""
        low, high = self.counts(of)
        return count >= low and (high is None or count <= high)

    def counts(self, of: str) -> tuple[int, int | None]:
        """The minimum and the maximum number of Items or Properties."""
        low = max((b.get(f"min{of}", 0) for b in self._bases), default=0)
        highs = [b[f"max{of}"] for b in self._bases if f"max{of}" in b]
        return low, min(highs, default=None)


def unlisted(bases: Sequence[Any]) -> list[Any]:
    """The same schemas without their enum and const."""
    return [{k: v for k, v in b.items() if k not in ("enum", "const")} for b in bases]


def _common(lists: Sequence[Sequence[Any]]) -> list[Any]:
    first: list[Any] = []
    keys = [{canonical(v) for v in values} for values in lists[1:]]
    seen = set()
    for value in lists[0]:
        key = canonical(value)
        if key not in seen and all(key in k for k in keys):
            seen.add(key)
            first.append(value)
    return first


def canonical(value: Any) -> str:
    """A text that is the same for equal values of JSON: for 1 and 1.0, not for 1 and true."""
    if isinstance(value, Mapping):
        pairs = sorted((json.dumps(str(k)), canonical(v)) for k, v in value.items())
        return "{" + ",".join(f"{k}:{v}" for k, v in pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(canonical, value)) + "]"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(exact(value))
    return json.dumps(value)


def kind_of(value: Any) -> str:
    """A value's type; integers are numbers."""
    if value is None:
        return "null"
    kinds = [(bool, "boolean"), (int, "number"), (float, "number"), (str, "string")]
    found = next((k for t, k in kinds if isinstance(value, t)), None)
    return found or ("object" if isinstance(value, Mapping) else "array")


def string_of(base: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of a schema that apply to strings."""
    return {k: base[k] for k in _STRINGS if k in base}


def path_of(schema: Any, otherwise: str) -> str:
    """The path of a schema in the request."""
    return schema.at if isinstance(schema, LocatedSchema) else otherwise
