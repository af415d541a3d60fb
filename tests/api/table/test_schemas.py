"""Schemas of all kinds: what is enforced, which columns it gives, and what a reply becomes."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import typing
from typing import Any, Literal

import pydantic
import pytest

from mlc_widget import BadRequestError, MLCEngineError
from mlc_widget.api.table.schemas import read_schema


class Mood(enum.Enum):
    UP = "up"
    DOWN = "down"


class Part(pydantic.BaseModel):
    size: int


class Product(pydantic.BaseModel):
    name: str = pydantic.Field(alias="productName")
    stars: int | None = None
    mood: Mood
    part: Part
    since: datetime.date


@dataclasses.dataclass
class Point:
    x: int
    tags: list[str]


class Pair(typing.TypedDict, total=False):
    left: int
    right: str


OPEN: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "number"}}}


@pytest.mark.parametrize(
    ("schema", "columns", "text", "values"),
    [
        (
            Product,
            {"name": "string", "stars": "integer", "mood": "string", "part": None, "since": None},
            '{"productName": "n", "mood": "up", "part": {"size": 2}, "since": "2026-01-02"}',
            {
                "name": "n",
                "stars": None,
                "mood": "up",
                "part": {"size": 2},
                "since": datetime.date(2026, 1, 2),
            },
        ),
        (Point, {"x": "integer", "tags": None}, '{"x": 1, "tags": ["q"]}', {"x": 1, "tags": ["q"]}),
        (Pair, {"left": "integer", "right": "string"}, '{"left": 1}', {"left": 1, "right": None}),
        (Literal["good", "bad"], {"reply": "string"}, '"bad"', {"reply": "bad"}),
        (Literal[1, 2], {"reply": "integer"}, "2", {"reply": 2}),
        (Mood, {"reply": "string"}, '"down"', {"reply": "down"}),
        (list[int], {"reply": None}, "[1, 2]", {"reply": [1, 2]}),
        (OPEN, {"a": "number"}, '{"a": 2.5}', {"a": 2.5}),
        ({**OPEN, "additionalProperties": {}}, {"reply": None}, '{"b": 1}', {"reply": {"b": 1}}),
        ({"enum": ["x", "y"]}, {"reply": "string"}, '"x"', {"reply": "x"}),
        (
            {"$ref": "#/$defs/o", "$defs": {"o": OPEN}},
            {"a": "number"},
            "{}",
            {"a": None},
        ),
        (None, {"reply": "string"}, "plain {text}", {"reply": "plain {text}"}),
    ],
)
def test_fields_become_columns(
    schema: Any, columns: dict[str, Any], text: str, values: dict[str, Any]
) -> None:
    read = read_schema(schema, None)
    found = dict(read.columns)
    found.update({name: None for name in found if name == "since"})  # its type is in the values
    assert found == columns
    assert read.read(text) == values
    whole = read_schema(schema, "all")
    assert list(whole.columns) == ["all"]
    if len(values) > 1:
        assert (
            whole.read(text)["all"].items()
            >= {k: v for k, v in values.items() if v is not None}.items()
        )


def test_objects_have_no_other_keys_than_they_name() -> None:
    enforced = read_schema(Product, None).response_format
    assert enforced is not None
    schema = enforced["json_schema"]["schema"]
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["Part"]["additionalProperties"] is False
    combined = {"allOf": [OPEN], "properties": {"b": {}}}
    read = read_schema(combined, None).response_format
    assert read is not None
    assert read["json_schema"]["schema"] == combined


def test_a_reply_that_does_not_fit_says_where() -> None:
    with pytest.raises(MLCEngineError, match=r"mood: Input should be") as caught:
        read_schema(Product, None).read('{"productName": "n", "mood": "left"}')
    assert caught.value.code == "invalid_reply"
    for text in ("{", "[" * 100_000, "[1]"):
        with pytest.raises(MLCEngineError, match="does not fit"):
            read_schema(OPEN, None).read(text)


@pytest.mark.parametrize("half", [r"\ud800", r"a\udc00b", r"\udc00\ud800"])
@pytest.mark.parametrize("schema", [OPEN, Product, str, {"type": "array"}])
def test_half_a_character_is_refused_in_its_row(schema: Any, half: str) -> None:
    texts = {"array": f'["{half}"]', "string": f'"{half}"'}
    read = read_schema(schema, None)
    assert read.response_format is not None
    kind = read.response_format["json_schema"]["schema"].get("type")
    text = texts.get(kind, f'{{"productName": "{half}", "mood": "good"}}')
    with pytest.raises(MLCEngineError, match="does not fit"):
        read.read(text)


def test_whole_characters_may_be_escaped() -> None:
    assert read_schema({"type": "string"}, "x").read(r'"\ud83d\ude00 \u00e9"') == {"x": "😀 é"}


@pytest.mark.parametrize(
    ("labels", "literal"),
    [
        (["yes", "no"], r"Literal\['yes', 'no'\]"),
        (("a", "b", "c", "d"), r"Literal\['a', 'b', 'c', …\]"),
        ({"only"}, r"Literal\['only'\]"),
        ([1, 2], r"Literal\[1, 2\]"),
        ([], r"Literal\['yes', 'no'\]"),
    ],
)
def test_a_list_of_labels_is_told_that_it_is_a_literal(labels: Any, literal: str) -> None:
    with pytest.raises(BadRequestError, match=f"^schema = .*give typing.{literal}") as caught:
        read_schema(labels, None)
    assert caught.value.param == "schema"


@pytest.mark.parametrize("schema", ["good or bad", 5, object(), print])
def test_what_is_no_schema_is_refused(schema: Any) -> None:
    with pytest.raises(BadRequestError, match=r"^schema = .*JSON schema") as caught:
        read_schema(schema, None)
    assert caught.value.param == "schema"
