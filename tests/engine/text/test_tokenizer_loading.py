"""A tokenizer.json may be hostile; if it crashes native code, it crashes a child process."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from mlc_widget.api.errors import ModelFormatError
from mlc_widget.engine.text import tokenizer_loading
from mlc_widget.engine.text.tokenizer_loading import load_tokenizer


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLC_WIDGET_HOME", str(tmp_path / "home"))


def good() -> dict:
    t = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    t.pre_tokenizer = pre_tokenizers.Whitespace()
    t.add_special_tokens(["<s>"])
    return json.loads(t.to_str())


def write(folder: Path, spec: dict) -> None:
    (folder / "tokenizer.json").write_text(json.dumps(spec))


def replace(content: str, pattern: dict | None = None) -> dict:
    return {"type": "Replace", "pattern": pattern or {"String": "a"}, "content": content}


def changed(**fields: object) -> dict:
    return {**good(), **fields}


def with_ids(vocab: dict[str, int]) -> dict:
    return changed(model={"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"})


def added(*contents: str) -> dict:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return changed(
        added_tokens=[
            {"id": 2 + i, "content": c, "special": True, **flags} for i, c in enumerate(contents)
        ]
    )


def split(pattern: str) -> dict:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


BAD = {
    "an id of 2**31": with_ids({"[UNK]": 0, "a": 2**31}),
    "an id of 2**32 - 1": with_ids({"[UNK]": 0, "a": 2**32 - 1}),
    "an id of 10**7": with_ids({"[UNK]": 0, "a": 10**7}),
    "an id below zero": with_ids({"[UNK]": 0, "a": -1}),
    "an added token without end": added("x" * 10**6),
    "many added tokens": added(*(f"<{i}>" for i in range(70_000))),
    "a normalizer that explodes": changed(normalizer=replace("b" * 10**6)),
    "steps that explode together": changed(
        normalizer={"type": "Sequence", "normalizers": [replace("aa")] * 30}
    ),
    "one that explodes between characters": changed(normalizer=replace("x" * 999, {"Regex": ""})),
    "an expression that runs away": changed(pre_tokenizer=split(r"(a+|aa)+$")),
    "an expression that is none": changed(pre_tokenizer=split("(")),
    "no normalizer at all": changed(normalizer=5),
    "no object": 5,
}


@pytest.mark.parametrize("spec", BAD.values(), ids=BAD)
async def test_a_tokenizer_that_cannot_be_used_is_one_error(tmp_path, spec):
    write(tmp_path, spec)
    with pytest.raises(
        ModelFormatError, match=r"tokenizer\.json is not a tokenizer|tokenizer\.json cannot be used"
    ) as caught:
        await load_tokenizer(tmp_path)
    assert caught.value.param == str(tmp_path / "tokenizer.json")
    assert "\n" not in caught.value.message


@pytest.mark.skipif(os.name != "posix", reason="needs limits of POSIX")
@pytest.mark.parametrize("limit", ["CPU_S", "MEMORY_BYTES"])
async def test_time_and_memory_end_the_child_alone(tmp_path, monkeypatch, limit):
    write(tmp_path, with_ids({"[UNK]": 0, **{f"w{i}": i + 1 for i in range(200_000)}}))
    monkeypatch.setattr(tokenizer_loading, limit, {"CPU_S": 0, "MEMORY_BYTES": 60 << 20}[limit])
    with pytest.raises(ModelFormatError, match=r"takes more than|cannot"):
        await load_tokenizer(tmp_path)


async def test_a_pipe_in_its_place_is_refused(tmp_path):
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(ModelFormatError, match="is a pipe"):
        await load_tokenizer(tmp_path)


async def test_a_file_is_tried_once(tmp_path, monkeypatch):
    children = []
    run = tokenizer_loading.run_child

    async def counted(*args):
        children.append(args)
        await run(*args)

    monkeypatch.setattr(tokenizer_loading, "run_child", counted)
    for name in ("one", "two", "one"):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        write(folder, good())
        tokenizer = await load_tokenizer(folder)
        assert tokenizer.encode("a <s> b") == [1, 0, 0, 0, 0]
    assert len(children) == 1
    write(tmp_path / "one", added("<t>"))
    await load_tokenizer(tmp_path / "one")
    assert len(children) == 2
