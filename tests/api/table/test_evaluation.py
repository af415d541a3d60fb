"""`engine.evaluate`: its figures, what it compares, and what it shows."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from mlc_widget import AsyncMLCEngineInterface, BadRequestError, Evaluation, MLCEngineInterface
from mlc_widget.api.table.evaluation import evaluate

TRUTH = ["a"] * 5 + ["b"] * 4 + ["c"]
LABELS = ["a", "a", "a", "b", None, "b", "b", "a", "c", "c"]


def test_the_figures() -> None:
    found = evaluate(LABELS, TRUTH)
    assert (found.rows, found.missing, found.accuracy) == (10, 1, 0.6)
    assert found.labels == ("a", "b", "c")
    assert found.support == {"a": 5, "b": 4, "c": 1}
    assert found.precision == {"a": 3 / 4, "b": 2 / 3, "c": 1 / 2}
    assert found.recall == {"a": 3 / 5, "b": 2 / 4, "c": 1.0}
    assert found.f1["b"] == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))
    assert found.confusion["a", None] == 1
    assert found.confusion["b", "c"] == 1
    # Of the nine rows with both: 6 agree; by chance 4/9·4/9 + 4/9·3/9 + 1/9·2/9.
    chance = (16 + 12 + 2) / 81
    assert found.kappa == pytest.approx((6 / 9 - chance) / (1 - chance))


@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame, pa.table, None])
def test_every_kind_of_table(make: Any) -> None:
    columns = {"reply": LABELS, "truth": TRUTH}
    table = (
        make(columns)
        if make
        else [{"reply": label, "truth": right} for label, right in zip(LABELS, TRUTH, strict=True)]
    )
    whole = evaluate(LABELS, TRUTH)
    assert evaluate(table, "truth") == whole
    assert evaluate(table, TRUTH) == whole
    if make:
        assert evaluate(table, table["truth"]) == whole
        assert evaluate(table["reply"], table["truth"]) == whole
    agreement = evaluate(table, table, column="truth")
    assert (agreement.accuracy, agreement.kappa) == (1.0, 1.0)


def test_engines_have_it(engine: AsyncMLCEngineInterface, blocking: MLCEngineInterface) -> None:
    for one in (engine, blocking):
        found = one.evaluate(LABELS, TRUTH)
        assert isinstance(found, Evaluation)
        assert found == evaluate(LABELS, TRUTH)


@pytest.mark.parametrize(
    ("labels", "truth", "accuracy", "kappa"),
    [
        ([], [], math.nan, math.nan),
        (["a"], [None], math.nan, math.nan),
        ([None, None], ["a", "b"], 0.0, math.nan),
        (["a", "a"], ["a", "a"], 1.0, math.nan),
        (["a", "b"], ["b", "a"], 0.0, -1.0),
        ([1, 2.0, True], [1, 2, 1], 1.0, 1.0),
        ([float("nan"), "a"], ["a", "a"], 0.5, math.nan),
    ],
)
def test_edges(labels: list[Any], truth: list[Any], accuracy: float, kappa: float) -> None:
    found = evaluate(labels, truth)
    assert found.accuracy == pytest.approx(accuracy, nan_ok=True)
    assert found.kappa == pytest.approx(kappa, nan_ok=True)
    assert "accuracy" in str(found)
    assert found._repr_html_()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((["a"], ["a", "b"]), "truth: it has 2 rows, and the result 1"),
        (([{"x": "a"}], ["a"]), "no column 'reply'; give column= one of x"),
        (([{"reply": "a"}], "truth"), "no column 'truth'"),
        ((pd.DataFrame({"x": ["a"]}), ["a"]), "no column 'reply'"),
        ((["a"], [["a"]]), "labels must be texts"),
        ((["1"], [1]), "texts never equal numbers"),
        (("a", ["a"]), "give a table"),
        ((5, ["a"]), "give a table"),
        ((["a"], ["a"], 5), "column = 5"),
        (
            (pd.DataFrame({"reply": ["a", "b"]}), pd.Series(["b", "a"], index=[1, 0])),
            "its index differs from that of the result",
        ),
    ],
)
def test_what_does_not_fit_is_refused(arguments: Any, words: str) -> None:
    with pytest.raises(BadRequestError, match=words):
        evaluate(*arguments)


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)


def test_what_is_shown_is_inert_and_bounded() -> None:
    hostile = "<script>alert(1)</script>" + "x" * 10_000
    shown = evaluate([hostile, "b"], ["b", hostile])._repr_html_()
    assert "<script" not in shown
    assert len(shown) < 10_000
    assert (
        {"table", "svg"}
        <= set(Tags(shown).tags)
        <= {*("p", "table", "thead", "tbody", "tr", "th", "td", "svg", "rect")}
    )
    many = [f"label {i}" for i in range(5000)]
    found = evaluate(many, many)
    assert "4,980 more labels" in found._repr_html_()
    assert "4,980 more labels" in str(found)
    assert len(found._repr_html_()) < 30_000
    assert "1,000 rows" in repr(evaluate(["a"] * 1000, ["a"] * 1000))
