"""Checks JSON schemas keyword by keyword, and rewrites them to the form that a grammar can enforce.

The keywords are those of JSON Schema's draft 2020-12; forms of earlier drafts (tuples in `items`, a
boolean `exclusiveMinimum`) are rewritten. Annotations and unknown keywords are ignored, as the
specification allows. A keyword that cannot be enforced is refused, since an answer that may not
match the schema would be worse than none. `schema.compiler` writes the grammar.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError, UnsupportedFieldError
from mlc_widget.engine.schema.complement import Complements, NoComplementError
from mlc_widget.engine.schema.dialects import modern
from mlc_widget.engine.schema.json_values import problem_of_value, shown, size_of
from mlc_widget.engine.schema.lark import TOO_MANY, TooCostlyError, too_costly
from mlc_widget.engine.schema.located import LocatedSchema, located
from mlc_widget.engine.schema.numbers import Range
from mlc_widget.engine.schema.references import References, leads_back

TYPES: Final = ("object", "array", "string", "number", "integer", "boolean", "null")
FORMATS: Final = frozenset(
    {
        "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri",
    }
)  # fmt: skip
"""The formats of strings that are enforced; any other is an annotation."""

_UNENFORCEABLE: Final = {
    "unevaluatedItems": "use items: false",
    "unevaluatedProperties": "use additionalProperties: false",
}
_HARMLESS: Final[Mapping[str, Any]] = {
    "unevaluatedItems": True,
    "unevaluatedProperties": True,
}
"""Values with which a keyword that cannot be enforced has no effect."""
_DEPTH: Final = 100
"""The maximum depth of a schema."""
_SUBSCHEMAS: Final = 50_000
"""The maximum number of subschemas; Python's objects may be contained in each other many times."""
_CONSTANT_BYTES: Final = 64 * 1024
_ENUM_BYTES: Final = 128 * 1024
_REWRITTEN: Final = (
    "not", "dependencies", "dependentRequired", "dependentSchemas", "$dynamicRef", "$recursiveRef",
)  # fmt: skip
"""Keywords that are rewritten as an allOf."""
_LENGTH: Final = 65_536
"""The maximum number of characters, items or properties that a schema may ask for."""
_PATTERN: Final = 16_384
"""The maximum number of characters of a regular expression."""
_LOOKS_AROUND: Final = re.compile(r"\(\?(?:[=!]|<[=!])|\\[1-9]|\\k<")


def check_schema(schema: Any, at: str, *, is_regex: Callable[[str], str]) -> Any:
    """Bring a schema into the form that `schema.compiler` takes, with all references to ``$defs``.

    Args:
        schema: The schema, or its JSON text.
        at: The field of the request that has the schema, for error messages.
        is_regex: Says what is wrong with a regular expression; "" if nothing.

    Raises:
        BadRequestError: It is malformed; `param` names the keyword by its path.
        UnsupportedFieldError: A keyword cannot be enforced.
    """
    if isinstance(schema, str):
        schema = read_json(schema, at)
    if not isinstance(schema, Mapping | bool):
        raise _wrong(at, schema, "give a schema: an object, or true")
    checker = _Checker(schema, at, is_regex)
    try:
        checked = checker.schema(at, schema)
        definitions = checker.definitions()
    except (TooCostlyError, RecursionError) as error:
        raise too_costly(checker.path, error) from None
    if definitions:
        if isinstance(checked, bool):
            return checked
        checked["$defs"] = definitions
    return checked


def read_json(text: str, at: str) -> Any:
    """Parse a JSON text in a request.

    Raises:
        BadRequestError: It is not valid JSON; `param` is the field.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"{at}: not valid JSON ({error}).", param=at) from None


def _wrong(at: str, value: Any, remedy: str) -> BadRequestError:
    return BadRequestError(f"{at} = {shown(value)}: {remedy}.", param=at)


class _Checker:
    """Rebuilds a schema from the keywords that can be enforced."""

    def __init__(self, root: Any, at: str, is_regex: Callable[[str], str]) -> None:
        self._references = References(root, at)
        self._complements = Complements()
        self._is_regex = is_regex
        self._depth = self._visited = 0
        self._here: Any = root
        self.path = at
        self._keywords: dict[str, Callable[[str, Any], Any]] = {
            "type": self._type,
            "enum": self._enum,
            "const": self._constant,
            "anyOf": self._list,
            "oneOf": self._list,
            "allOf": self._list,
            "$ref": self._reference,
            "$dynamicRef": self._dynamic_reference,
            "$recursiveRef": self._recursive_reference,
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
            "not": self._not,
            "if": self.schema,
            "then": self.schema,
            "else": self.schema,
            "uniqueItems": self._boolean,
            "contains": self.schema,
            "minContains": self._count,
            "maxContains": self._count,
            "propertyNames": self._property_names,
            "dependencies": self._dependencies,
            "dependentRequired": self._dependencies,
            "dependentSchemas": self._dependencies,
        }

    def schema(self, at: str, schema: Any) -> Any:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, Mapping):
            raise _wrong(at, schema, "give a schema: an object, true or false")
        if self._depth >= _DEPTH:
            raise BadRequestError(
                f"{at[:200]}…: the schema has more than {_DEPTH} levels; use fewer.", param=at[:200]
            )
        self._visited += 1
        if self._visited > _SUBSCHEMAS:
            raise TooCostlyError(TOO_MANY)
        self._depth += 1
        try:
            return self._rebuilt(at, schema)
        finally:
            self._depth -= 1

    def definitions(self) -> dict[str, Any]:
        """The targets of all references, by their names in the rebuilt schema."""
        made: dict[str, Any] = {}
        for name, at, target in self._references.followed():
            made[name] = self.schema(at, target)
        for name, at, _ in self._references.followed():
            if leads_back(name, made):
                raise BadRequestError(
                    f"{at}: it leads back to itself with no property or item in between; refer to "
                    "another schema.",
                    param=at,
                )
        return made

    def _rebuilt(self, at: str, schema: Mapping[str, Any]) -> LocatedSchema:
        rebuilt = LocatedSchema(at)
        for name, value in modern(schema).items():
            if name in _UNENFORCEABLE and not _is_harmless(name, value):
                raise UnsupportedFieldError(
                    f"{at}.{name} = {shown(value)}: this keyword cannot be enforced; "
                    f"{_UNENFORCEABLE[name]}.",
                    param=f"{at}.{name}",
                )
            check = self._keywords.get(name)
            self._here, self.path = schema, at
            if check is not None:
                rebuilt[name] = check(f"{at}.{name}", value)
        for name in ("$defs", "definitions"):  # checked here, and kept if they are referred to
            rebuilt.pop(name, None)
        for name in _REWRITTEN:
            if name in rebuilt:
                rebuilt.setdefault("allOf", []).extend(rebuilt.pop(name))
        if conditions := self._conditions(at, rebuilt):
            rebuilt.setdefault("allOf", []).extend(conditions)
        if rebuilt.get("format", ...) is None:
            del rebuilt["format"]
        self._check_ranges(at, rebuilt)
        return rebuilt

    def _check_ranges(self, at: str, rebuilt: LocatedSchema) -> None:
        for kind in ("Items", "Length", "Properties"):
            low, high = rebuilt.get(f"min{kind}", 0), rebuilt.get(f"max{kind}", math.inf)
            if low > high:
                raise _wrong(f"{at}.min{kind}", low, f"it is more than max{kind}, {high}")
        _check_numbers(at, rebuilt)
        if rebuilt.get("additionalProperties") is False and "patternProperties" not in rebuilt:
            known = rebuilt.get("properties", {})
            missing = [n for n in rebuilt.get("required", ()) if n not in known]
            if missing:
                rebuilt.problem = _wrong(
                    f"{at}.required", missing[0], "properties has no such entry"
                )

    def _type(self, at: str, value: Any) -> Any:
        kinds = value if isinstance(value, list) else [value]
        if not kinds or not all(isinstance(k, str) and k in TYPES for k in kinds):
            raise _wrong(at, value, f"give one or more of {', '.join(TYPES)}")
        return list(dict.fromkeys(kinds)) if isinstance(value, list) else value

    def _enum(self, at: str, value: Any) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise _wrong(at, value, "give a list with at least one value")
        for i, one in enumerate(value):
            if problem := problem_of_value(one):
                raise _wrong(f"{at}[{i}]", one, problem)
        if size_of(value) > _ENUM_BYTES:
            raise _wrong(at, value, f"give at most {_ENUM_BYTES} bytes of JSON")
        return list(value)

    def _constant(self, at: str, value: Any) -> Any:
        problem = problem_of_value(value)
        if not problem and size_of(value) > _CONSTANT_BYTES:
            problem = f"give at most {_CONSTANT_BYTES} bytes of JSON"
        if problem:
            raise _wrong(at, value, problem)
        return value

    def _list(self, at: str, value: Any) -> list[Any]:
        if not isinstance(value, list) or not value:
            raise _wrong(at, value, "give a list with at least one schema")
        return [self.schema(f"{at}[{i}]", v) for i, v in enumerate(value)]

    def _by_name(self, at: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise _wrong(at, value, "give an object of schemas by name")
        self._check_texts(at, value)
        return {str(name): self.schema(f"{at}.{name}", v) for name, v in value.items()}

    @staticmethod
    def _check_texts(at: str, names: Iterable[Any]) -> None:
        for name in names:
            if isinstance(name, str) and problem_of_value(name):
                raise _wrong(at, name, "this is not Unicode text")

    def _by_pattern(self, at: str, value: Any) -> dict[str, Any]:
        schemas = self._by_name(at, value)
        for pattern in schemas:
            self._pattern(f"{at}.{pattern}", pattern)
        return schemas

    def _names(self, at: str, value: Any) -> list[str]:
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise _wrong(at, value, "give a list of names")
        self._check_texts(at, value)
        return list(dict.fromkeys(value))

    def _count(self, at: str, value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise _wrong(at, value, "give an integer of at least 0")
        if value > _LENGTH and ".min" in at:
            raise _wrong(at, value, f"no answer is that long; give at most {_LENGTH}")
        return min(value, _LENGTH)

    def _boolean(self, at: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise _wrong(at, value, "give true or false")
        return value

    def _number(self, at: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong(at, value, "give a number")
        if problem := problem_of_value(value):
            raise _wrong(at, value, problem)
        return value

    def _positive(self, at: str, value: Any) -> float:
        if self._number(at, value) <= 0:
            raise _wrong(at, value, "give a number greater than 0")
        return value  # type: ignore[no-any-return]

    def _pattern(self, at: str, value: Any) -> str:
        if not isinstance(value, str):
            raise _wrong(at, value, "give a regular expression")
        self._check_texts(at, [value])
        if len(value) > _PATTERN:
            raise _wrong(at, value, f"give at most {_PATTERN} characters")
        if problem := self._is_regex(value):
            message = f"{at} = {value!r:.120}: it cannot be enforced: {problem}."
            if _LOOKS_AROUND.search(value):
                raise UnsupportedFieldError(message, param=at)
            raise BadRequestError(message, param=at)
        return value

    def _format(self, at: str, value: Any) -> str | None:
        if not isinstance(value, str):
            raise _wrong(at, value, "give the name of a format, such as date-time")
        return value if value in FORMATS else None

    def _not(self, at: str, value: Any) -> list[Any]:
        return [self._opposite(at, self.schema(at, value))]

    def _conditions(self, at: str, rebuilt: dict[str, Any]) -> list[Any]:
        """Rewrite if, then and else as a choice."""
        is_there = "if" in rebuilt
        wanted, then, otherwise = (rebuilt.pop(k, True) for k in ("if", "then", "else"))
        if not is_there or (then is True and otherwise is True):
            return []
        opposite = self._opposite(f"{at}.if", wanted)
        return [{"anyOf": [{"allOf": [wanted, then]}, {"allOf": [opposite, otherwise]}]}]

    def _opposite(self, at: str, schema: Any) -> Any:
        """A schema of what does not fit another."""
        try:
            return self._complements.of(schema, at=at)
        except NoComplementError as error:
            raise error.at(at) from None

    def _property_names(self, at: str, value: Any) -> Any:
        checked = self.schema(at, value)
        for _ in range(_DEPTH):
            if not isinstance(checked, Mapping) or set(checked) != {"$ref"}:
                break
            checked = self.schema(at, self._references.target(checked["$ref"]))
        if isinstance(checked, bool):
            return checked
        known = {"type", "pattern", "enum", "const", "minLength", "maxLength"}
        if set(checked) - known or checked.get("type", "string") != "string":
            raise UnsupportedFieldError(
                f"{at} = {shown(value)}: only pattern, enum, minLength and maxLength can be "
                "enforced here; use patternProperties.",
                param=at,
            )
        return checked

    def _dependencies(self, at: str, value: Any) -> list[Any]:
        """Rewrite each condition as a choice: the property is absent, or its schema matches."""
        if not isinstance(value, Mapping):
            raise _wrong(at, value, "give an object of names or schemas by name")
        self._check_texts(at, value)
        made: list[Any] = []
        for name, wanted in value.items():
            absent = {"properties": {str(name): False}}
            if isinstance(wanted, list):
                names = self._names(f"{at}.{name}", wanted)
                if names:
                    made.append({"anyOf": [absent, {"required": names}]})
            else:
                made.append({"anyOf": [absent, self.schema(f"{at}.{name}", wanted)]})
        return made

    def _reference(self, at: str, value: Any) -> str:
        return self._references.follow(at, _text_of_reference(at, value), self._here)

    def _dynamic_reference(self, at: str, value: Any) -> list[Any]:
        text = _text_of_reference(at, value)
        return [located({"$ref": self._references.follow_dynamic(at, text, self._here)}, at)]

    def _recursive_reference(self, at: str, value: Any) -> list[Any]:
        text = _text_of_reference(at, value)
        return [located({"$ref": self._references.follow_recursive(at, text, self._here)}, at)]


def _text_of_reference(at: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(at, value, "give a string such as #/$defs/Item")
    return value


def _is_harmless(name: str, value: Any) -> bool:
    return bool(value == _HARMLESS.get(name, ...))


def _check_numbers(at: str, rebuilt: Mapping[str, Any]) -> None:
    """Refuse bounds that no number satisfies; the error names one of them."""
    bounds = {"minimum": "low", "maximum": "high", "exclusiveMinimum": "above",
              "exclusiveMaximum": "below"}  # fmt: skip
    given = {field: rebuilt[name] for name, field in bounds.items() if name in rebuilt}
    kinds = rebuilt.get("type", "number")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not given or not {"number", "integer"} & set(kinds):
        return
    if Range(**given, integer="number" not in kinds).pattern() is not None:
        return
    lower = [n for n in ("exclusiveMinimum", "minimum") if n in rebuilt]
    upper = [n for n in ("exclusiveMaximum", "maximum") if n in rebuilt]
    name = max(lower, key=lambda n: rebuilt[n]) if lower else upper[0]
    others = ", ".join(f"{n} = {shown(rebuilt[n])}" for n in lower + upper if n != name)
    kind = "number" if "number" in kinds else "integer"
    raise _wrong(f"{at}.{name}", rebuilt[name], f"no {kind} satisfies it together with {others}")
