"""Numbers in schemas are enforced to the last digit, wherever they are."""

from __future__ import annotations

import json
import random
import re

import jsonschema
import pytest

from mlc_widget.api.errors import BadRequestError
from mlc_widget.engine.grammar_text import assemble
from mlc_widget.engine.schema.numbers import CannotBeWrittenError, Range
from mlc_widget.engine.structured_output import response_grammar
from mlc_widget.engine.tool_formats import Hermes
from mlc_widget.engine.tool_grammar import tool_rules
from mlc_widget.engine.tools import Tools

from .grammars import follows, random_value, schema_grammar, takes, takes_value

CONSTANTS = [
    -(2**63), 2**63 - 1, 2**63, 2**53 + 1, -(2**53) - 1, 2**64 - 1, 2**64, 10**20, 10**40 + 7, 0,
    0.1, 1e-7, -0.0, 1.0, 1e300, 5e-324, 0.30000000000000004, 1e22, -2.5, 123456789.123,
]  # fmt: skip


def near(value):
    """Texts of other numbers that are easily mistaken for this one."""
    if isinstance(value, int):
        return [str(value + 1), str(value - 1), f"{value}.5", f"{value or 3}07", str(-value or 1)]
    return [json.dumps(value * 2 or 1.5), json.dumps(-value or 2), "1e9", "0.2", "17"]


@pytest.mark.parametrize("value", CONSTANTS, ids=repr)
def test_a_constant_is_that_number_and_no_other(value):
    for schema in ({"const": value}, {"enum": ["x", value, None]}):
        grammar = schema_grammar(schema)
        assert takes(grammar, json.dumps(value))
        for text in near(value):
            assert json.loads(text) == value or not takes(grammar, text), text
        takes_it_plainly = takes(grammar, "1") or value != 1.0
        assert takes_it_plainly


@pytest.mark.parametrize("value", [-(2**63), 2**53 + 1, 2**64 - 1, 10**20], ids=repr)
def test_it_is_held_wherever_it_stands(value):
    inner = {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"]}
    nested = {"$defs": {"n": {"enum": [value, "none"]}}, "type": "array", "items": inner}
    good, bad = f'[{{"n": {value}}}]', f'[{{"n": {value + 1}}}]'
    assert takes_value(nested, good)
    assert not takes_value(nested, bad)
    tag = {"begin": "<n>", "content": {"type": "json_schema", "json_schema": {"const": value}},
           "end": "</n>"}  # fmt: skip
    tags = response_grammar({"type": "structural_tag", "format": {"type": "tag", **tag}})
    assert takes(tags, f"<n>{value}</n>")
    assert not takes(tags, f"<n>{value - 1}</n>")


def test_it_is_held_in_the_arguments_of_tools():
    value = 2**53 + 1
    parameters = {"type": "object", "properties": {"n": {"const": value}}, "required": ["n"]}
    function = {"name": "f", "parameters": parameters}
    tools = Tools(Hermes(), ({"type": "function", "function": function},), forced=True)
    rules, parts = tool_rules(tools, else_body=False)
    grammar = assemble(f"start: answer\n{rules}", parts)
    call = '<tool_call>\n{"name": "f", "arguments": {"n": %d}}\n</tool_call>'
    assert follows(grammar, call % value) == len(call % value)
    assert follows(grammar, call % (value - 1)) < len(call % value) - 15


BOUNDS = [
    {"minimum": -(2**63), "maximum": 2**63 - 1},
    {"maximum": 10**20, "minimum": 10**20 - 3},
    {"exclusiveMinimum": 2**53, "exclusiveMaximum": 2**53 + 2},
    {"minimum": 0, "exclusiveMaximum": 2**64},
    {"minimum": -12, "maximum": 1005},
    {"exclusiveMinimum": 0.5, "maximum": 3.2},
    {"minimum": 10**30},
    {"maximum": -(10**19)},
]


@pytest.mark.parametrize("bounds", BOUNDS, ids=json.dumps)
@pytest.mark.parametrize("kind", ["integer", "number"])
def test_bounds_are_held_to_the_last_digit(kind, bounds):
    schema = {"type": kind, **bounds}
    grammar = schema_grammar(schema)
    edges = [int(edge) + d for edge in bounds.values() for d in (-1, 0, 1)]
    for value in edges:
        fits = jsonschema.Draft202012Validator(schema).is_valid(value)
        assert takes(grammar, str(value)) == fits, value


def test_ranges_of_integers_say_what_they_mean():
    for low in range(-120, 121, 9):
        for high in range(low, 125, 7):
            pattern = Range(low=low, high=high, integer=True).pattern()
            for value in range(-130, 131):
                assert bool(re.fullmatch(pattern, str(value))) == (low <= value <= high)


def test_what_a_reader_rounds_stays_within_bounds():
    chance = random.Random(4)
    edges = [0, 1, -1, 0.1, 1.01, 99.99, 1e-7, -0.25, 2**53, 1e-300]
    for _ in range(120):
        low, high = sorted(chance.choice([*edges, round(chance.uniform(-5, 5), 2)]) for _ in "ab")
        wanted = Range(**{chance.choice(["low", "above"]): low,
                          chance.choice(["high", "below"]): high})  # fmt: skip
        pattern = wanted.pattern()
        if pattern is None:
            assert low == high or high - low < 1e-15
            continue
        for edge in (low, high):
            text = f"{edge:.30f}".rstrip("0")
            text = text + "0" if text.endswith(".") else text
            for near in (text, text + "1", text[:-1] + "1", text + "000000000000000000001"):
                if re.fullmatch(pattern, near):
                    assert wanted.has(json.loads(near)), (wanted, near)


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 1.01}, "exclusiveMinimum"),
        ({"type": "integer", "minimum": 0.2, "maximum": 0.8}, "minimum"),
        ({"type": "number", "exclusiveMinimum": 1, "maximum": 1}, "exclusiveMinimum"),
        ({"type": "number", "exclusiveMinimum": 1.0, "exclusiveMaximum": 1.0000000000000002},
         "exclusiveMinimum"),
        ({"minimum": 2**64, "exclusiveMaximum": 2**64}, "minimum"),
        ({"type": "integer", "maximum": -(2**63) - 1, "minimum": -(2**63)}, "minimum"),
    ],
)  # fmt: skip
def test_bounds_that_no_number_keeps_are_refused_by_name(schema, path):
    for wrapped, at in [(schema, path), ({"items": {"anyOf": [schema]}}, f"items.anyOf[0].{path}")]:
        with pytest.raises(BadRequestError) as caught:
            schema_grammar(wrapped)
        assert caught.value.param == f"response_format.schema.{at}"


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer", "multipleOf": 7, "minimum": -10, "maximum": 30}, [-7, 0, 28],
         [7.5, 8, -14, 35]),
        ({"type": "integer", "multipleOf": 7, "minimum": 10**6}, [10**6 + 5 + 7 * 3 + 4 - 5],
         [10**6, 7]),
        ({"type": "number", "multipleOf": 0.5, "exclusiveMinimum": 1, "maximum": 3}, [1.5, 3],
         [1, 1.25, 3.5]),
        ({"type": "number", "multipleOf": 0.01}, [0.25, 17.5, -3], [0.001, 1.005]),
        ({"type": "integer", "multipleOf": 2.5, "minimum": 0, "maximum": 11}, [5, 10], [2, 3]),
        ({"type": "integer", "multipleOf": 10**6}, [3 * 10**6, -(10**6)], [10**6 + 1]),
    ],
)  # fmt: skip
def test_multiples(schema, good, bad):
    grammar = schema_grammar(schema)
    for value in good:
        if jsonschema.Draft202012Validator(schema).is_valid(value):
            assert takes(grammar, json.dumps(value)), value
    for value in bad:
        assert not takes(grammar, json.dumps(value)), value
    for seed in range(4):
        jsonschema.Draft202012Validator(schema).validate(random_value(schema, seed))


def test_multiples_that_cannot_be_written_are_refused_by_name():
    with pytest.raises(CannotBeWrittenError):
        Range(multiples_of=(2**40 + 1,)).multiples()
    with pytest.raises(BadRequestError) as caught:
        schema_grammar({"properties": {"n": {"type": "integer", "multipleOf": 2**40 + 1}}})
    assert caught.value.param == "response_format.schema.properties.n.multipleOf"


@pytest.mark.parametrize("text", ['{"const": 1e999}', '{"enum": [NaN]}', '{"minimum": -Infinity}',
                                  '{"const": %s}' % ("9" * 400)])  # fmt: skip
def test_what_json_has_no_number_for_is_refused(text):
    with pytest.raises(BadRequestError, match="schema"):
        schema_grammar(text)
