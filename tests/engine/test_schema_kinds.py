"""Schemas of the kinds that people publish: they compile, and every whole answer is valid."""

from __future__ import annotations

import json

import jsonschema
import pytest

from mlc_widget.api.errors import BadRequestError, UnsupportedFieldError

from .grammars import random_value, schema_grammar, takes_value
from .schemas import BOOL, DATE, INT, NUM, STR, array, loose, optional, record, ref, tagged


def union(*schemas, **more):
    return {"oneOf": list(schemas), **more}


LETTERS = {"patternProperties": {"^[a-z]{2}$": STR}, "additionalProperties": False}
KINDS = {
    "oneOf of kinds": union(STR, INT, array(BOOL), {"type": "null"}),
    "oneOf through references": union(
        ref("A"), ref("B"), **{"$defs": {"A": record(a=STR), "B": record(b=INT)}}
    ),
    "oneOf of references to references": union(
        ref("X"),
        {"type": "string"},
        **{"$defs": {"X": ref("Y"), "Y": record(n=NUM)}},
    ),
    "oneOf told apart by an enum": union(
        loose(["k"], k={"enum": ["a", "b"]}), loose(["k"], k={"enum": ["c"]}, v=INT)
    ),
    "oneOf told apart deeper": union(
        loose(["m"], m=loose(["t"], t={"const": 1})), loose(["m"], m=loose(["t"], t={"const": 2}))
    ),
    "oneOf told apart by required names": {
        "type": "object",
        "properties": {"a": INT, "b": INT},
        "additionalProperties": False,
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
    },
    "oneOf told apart by ranges": union(
        {"type": "integer", "maximum": 3}, {"type": "integer", "minimum": 10}
    ),
    "oneOf of overlapping ranges": union(
        {"type": "integer", "minimum": 0, "maximum": 20}, {"type": "integer", "minimum": 10}
    ),
    "oneOf of some strings and all": union({"enum": ["linux", "mac"]}, STR),
    "oneOf of patterns": union(
        {"type": "string", "pattern": "^a"}, {"type": "string", "pattern": "^b"}
    ),
    "oneOf of lengths of arrays": union(array(INT, maxItems=2), array(INT, minItems=4)),
    "oneOf beside properties": {
        **loose(["id"], id=INT),
        "oneOf": [loose(["x"], x=STR, y={"not": {}}), loose(["y"], y=STR, x={"not": {}})],
    },
    "oneOf of tagged models": tagged("kind", cat=record(lives=INT), dog=record(name=STR)),
    "oneOf in an array": array(union(record(a=INT), record(b=INT)), maxItems=3),
    "anyOf with words beside it": {
        "type": "string",
        "anyOf": [{"maxLength": 2}, {"pattern": "^x+$"}],
    },
    "allOf of objects": {"allOf": [loose(["a"], a=INT), loose(["b"], b=STR)]},
    "allOf of a reference and more": {
        "allOf": [ref("Base"), loose(["extra"], extra=BOOL)],
        "$defs": {"Base": loose(["id"], id=INT)},
    },
    "allOf of bounds": {"allOf": [{"type": "integer", "minimum": 5}, {"maximum": 9}]},
    "allOf of anyOf": {
        "allOf": [{"anyOf": [{"minimum": 3}, {"type": "null"}]}, {"anyOf": [INT, STR]}],
    },
    "closed by an allOf": {
        "properties": {"a": INT, "b": INT},
        "type": "object",
        "allOf": [{"properties": {"a": {}}, "additionalProperties": False}],
    },
    "percent-encoded reference": {
        "type": "object",
        "properties": {"v": {"$ref": "#/$defs/a%20b~1c%25"}},
        "required": ["v"],
        "$defs": {"a b/c%": {"const": "yes"}},
    },
    "reference into other keys": {
        **record(v={"$ref": "#/components/schemas/Pet"}),
        "components": {
            "schemas": {"Pet": record(name={"$ref": "#/components/schemas/Name"}), "Name": STR}
        },
    },
    "reference into properties": {
        **record(a=array(INT, maxItems=2), b={"$ref": "#/properties/a/items"})
    },
    "reference into a list": {
        "prefixItems": [INT, {"$ref": "#/prefixItems/0"}],
        "items": False,
        "type": "array",
        "minItems": 2,
    },
    "reference to the root": loose(["v"], v=INT, next={"$ref": "#"}),
    "reference with words beside it": {
        **record(a={"$ref": "#/$defs/n", "maximum": 3}),
        "$defs": {"n": {"type": "integer", "minimum": 1}},
    },
    "anchor": {**record(a={"$ref": "#here"}), "$defs": {"x": {"$anchor": "here", "const": 7}}},
    "identifier": {
        "$id": "https://example.org/root",
        **record(a={"$ref": "leaf"}),
        "$defs": {"x": {"$id": "leaf", "type": "boolean"}},
    },
    "a pointer within an identified part": {
        "$id": "https://example.org/root",
        **record(a=ref("Part"), b=ref("x")),
        "$defs": {
            "Part": {"$id": "part", "$ref": "#/$defs/x", "$defs": {"x": {"const": "inner"}}},
            "x": {"const": "outer"},
        },
    },
    "a pointer into an identified part": {
        "$id": "https://example.org/root",
        **record(a={"$ref": "part#/$defs/x"}),
        "$defs": {"Part": {"$id": "part", "$defs": {"x": INT}}, "x": STR},
    },
    "identifiers relative to each other": {
        "$id": "https://example.org/a/root",
        **record(a={"$ref": "b/leaf"}),
        "$defs": {"s": {"$id": "b/", "$defs": {"t": {"$id": "leaf", "type": "boolean"}}}},
    },
    "one anchor in two parts": {
        **record(a={"$ref": "one"}, b={"$ref": "two#here"}),
        "$defs": {
            "one": {"$id": "one", "$ref": "#here", "$defs": {"x": {"$anchor": "here", **INT}}},
            "two": {"$id": "two", "$defs": {"x": {"$anchor": "here", **STR}}},
        },
    },
    "a name as identifier": {
        **record(a={"$ref": "urn:example:part"}),
        "$defs": {"s": {"$id": "urn:example:part", "$ref": "#/$defs/q", "$defs": {"q": BOOL}}},
    },
    "draft 4's id as a base": {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "id": "http://example.org/root",
        **record(a={"$ref": "#/definitions/part"}),
        "definitions": {
            "part": {
                "id": "part",
                **record(b={"$ref": "#/definitions/x"}),
                "definitions": {"x": INT},
            },
            "x": STR,
        },
    },
    "an id that is a mere name": {
        **record(a={"id": "part", **record(b=ref("x")), "$defs": {"x": STR}}),
        "$defs": {"x": INT},
    },
    "dynamic reference": {
        "$dynamicAnchor": "node",
        "type": ["array", "null"],
        "items": {"$dynamicRef": "#node"},
        "maxItems": 2,
    },
    "dynamic reference to the root": {
        "$id": "https://example.org/strict",
        "$dynamicAnchor": "node",
        "$ref": "tree",
        "properties": {"data": INT},
        "$defs": {
            "tree": {
                "$id": "tree",
                "$dynamicAnchor": "node",
                "type": "object",
                "properties": {"data": True, "kids": array({"$dynamicRef": "#node"}, maxItems=1)},
                "required": ["data"],
            }
        },
    },
    "dynamic reference to a pointer": {
        **record(a={"$dynamicRef": "#/$defs/x"}),
        "$defs": {"x": {"$dynamicAnchor": "x", **BOOL}},
    },
    "recursive reference": {
        "$schema": "https://json-schema.org/draft/2019-09/schema",
        "$recursiveAnchor": True,
        **loose(["v"], v=INT, next={"$recursiveRef": "#"}),
    },
    "the root by its identifier": {
        "$id": "https://example.org/s.json",
        **record(a={"$ref": "s.json#/$defs/b"}),
        "$defs": {"b": BOOL},
    },
    "draft 4's id as an anchor": {
        "$schema": "http://json-schema.org/draft-04/schema#",
        **record(a={"$ref": "#leaf"}),
        "definitions": {"x": {"id": "#leaf", "enum": [1, 2]}},
    },
    "no dependencies": {**loose(["a"], a=INT), "dependencies": {}},
    "dependencies of names": {
        **optional(a=INT, b=INT, c=INT),
        "dependencies": {"a": ["b", "c"]},
        "$schema": "http://json-schema.org/draft-07/schema#",
    },
    "dependencies of schemas": {
        **optional(a=INT, b=INT),
        "dependentSchemas": {"a": {"required": ["b"]}},
    },
    "dependentRequired": {**optional(a=INT, b=INT), "dependentRequired": {"b": ["a"]}},
    "at least two of any": {"type": "object", "additionalProperties": INT, "minProperties": 2},
    "two to four of any": {
        "type": "object",
        "additionalProperties": BOOL,
        "minProperties": 2,
        "maxProperties": 4,
    },
    "five of any": {"type": "object", "additionalProperties": BOOL, "minProperties": 5},
    "twelve of any": {
        "type": "object",
        "additionalProperties": BOOL,
        "minProperties": 12,
        "maxProperties": 12,
    },
    "three by a pattern": {"type": "object", **LETTERS, "minProperties": 3},
    "one or two by a pattern": {
        "type": "object",
        **LETTERS,
        "minProperties": 1,
        "maxProperties": 2,
    },
    "a pattern that ends alike": {
        "type": "object",
        "patternProperties": {"^[a-z]+_id$": INT},
        "additionalProperties": False,
        "minProperties": 3,
    },
    "two names or more": {**optional(a=INT, b=INT, c=INT), "minProperties": 2},
    "two names at most": {**optional(a=INT, b=INT, c=INT), "maxProperties": 2},
    "names and others, counted": {
        **loose(["a"], a=INT, b=INT),
        "additionalProperties": STR,
        "minProperties": 3,
        "maxProperties": 4,
    },
    "one of many names": {
        **optional(**{f"p{i}": INT for i in range(20)}),
        "minProperties": 1,
        "maxProperties": 1,
    },
    "patterns of few keys": {
        "type": "object",
        "patternProperties": {"^(red|green)$": INT, "^size[1-3]$": STR},
        "additionalProperties": False,
        "minProperties": 2,
    },
    "a pattern of one key": {
        "type": "object",
        "patternProperties": {"^only$": INT},
        "additionalProperties": False,
        "minProperties": 1,
    },
    "required by a pattern": {
        "type": "object",
        "patternProperties": {"^(x|y)$": INT},
        "required": ["y"],
        "additionalProperties": False,
    },
    "patterns that overlap": {
        "type": "object",
        "patternProperties": {"^a": INT, "z$": {"maximum": 5}},
        "additionalProperties": False,
        "minProperties": 2,
    },
    "a pattern over a name": {
        "type": "object",
        "properties": {"abc": {"minimum": 3}},
        "patternProperties": {"^a": INT},
        "required": ["abc"],
        "additionalProperties": False,
    },
    "a pattern beside others": {
        "type": "object",
        "patternProperties": {"^x-": STR},
        "additionalProperties": INT,
        "minProperties": 2,
    },
    "names of a pattern": {
        "type": "object",
        "propertyNames": {"pattern": "^[a-c]{1,3}$"},
        "additionalProperties": INT,
        "minProperties": 2,
    },
    "names of a list": {
        "type": "object",
        "propertyNames": {"enum": ["a", "b"]},
        "additionalProperties": BOOL,
        "minProperties": 2,
    },
    "short names": {
        "type": "object",
        "propertyNames": {"maxLength": 3},
        "minProperties": 1,
        "additionalProperties": NUM,
    },
    "a name that may not be": {**loose([], a=INT, b={"not": {}}), "additionalProperties": INT},
    "names that may not come together": {
        **optional(a=INT, b=INT, c=INT),
        "not": {"required": ["a", "b"]},
    },
    "neither of two names": {
        **loose([], c=INT),
        "not": {"anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
    },
    "an enum within bounds": {
        "enum": [1, 5, 12, "a", None, [3]],
        "minimum": 3,
        "type": ["integer", "array"],
    },
    "an enum within a pattern": {"enum": ["ab", "b", "abc"], "pattern": "^a", "maxLength": 2},
    "an enum of values": {"enum": [{"a": [1, {"b": None}]}, [], {}, [True, "x"], 0.5, "y"]},
    "a constant object": {"const": {"a": [1.5, {"b": "é\n"}], "c": {}}},
    "tuples": {"type": "array", "prefixItems": [INT, STR, BOOL], "minItems": 1, "items": False},
    "tuples that go on": {"type": "array", "prefixItems": [INT, STR], "items": NUM, "maxItems": 5},
    "no items": {"type": "array", "items": False},
    "no properties": {"type": "object", "additionalProperties": False},
    "nothing said": {},
    "true": {"properties": {"a": True, "b": False}, "required": ["a"], "type": "object"},
    "several kinds with limits": {
        "type": ["string", "array", "integer"],
        "maxLength": 2,
        "maxItems": 1,
        "maximum": 3,
    },
    "recursion both ways": {
        **ref("A"),
        "$defs": {"A": optional(b=ref("B")), "B": array(ref("A"), maxItems=2)},
    },
    "not a kind": {"not": {"type": ["string", "object"]}},
    "not an integer": {"type": "number", "not": {"type": "integer"}, "minimum": 2, "maximum": 9},
    "not these strings": {"type": "string", "maxLength": 2, "not": {"enum": ["a", "b", "", 5]}},
    "not this beginning": {"type": "string", "not": {"pattern": "^[a-m]"}, "minLength": 1},
    "not these numbers": {
        "type": "integer",
        "minimum": 0,
        "maximum": 5,
        "not": {"enum": [1, 2, 4]},
    },
    "not this object": {"type": "object", "not": {"const": {"a": 1, "b": [True]}}},
    "not this array": {"type": "array", "maxItems": 3, "not": {"const": [1, {"a": None}]}},
    "not this model": {
        "type": "object",
        "not": {"$ref": "#/$defs/Node"},
        "$defs": {"Node": optional(v=INT, next=ref("Node"))},
    },
    "not not": {"not": {"not": {"type": "boolean"}}},
    "not one of": {"not": {"oneOf": [STR, {"maxLength": 3}]}},
    "not only these names": {"type": "object", "not": optional(a=INT, b=INT), "maxProperties": 3},
    "not all by a pattern": {
        "type": "object",
        "additionalProperties": INT,
        "not": {"patternProperties": {"^x": {"minimum": 5}}},
    },
    "not all items": {"type": "array", "items": INT, "not": {"items": {"minimum": 3}}},
    "if a constant": {
        **loose(["country"], country={"enum": ["US", "DE"]}, zip=STR),
        "additionalProperties": False,
        "if": {"properties": {"country": {"const": "US"}}},
        "then": {"required": ["zip"]},
    },
    "if a name": {
        **optional(a=INT, b=INT, c=INT),
        "if": {"required": ["a"]},
        "then": {"required": ["b"]},
        "else": {"required": ["c"]},
    },
    "several ifs": {
        **optional(kind={"enum": [*"abcdefgh"]}, **dict.fromkeys("abcdefgh", INT)),
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": k}}, "required": ["kind"]},
                "then": {"required": [k]},
            }
            for k in "abcdefgh"
        ],
    },
    "if a range": {
        "type": "integer",
        "if": {"minimum": 10},
        "then": {"multipleOf": 10},
        "maximum": 50,
    },
    "contains": array(STR, contains={"const": "x"}),
    "contains so many": array(
        INT, contains={"minimum": 5}, minContains=2, maxContains=3, maxItems=5
    ),
    "contains beside a tuple": {"type": "array", "prefixItems": [STR], "contains": INT},
    "contains two": {"type": "array", "allOf": [{"contains": INT}, {"contains": STR}]},
    "a set of a list": array({"enum": [*"abc", 1, 1.0, None]}, uniqueItems=True),
    "a set of truths": array(BOOL, uniqueItems=True, minItems=2),
    "a set of digits": array(
        {"type": "integer", "minimum": 0, "maximum": 9}, uniqueItems=True, minItems=2, maxItems=4
    ),
    "a set of a choice": array(
        {"anyOf": [{"const": "all"}, {"pattern": "^(a|b)$", "type": "string"}]}, uniqueItems=True
    ),
    "a set of one": array(STR, uniqueItems=True, maxItems=1),
    "a set of kinds": {
        "type": "array",
        "prefixItems": [STR, INT],
        "items": False,
        "uniqueItems": True,
    },
    "oneOf of closed objects": union(optional(a=INT), optional(b=INT)),
    "oneOf of open objects": union(loose([], a=STR), loose([], b=STR)),
    "oneOf of a format and a pattern": union({"format": "uuid"}, {"pattern": "^\\$[A-Z]"}),
    "oneOf with an optional tag": union(
        *(
            optional(kind={"const": k}, value=s, note=STR)
            for k, s in zip("abcd", [INT, STR, BOOL, NUM], strict=True)
        )
    ),
    "an option that nothing meets": {
        "type": "object",
        "properties": {"a": {"required": ["x"], "additionalProperties": False, "type": "object"}},
    },
    "nullable": {"type": "object", "properties": {"a": {"anyOf": [INT, {"type": "null"}]}}},
    "draft 4": {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "type": "number",
        "minimum": 1,
        "exclusiveMinimum": True,
        "maximum": 2,
        "exclusiveMaximum": True,
    },
    "formats": record(
        d={"type": "string", "format": "date"}, u={"type": "string", "format": "uuid"}
    ),
    "strings of some length": record(s={"type": "string", "minLength": 3, "maxLength": 5}),
    "ascii digits only": record(d={"type": "string", "pattern": r"^\d{2}\w$"}),
}


@pytest.mark.parametrize("name", KINDS)
def test_every_whole_answer_is_valid(name):
    schema = KINDS[name]
    validator = jsonschema.validators.validator_for(schema)(schema)
    made = [v for seed in range(3) if (v := random_value(schema, seed)) is not ...]
    assert made
    for value in made:
        validator.validate(value)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("at least two of any", ['{"b": 1, "a": 2}', '{"x": 1, "why": 2, "zed": 3}'],
         ['{"a": 1}', '{"a": 1, "a": 2}', '{"a": 1, "aa": 2, "a": 3}'][:2]),
        ("oneOf told apart by required names", ['{"a": 1}', '{"b": 1}'],
         ['{"a": 1, "b": 2}', "{}"]),
        ("patterns of few keys", ['{"red": 1, "size2": "x"}'], ['{"red": 1}', '{"size4": "x"}']),
        ("two names at most", ["{}", '{"a": 1, "c": 2}'], ['{"a": 1, "b": 2, "c": 3}']),
        ("names that may not come together", ['{"a": 1, "c": 2}'], ['{"a": 1, "b": 2}']),
        ("dependencies of names", ['{"b": 1}', '{"a": 1, "b": 2, "c": 3}'], ['{"a": 1, "b": 2}']),
        ("oneOf of some strings and all", ['"windows"'], ['"linux"', "5"]),
        ("an enum within a pattern", ['"ab"'], ['"b"', '"abc"']),
        ("not this object", ['{"a": 1, "b": [false]}', '{"a": 1}', '{"a": 1, "b": [true], "c": 2}'],
         ['{"a": 1, "b": [true]}']),
        ("not this array", ["[]", "[1]", '[1, {"a": 1}]', "[1, {}, 2]"], ['[1, {"a": null}]']),
        ("not this model", ['{"v": "a"}', '{"next": {"v": "b"}}', '{"w": 1}'],
         ["{}", '{"v": 1}', '{"next": {"v": 1}}', '{"next": {}}']),
        ("not only these names", ['{"c": 1}', '{"a": 1, "c": 2}', '{"a": "x"}'],
         ["{}", '{"a": 1}']),
        ("not an integer", ["2.5", "8.125"], ["3", "3.0", "3.00"]),
        ("if a constant", ['{"country": "DE"}', '{"country": "US", "zip": "1"}'],
         ['{"country": "US"}']),
        ("if a name", ['{"a": 1, "b": 2}', '{"c": 1}'], ['{"a": 1, "c": 2}', '{"b": 1}', "{}"]),
        ("several ifs", ['{"kind": "c", "c": 1}', "{}", '{"kind": "h", "a": 1, "h": 1}'],
         ['{"kind": "c"}', '{"kind": "c", "d": 1}']),
        ("a pointer within an identified part", ['{"a": "inner", "b": "outer"}'],
         ['{"a": "outer", "b": "outer"}']),
        ("one anchor in two parts", ['{"a": 1, "b": "x"}'], ['{"a": "x", "b": "x"}']),
        ("an id that is a mere name", ['{"a": {"b": 1}}'], ['{"a": {"b": "x"}}']),
        ("dynamic reference to the root", ['{"data": 1, "kids": [{"data": 2}]}'],
         ['{"data": "x"}', '{"data": 1, "kids": [{"data": "x"}]}']),
        ("contains", ['["x"]', '["a", "x", "b"]'], ["[]", '["a"]']),
        ("contains so many", ["[5, 6]", "[1, 9, 1, 9, 9]"], ["[5]", "[5, 5, 5, 5]"]),
        ("contains beside a tuple", ['["a", 1]', '["a", "b", 2, 3]'], ['["a"]', "[1]", "[]"]),
        ("contains two", ['[1, "a"]', '["a", null, 2]'], ["[1]", '["a"]']),
        ("a set of a list", ["[]", '["c", "a"]', '[1, null, "b", "a", "c"]'],
         ['["a", "a"]', '["a", "b", "a"]']),
        ("a set of digits", ["[3, 1]", "[9, 0, 5, 1]"], ["[1]", "[1, 1]", "[1, 2, 3, 4, 5]"]),
        ("oneOf of closed objects", ['{"a": 1}', '{"b": 1}'], ["{}", '{"a": 1, "b": 2}']),
        ("oneOf of open objects", ['{"a": 1}', '{"a": "x", "b": 3}'], ["{}", '{"a": "x"}']),
        ("an option that nothing meets", ["{}", '{"b": 1}'], ['{"a": {}}']),
        ("names of a pattern", ['{"a": 1, "b": 2}', '{"abc": 1, "ccb": 5}'], ['{"d": 1, "a": 2}']),
    ],
)  # fmt: skip
def test_what_a_schema_takes_and_what_not(name, good, bad):
    for text in good:
        assert takes_value(KINDS[name], text), text
    for text in bad:
        assert not takes_value(KINDS[name], text), text


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        (record(a={"not": {"type": "string", "format": "date"}}), "properties.a.not"),
        ({"items": {"if": {"multipleOf": 3}, "then": INT}}, "items.if"),
        ({"if": {"properties": {"a": {"propertyNames": {"maxLength": 3}}}}, "else": INT}, "if"),
        ({"not": {"uniqueItems": True}}, "not"),
        ({"not": {"$ref": "#/$defs/a"}, "$defs": {"a": {"format": "date"}}}, "$defs.a"),
        (array(record(a=INT), uniqueItems=True), "uniqueItems"),
        (record(a=array(array(INT), uniqueItems=True)), "properties.a.uniqueItems"),
        (array({"enum": [[i] for i in range(65)]}, uniqueItems=True), "uniqueItems"),
        ({"type": "array", "prefixItems": [STR], "uniqueItems": True}, "uniqueItems"),
        (array(STR, uniqueItems=True, contains={"const": "a"}), "uniqueItems"),
        (array(STR, uniqueItems=True, minItems=300), "uniqueItems"),
        (array({"type": "string", "pattern": r"^\x61?b$"}, uniqueItems=True, minItems=3),
         "uniqueItems"),
        ({"type": "array", "allOf": [{"contains": {"const": n}, "maxContains": 2} for n in "ab"]},
         "allOf[1].contains"),
        (record(a=union(DATE, DATE)), "properties.a.oneOf"),
        ({"type": "object", "minProperties": 40, "additionalProperties": INT}, "minProperties"),
        ({"type": "object", "patternProperties": {r"\bx": INT}}, r"patternProperties.\bx"),
        ({"propertyNames": {"format": "date"}}, "propertyNames"),
        (record(a={"$ref": "https://example.org/other.json"}), "properties.a.$ref"),
        (record(a={"$dynamicRef": "https://example.org/other.json"}), "properties.a.$dynamicRef"),
        ({"$ref": "#nowhere"}, "$ref"),
        ({"$ref": "http://[", "$id": "http://a:b/"}, "$ref"),
        ({"$ref": "//[#x", "$defs": {"a": {"$id": "http://[::"}}}, "$ref"),
        ({"$ref": "s", "$defs": {"s": {"$id": "s", "$ref": "#/$defs/none"}}}, "$defs.s.$ref"),
        ({"anyOf": [{"$ref": "t"}, {"$ref": "u"}],
          "$defs": {"t": {"$id": "t", "$dynamicAnchor": "n", "items": {"$dynamicRef": "#n"}},
                    "u": {"$id": "u", "$dynamicAnchor": "n", "$ref": "t", "minItems": 1}}},
         "$defs.t.items.$dynamicRef"),
        (record(a={"type": "string", "pattern": "(?=a)b"}), "properties.a.pattern"),
        (record(a={"type": "integer", "multipleOf": 10**9 + 7}), "properties.a.multipleOf"),
    ],
)  # fmt: skip
def test_what_stays_refused_is_refused_by_its_path_in_our_words(schema, path):
    with pytest.raises(BadRequestError) as caught:
        schema_grammar(schema)
    assert caught.value.param == f"response_format.schema.{path}"
    assert "llguidance" not in str(caught.value)
    assert "Unsatisfiable" not in str(caught.value)


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [INT, STR]},
        {"type": "object", "required": ["a"], "properties": {"a": False}},
        {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}},
        {"type": "string", "pattern": "^a{3}$", "maxLength": 2},
        {"type": "object", "maxProperties": 1, "required": ["a", "b"]},
        {"type": "array", "minItems": 2, "prefixItems": [INT], "items": False},
        {"enum": [1, 2], "type": "string"},
    ],
)
def test_what_no_value_meets_is_refused(schema):
    with pytest.raises(BadRequestError, match="no value can meet"):
        schema_grammar(schema)


def test_keys_that_the_schema_names_come_once_and_others_are_bounded():
    schema = loose([], population=INT, city=STR)
    assert takes_value(schema, '{"population": 1, "city": "a", "area": 3}')
    for text in ['{"population": 1, "population": 2}', '{"x": 1, "population": 2, "population": 3}',
                 '{"area": 1, "city": "a"}']:  # fmt: skip
        assert not takes_value(schema, text)
    pairs = ", ".join(f'"key{i}": {i}' for i in range(64))
    for anything in ({"type": "object"}, {}):
        assert takes_value(anything, f"{{{pairs}}}")
        assert not takes_value(anything, f'{{{pairs}, "one more": 1}}')
        assert takes_value(anything, '{"a":' * 12 + "1" + "}" * 12)
        assert not takes_value(anything, '{"a":' * 40 + "1" + "}" * 40)


def test_a_tool_that_is_not_strict_may_have_a_pattern_that_cannot_be_enforced():
    from mlc_widget.engine.tool_grammar import _arguments

    for more in ({"pattern": "^(?!x).*$"}, {"pattern": r"(a)\1"}, {"pattern": "(?<=a)b"}):
        function = {"name": "f", "parameters": record(a={"type": "string", **more})}
        assert _arguments(0, {"type": "function", "function": function})
        with pytest.raises(UnsupportedFieldError) as caught:
            _arguments(0, {"type": "function", "function": {**function, "strict": True}})
        assert caught.value.param == "tools[0].function.parameters.properties.a.pattern"


def test_answers_are_json_that_keeps_the_order_of_the_schema():
    value = random_value(record(b=INT, a=INT, c=BOOL), 3)
    assert list(value) == ["b", "a", "c"]
    assert json.dumps(value)
