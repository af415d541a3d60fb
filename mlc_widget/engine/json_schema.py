"""JSON schemas that a grammar can hold a model to: checked keyword by keyword, brought to one form.

The keywords are those of JSON Schema's draft 2020-12; what earlier drafts wrote otherwise (tuples
in `items`, a boolean `exclusiveMinimum`) is rewritten. Annotations and keywords that no draft has
are left out, as the specification says they may be. A keyword that cannot be enforced is refused:
a text that need not fit the schema would be worse than none.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError, UnsupportedFieldError

TYPES: Final = ("object", "array", "string", "number", "integer", "boolean", "null")
FORMATS: Final = frozenset(
    {
        "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri",
    }
)  # fmt: skip
"""Formats of strings that are enforced; any other is an annotation."""

_UNENFORCEABLE: Final = {
    "not": "describe what is allowed instead",
    "if": "use anyOf",
    "then": "use anyOf",
    "else": "use anyOf",
    "contains": "leave it out, or list the items in prefixItems",
    "minContains": "leave it out",
    "maxContains": "leave it out",
    "uniqueItems": "leave it out and check the answer",
    "propertyNames": "use patternProperties",
    "dependentRequired": "use anyOf",
    "dependentSchemas": "use anyOf",
    "dependencies": "use anyOf",
    "unevaluatedItems": "use items: false",
    "unevaluatedProperties": "use additionalProperties: false",
    "$dynamicRef": "use $ref",
    "$recursiveRef": "use $ref",
}
_LOOKS: Final = 10_000
"""Schemas after which a search for endless ones gives up."""
_HARMLESS: Final = {"uniqueItems": False, "unevaluatedItems": True, "unevaluatedProperties": True}
"""Values with which an unenforceable keyword asks for nothing."""


def check_schema(schema: Any, at: str, *, is_regex: Callable[[str], str]) -> Any:
    """A schema in the form that llguidance compiles.

    Args:
        schema: The schema, or its JSON text.
        at: The request's field that it comes from, for errors.
        is_regex: Says what is wrong with a regular expression; "" if nothing.

    Raises:
        BadRequestError: It is malformed; `param` names the keyword by its path.
        UnsupportedFieldError: A keyword cannot be enforced.
    """
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise BadRequestError(f"{at}: not valid JSON ({error}).", param=at) from None
    if not isinstance(schema, Mapping | bool):
        raise _wrong(at, schema, "give a schema: an object, or true")
    checker = _Checker(schema, is_regex)
    checked = checker.schema(at, schema)
    if not checker.has_end(schema, frozenset()):
        raise _wrong(at, schema, "it requires itself within itself, so that no value can meet it")
    return checked


def _wrong(at: str, value: Any, remedy: str) -> BadRequestError:
    return BadRequestError(f"{at} = {value!r:.120}: {remedy}.", param=at)


class _Checker:
    """Rebuilds one schema from the keywords that it knows."""

    def __init__(self, root: Any, is_regex: Callable[[str], str]) -> None:
        self._root = root
        self._is_regex = is_regex
        self._ending: set[str] = set()  # references of which `has_end` is true
        self._looked = 0
        self._keywords: dict[str, Callable[[str, Any], Any]] = {
            "type": self._type,
            "enum": self._enum,
            "const": lambda _, value: value,
            "anyOf": self._list,
            "oneOf": self._list,
            "allOf": self._list,
            "$ref": self._reference,
            "$defs": self._by_name,
            "definitions": self._by_name,
            "properties": self._by_name,
            "patternProperties": self._by_pattern,
            "additionalProperties": self.schema,
            "required": self._names,
            "minProperties": self._count,
            "maxProperties": self._count,
            "prefixItems": self._list,
            "items": self.schema,
            "minItems": self._count,
            "maxItems": self._count,
            "minLength": self._count,
            "maxLength": self._count,
            "pattern": self._pattern,
            "format": self._format,
            "minimum": self._number,
            "maximum": self._number,
            "exclusiveMinimum": self._number,
            "exclusiveMaximum": self._number,
            "multipleOf": self._positive,
        }

    def schema(self, at: str, schema: Any) -> Any:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, Mapping):
            raise _wrong(at, schema, "give a schema: an object, true or false")
        rebuilt: dict[str, Any] = {}
        for name, value in _modern(schema).items():
            if name in _UNENFORCEABLE and value != _HARMLESS.get(name, _UNENFORCEABLE):
                raise UnsupportedFieldError(
                    f"{at}.{name} = {value!r:.120}: this keyword cannot be enforced; "
                    f"{_UNENFORCEABLE[name]}.",
                    param=f"{at}.{name}",
                )
            check = self._keywords.get(name)
            if check is not None:
                rebuilt[name] = check(f"{at}.{name}", value)
        if rebuilt.get("format", ...) is None:
            del rebuilt["format"]
        if "anyOf" not in rebuilt and self._are_told_apart(rebuilt.get("oneOf", ())):
            rebuilt["anyOf"] = rebuilt.pop("oneOf")
        self._check_ranges(at, rebuilt)
        return rebuilt

    def has_end(self, schema: Any, within: frozenset[str]) -> bool:
        """Whether some finite value can meet a schema, as far as references go.

        Args:
            schema: As it was given.
            within: The references that led here.
        """
        self._looked += 1
        if not isinstance(schema, Mapping) or self._looked > _LOOKS:
            return True
        reference = schema.get("$ref")
        if reference is not None and reference not in self._ending:
            ends = reference not in within
            if not (ends and self.has_end(self._target(reference), within | {reference})):
                return False
            self._ending.add(reference)
        needed = list(schema.get("allOf", ()))
        if schema.get("type", "object") == "object":
            properties = schema.get("properties", {})
            needed += [properties[n] for n in schema.get("required", ()) if n in properties]
        choices = [schema[k] for k in ("anyOf", "oneOf") if k in schema]
        return all(self.has_end(s, within) for s in needed) and all(
            any(self.has_end(s, within) for s in one) for one in choices
        )

    def _are_told_apart(self, schemas: Sequence[Any]) -> bool:
        """Whether a property with another constant in each tells them apart, as in tagged unions.

        llguidance sees this only where the schemas are not behind references.
        """
        tags: list[dict[str, Any]] = []
        for schema in schemas:
            target = schema
            if isinstance(schema, Mapping) and set(schema) == {"$ref"}:
                target = self._target(schema["$ref"])
            if not isinstance(target, Mapping) or target.get("type") != "object":
                return False
            constants = {}
            for name in target.get("required", ()):
                one = target.get("properties", {}).get(name)
                if isinstance(one, Mapping) and ("const" in one or len(one.get("enum", ())) == 1):
                    constants[name] = json.dumps(one.get("const", one.get("enum", [None])[0]))
            tags.append(constants)
        return bool(tags) and any(
            all(name in t for t in tags) and len({t[name] for t in tags}) == len(tags)
            for name in tags[0]
        )

    def _check_ranges(self, at: str, rebuilt: Mapping[str, Any]) -> None:
        for kind in ("Items", "Length", "Properties"):
            low, high = rebuilt.get(f"min{kind}", 0), rebuilt.get(f"max{kind}", math.inf)
            if low > high:
                raise _wrong(f"{at}.min{kind}", low, f"it is more than max{kind}, {high}")
        low = max(rebuilt.get(k, -math.inf) for k in ("minimum", "exclusiveMinimum"))
        high = min(rebuilt.get(k, math.inf) for k in ("maximum", "exclusiveMaximum"))
        if low > high:
            name = "minimum" if rebuilt.get("minimum") == low else "exclusiveMinimum"
            raise _wrong(f"{at}.{name}", low, f"it is more than the maximum, {high}")
        if rebuilt.get("additionalProperties") is False and "patternProperties" not in rebuilt:
            known = rebuilt.get("properties", {})
            for missing in (n for n in rebuilt.get("required", ()) if n not in known):
                raise _wrong(f"{at}.required", missing, "properties does not have it")

    def _type(self, at: str, value: Any) -> Any:
        kinds = value if isinstance(value, list) else [value]
        if not kinds or not all(isinstance(k, str) and k in TYPES for k in kinds):
            raise _wrong(at, value, f"give one or more of {', '.join(TYPES)}")
        return list(dict.fromkeys(kinds)) if isinstance(value, list) else value

    def _enum(self, at: str, value: Any) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise _wrong(at, value, "give a list with at least one value")
        return list(value)

    def _list(self, at: str, value: Any) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise _wrong(at, value, "give a list with at least one schema")
        return [self.schema(f"{at}[{i}]", v) for i, v in enumerate(value)]

    def _by_name(self, at: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise _wrong(at, value, "give an object of schemas by name")
        return {str(name): self.schema(f"{at}.{name}", v) for name, v in value.items()}

    def _by_pattern(self, at: str, value: Any) -> dict[str, Any]:
        schemas = self._by_name(at, value)
        for pattern in schemas:
            self._pattern(f"{at}.{pattern}", pattern)
        return schemas

    def _names(self, at: str, value: Any) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise _wrong(at, value, "give a list of names")
        return list(dict.fromkeys(value))

    def _count(self, at: str, value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise _wrong(at, value, "give an integer of at least 0")
        return value

    def _number(self, at: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not _finite(value):
            raise _wrong(at, value, "give a number")
        return value

    def _positive(self, at: str, value: Any) -> float:
        if self._number(at, value) <= 0:
            raise _wrong(at, value, "give a number greater than 0")
        return value  # type: ignore[no-any-return]

    def _pattern(self, at: str, value: Any) -> str:
        if not isinstance(value, str):
            raise _wrong(at, value, "give a regular expression")
        if problem := self._is_regex(value):
            raise _wrong(at, value, f"not a regular expression that can be enforced: {problem}")
        return value

    def _format(self, at: str, value: Any) -> str | None:
        if not isinstance(value, str):
            raise _wrong(at, value, "give the name of a format, such as date-time")
        return value if value in FORMATS else None

    def _reference(self, at: str, value: Any) -> str:
        if not isinstance(value, str):
            raise _wrong(at, value, "give a string such as #/$defs/Item")
        if not value.startswith("#"):
            raise _wrong(at, value, "only references within the schema can be followed")
        if not isinstance(self._target(value), Mapping | bool):
            raise _wrong(at, value, "the schema has none there; refer to an entry of $defs")
        return value

    def _target(self, reference: str) -> Any:
        """What a reference such as ``#/$defs/Item`` points to; None if there is nothing."""
        node = self._root
        for part in reference[1:].split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~").replace("%24", "$")
            if isinstance(node, Mapping) and name in node:
                node = node[name]
            elif isinstance(node, list) and name.isdigit() and int(name) < len(node):
                node = node[int(name)]
            else:
                return None
        return node


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def _modern(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The same schema in the words of draft 2020-12."""
    new = dict(schema)
    if isinstance(new.get("items"), list):  # up to 2019-09
        new["prefixItems"] = new.pop("items")
        if "additionalItems" in new:
            new["items"] = new["additionalItems"]
    for bound, exclusive in (
        ("minimum", "exclusiveMinimum"),
        ("maximum", "exclusiveMaximum"),
    ):  # draft 4
        if isinstance(new.get(exclusive), bool) and new.pop(exclusive) and bound in new:
            new[exclusive] = new.pop(bound)
    if new.pop("nullable", False) is True and isinstance(new.get("type"), str):  # OpenAPI 3.0
        new["type"] = [new["type"], "null"]
    return new
