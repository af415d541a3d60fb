"""A hostile schema compiles, or is one bad request that says where and what, within bounds."""

from __future__ import annotations

import time

import pytest

from mlc_widget.api.errors import BadRequestError
from mlc_widget.engine import grammar_check
from mlc_widget.engine.grammar_check import CHECKER
from mlc_widget.engine.schema import complement
from mlc_widget.engine.structured_output import response_grammar
from mlc_widget.engine.tool_grammar import _arguments

from .hostile_schemas import Maker
from .schemas import INT, array

CPU_S = 30
"""The limit is 10 s; a question that was begun, and what is between two looks, come on top."""


def compile_format(schema):
    response_grammar({"type": "json_object", "schema": schema})


def compile_tool(schema):
    function = {"name": "f", "parameters": schema, "strict": True}
    with CHECKER.limited("tools"):
        _arguments(0, {"type": "function", "function": function})


DOORS = {"response_format.schema": compile_format, "tools[0].function.parameters": compile_tool}


def check(kind, schema):
    for at, compile_through in DOORS.items():
        started = time.thread_time()
        refused = None
        try:
            compile_through(schema)
        except BadRequestError as error:
            refused = error
        if refused is not None:
            assert str(refused.param).startswith(at), (kind, refused)
            assert len(str(refused)) < 1500, kind
            for word in ("llguidance", "lexeme", "fuel", "hex escape"):
                assert word not in str(refused), (kind, refused)
        assert time.thread_time() - started < CPU_S, kind


@pytest.mark.parametrize("number", range(16))
def test_a_hostile_schema_of_each_kind(number, monkeypatch):
    monkeypatch.setattr(grammar_check, "_REQUEST_S", 1.0)
    check(*Maker(2).schema(number))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(13))
def test_two_hundred_hostile_schemas(seed):
    maker = Maker(100 + seed)
    for number in range(16):
        check(*maker.schema(number))


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"patternProperties": {f"^p{i}": True for i in range(3000)}}, ""),
        (array({"patternProperties": {f"^p{i}": True for i in range(3000)}}), ".items"),
        ({"allOf": [{"oneOf": [{"properties": {f"k{i}": {"const": j}}} for j in range(14)]}
                    for i in range(14)], "type": "object"}, ""),
        ({"anyOf": [{"type": "string", "pattern": f"(a?){{30}}b{i}"} for i in range(3000)]}, ""),
    ],
)  # fmt: skip
def test_what_would_take_minutes_is_refused_by_its_path(schema, path, monkeypatch):
    monkeypatch.setattr(grammar_check, "_REQUEST_S", 0.5)
    with pytest.raises(BadRequestError, match=r"takes too long|too large|too many") as caught:
        compile_format(schema)
    assert caught.value.param.startswith(f"response_format.schema{path}")
    assert compile_format({"type": "integer"}) is None  # the next one has time of its own


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"properties": {"\ud800": INT}}, "properties"),
        ({"required": ["a", "\udfff"]}, "required"),
        ({"type": "string", "pattern": "\ud800"}, "pattern"),
        ({"patternProperties": {"\ud800": INT}}, "patternProperties"),
        ({"dependentRequired": {"\ud800": ["a"]}}, "dependentRequired"),
        ({"$defs": {"\ud800": INT}}, "$defs"),
    ],
)
def test_names_that_are_not_unicode_are_refused_where_they_are(schema, path):
    with pytest.raises(BadRequestError, match="not Unicode text") as caught:
        compile_format(schema)
    assert caught.value.param == f"response_format.schema.{path}"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"oneOf": [s, {"items": s}]},
        lambda s: {"properties": {"a": s, "b": s}},
        lambda s: {"if": s, "then": s},
    ],
)
def test_objects_that_contain_each_other_again_and_again_are_refused(wrap):
    schema = INT
    for _ in range(48):
        schema = wrap(schema)
    with pytest.raises(BadRequestError, match="too many parts"):
        compile_format(schema)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda schema: {"not": {"properties": {"a": schema}}},
        lambda schema: {"not": {"items": schema}},
        lambda schema: {"not": {"patternProperties": {"^a": schema}}},
        lambda schema: {"not": {"additionalProperties": schema}},
        lambda schema: {"not": {"anyOf": [schema, {"type": "null"}]}},
        lambda schema: {"not": {"oneOf": [{"properties": {"a": schema}}, {"type": "null"}]}},
        lambda schema: {"if": {"properties": {"a": schema}}, "then": {"required": ["b"]}},
    ],
    ids=["properties", "items", "patterns", "additional", "anyOf", "not oneOf", "if"],
)
def test_opposites_within_opposites_are_each_made_once(wrap, monkeypatch):
    monkeypatch.setattr(complement, "_PARTS", 400)
    schema = {"properties": {"a": {"const": 1}}, "required": ["a"]}
    for _ in range(32):  # up to three levels each, of the hundred that a schema may have
        schema = wrap(schema)
    compile_format(schema)


def test_too_many_opposites_are_refused(monkeypatch):
    monkeypatch.setattr(complement, "_PARTS", 40)
    with pytest.raises(BadRequestError, match="too many parts") as caught:
        compile_format({"not": {"properties": {f"p{i}": INT for i in range(40)}}})
    assert caught.value.param == "response_format.schema.not.properties.p39"
    compile_format({"not": {"properties": {f"p{i}": INT for i in range(39)}}})
