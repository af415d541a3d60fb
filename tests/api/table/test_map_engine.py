"""`engine.map` on a tiny model of the tvm runtime: the same bits in any batch, enforced schemas."""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest
import pytest_asyncio
import tokenizers

from mlc_widget import AsyncMLCEngine, BadRequestError, MapReport, MLCEngineInterface

pytest.importorskip("tvm", reason="needs mlc-widget[tvm]")
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny(tiny_model: Path) -> AsyncIterator[AsyncMLCEngine]:
    async with AsyncMLCEngine(runtime="tvm") as engine:
        await engine.reload(str(tiny_model))
        yield engine


async def test_labels_and_texts_are_the_same_bits_in_any_order_and_batch(
    tiny: AsyncMLCEngine,
) -> None:
    frame = pd.DataFrame({"text": [f"hello {i}" for i in range(12)]})
    texts = await tiny.map("say {text}", frame, max_tokens=6, cache=False)
    (model,) = await tiny.models.list()
    assert model.max_num_sequence > 1  # type: ignore[attr-defined]
    again = {
        row.index: row.values["reply"]
        async for row in tiny.map_stream("say {text}", frame[::-1], max_tokens=6, cache=False)
    }
    assert [again[11 - i] for i in range(12)] == list(texts["reply"])
    assert len(set(texts["reply"])) == 12
    for i in (0, 7):
        (alone,) = await tiny.map("say {text}", [{"text": f"hello {i}"}], max_tokens=6, cache=False)
        assert alone["reply"] == texts["reply"].iloc[i]
    labels = await tiny.map(
        "{text}", frame, schema=Literal["good", "bad"], into="mood", cache=False
    )
    assert set(labels["mood"]) <= {"good", "bad"}


async def test_a_blocking_engine_shares_the_cache(tiny: AsyncMLCEngine, tmp_path: Path) -> None:
    rows = [{"text": "hello"}, {"text": "world"}]
    first = await tiny.map("{text}", rows, max_tokens=3, cache=tmp_path / "file")
    blocking = MLCEngineInterface(tiny._core, tiny._home)
    report = MapReport()
    again = blocking.map("{text}", rows, max_tokens=3, cache=tmp_path / "file", report=report)
    assert again == first
    assert report.cached == 2


async def test_a_schema_that_cannot_be_enforced_is_refused_once(tiny: AsyncMLCEngine) -> None:
    with pytest.raises(BadRequestError, match="response_format"):
        await tiny.map("{text}", [{"text": "a"}], schema={"type": "nonsense"}, cache=False)


async def test_another_set_of_files_or_options_has_another_fingerprint(
    tiny: AsyncMLCEngine, tmp_path: Path
) -> None:
    from mlc_widget.engine.store.fingerprint import model_fingerprint

    file = tmp_path / "model.bin"
    file.write_bytes(b"1")
    first = model_fingerprint(tmp_path, {"a": 1})
    assert model_fingerprint(tmp_path, {"a": 1}) == first
    assert model_fingerprint(tmp_path, {"a": 2}) != first
    file.write_bytes(b"22")
    assert model_fingerprint(tmp_path, {"a": 1}) != first
    parts = [tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2)]
    for part in parts:
        part.write_bytes(b"1")
    split = model_fingerprint(parts[0], {})
    parts[1].write_bytes(b"22")
    assert model_fingerprint(parts[0], {}) != split
    (model,) = await tiny.models.list()
    assert len(model.fingerprint) == 64  # type: ignore[attr-defined]


async def test_the_probabilities_of_labels_are_the_same_bits_in_any_batch(
    tiny: AsyncMLCEngine,
) -> None:
    label = Literal["good", "goods", "bad", "a longer label"]
    columns = [f"{name}_probability" for name in ("good", "goods", "bad", "a longer label")]
    rows = [{"text": f"hello {i}"} for i in range(4)]
    report = MapReport()
    arguments = {"schema": label, "into": "mood", "probabilities": True, "cache": False}
    found = await tiny.map("{text}", rows, report=report, on_error="raise", **arguments)
    for row in found:
        assert sum(row[column] for column in columns) == pytest.approx(1)
        best = max(columns, key=lambda column: row[column])
        assert f"{row['mood']}_probability" == best
    (alone,) = await tiny.map("{text}", [rows[2]], **arguments)
    assert alone == found[2]
    # As two of three labels share their beginning, the third's part is the same without one.
    pair = await tiny.map("{text}", rows, **{**arguments, "schema": Literal["good", "goods"]})
    for row, whole in zip(pair, found, strict=True):
        share = whole["good_probability"] / (whole["good_probability"] + whole["goods_probability"])
        assert row["good_probability"] == pytest.approx(share)


@pytest.mark.parametrize(
    ("labels", "texts"),
    [
        (("hello", "hell", "you"), ('"hello"', '"hell"', '"you"')),
        ((1, 3, 2.5, None, True), ("1", "3", "2.5", "null", "true")),
        ((1, 10, -1, 100), ('"1"', '"10"', '"-1"', '"100"')),
        (("é", "are"), ('"é"', '"are"')),
    ],
)
async def test_probabilities_are_those_of_the_model_s_raw_logits(
    tiny: AsyncMLCEngine, tiny_model: Path, labels: tuple[Any, ...], texts: tuple[str, ...]
) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    turns = (("system", ""), ("user", "say how"))
    asked = "".join(f"<|im_start|>{role}\n{said}<|im_end|>\n" for role, said in turns)
    prompt = tokenizer.encode(f"{asked}<|im_start|>assistant\n").ids
    paths = [tokenizer.encode(text).ids for text in texts]
    # Each label is scored as a prompt, without grammars: the probability of each of its tokens.
    scored = await tiny.completions.create(
        prompt=[prompt + path for path in paths], max_tokens=0, echo=True, logprobs=0
    )
    after: dict[tuple[int, ...], dict[int, float]] = {}
    for path, choice in zip(paths, scored.choices, strict=True):
        for i, logprob in enumerate(choice.logprobs.token_logprobs[len(prompt) :]):
            after.setdefault(tuple(path[:i]), {})[path[i]] = math.exp(logprob)
    exact = [
        math.prod(
            after[tuple(path[:i])][token] / sum(after[tuple(path[:i])].values())
            for i, token in enumerate(path)
        )
        for path in paths
    ]
    assert sum(exact) == pytest.approx(1)
    (row,) = await tiny.map(
        "say {text}",
        [{"text": "how"}],
        schema={"enum": list(labels)},
        probabilities=True,
        on_error="raise",
        cache=False,
    )
    found = [value for name, value in row.items() if name.endswith("_probability")]
    assert found == pytest.approx(exact, rel=1e-5)
    assert row["reply"] == labels[exact.index(max(exact))]
    assert type(row["reply"]) is type(labels[exact.index(max(exact))])


@pytest.mark.soak
async def test_a_thousand_rows_are_the_same_bits_in_any_order_and_batch(
    tiny: AsyncMLCEngine,
) -> None:
    rows = [{"text": f"hello {'very ' * (i % 7)}{i}"} for i in range(1000)]
    arguments: Any = {"max_tokens": 8, "cache": False, "on_error": "raise", "temperature": 1.0}
    first = {row["text"]: row["reply"] for row in await tiny.map("{text}", rows, **arguments)}
    shuffled = random.Random(1).sample(rows, len(rows))
    for order in (rows[::-1], iter(shuffled)):
        async for row in tiny.map_stream("{text}", order, **arguments):
            assert row.values["reply"] == first[row.row["text"]]
    for row in shuffled[:40]:  # alone
        (alone,) = await tiny.map("{text}", [row], **arguments)
        assert alone["reply"] == first[row["text"]]
