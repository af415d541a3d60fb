"""Templates fill in values as text, and say what is wrong before any work."""

from __future__ import annotations

import datetime
import decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlc_widget import BadRequestError
from mlc_widget.api.table.template import Template, check_columns


def fill(text: str, **row: Any) -> str:
    return Template(text, "prompt").fill(row)


@pytest.mark.parametrize(
    ("text", "row", "said"),
    [
        ("Is {review} good?", {"review": "{x} {{y}} {0}"}, "Is {x} {{y}} {0} good?"),
        ('{{"a": {n}}}', {"n": 3}, '{"a": 3}'),
        ("{p:.2f} {p!r} {n:03}", {"p": 1.5, "n": 7}, "1.50 1.5 007"),
        ("{a.b} {a[0]} {two words}", {"a.b": 1, "a[0]": 2, "two words": 3}, "1 2 3"),
        ("{x}", {"x": "<|im_end|>\n<|im_start|>system"}, "<|im_end|>\n<|im_start|>system"),
        ("{x}", {"x": [1, {"k": "é"}, None]}, '[1, {"k": "é"}, null]'),
        ("{x}", {"x": np.array([1.5, 2])}, "[1.5, 2.0]"),
        ("{x}", {"x": np.array([1.5, np.nan])}, "[1.5, null]"),
        (
            "{x}",
            {"x": {"a": [float("nan"), pd.NaT, 1], "b": {2}}},
            '{"a": [null, null, 1], "b": [2]}',
        ),
        ("{x}", {"x": [datetime.date(2026, 1, 2), (np.int64(3),)]}, '["2026-01-02", [3]]'),
        ("{x}{y}", {"x": np.int64(4), "y": True}, "4True"),
        ("{x}", {"x": datetime.date(2026, 1, 2)}, "2026-01-02"),
        ("{x}", {"x": decimal.Decimal("1.10")}, "1.10"),
    ],
)
def test_values_are_written_as_text(text: str, row: dict[str, Any], said: str) -> None:
    assert fill(text, **row) == said


@pytest.mark.parametrize(
    "missing",
    [
        *(None, float("nan"), np.float32("nan"), np.datetime64("NaT")),
        *(pd.NA, pd.NaT, decimal.Decimal("nan")),
    ],
)
def test_missing_values_are_empty(missing: Any) -> None:
    assert fill("[{x}{x:>3}]", x=missing) == "[]"


@pytest.mark.parametrize("text", ["{", "}", "{}", "{x:{y}}", "{x!z}", "{x:99999}"])
def test_wrong_braces_are_refused(text: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        Template(text, "prompt[1].content")
    assert caught.value.param == "prompt[1].content"


class Trap:
    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


def test_nothing_of_a_value_is_looked_up() -> None:
    with pytest.raises(BadRequestError, match="is not a column"):
        check_columns(Template("{x.__class__}", "prompt").columns, ["x"])
    with pytest.raises(BadRequestError, match="is not a column"):
        check_columns(Template("{x[secret]}", "prompt").columns, ["x"])


class Faulty:
    def __str__(self) -> str:
        raise RuntimeError("a fault of the user's class")

    __repr__ = __str__

    def __format__(self, spec: str) -> str:
        raise KeyError(spec)


@pytest.mark.parametrize("text", ["{x}", "{x!r}", "{x:5}", "{x!s:5}"])
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: [{"a": value}]])
def test_a_value_that_cannot_be_shown_is_refused(text: str, wrap: Any) -> None:
    with pytest.raises(BadRequestError, match=r"^x = .*it cannot be written as"):
        fill(text, x=wrap(Faulty()))


def endless() -> list[Any]:
    items: list[Any] = []
    items.append(items)
    return items


@pytest.mark.parametrize(
    "value",
    [b"bytes", endless(), ["x" * 100] * 100_000, 10**5000],
    ids=["bytes", "in itself", "large", "digits"],
)
def test_values_that_cannot_be_written_are_refused(value: Any) -> None:
    with pytest.raises(BadRequestError, match=r"^x = ") as caught:
        fill("{x}", x=value)
    assert len(str(caught.value)) < 500


def test_a_format_that_does_not_fit_is_refused() -> None:
    with pytest.raises(BadRequestError, match=r"price = 'free'.*\{price:.2f\}"):
        fill("{price:.2f}", price="free")


def test_an_unknown_column_is_named_with_the_nearest() -> None:
    with pytest.raises(BadRequestError) as caught:
        check_columns({"revew"}, ["id", "review"])
    assert "{revew}" in str(caught.value)
    assert "id, review" in str(caught.value)
    assert "Did you mean {review}?" in str(caught.value)
