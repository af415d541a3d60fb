"""The built-in model: small, complete, consistent, and as good as its card says."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from tools.demo.card import FOLDER, GROUPS, SCORES, render
from tools.demo.dialogue import DEFAULT_SYSTEM
from tools.mlc_format import dequantize_group, read_params

FILES = {
    "README.md",
    "mlc-chat-config.json",
    "params_shard_0.bin",
    "tensor-cache.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


def content(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def test_the_folder_is_small_and_holds_nothing_else() -> None:
    files = list(FOLDER.iterdir())
    assert {file.name for file in files} == FILES
    assert sum(file.stat().st_size for file in files) <= 6_000_000


def test_every_shard_is_what_the_cache_says() -> None:
    for shard in content("tensor-cache.json")["records"]:
        data = (FOLDER / shard["dataPath"]).read_bytes()
        assert len(data) == shard["nbytes"]
        assert hashlib.md5(data, usedforsecurity=False).hexdigest() == shard["md5sum"]
        ends = [record["byteOffset"] + record["nbytes"] for record in shard["records"]]
        assert ends[-1] == len(data)
        assert [record["byteOffset"] for record in shard["records"]] == [0, *ends[:-1]]


def test_shapes_fit_the_configuration() -> None:
    config = content("mlc-chat-config.json")
    shape = config["model_config"]
    params = read_params(FOLDER)
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    heads, kv_heads = shape["num_attention_heads"], shape["num_key_value_heads"]
    rows = {
        "model.embed_tokens": (shape["vocab_size"], hidden),
        "self_attn.qkv_proj": ((heads + 2 * kv_heads) * shape["head_dim"], hidden),
        "self_attn.o_proj": (hidden, heads * shape["head_dim"]),
        "mlp.gate_up_proj": (2 * inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }
    for name, (outputs, inputs) in rows.items():
        stems = [name] if name.startswith("model") else [
            f"model.layers.{layer}.{name}" for layer in range(shape["num_hidden_layers"])
        ]  # fmt: skip
        for stem in stems:
            weight = dequantize_group(params.pop(f"{stem}.q_weight"), params.pop(f"{stem}.q_scale"))
            assert weight.shape == (outputs, inputs)
            assert np.isfinite(weight).all()
    assert all(name.endswith("norm.weight") and value.shape == (hidden,)
               for name, value in params.items())  # fmt: skip
    assert len(params) == 2 * shape["num_hidden_layers"] + 1
    assert all(side % 32 == 0 for size in rows.values() for side in size)
    assert config["context_window_size"] == 2048


def test_the_tokenizer_fits_the_model_and_the_template() -> None:
    config = content("mlc-chat-config.json")
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == config["vocab_size"] == config["active_vocab_size"]
    template = config["conv_template"]
    assert template["system_message"] == DEFAULT_SYSTEM
    for stop in template["stop_str"]:
        assert tokenizer.token_to_id(stop) in template["stop_token_ids"]
    start = tokenizer.token_to_id("<|im_start|>")
    assert tokenizer.encode(template["roles"]["user"]).ids[0] == start


@pytest.mark.parametrize(
    "text",
    [
        "What is 17 + 25?",
        '{"name": "Ada", "age": 36}',
        "Grüße, 你好 🦊\n\n\tend",
        "x" * 50,
        "  a  b ",
    ],
)
def test_the_tokenizer_gives_every_text_back(text: str) -> None:
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_digits_stand_alone_and_capitals_part_from_their_word() -> None:
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    assert tokenizer.encode("123").tokens == ["1", "2", "3"]
    spaced, quoted = tokenizer.encode(" Ada").ids, tokenizer.encode("Ada").ids
    assert len(spaced) == len(quoted)
    assert spaced[1:] == quoted[1:]


def test_it_is_right_nine_times_in_ten_on_its_own_tasks() -> None:
    scores = json.loads(SCORES.read_text(encoding="utf-8"))
    assert scores["all"]["score"] >= 0.9
    assert scores["all"]["asked"] >= 1000
    kinds = scores["kinds"]
    assert scores["all"]["right"] == sum(row["right"] for row in kinds.values())
    for name, members in GROUPS:
        rows = [kinds[kind] for kind in members if kind in kinds]
        assert rows, name
        right, asked = (sum(row[key] for row in rows) for key in ("right", "asked"))
        assert right / asked >= 0.9, name


def test_it_holds_conversations() -> None:
    scores = json.loads(SCORES.read_text(encoding="utf-8"))
    conversations = scores["conversations"]
    # A little model often forgets what a system prompt asked for; the card says how often.
    assert conversations.pop("system_prompt")["score"] >= 0.85
    for name, row in conversations.items():
        assert row["score"] >= 0.9, name


def test_the_first_questions_are_answered_well() -> None:
    scores = json.loads(SCORES.read_text(encoding="utf-8"))
    assert all(row["right"] for row in scores["first_questions"])


def test_the_card_is_made_of_these_scores() -> None:
    assert (FOLDER / "README.md").read_text(encoding="utf-8") == render(FOLDER, SCORES)
