"""What a reply must be, and the columns that it becomes."""

from __future__ import annotations

import json
import typing
from collections.abc import Collection, Mapping
from enum import Enum
from itertools import islice
from typing import Any, Final, Protocol

import typing_extensions

from mlc_widget.api.errors import BadRequestError, MLCEngineError
from mlc_widget.api.request_values import JSONDict, bad, mapping, shortened

REPLY: Final = "reply"
"""The column of a reply that is one value, unless ``into`` names it."""

_COMBINED: Final = ("$ref", "allOf", "anyOf", "oneOf", "if", "unevaluatedProperties")
_SUBSCHEMAS: Final = ("items", "additionalProperties", "contains")
_MANY_SUBSCHEMAS: Final = ("properties", "$defs", "definitions", "patternProperties")


class ReplySchema(Protocol):
    """Turns the text of a reply into columns."""

    columns: Mapping[str, str | None]
    """For each new column, its type as JSON schema names it, if it has a single simple one."""
    response_format: JSONDict | None
    """What the engine enforces; None for text."""

    def read(self, text: str) -> dict[str, Any]:
        """The values of the columns.

        Raises:
            MLCEngineError: The text does not fit the schema.
        """


def read_schema(schema: Any, into: str | None) -> ReplySchema:
    """Check the arguments ``schema`` and ``into`` of a map.

    Raises:
        BadRequestError: One of them is wrong.
    """
    if into is not None and (not isinstance(into, str) or not into):
        raise bad("into", into, "give the name of a column.")
    if schema is None:
        return _Text(into or REPLY)
    if isinstance(schema, Mapping):
        return _JSONSchema(closed(mapping("schema", schema)), into)
    if isinstance(schema, list | tuple | set | frozenset):
        raise bad("schema", schema, f"for one of several labels, give {_literal(schema)}.")
    return _PythonType(schema, into)


def _literal(labels: Collection[Any]) -> str:
    """The type of these labels, or an example if there are none, as an error message shows it."""
    shown = [shortened(label) for label in islice(labels, 3)] or ["'yes'", "'no'"]
    return f"typing.Literal[{', '.join([*shown, *(['…'] if len(labels) > 3 else [])])}]"


def invalid_reply(text: str, problem: object) -> MLCEngineError:
    """The error of a reply that does not fit the schema."""
    return MLCEngineError(
        f"The reply {shortened(text)} does not fit the schema: {problem}", code="invalid_reply"
    )


class _Text:
    response_format: JSONDict | None = None

    def __init__(self, column: str) -> None:
        self._column = column
        self.columns: Mapping[str, str | None] = {column: "string"}

    def read(self, text: str) -> dict[str, Any]:
        return {self._column: text}


class _JSONSchema:
    def __init__(self, schema: JSONDict, into: str | None) -> None:
        self.response_format: JSONDict | None = _enforced(schema)
        top = _resolved(schema, schema)
        fields = _fields(top, schema) if into is None else None
        self._column = (into or REPLY) if fields is None else None
        self.columns: Mapping[str, str | None] = (
            {str(self._column): _kind(top, schema)} if fields is None else fields
        )

    def read(self, text: str) -> dict[str, Any]:
        value = _parsed(text)
        if self._column is not None:
            return {self._column: value}
        if not isinstance(value, dict):
            raise invalid_reply(text, "it is not an object.")
        return {name: value.get(name) for name in self.columns}


class _PythonType:
    """A type that pydantic knows, such as a model, a dataclass, a TypedDict or a Literal."""

    def __init__(self, schema: Any, into: str | None) -> None:
        from pydantic import TypeAdapter

        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(_typed_dict(schema))
            asked = self._adapter.json_schema()
            given = self._adapter.json_schema(mode="serialization", by_alias=False)
        except Exception as error:  # pydantic's errors have no common base but this
            raise BadRequestError(
                f"schema = {shortened(schema)}: {_first_line(error)}. Give a pydantic model, a "
                "dataclass, a TypedDict, a Literal of labels, another type that pydantic knows, or "
                "a JSON schema.",
                param="schema",
            ) from error
        self.response_format: JSONDict | None = _enforced(closed(asked))
        top = _resolved(given, given)
        fields = _fields(closed(top), given) if into is None else None
        self._column = (into or REPLY) if fields is None else None
        self.columns: Mapping[str, str | None] = (
            {str(self._column): _kind(top, given)} if fields is None else fields
        )

    def read(self, text: str) -> dict[str, Any]:
        from pydantic import ValidationError

        try:
            value = _simple(self._adapter.dump_python(self._adapter.validate_json(text)))
        except ValidationError as error:
            where = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors()[:3]
            )
            raise invalid_reply(text, where) from None
        if self._column is not None:
            return {self._column: value}
        return {name: value.get(name) for name in self.columns}


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


def _enforced(schema: JSONDict) -> JSONDict:
    return {"type": "json_schema", "json_schema": {"name": "row", "schema": schema}}


def _parsed(text: str) -> Any:
    try:
        value = json.loads(text)
        if "\\u" in text:  # half of a character, which no table can hold
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except ValueError as error:
        raise invalid_reply(text, error) from None
    except RecursionError:
        raise invalid_reply(text, "it is nested too deeply.") from None


def closed(schema: Any) -> Any:
    """A schema whose objects have the properties that it names, and no others.

    An object that says itself what others it may have (``additionalProperties`` and the like), or
    that is combined of several schemas, stays as it is.
    """
    if not isinstance(schema, Mapping):
        return schema
    made = dict(schema)
    for key in _SUBSCHEMAS:
        if key in made:
            made[key] = closed(made[key])
    for key in _MANY_SUBSCHEMAS:
        if isinstance(made.get(key), Mapping):
            made[key] = {name: closed(inner) for name, inner in made[key].items()}
    for key in ("anyOf", "oneOf", "prefixItems"):
        if isinstance(made.get(key), list):
            made[key] = [closed(inner) for inner in made[key]]
    says = ("additionalProperties", "patternProperties", *_COMBINED)
    if isinstance(made.get("properties"), Mapping) and not any(key in made for key in says):
        made["additionalProperties"] = False
    return made


def _resolved(schema: Any, root: JSONDict) -> JSONDict:
    """What a schema is after its references within the document, if that can be told."""
    for _ in range(8):
        if not isinstance(schema, Mapping):
            return {}
        reference = schema.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return dict(schema)
        schema = root
        for part in reference[2:].split("/"):
            schema = schema.get(part) if isinstance(schema, Mapping) else None
    return {}


def _fields(top: JSONDict, root: JSONDict) -> dict[str, str | None] | None:
    """The columns of an object's properties; None if it is no object, or may have others."""
    properties = top.get("properties")
    if top.get("type") != "object" or not isinstance(properties, Mapping) or not properties:
        return None
    if top.get("additionalProperties") is not False:
        return None
    return {str(name): _kind(inner, root) for name, inner in properties.items()}


def _kind(schema: Any, root: JSONDict) -> str | None:
    schema = _resolved(schema, root)
    options = schema.get("anyOf")
    if isinstance(options, list):  # pydantic's way to write `str | None`
        kinds = {_kind(option, root) for option in options if option != {"type": "null"}}
        return kinds.pop() if len(kinds) == 1 else None
    kind = schema.get("type")
    if isinstance(kind, list):
        rest = [one for one in kind if one != "null"]
        kind = rest[0] if len(rest) == 1 else None
    if kind is None and isinstance(values := schema.get("enum"), list) and values:
        kind = "string" if all(isinstance(value, str) for value in values) else None
    return kind if kind in ("string", "integer", "number", "boolean") else None


def _simple(value: Any) -> Any:
    """A value with enum members as their values, and sets as lists."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {key: _simple(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_simple(inner) for inner in value]
    return value


def _typed_dict(schema: Any) -> Any:
    """A TypedDict of `typing` as one of typing_extensions, which pydantic asks for before 3.12."""
    if not typing.is_typeddict(schema):
        return schema
    hints = typing_extensions.get_type_hints(schema, include_extras=True)
    optional: frozenset[str] = getattr(schema, "__optional_keys__", frozenset())
    fields = {}
    for name, hint in hints.items():
        origin: Any = typing_extensions.get_origin(hint)
        marked = origin in (typing_extensions.Required, typing_extensions.NotRequired)
        wrap = name in optional and not marked
        fields[name] = typing_extensions.NotRequired[hint] if wrap else hint
    return typing_extensions.TypedDict(schema.__name__, fields)  # type: ignore[operator]
