from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest

from mlc_widget.engine.store.formats.ggml_types import GGML_TYPES
from mlc_widget.engine.store.formats.gguf_config import chat_config
from mlc_widget.engine.store.formats.gguf_file import GGUFModel

from .gguf_writer import random_blocks, write

F32 = next(kind for kind in GGML_TYPES.values() if kind.name == "F32")
SHAPE: dict[str, Any] = {
    "llama.context_length": 64,
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 64,
    "llama.block_count": 1,
    "llama.attention.head_count": 1,
    "llama.attention.head_count_kv": 1,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.tokens": ["a", "b"],
}


@pytest.mark.parametrize(
    ("said", "factor"),
    [
        ({}, None),
        ({"scaling.type": "none", "scaling.factor": 4.0}, None),
        ({"scaling.type": "linear", "scaling.factor": 4.0}, 4.0),
        ({"scaling.type": "linear"}, None),
        ({"scaling.factor": 2.5}, 2.5),
        ({"scale_linear": 8.0}, 8.0),  # older files
        ({"scaling.factor": 0.0, "scale_linear": 8.0}, None),
    ],
    ids=str,
)
def test_positions_are_scaled_as_in_llama_cpp(tmp_path, said, factor):
    fields = {**SHAPE, **{f"llama.rope.{name}": value for name, value in said.items()}}
    embedding = {"token_embd.weight": (F32, random_blocks(F32, 2, 64))}
    with contextlib.closing(GGUFModel(write(tmp_path / "m.gguf", embedding, fields))) as model:
        scaling = chat_config(model)["model_config"]["rope_scaling"]
    assert scaling == (None if factor is None else {"rope_type": "linear", "factor": factor})


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ({"temp": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05},
         {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.05}),
        ({"penalty_repeat": 1.1, "top_k": 0}, {"repetition_penalty": 1.1, "top_k": 0}),
        ({"top_k": True, "min_p": "much"}, {}),
        ({}, {}),
    ],
)  # fmt: skip
def test_the_defaults_of_requests_come_from_the_file(tmp_path, said, means):
    fields = {**SHAPE, **{f"general.sampling.{name}": value for name, value in said.items()}}
    embedding = {"token_embd.weight": (F32, random_blocks(F32, 2, 64))}
    file = write(tmp_path / "m.gguf", embedding, fields)
    with contextlib.closing(GGUFModel(file)) as model:
        config = chat_config(model)
    names = {"temperature", "top_k", "top_p", "min_p", "repetition_penalty"}
    found = {name: config[name] for name in names & config.keys()}
    assert found == {name: pytest.approx(value) for name, value in means.items()}
    assert np.isfinite(list(found.values())).all()
