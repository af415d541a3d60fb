"""The probabilities of labels: the tree's arithmetic, the requests, columns and refusals."""

from __future__ import annotations

import asyncio
import math
from enum import Enum
from typing import Any, Literal

import pandas as pd
import pytest

from mlc_widget import (
    AsyncMLCEngineInterface,
    BadRequestError,
    MapReport,
    MLCEngineInterface,
    UnsupportedFieldError,
)
from mlc_widget.api.table.labels import answers_of, tree_probabilities

from .conftest import FakeCore


class Mood(Enum):
    GOOD = "good"
    BAD = "bad"
    BADLY = "badly"


# Of each label's tokens: how probable each is after those before.
TOKENS: dict[Any, list[tuple[str, float]]] = {
    "good": [('"', 0.5), ("good", 0.1), ('"', 0.9)],
    "bad": [('"', 0.5), ("bad", 0.3), ('"', 0.2)],
    "badly": [('"', 0.5), ("bad", 0.3), ("ly", 0.6), ('"', 0.7)],
}
EXACT = {"good": 0.25, "bad": 0.75 * 0.25, "badly": 0.75 * 0.75}


class LabelCore(FakeCore):
    """Answers with the one label that the schema allows, and its log-probabilities."""

    after_mask = False

    async def request(self, kind: str, request: dict[str, Any]) -> dict[str, Any]:
        response = await super().request(kind, request)
        (label,) = request["response_format"]["json_schema"]["schema"]["enum"]
        assert request["logprobs"]
        assert request["temperature"] == 0
        content = [
            {
                "token": token,
                "bytes": list(token.encode()),
                "logprob": 0.0 if self.after_mask else math.log(p),
            }
            for token, p in TOKENS[label]
        ]
        response["choices"][0]["logprobs"] = {"content": content}
        return response


@pytest.fixture
def core() -> LabelCore:
    return LabelCore()


@pytest.mark.parametrize("blocks", [False, True])
async def test_each_label_has_a_column_with_its_exact_probability(
    engine: AsyncMLCEngineInterface, blocking: MLCEngineInterface, core: LabelCore, blocks: bool
) -> None:
    frame = pd.DataFrame({"text": ["a", "b", None]})
    report = MapReport()
    arguments: Any = {"schema": Mood, "into": "mood", "probabilities": True, "report": report}
    if blocks:
        made = await asyncio.to_thread(blocking.map, "{text}", frame, **arguments)
    else:
        made = await engine.map("{text}", frame, **arguments)
    assert list(made.columns) == [
        "text",
        "mood",
        "good_probability",
        "bad_probability",
        "badly_probability",
    ]
    assert list(made["mood"])[:2] == ["badly", "badly"]
    for label, exact in EXACT.items():
        assert list(made[f"{label}_probability"])[:2] == pytest.approx([exact] * 2, rel=1e-12)
    assert made.iloc[2, 1:].isna().all()
    assert len(core.requests) == 6
    assert core.most <= 12, "each label takes a place in the batch"
    assert (report.prompt_tokens, report.completion_tokens) == (6, 12)
    core.requests.clear()
    again = await engine.map("{text}", frame, **{**arguments, "temperature": 1.5})
    assert len(core.requests) == 6, "other sampling is another question"
    assert list(again["mood"]) == list(made["mood"])
    core.requests.clear()
    await engine.map("{text}", frame, **arguments)
    assert core.requests == [], "they are cached"
    assert report.cached == 2


async def test_a_map_without_probabilities_is_another_one(
    engine: AsyncMLCEngineInterface, core: LabelCore
) -> None:
    rows = [{"text": "a"}]
    await engine.map("{text}", rows, schema=Mood, probabilities=True)
    with pytest.raises(ValueError, match="unpack"):  # LabelCore knows forced labels only
        await engine.map("{text}", rows, schema=Mood)


def test_the_tree_adds_up_whatever_its_shape() -> None:
    def path(*tokens: tuple[str, float]) -> list[tuple[bytes, float]]:
        return [(token.encode(), math.log(p)) for token, p in tokens]

    assert tree_probabilities([path(("a", 0.01))]) == [1.0]
    assert tree_probabilities([path(("a", 0.2)), path(("b", 0.6))]) == pytest.approx([0.25, 0.75])
    # What cannot be said otherwise costs nothing, however improbable it is.
    long = tree_probabilities([path(("a", 0.2), ("x", 1e-9), ("y", 1e-9)), path(("b", 0.2))])
    assert long == pytest.approx([0.5, 0.5])
    tiny = tree_probabilities([[(b"a", -2000.0)], [(b"b", -2001.0)], [(b"c", -9000.0)]])
    assert tiny == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.e), 0.0])
    assert tree_probabilities([[(b"a", -math.inf)], [(b"b", -math.inf)]]) == [0.5, 0.5]


@pytest.mark.parametrize(
    ("labels", "answers"),
    [
        (["a", "ab", "abc"], ["a", "ab", "abc"]),
        ([1, 2, 3], [1, 2, 3]),
        ([True, False, None, 1, "1"], [True, False, None, 1, "1"]),
        ([2, 1, 10], ["2", "1", "10"]),
        ([1, 1.5, "x"], ["1", "1.5", '"x"']),
        ([-1, 1, -12], ["-1", "1", "-12"]),
        ([10, 2, 105, 100], ["10", "2", "105", "100"]),
    ],
)
def test_no_answer_begins_another(labels: list[Any], answers: list[Any]) -> None:
    made = answers_of(labels)
    assert made == answers
    assert list(map(type, made)) == list(map(type, answers))


async def test_log_probabilities_of_allowed_tokens_only_are_refused(
    engine: AsyncMLCEngineInterface, core: LabelCore
) -> None:
    core.after_mask = True
    with pytest.raises(UnsupportedFieldError, match="allowed tokens"):
        await engine.map("{text}", [{"text": "a"}], schema=Mood, probabilities=True)


async def test_a_cut_label_is_an_error_of_its_row(
    engine: AsyncMLCEngineInterface, core: LabelCore
) -> None:
    core.finish = "length"
    (row,) = await engine.map("{text}", [{"text": "a"}], schema=Mood, probabilities=True)
    assert "cut off" in row["error"]
    assert row["good_probability"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "a Literal, an Enum"),
        ({"schema": {"type": "object", "properties": {"x": {"enum": ["a"]}}}}, "a Literal"),
        ({"schema": list[str]}, "a Literal"),
        ({"schema": {"enum": ["a", ["b"]]}}, "must be texts"),
        ({"schema": {"enum": ["1", 1]}}, "same name"),
        ({"schema": {"enum": [f"{i}" for i in range(101)]}}, "101 labels"),
        ({"schema": Mood, "probabilities": "yes"}, "probabilities = 'yes'"),
        ({"schema": Literal["a", "b"], "data": [{"text": 1, "a_probability": 2}]}, "already"),
    ],
)
async def test_what_has_no_labels_is_refused_before_work(
    engine: AsyncMLCEngineInterface, core: LabelCore, arguments: dict[str, Any], words: str
) -> None:
    data = arguments.pop("data", [{"text": "a"}])
    with pytest.raises(BadRequestError, match=words):
        await engine.map("{text}", data, **{"probabilities": True, **arguments})
    assert core.requests == []
