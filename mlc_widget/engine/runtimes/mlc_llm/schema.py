"""Structured output: translates OpenAI's and WebLLM's `response_format` to mlc_llm's.

A schema that mlc_llm's grammar compiler cannot handle ends its thread, and with it every request.
So a schema is rebuilt from the keywords that are known to be safe and to be enforced. Annotations
are left out; any other keyword is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError, UnsupportedFieldError

_ANNOTATIONS: Final = frozenset(
    {"$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated"}
)
_TYPES: Final = ("object", "array", "string", "number", "integer", "boolean", "null")
_DEFINITIONS: Final = ("$defs", "definitions")
_OF_TYPE: Final[Mapping[str, tuple[str, ...]]] = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
}
_LOOKS: Final = 20_000
"""The number of subschemas that are visited at most, counted each time a reference leads there."""
_ANY_OBJECT: Final = {"type": "object", "additionalProperties": True}


def response_format(wanted: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Translate a checked `response_format`; None stands for plain text.

    Raises:
        UnsupportedFieldError: mlc_llm does not enforce this type or a keyword of the schema.
        BadRequestError: The schema is malformed.
    """
    kind = "text" if wanted is None else wanted.get("type", "text")
    if wanted is None or kind == "text":
        return None
    if kind == "json_schema":
        outer = wanted.get("json_schema")
        if not isinstance(outer, Mapping) or "schema" not in outer:
            raise BadRequestError(
                "response_format.json_schema.schema: give the schema.",
                param="response_format.json_schema.schema",
            )
        at, schema = "response_format.json_schema.schema", outer["schema"]
    elif kind == "json_object":
        at, schema = "response_format.schema", wanted.get("schema")
        if schema is None:  # mlc_llm's own JSON grammar is not enforced reliably
            schema = _ANY_OBJECT
    else:
        raise UnsupportedFieldError(
            f"response_format.type = {kind!r}: the mlc_llm runtime supports JSON schemas only; "
            'give {"type": "json_schema", "json_schema": {"name": …, "schema": …}}.',
            param="response_format.type",
        )
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except ValueError as error:
            raise BadRequestError(f"{at}: not valid JSON ({error}).", param=at) from None
    return {"type": "json_object", "schema": json.dumps(_Rebuild(schema, at).root())}


class _Rebuild:
    """One schema, copied keyword by keyword."""

    def __init__(self, schema: Any, at: str) -> None:
        self._schema = schema
        self._at = at
        self._looked = 0
        self._keywords: dict[str, Callable[[str, Any], Any]] = {
            "type": self._type,
            "enum": self._enum,
            "const": lambda _, value: value,
            "properties": self._schemas_by_name,
            "required": self._names,
            "additionalProperties": self._boolean_or_schema,
            "items": self._boolean_or_schema,
            "prefixItems": self._schemas,
            "minItems": self._count,
            "maxItems": self._count,
            "anyOf": self._schemas,
            "oneOf": self._schemas,
            "$ref": self._reference,
        }

    def root(self) -> Any:
        if not isinstance(self._schema, Mapping):
            raise self._wrong(self._at, self._schema, "give a schema object")
        definitions = {name: self._schema[name] for name in _DEFINITIONS if name in self._schema}
        rest = {k: v for k, v in self._schema.items() if k not in definitions}
        self._refuse_recursion(rest, ())
        rebuilt = self._one(self._at, rest)
        if not rebuilt:  # mlc_llm crashes on a root without keywords, so any object is asked for
            rebuilt = dict(_ANY_OBJECT)
        for name, value in definitions.items():
            rebuilt[name] = self._schemas_by_name(f"{self._at}.{name}", value)
        return rebuilt

    def _wrong(self, at: str, value: Any, remedy: str) -> BadRequestError:
        return BadRequestError(f"{at} = {value!r:.120}: {remedy}.", param=at)

    def _one(self, at: str, schema: Any) -> dict[str, Any]:
        if schema is True:
            return {}
        if not isinstance(schema, Mapping):
            raise self._wrong(at, schema, "give a schema object")
        rebuilt = {}
        for name, value in schema.items():
            if name in _ANNOTATIONS:
                continue
            if name not in self._keywords:
                raise UnsupportedFieldError(
                    f"{at}.{name} = {value!r:.120}: the mlc_llm runtime cannot enforce this "
                    f"keyword; it supports {', '.join(self._keywords)}.",
                    param=f"{at}.{name}",
                )
            rebuilt[name] = self._keywords[name](f"{at}.{name}", value)
        rebuilt = self._one_type(at, rebuilt)
        self._check_choice(at, rebuilt)
        missing = [n for n in rebuilt.get("required", ()) if n not in rebuilt.get("properties", {})]
        if missing:
            raise self._wrong(f"{at}.required", missing, "describe these in properties")
        if rebuilt.get("minItems", 0) > rebuilt.get("maxItems", 2**31):
            raise self._wrong(f"{at}.minItems", rebuilt["minItems"], "it must not exceed maxItems")
        return rebuilt

    def _one_type(self, at: str, schema: dict[str, Any]) -> dict[str, Any]:
        """Replace a list of types, on which mlc_llm crashes, by one schema for each type."""
        kinds = schema.get("type")
        if not isinstance(kinds, list):
            return schema
        rest = {k: v for k, v in schema.items() if k != "type"}
        if "enum" in rest or "const" in rest:
            values = rest.pop("enum", None) or [rest.pop("const")]
            fitting = [v for v in values if any(_is_of(kind, v) for kind in kinds)]
            if not fitting or rest:
                raise self._wrong(f"{at}.type", kinds, "leave it out beside enum and const")
            return {"enum": fitting}
        if len(kinds) == 1:
            return {"type": kinds[0], **rest}
        if found := rest.keys() & {"anyOf", "oneOf", "$ref"}:
            raise UnsupportedFieldError(
                f"{at}.type = {kinds!r}: the mlc_llm runtime cannot enforce several types together "
                f"with {min(found)}; give one type.",
                param=f"{at}.type",
            )
        own = {kind: [k for k in rest if k in _OF_TYPE.get(kind, ())] for kind in kinds}
        return {"anyOf": [{"type": kind, **{k: rest[k] for k in own[kind]}} for kind in kinds]}

    def _check_choice(self, at: str, schema: dict[str, Any]) -> None:
        """Turn a oneOf of constants into an enum; mlc_llm does not enforce numbers in a oneOf."""
        branches = schema.get("oneOf", ())
        constants = [b.get("enum", [b["const"]] if "const" in b else []) for b in branches]
        if branches and all(c and len(b) == 1 for c, b in zip(constants, branches, strict=True)):
            values = [v for one in constants for v in one]
            alone = [v for v in values if sum(w == v and type(w) is type(v) for w in values) == 1]
            if not alone or len(schema) > 1:
                raise self._wrong(f"{at}.oneOf", branches, "give constants that differ")
            del schema["oneOf"]
            schema["enum"] = alone
            return
        for i, values in enumerate(constants):
            numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
            if numbers:
                raise UnsupportedFieldError(
                    f"{at}.oneOf[{i}] = {numbers[0]!r}: the mlc_llm runtime cannot enforce a "
                    "number in oneOf; use anyOf or enum.",
                    param=f"{at}.oneOf[{i}]",
                )

    def _refuse_recursion(self, schema: Any, within: tuple[str, ...]) -> None:
        """Refuse a recursive schema, in which mlc_llm's compiler would recurse endlessly."""
        self._looked += 1
        if self._looked > _LOOKS:
            raise self._wrong(self._at, "…", "it is too large; make it smaller")
        values: Any = schema.values() if isinstance(schema, Mapping) else schema
        reference = schema.get("$ref") if isinstance(schema, Mapping) else None
        if isinstance(reference, str):
            if reference in within:
                raise UnsupportedFieldError(
                    f"{self._at}: {reference!r} is recursive, which the mlc_llm runtime does not "
                    "support; write out as many levels as are needed.",
                    param=self._at,
                )
            *_, section, name = ["", *reference.split("/")]
            target = self._schema.get(section)
            if isinstance(target, Mapping):
                self._refuse_recursion(target.get(name), (*within, reference))
        if isinstance(values, str) or not isinstance(schema, Mapping | list):
            return
        for value in values:
            self._refuse_recursion(value, within)

    def _type(self, at: str, value: Any) -> Any:
        kinds = value if isinstance(value, list) else [value]
        if not kinds or not all(isinstance(k, str) and k in _TYPES for k in kinds):
            raise self._wrong(at, value, f"give one or more of {', '.join(_TYPES)}")
        return list(dict.fromkeys(kinds)) if isinstance(value, list) else value

    def _enum(self, at: str, value: Any) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise self._wrong(at, value, "give a list that is not empty")
        return list(value)

    def _names(self, at: str, value: Any) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self._wrong(at, value, "give a list of names")
        return list(value)

    def _count(self, at: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise self._wrong(at, value, "give an integer of at least 0")
        return value

    def _schemas(self, at: str, value: Any) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise self._wrong(at, value, "give a list of schemas")
        return [self._one(f"{at}[{i}]", v) for i, v in enumerate(value)]

    def _schemas_by_name(self, at: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise self._wrong(at, value, "give an object of schemas")
        return {str(k): self._one(f"{at}.{k}", v) for k, v in value.items()}

    def _boolean_or_schema(self, at: str, value: Any) -> Any:
        return value if isinstance(value, bool) else self._one(at, value)

    def _reference(self, at: str, value: Any) -> str:
        parts = value.split("/") if isinstance(value, str) else []
        known = len(parts) == 3 and parts[0] == "#" and parts[1] in _DEFINITIONS
        defined = self._schema.get(parts[1]) if known else None
        if not isinstance(defined, Mapping) or parts[2] not in defined:
            raise self._wrong(at, value, "refer to an entry of $defs, such as #/$defs/Item")
        return str(value)


def _is_of(kind: str, value: Any) -> bool:
    """Whether a value has one of JSON Schema's types."""
    if isinstance(value, bool) or value is None:
        return kind == ("null" if value is None else "boolean")
    if isinstance(value, int | float):
        return kind == "number" or (kind == "integer" and float(value).is_integer())
    kinds = ((str, "string"), (list, "array"), (Mapping, "object"))
    return any(isinstance(value, python) and kind == name for python, name in kinds)
