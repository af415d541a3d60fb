"""Schemas that nobody means well with: each compiles, or is refused in one clear sentence."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from typing import Any

KEYWORDS = [
    "type",
    "enum",
    "const",
    "anyOf",
    "oneOf",
    "allOf",
    "not",
    "if",
    "then",
    "else",
    "$ref",
    "$defs",
    "$id",
    "$anchor",
    "$dynamicRef",
    "properties",
    "patternProperties",
    "additionalProperties",
    "propertyNames",
    "required",
    "minProperties",
    "maxProperties",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "items",
    "prefixItems",
    "contains",
    "minContains",
    "maxContains",
    "minItems",
    "maxItems",
    "uniqueItems",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "unevaluatedItems",
    "unevaluatedProperties",
    "nullable",
    "$schema",
    "$recursiveRef",
]
WRONG: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1.5,
    10**400,
    -(10**400),
    1e308,
    5e-324,
    math.nan,
    math.inf,
    -math.inf,
    "",
    "x",
    "\ud800",
    "\x00",
    "#",
    "#/",
    "//",
    "(",
    [],
    [None],
    [[]],
    {},
    {"": {}},
    {"a": 5},
    {"\ud800": {}},
    {"🙂": False},
    {1: {}},
    b"x",
    object(),
]
PATTERNS = [
    "^(a+)+$",
    "^(a|a)*b$",
    "(x+x+)+y",
    "^(([a-z])+.)+[A-Z]([a-z])+$",
    "(a?){40}a{40}",
    "a{1,60000}",
    "((a{0,50}){0,50}){0,50}",
    "[" * 500,
    "(" * 900 + ")" * 900,
    "a|" * 4000,
    "(?=a)b",
    r"(a)\1",
    r"\p{L}+",
    "^$",
    "$^",
    "a^b",
    "\x00",
    "\ud800",
    "[^\\s\\S]",
    "^.{65000}$",
    "(?P<n>a)(?P=n)",
    "^(?:[\\w.]+,?)+$",
    "(" + "|".join(f"w{i}x*" for i in range(1500)) + ")",
    "[a-z]{3,900}q$",
]
BOUNDS: list[Any] = [
    0,
    -0.0,
    1,
    -1,
    2**53 + 1,
    2**63,
    -(2**63),
    2**64 - 1,
    10**299,
    -(10**299),
    1e-300,
    1.01,
    0.1,
    5e-324,
    1e308,
    10**20,
    0.30000000000000004,
    65_536,
    65_537,
    10**9,
]


class Maker:
    """Makes schemas."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.kinds: list[Callable[[], Any]] = [
            self.wrong_type,
            self.deep,
            self.wide,
            self.numbers,
            self.patterns,
            self.cycle,
            self.names,
            self.enum,
            self.contradiction,
            self.booleans,
            self.product,
            self.counts,
            self.unique,
            self.mixture,
            self.references,
            self.text,
        ]

    def schema(self, number: int) -> tuple[str, Any]:
        """The kind and the schema; every kind comes in turn."""
        kind = self.kinds[number % len(self.kinds)]
        return kind.__name__, kind()

    def _of(self, *values: Any) -> Any:
        return self.random.choice(values)

    def _small(self) -> Any:
        return self._of(
            {"type": "string"},
            {"type": "integer"},
            {"const": self.random.randrange(9)},
            True,
            {"type": "object", "required": ["a"], "properties": {"a": {"type": "null"}}},
            {"type": ["string", "null"], "maxLength": 3},
            {"enum": ["a", 1, None]},
        )

    def wrong_type(self) -> Any:
        schema = {self.random.choice(KEYWORDS): self.random.choice(WRONG) for _ in range(2)}
        return self._of(schema, {"type": "object", "properties": {"a": schema}}, {"items": schema})

    def deep(self) -> Any:
        levels = self._of(30, 90, 99, 101, 400, 3000)
        wrap = self._of(
            lambda s: {"type": "array", "items": s},
            lambda s: {"properties": {"a": s}, "required": ["a"]},
            lambda s: {"anyOf": [s, {"type": "null"}]},
            lambda s: {"allOf": [s]},
            lambda s: {"oneOf": [s, {"type": "array", "items": s}]},
            lambda s: {"not": s},
            lambda s: {"if": s, "then": s, "else": {"type": "null"}},
            lambda s: {"dependentSchemas": {"a": s}},
        )
        schema: Any = {"type": "integer"}
        for _ in range(levels):
            schema = wrap(schema)
        return schema

    def wide(self) -> Any:
        n = self._of(100, 1000, 5000)
        many = {f"p{i}": self._small() for i in range(n)}
        return self._of(
            {"type": "object", "properties": many},
            {"type": "object", "properties": many, "required": list(many)},
            {"type": "object", "properties": many, "minProperties": n // 2},
            {"anyOf": list(many.values())},
            {"oneOf": [{"const": i} for i in range(n)]},
            {"allOf": list(many.values())},
            {"type": "array", "prefixItems": list(many.values())},
            {"type": "object", "patternProperties": {f"^p{i}": True for i in range(n)}},
            {"$defs": many, "anyOf": [{"$ref": f"#/$defs/{k}"} for k in many]},
        )

    def numbers(self) -> Any:
        names = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]
        bounds = {n: self.random.choice(BOUNDS) for n in self.random.sample(names, 3)}
        return {"type": self._of("number", "integer", ["number", "null"]), **bounds}

    def patterns(self) -> Any:
        first, second = self.random.choices(PATTERNS, k=2)
        return self._of(
            {"type": "string", "pattern": first},
            {"type": "string", "pattern": first, "maxLength": 40, "minLength": 20},
            {"allOf": [{"type": "string", "pattern": first}, {"pattern": second}]},
            {
                "type": "object",
                "patternProperties": {first: True, second: {"type": "null"}},
                "additionalProperties": False,
                "minProperties": 3,
            },
            {"propertyNames": {"pattern": first}},
            {"type": "string", "not": {"pattern": first}},
            {
                "oneOf": [
                    {"type": "string", "pattern": first},
                    {"type": "string", "pattern": second},
                ]
            },
            {"type": "array", "items": {"type": "string", "pattern": first}, "uniqueItems": True},
        )

    def cycle(self) -> Any:
        n = self._of(1, 2, 50)
        keys = [f"a{i}" for i in range(n)]
        link = self._of(
            lambda r: r,
            lambda r: {"allOf": [r, {"type": "object"}]},
            lambda r: {"anyOf": [r, r]},
            lambda r: {"not": r},
            lambda r: {"properties": {"x": r}, "required": ["x"]},
            lambda r: {"items": r, "minItems": 1, "type": "array"},
            lambda r: {"oneOf": [{"type": "null"}, {"items": r, "type": "array"}]},
            lambda r: {"if": r, "then": r},
            lambda r: {"additionalProperties": r, "minProperties": 1, "type": "object"},
            lambda r: {"items": r, "uniqueItems": True, "type": "array"},
        )
        parts = {k: link({"$ref": f"#/$defs/{keys[(i + 1) % n]}"}) for i, k in enumerate(keys)}
        return {"$ref": "#/$defs/a0", "$defs": parts}

    def names(self) -> Any:
        odd = [
            "",
            " ",
            "\x00",
            "🙂",
            "é",
            "e\u0301",
            "\u202e",
            '"',
            "\\",
            "a\nb",
            "$ref",
            "__proto__",
            "x" * 5000,
            "\u2028",
            "a/b",
            "%41",
            "~1",
            "\ud800",
        ]
        some = {self.random.choice(odd): self._small() for _ in range(4)}
        return {
            "type": "object",
            "properties": some,
            "required": list(some)[:2],
            "additionalProperties": self._of(True, False, {"type": "null"}),
        }

    def enum(self) -> Any:
        n = self._of(10, 3000, 40_000)
        value = self._of(
            lambda i: i,
            lambda i: f"w{i}",
            lambda i: [i] * 5,
            lambda i: {"a": {"b": i}},
            lambda i: i * 10**30,
            lambda i: i / 7,
            lambda i: "🙂" * (i % 50),
        )
        values = [value(i) for i in range(n)]
        return self._of(
            {"enum": values},
            {"not": {"enum": values}},
            {"const": values},
            {"enum": values, "type": "string", "pattern": "1$"},
            {"oneOf": [{"enum": values}, {"type": ["string", "number"]}]},
        )

    def contradiction(self) -> Any:
        a, b = self._small(), self._small()
        return self._of(
            {"allOf": [a, b, {"not": a}]},
            {"type": "string", "minLength": 5, "maxLength": 4},
            {"minItems": 3, "maxItems": 2},
            {"type": "object", "required": ["a"], "properties": {"a": False}},
            {"oneOf": [a, a]},
            {"oneOf": [True, True]},
            {"const": 1, "enum": [2]},
            {"not": {"not": False}},
            {"type": "array", "contains": False},
            {"type": "array", "contains": a, "items": {"not": a}},
            {"minContains": 5, "maxContains": 2, "contains": True, "type": "array"},
            {"type": "object", "minProperties": 2, "propertyNames": {"const": "a"}},
        )

    def booleans(self) -> Any:
        def one() -> bool:
            return self.random.random() < 0.5

        return {
            "type": self._of("object", "array", ["object", "array", "string"]),
            "properties": {"a": one(), "b": one()},
            "additionalProperties": one(),
            "items": one(),
            "patternProperties": {"^c": one()},
            "contains": one(),
            "not": one(),
            "if": one(),
            "then": one(),
            "else": one(),
            "anyOf": [one(), one()],
            "allOf": [one()],
            "uniqueItems": one(),
            "propertyNames": one(),
            "dependentSchemas": {"a": one()},
            "prefixItems": [one()],
        }

    def product(self) -> Any:
        n = self._of(4, 8, 14)
        choices = [
            {"anyOf": [{"properties": {f"k{i}": {"const": j}}} for j in range(n)]} for i in range(n)
        ]
        return self._of(
            {"type": "object", "allOf": choices},
            {"type": "object", "allOf": [{"oneOf": c["anyOf"]} for c in choices]},
            {"type": "object", "allOf": [{"not": c} for c in choices]},
            {"type": "object", "allOf": [{"if": c["anyOf"][0], "then": c} for c in choices]},
            {"type": "object", "dependentSchemas": {f"k{i}": c for i, c in enumerate(choices)}},
        )

    def counts(self) -> Any:
        name = self._of("Items", "Length", "Properties", "Contains")
        low = self._of(0, 1, 30, 1000, 65_536, 10**6, 10**30, 2.0)
        high = self._of(0, 1, 30, 4000, 65_536, 10**30)
        return {
            "type": self._of("array", "object", "string"),
            f"min{name}": low,
            f"max{name}": high,
            "contains": {"type": "integer"},
            "items": self._small(),
        }

    def unique(self) -> Any:
        items = self._of(
            self.numbers(),
            self.patterns(),
            self.contradiction(),
            self.enum(),
            {"maxLength": 1},
            {"type": "string", "format": self._of("date", "duration", "uuid", "ipv6", "nonsense")},
            {"anyOf": [self._small(), self._small()]},
            {"type": "string", "not": {"maxLength": 3}},
        )
        return {
            "type": "array",
            "uniqueItems": True,
            "items": items,
            "minItems": self._of(0, 2, 27, 300),
        }

    def mixture(self) -> Any:
        made: dict[str, Any] = {}
        for _ in range(self.random.randrange(2, 5)):
            part = self.random.choice(self.kinds[:13])()
            if isinstance(part, dict):
                made |= part
        return made

    def references(self) -> Any:
        bad = [
            "#/$defs/%zz",
            "#/$defs/a/b",
            "#" + "/a" * 5000,
            "http://[",
            "//",
            "a" * 9000,
            "#a#b",
            "urn:x",
            "#/$defs/é",
            "\ud800",
            "#/$defs/0",
            "?",
            "http://a:99999999/",
            "#/-1",
        ]
        ident = self._of("http://[", "#", "", "\x00", "a" * 9000, "urn:x", "//a", 5, "http://a:b/")
        return {
            "$id": ident,
            "$ref": self.random.choice(bad),
            "$defs": {
                "a": {"$id": self.random.choice(bad), "$anchor": self._of("", "b", "#", "\ud800")}
            },
        }

    def text(self) -> Any:
        return self._of(
            "[" * 10**6,
            '{"items":' * 20_000,
            "",
            "\x00",
            "NaN",
            '{"const": NaN}',
            '{"minimum": 1e999}',
            '{"a":1,"a":2}',
            '{"const": ' + "9" * 5000 + "}",
            '"' + "x" * 10**6 + '"',
            "[1]",
            "null",
            json.dumps({"enum": [1e400, -1e400]}),
            '{"type": "string"}',
        )
