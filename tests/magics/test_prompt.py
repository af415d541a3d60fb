"""Variables in prompts, and values as text."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta

import pandas as pd
import polars as pl
import pytest

from mlc_widget.api.errors import BadRequestError
from mlc_widget.widget.describe import LIMIT, describe
from mlc_widget.widget.prompt import fill_in


class Point:
    x = 3


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("Hello {name}!", "Hello Ada!"),
        ("{name}{name}", "AdaAda"),
        ("{point.x} and {items[1]} and {table[key]} and {table['key']}", "3 and b and v and v"),
        ("{ratio:.2f}", "0.33"),
        ("{{name}} is {name}", "{name} is Ada"),
        ('{"name": {"a": 1}} and { name } and {name: 1} and {}', None),
        ("for (;;) { x(); }", None),
        ("über {größe}", "über 7"),
        ("{{{name}}}", "{Ada}"),
        ("}} {", None),
    ],
)
def test_names_are_filled_in_and_other_braces_stay(text: str, filled: str | None) -> None:
    names = {
        "name": "Ada",
        "point": Point(),
        "items": ["a", "b"],
        "table": {"key": "v"},
        "ratio": 1 / 3,
        "größe": 7,
    }
    assert fill_in(text, names) == (text if filled is None else filled)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Use {dat}", r"no variable 'dat'.*\{\{dat\}\}"),
        ("{name.nothing}", r"\{name.nothing\}: AttributeError"),
        ("{name[9]}", "IndexError"),
        ("{name:d}", "ValueError"),
    ],
)
def test_what_cannot_be_filled_in_is_named(text: str, complaint: str) -> None:
    with pytest.raises(BadRequestError, match=complaint):
        fill_in(text, {"name": "Ada"})


def test_a_value_with_braces_is_not_filled_in_again() -> None:
    assert fill_in("{a}", {"a": "{b}", "b": "secret"}) == "{b}"


def test_a_data_frame_becomes_columns_types_and_rows() -> None:
    frame = pd.DataFrame({"city": ["Oslo", "Rome"] * 5_000, "degrees": range(10_000)})
    text = describe(frame)
    assert "10,000 rows, 2 columns" in text
    assert "degrees (int64)" in text
    assert "Oslo" in text
    assert "9,980 more rows" in text
    assert len(text) < 2_000
    assert "3 values (int64)" in describe(pd.Series([1, 2, 3], name="n"))


def test_a_polars_frame_may_have_columns_of_any_type() -> None:
    frame = pl.DataFrame(
        {
            "text": ["a, b", None],
            "list": [["x"], []],
            "struct": [{"n": 1}, None],
            "time": [timedelta(hours=1), None],
            "bytes": [b"x", None],
        }
    )
    head, *rows = describe(frame).splitlines()
    assert head.startswith("Data frame: 2 rows, 5 columns: text (String), list (List(String))")
    assert rows == [
        "text,list,struct,time,bytes",
        "\"a, b\",['x'],{'n': 1},1:00:00,b'x'",
        ",[],,,",
    ]
    assert describe(pl.DataFrame()).startswith("Data frame: 0 rows, 0 columns")


def test_a_wide_data_frame_of_long_texts_is_bounded() -> None:
    frame = pd.DataFrame({f"c{i}": ["x" * 10_000] * 50 for i in range(300)})
    assert len(describe(frame)) <= LIMIT + 100


def test_an_exception_becomes_its_traceback_with_its_cause() -> None:
    def fail() -> None:
        try:
            {}["key"]
        except KeyError as error:
            raise ValueError("no such city") from error

    with pytest.raises(ValueError, match="no such city") as caught:
        fail()
    text = describe(caught.value)
    assert "KeyError: 'key'" in text
    assert "direct cause" in text
    assert text.endswith("ValueError: no such city")


def test_what_is_long_loses_its_middle_and_says_so() -> None:
    text = describe("a" * 50_000 + "end")
    assert len(text) < LIMIT + 100
    assert "42,003 characters left out" in text
    assert text.endswith("end")


def test_functions_are_their_source_and_other_things_their_repr() -> None:
    assert "return shown if" not in describe(describe)
    assert "def describe(" in describe(describe)
    assert describe([1, {"a": None}]) == "[1, {'a': None}]"
    assert describe(len) == repr(len)


def test_pandas_is_not_imported_for_it() -> None:
    code = (
        "import sys; from mlc_widget.widget.describe import describe;"
        "class_ = type('DataFrame', (), {'__module__': 'pandas.core.frame'});"
        "describe(class_()); assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
