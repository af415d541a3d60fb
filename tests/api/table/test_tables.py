"""Tables of every kind come back as they came, with typed columns behind the others."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import narwhals as nw
import pandas as pd
import pytest

from mlc_widget import BadRequestError
from mlc_widget.api.table.tables import open_table

polars = pytest.importorskip("polars")
pyarrow = pytest.importorskip("pyarrow")

DATA = {"n": [1, 2, 3], "text": ["x", None, "z"]}
VALUES: list[tuple[list[Any], str | None, tuple[str, str, str]]] = [
    ([1, None, 3], "integer", ("Int64", "Int64", "int64")),
    ([1, 2, 3], "integer", ("int64", "Int64", "int64")),
    ([1.5, 2, None], "number", ("float64", "Float64", "double")),
    ([True, None, False], "boolean", ("boolean", "Boolean", "bool")),
    (["a", None, "c"], "string", ("str", "String", "string")),
    ([None, None, None], "string", ("str", "String", "string")),
    ([[1], None, [2, 3]], None, ("object", "List(Int64)", "list<item: int64>")),
    ([[1], ["x"], 2], None, ("object", "String", "string")),
    ([datetime.date(2026, 1, 2), None, None], "string", ("object", "Date", "date32[day]")),
]


@pytest.mark.parametrize(("values", "kind", "types"), VALUES)
def test_columns_have_types(values: list[Any], kind: str | None, types: tuple[str, ...]) -> None:
    frame, first, table = (
        open_table(made, None).with_columns([], {"new": (values, kind)})
        for made in (pd.DataFrame(DATA), polars.DataFrame(DATA), pyarrow.table(DATA))
    )
    assert str(frame["new"].dtype) in (types[0], "object")  # text is that in pandas 2
    assert str(first["new"].dtype) == types[1]
    assert str(table["new"].type) == types[2]
    assert list(frame.columns) == first.columns == table.column_names == ["n", "text", "new"]
    if types[1] != "String" or kind == "string":
        assert first["new"].to_list() == table["new"].to_pylist() == values


def test_no_key_of_a_nested_value_is_lost() -> None:
    values = [{"q": 1}, None, {"q": 2, "r": [{"a": 1}, {"b": 2}]}]
    made = open_table(polars.DataFrame(DATA), None).with_columns([], {"new": (values, None)})
    assert made["new"].to_list() == [
        {"q": 1, "r": None},
        None,
        {"q": 2, "r": [{"a": 1, "b": None}, {"a": None, "b": 2}]},
    ]


def test_integers_of_more_than_64_bits_are_kept() -> None:
    for made in (pd.DataFrame(DATA), polars.DataFrame(DATA), pyarrow.table(DATA)):
        table = open_table(made, None).with_columns([], {"new": ([10**30, 1, 2], "integer")})
        column = table["new"]
        assert str(column.to_pylist()[0] if hasattr(column, "to_pylist") else column[0]) == str(
            10**30
        )


def test_a_pandas_index_is_kept_even_with_repetitions() -> None:
    frame = pd.DataFrame({0: ["u", "v", "w"]}, index=[7, 7, 1])
    table = open_table(frame, 2)
    assert [dict(row) for row in table.rows()] == [{"0": "u"}, {"0": "v"}]  # type: ignore[union-attr]
    made = table.with_columns([], {"new": (["a", "b"], "string")})
    assert list(made.index) == [7, 7]
    assert list(made["new"]) == ["a", "b"]
    assert list(frame.columns) == [0], "the data was changed"


@pytest.mark.parametrize("make", [pd.DataFrame, polars.DataFrame, pyarrow.table])
def test_an_empty_table_gets_the_columns(make: Callable[[Any], Any]) -> None:
    empty = open_table(make({"text": []}), None)
    assert list(empty.rows()) == []  # type: ignore[arg-type]
    made = empty.with_columns([], {"new": ([], "string")})
    assert len(made) == 0
    assert "new" in (getattr(made, "column_names", None) or list(made.columns))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "two columns are named 'a'"),
        (pd.DataFrame([[1, 2]], columns=["1", 1]), "two columns are named '1'"),
        (pyarrow.table([[1], [2]], names=["a", "a"]), "two columns are named 'a'"),
        (pd.DataFrame({("a", "b"): [1]}), "several levels"),
        (polars.LazyFrame(DATA), r"data.collect\(\)"),
        (pd.Series([1]), r"one column; give data.to_frame\('text'\)"),
        (polars.Series("a", [1]), r"one column; give data.to_frame\('text'\)"),
        (pd.Index([1]), "one column"),
        (DATA, "give a pandas"),
        ("text", "give a pandas"),
        (5, "give a pandas"),
        ([{"a": 1}, "text"], r"data\[1\]"),
        ([{1: 2}], "give texts"),
    ],
)
def test_what_is_no_table_is_refused(data: Any, words: str) -> None:
    with pytest.raises(BadRequestError, match=words):
        open_table(data, None)


@pytest.mark.parametrize("make", [polars.DataFrame, pyarrow.table])
def test_no_text_keeps_a_table_from_its_columns(make: Any) -> None:
    values = ["whole", "half \ud800 of it", None]
    table = open_table(make({"x": [1, 2, 3]}), None).with_columns([], {"y": (values, "string")})
    found = nw.from_native(table, eager_only=True)["y"].to_list()
    assert found[2] is None
    assert "whole" in found[0]
    assert "half" in found[1]
