"""The schema of all values that do not match another, for `not`, `if` and `oneOf`.

It is written keyword by keyword: a value does not match a schema if it fails one of its keywords.
Some opposites have no keyword in JSON Schema and get one of our own (`conjunction`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from mlc_widget.api.errors import UnsupportedFieldError
from mlc_widget.engine.schema.conjunction import (
    HAS_PROPERTY,
    KINDS,
    NOT_INTEGER,
    NOT_MATCHING,
    NOT_ONE_OF,
    canonical,
    kind_of,
)
from mlc_widget.engine.schema.finite_patterns import matching_texts
from mlc_widget.engine.schema.keys import can_be_written
from mlc_widget.engine.schema.lark import TOO_MANY, TooCostlyError
from mlc_widget.engine.schema.located import located
from mlc_widget.engine.schema.numbers import exact

_NUMBERS: Final = 256
"""The maximum number of an enum's numbers; the complement has the ranges between them."""
_MARKS: Final = ("!", "?")
"""Prefixes of a definition's name for its complement and for its lenient complement."""
_PARTS: Final = 100_000
"""The maximum number of subschemas whose complements are made for one schema."""
_PAIRS: Final = 8
"""The maximum number of a oneOf's branches for which matching two is considered, too."""


class NoComplementError(Exception):
    """The complement of a schema cannot be written because of one of its keywords.

    Attributes:
        keyword: The keyword.
    """

    def __init__(self, keyword: str) -> None:
        super().__init__(keyword)
        self.keyword = keyword

    def at(self, path: str) -> UnsupportedFieldError:
        """The error of a request in which the schema has a path."""
        return UnsupportedFieldError(
            f"{path}: what does not fit this schema cannot be enforced, because of its "
            f"{self.keyword}; describe what is allowed instead.",
            param=path,
        )


def complement_name(name: str, *, lenient: bool) -> str:
    """The name of a definition's complement; for a complement's name, that of the definition."""
    if name[:1] in _MARKS:
        return name[1:]
    return f"{_MARKS[lenient]}{name}"


def definition_of(name: str) -> tuple[str, bool]:
    """The definition of which a name is the complement, and whether it is the lenient one."""
    return name[1:], name.startswith(_MARKS[True])


class Complements:
    """Makes the schemas of all values that do not match others, for the parts of one schema.

    Each is made once: the complement of the same object is the same object. So conditions within
    conditions do not multiply. The complement of a complement's complement is the complement
    itself, where it has no part of the schema that was given.

    Attributes:
        made: The number of subschemas whose complements were made.
    """

    def __init__(self) -> None:
        self.made = 0
        self._exact = _Complement(self, lenient=False)
        self._lenient = _Complement(self, lenient=True)

    def of(self, schema: Any, *, lenient: bool = False, at: str | None = None) -> Any:
        """Write the schema of all values that do not match a checked schema.

        A reference becomes one to the complement of its target (`complement_name`).

        Args:
            schema: From `json_schema.check_schema`, or a complement. It must not change any more.
            lenient: Leave out what cannot be written; the result then matches only some of them.
            at: The path in the request that the parts that are made get; None for no path.

        Raises:
            NoComplementError: A keyword has no complement; never if `lenient`.
            TooCostlyError: The complements have too many parts.
        """
        to = self._lenient if lenient else self._exact
        to.at = at
        return to.of(schema)

    def count(self) -> None:
        """Count a subschema.

        Raises:
            TooCostlyError: There are too many.
        """
        self.made += 1
        if self.made > _PARTS:
            raise TooCostlyError(TOO_MANY)


@dataclass(frozen=True, slots=True)
class _Made:
    """A complement.

    Attributes:
        of: The schema; kept, since schemas are known by identity.
        opposite: The complement.
        whole: Whether all of it was made here: it has no part of a schema that was given, and
            nothing was left out.
    """

    of: Any
    opposite: Any
    whole: bool


class _Complement:
    """Makes complements of one strictness."""

    def __init__(self, every: Complements, *, lenient: bool) -> None:
        self.lenient = lenient
        self.at: str | None = None
        self._every = every
        self._known: dict[int, _Made] = {}
        self._whole: set[int] = set()
        self._is_whole = True

    def of(self, schema: Any) -> Any:
        """A schema of the values that do not match another."""
        if isinstance(schema, bool):
            return not schema
        known = self._known.get(id(schema))
        if known is None:
            outer, self._is_whole = self._is_whole, True
            opposite = self._make(schema)
            known = self._keep(_Made(schema, opposite, self._is_whole))
            self._is_whole = outer
        self._is_whole = self._is_whole and known.whole
        return known.opposite

    def uses(self, schemas: Sequence[Any]) -> list[Any]:
        """Schemas that were given, as parts of the complement in progress."""
        self._is_whole = False
        return list(schemas)

    def _keep(self, made: _Made) -> _Made:
        self._known[id(made.of)] = made
        opposite = made.opposite
        if made.whole and not isinstance(opposite, bool):
            if id(made.of) in self._whole:
                self._known.setdefault(id(opposite), _Made(opposite, made.of, whole=True))
            self._whole.add(id(opposite))
        return made

    def _make(self, schema: Mapping[str, Any]) -> Any:
        self._every.count()
        options: list[Any] = []
        for keyword, value in schema.items():
            if keyword == "type" and "string" in value and _lists_strings(schema):
                continue  # values that are not strings are among those that are not in the list
            try:
                options += self._options(keyword, value, schema)
            except NoComplementError:
                if not self.lenient:
                    raise
                self._is_whole = False
        if any(o is True or o == {} for o in options):
            return True
        options = [o for o in options if o is not False]
        made: Any = {"anyOf": options} if options else False
        if len(options) == 1:
            made = options[0]
        return made if self.at is None else located(made, self.at)

    def _options(self, keyword: str, value: Any, schema: Mapping[str, Any]) -> list[Any]:
        opposite = _OPPOSITES.get(keyword)
        if opposite is not None:
            return opposite(value, schema, self)
        if keyword in _SILENT or (keyword == "uniqueItems" and not value):
            return []
        raise NoComplementError(keyword)


_Opposite: TypeAlias = Callable[[Any, Any, _Complement], list[Any]]
"""Makes the options for one keyword, from its value, the schema, and the complement in progress."""


def _of(kind: str, **keywords: Any) -> dict[str, Any]:
    return {"type": kind, **keywords}


def _type(value: Any, _: Any, to: _Complement) -> list[Any]:
    given = [value] if isinstance(value, str) else value
    kinds = {"number" if k == "integer" else k for k in given}
    others = [k for k in KINDS if k not in kinds]
    made: list[Any] = [{"type": others}] if others else []
    if "integer" in given and "number" not in given:
        made.append(_of("number", **{NOT_INTEGER: True}))
    return made


def _lists_strings(schema: Mapping[str, Any]) -> bool:
    values = schema.get("enum", [schema["const"]] if "const" in schema else [None])
    return all(isinstance(v, str) for v in values)


def _enum(values: Sequence[Any], _: Any, to: _Complement) -> list[Any]:
    if all(isinstance(v, str) for v in values):
        return [{NOT_ONE_OF: list(values)}]
    by_kind: dict[str, list[Any]] = {kind: [] for kind in KINDS}
    for value in values:
        by_kind[kind_of(value)].append(value)
    made: list[Any] = [{"type": kind} for kind in KINDS if not by_kind[kind]]
    if texts := by_kind["string"]:
        made.append(_of("string", **{NOT_ONE_OF: texts}))
    if numbers := by_kind["number"]:
        made += _between(numbers)
    truths = {bool(v) for v in by_kind["boolean"]}
    if len(truths) == 1:
        made.append({"const": not truths.pop()})
    for kind, differing in (("object", _other_object), ("array", _other_array)):
        if by_kind[kind]:
            each = [{"anyOf": differing(v, to)} for v in by_kind[kind]]
            made.append(_of(kind, allOf=each))
    return made


def _between(numbers: Sequence[Any]) -> list[Any]:
    """The numbers below, between and above the given ones."""
    if len(numbers) > _NUMBERS:
        raise NoComplementError("enum")
    steps = sorted({canonical(n): n for n in numbers}.values(), key=exact)
    made = [_of("number", exclusiveMaximum=steps[0]), _of("number", exclusiveMinimum=steps[-1])]
    made += [_of("number", exclusiveMinimum=a, exclusiveMaximum=b)
             for a, b in itertools.pairwise(steps)]  # fmt: skip
    return made


def _other_object(value: Mapping[str, Any], to: _Complement) -> list[Any]:
    """The objects that differ from a given one, in a value or in their keys."""
    made: list[Any] = []
    known = {str(name): True for name in value}  # in their order
    for name, part in value.items():
        other = to.of({"const": part})
        made.append({"properties": {**known, str(name): False}})
        made.append({"required": [str(name)], "properties": {**known, str(name): other}})
    made.append({"required": list(known), "properties": known, "minProperties": len(known) + 1})
    return made


def _other_array(value: Sequence[Any], to: _Complement) -> list[Any]:
    """The arrays that differ from a given one, in an item or in their length."""
    made: list[Any] = [{"minItems": len(value) + 1}]
    if value:
        made.append({"maxItems": len(value) - 1})
    made += [{"minItems": i + 1, "prefixItems": [*[True] * i, to.of({"const": part})]}
             for i, part in enumerate(value)]  # fmt: skip
    return made


def _required(names: Sequence[str], _: Any, to: _Complement) -> list[Any]:
    return [_of("object", properties={name: False}) for name in names]


def _properties(schemas: Mapping[str, Any], _: Any, to: _Complement) -> list[Any]:
    return [_of("object", required=[name], properties={name: to.of(schema)})
            for name, schema in schemas.items() if schema is not True and schema != {}]  # fmt: skip


def _pattern_properties(schemas: Mapping[str, Any], _: Any, to: _Complement) -> list[Any]:
    made: list[Any] = []
    for pattern, schema in schemas.items():
        opposite = to.of(schema)
        names = matching_texts(pattern)
        if opposite is False:
            continue
        if names is not None:
            made += [_of("object", required=[n], properties={n: opposite}) for n in names]
        elif can_be_written(pattern):
            made.append(_of("object", **{HAS_PROPERTY: {"matching": pattern, "value": opposite}}))
        else:
            raise NoComplementError("patternProperties")
    return made


def _additional(schema: Any, beside: Mapping[str, Any], to: _Complement) -> list[Any]:
    opposite = to.of(schema)
    if opposite is False:
        return []
    patterns = list(beside.get("patternProperties", ()))
    if not all(map(can_be_written, patterns)):
        raise NoComplementError("additionalProperties")
    wanted = {"names": list(beside.get("properties", ())), "patterns": patterns}
    return [_of("object", **{HAS_PROPERTY: {"beside": wanted, "value": opposite}})]


def _prefix(schemas: Sequence[Any], _: Any, to: _Complement) -> list[Any]:
    return [_of("array", minItems=i + 1, prefixItems=[*[True] * i, to.of(schema)])
            for i, schema in enumerate(schemas) if schema is not True and schema != {}]  # fmt: skip


def _items(schema: Any, beside: Mapping[str, Any], to: _Complement) -> list[Any]:
    first = len(beside.get("prefixItems", ()))
    opposite = to.of(schema)
    if opposite is False:
        return []
    if opposite is True:
        return [_of("array", minItems=first + 1)]
    if first:
        raise NoComplementError("items")
    return [_of("array", contains=opposite)]


def _contains(schema: Any, beside: Mapping[str, Any], to: _Complement) -> list[Any]:
    if beside.get("minContains", 1) != 1 or "maxContains" in beside:
        raise NoComplementError("contains")
    return [_of("array", items=to.of(schema))]


def _any_of(branches: Sequence[Any], _: Any, to: _Complement) -> list[Any]:
    return [{"allOf": [to.of(b) for b in branches]}]


def _all_of(branches: Sequence[Any], _: Any, to: _Complement) -> list[Any]:
    return [to.of(b) for b in branches]


def _one_of(branches: Sequence[Any], _: Any, to: _Complement) -> list[Any]:
    made: list[Any] = [{"allOf": [to.of(b) for b in branches]}]
    if len(branches) <= _PAIRS:
        made += [{"allOf": to.uses(two)} for two in itertools.combinations(branches, 2)]
    return made


def _bound(kind: str, opposite: str, shift: int = 0) -> _Opposite:
    def made(value: Any, _: Any, to: _Complement) -> list[Any]:
        return [_of(kind, **{opposite: value + shift})] if value + shift >= 0 or not shift else []

    return made


def _pattern(pattern: str, _: Any, to: _Complement) -> list[Any]:
    if not can_be_written(pattern):
        raise NoComplementError("pattern")
    return [_of("string", **{NOT_MATCHING: [pattern]})]


def _multiple_of(value: Any, _: Any, to: _Complement) -> list[Any]:
    if value != 1:
        raise NoComplementError("multipleOf")
    return [_of("number", **{NOT_INTEGER: True})]


def _not_matching(patterns: Sequence[str], _: Any, to: _Complement) -> list[Any]:
    return [_of("string", pattern=p) for p in patterns]


def _has_property(wanted: Mapping[str, Any], _: Any, to: _Complement) -> list[Any]:
    opposite = to.of(wanted["value"])
    if "matching" in wanted:
        return [_of("object", patternProperties={wanted["matching"]: opposite})]
    beside = wanted["beside"]
    return [_of(
        "object",
        properties=dict.fromkeys(beside["names"], True),
        patternProperties=dict.fromkeys(beside["patterns"], True),
        additionalProperties=opposite,
    )]  # fmt: skip


_SILENT: Final = frozenset({"$defs", "minContains", "maxContains"})
_OPPOSITES: Final[Mapping[str, _Opposite]] = {
    "$ref": lambda name, _, to: [{"$ref": complement_name(name, lenient=to.lenient)}],
    "type": _type,
    NOT_ONE_OF: lambda values, _, __: [{"enum": values}],
    NOT_MATCHING: _not_matching,
    NOT_INTEGER: lambda _value, _, __: [{"type": "integer"}],
    HAS_PROPERTY: _has_property,
    "enum": _enum,
    "const": lambda value, beside, to: _enum([value], beside, to),
    "allOf": _all_of,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "required": _required,
    "properties": _properties,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional,
    "minProperties": _bound("object", "maxProperties", -1),
    "maxProperties": _bound("object", "minProperties", 1),
    "prefixItems": _prefix,
    "items": _items,
    "contains": _contains,
    "minItems": _bound("array", "maxItems", -1),
    "maxItems": _bound("array", "minItems", 1),
    "minLength": _bound("string", "maxLength", -1),
    "maxLength": _bound("string", "minLength", 1),
    "pattern": _pattern,
    "multipleOf": _multiple_of,
    "minimum": _bound("number", "exclusiveMaximum"),
    "maximum": _bound("number", "exclusiveMinimum"),
    "exclusiveMinimum": _bound("number", "maximum"),
    "exclusiveMaximum": _bound("number", "minimum"),
}
