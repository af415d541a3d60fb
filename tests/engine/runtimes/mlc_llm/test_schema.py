"""Schemas are rebuilt from what is known to be safe, or refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlc_widget.api.errors import BadRequestError, UnsupportedFieldError
from mlc_widget.engine.runtimes.mlc_llm.schema import response_format


def rebuilt(schema: Any) -> Any:
    made = response_format({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert made is not None
    assert made["type"] == "json_object"
    return json.loads(made["schema"])


def test_plain_text_is_no_format() -> None:
    assert response_format(None) is None
    assert response_format({"type": "text"}) is None


def test_annotations_are_left_out_and_the_rest_is_kept() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Order",
        "type": "object",
        "properties": {
            "items": {
                "type": "array",
                "items": {"$ref": "#/$defs/Item"},
                "minItems": 1,
                "maxItems": 3,
                "description": "What was ordered.",
            },
            "state": {"enum": ["new", "sent", None]},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            "anything": True,
        },
        "required": ["items", "state"],
        "additionalProperties": False,
        "$defs": {"Item": {"type": "object", "properties": {"sku": {"const": "a1"}}}},
    }
    assert rebuilt(schema) == {
        "type": "object",
        "properties": {
            "items": {
                "type": "array",
                "items": {"$ref": "#/$defs/Item"},
                "minItems": 1,
                "maxItems": 3,
            },
            "state": {"enum": ["new", "sent", None]},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "anything": {},
        },
        "required": ["items", "state"],
        "additionalProperties": False,
        "$defs": {"Item": {"type": "object", "properties": {"sku": {"const": "a1"}}}},
    }


def test_web_llm_s_form_with_the_schema_as_text() -> None:
    made = response_format({"type": "json_object", "schema": '{"type": "integer"}'})
    assert made == {"type": "json_object", "schema": '{"type": "integer"}'}


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ("{", ""),
        ([], ""),
        (None, ""),
        (False, ""),
        ({"type": "thing"}, ".type"),
        ({"type": []}, ".type"),
        ({"type": {"a": 1}}, ".type"),
        ({"enum": []}, ".enum"),
        ({"properties": []}, ".properties"),
        ({"properties": {"a": 1}}, ".properties.a"),
        ({"properties": {}, "required": ["a"]}, ".required"),
        ({"required": "a"}, ".required"),
        ({"items": 1}, ".items"),
        ({"anyOf": []}, ".anyOf"),
        ({"anyOf": [{"type": "string"}, {"type": 1}]}, ".anyOf[1].type"),
        ({"minItems": -1}, ".minItems"),
        ({"minItems": 3, "maxItems": 2}, ".minItems"),
        ({"$ref": "#/$defs/A"}, ".$ref"),
        ({"$ref": "https://example.org/schema"}, ".$ref"),
        ({"$defs": {"A": {"type": 1}}}, ".$defs.A.type"),
    ],
    ids=repr,
)
def test_malformed_schemas_are_refused_where_they_are_wrong(schema: Any, named: str) -> None:
    with pytest.raises(BadRequestError) as raised:
        rebuilt(schema)
    assert raised.value.param == f"response_format.json_schema.schema{named}"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "pattern": "^a+$"},
        {"type": "string", "format": "date"},
        {"type": "integer", "minimum": 3},
        {"allOf": [{"type": "string"}]},
        {"not": {"type": "string"}},
        {"type": "object", "patternProperties": {"^a": {}}},
    ],
    ids=lambda s: list(s)[-1],
)
def test_keywords_that_it_would_not_hold_to_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedFieldError) as raised:
        rebuilt(schema)
    assert str(raised.value.param).endswith(list(schema)[-1])


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        ({}, {"type": "object", "additionalProperties": True}),
        ({"title": "Anything"}, {"type": "object", "additionalProperties": True}),
        ({"type": ["string", "null"]}, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        ({"type": ["integer"]}, {"type": "integer"}),
        (
            {"type": ["array", "object"], "items": {"type": "string"}, "required": []},
            {
                "anyOf": [
                    {"type": "array", "items": {"type": "string"}},
                    {"type": "object", "required": []},
                ]
            },
        ),
        ({"type": ["string", "null"], "enum": ["a", None, 5]}, {"enum": ["a", None]}),
        ({"oneOf": [{"const": 1}, {"const": 2.5}, {"enum": ["a", 3]}]}, {"enum": [1, 2.5, "a", 3]}),
        ({"oneOf": [{"enum": [1, 2]}, {"enum": [2, 3]}]}, {"enum": [1, 3]}),
    ],
    ids=repr,
)
def test_what_it_dies_of_is_rewritten(schema: Any, wanted: Any) -> None:
    assert rebuilt(schema) == wanted
    nested = {"type": "object", "properties": {"a": schema}}
    inner = rebuilt(nested)["properties"]["a"]
    assert inner == (wanted if schema.keys() - {"title"} else {})


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"$ref": "#/$defs/A", "$defs": {"A": {"items": {"$ref": "#/$defs/A"}}}}, ""),
        (
            {
                "type": "object",
                "properties": {"a": {"$ref": "#/$defs/A"}},
                "$defs": {"A": {"anyOf": [{"$ref": "#/$defs/B"}]}, "B": {"$ref": "#/$defs/A"}},
            },
            "",
        ),
        ({"type": ["string", "null"], "anyOf": [{"type": "string"}]}, ".type"),
        ({"oneOf": [{"const": 1}, {"type": "string"}]}, ".oneOf[0]"),
        ({"items": {"oneOf": [{"type": "null"}, {"enum": ["a", 0.5]}]}}, ".items.oneOf[1]"),
    ],
    ids=repr,
)
def test_what_it_dies_of_and_cannot_be_rewritten_is_refused(schema: Any, named: str) -> None:
    with pytest.raises(UnsupportedFieldError) as raised:
        rebuilt(schema)
    assert raised.value.param == f"response_format.json_schema.schema{named}"


def test_any_object() -> None:
    made = response_format({"type": "json_object"})
    assert made is not None
    assert json.loads(made["schema"]) == {"type": "object", "additionalProperties": True}


@pytest.mark.parametrize("kind", ["grammar", "structural_tag"])
def test_other_kinds_are_refused(kind: str) -> None:
    with pytest.raises(UnsupportedFieldError, match=kind):
        response_format({"type": kind})
