"""Random models wide enough for 8-bit activations, made from a seed wherever they are needed.

The tiny models of `golden` have few features, sharp attention and logits that are all alike, so
that they magnify any rounding tenfold. These are shaped like trained models: 256 features, some of
which the norms make much larger, attention to many tokens, and one token that is much more probable
than the others, because the output layer is tied to the embedding.
"""

from __future__ import annotations

from typing import Any

import mlc_format
import numpy as np

QUANTIZATIONS: tuple[mlc_format.Quantization, ...] = ("q4f16_1", "q4f32_1")
"""Those with logits of their own; q4f16_0 has the numbers of q4f16_1."""

_WIDE = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "head_dim": 64,
    "vocab_size": 67,
    "rms_norm_eps": 1e-5,
    "context_window_size": 256,
    "prefill_chunk_size": 32,
}
_QWEN = {**_WIDE, "hidden_act": "silu", "rope_theta": 1000000}

WIDE: dict[mlc_format.ModelType, dict[str, Any]] = {
    "llama": {**_WIDE, "tie_word_embeddings": True, "position_embedding_base": 500000},
    "mistral": {
        **_WIDE,
        "tie_word_embeddings": False,
        "position_embedding_base": 10000,
        "sliding_window_size": 21,
        "attention_sink_size": 4,
    },
    "qwen2": {**_QWEN, "tie_word_embeddings": True},
    "qwen3": {**_QWEN, "tie_word_embeddings": False, "attention_bias": False},
}
"""MLC's `model_config` of each."""


def prompt(model_type: mlc_format.ModelType, tokens: int) -> list[int]:
    """Token ids."""
    ids: list[int] = _random(model_type).randint(3, WIDE[model_type]["vocab_size"], tokens).tolist()
    return ids


def params(model_type: mlc_format.ModelType) -> dict[str, mlc_format.Array]:
    """Parameters under MLC's names, float32; the same numbers under any numpy."""
    c, random = WIDE[model_type], _random(model_type)
    hidden, inner, d = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d

    def matrix(rows: int, columns: int) -> mlc_format.Array:
        return (random.standard_normal((rows, columns)) / columns**0.5).astype(np.float32)

    def norm(features: int) -> mlc_format.Array:
        return np.exp(0.4 * random.standard_normal(features)).astype(np.float32)

    qkv = mlc_format.QKV_NAME[model_type]
    embedding = random.standard_normal((c["vocab_size"], hidden)).astype(np.float32)
    result = {"model.embed_tokens.weight": embedding}
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}."
        result[f"{layer}self_attn.{qkv}.weight"] = matrix(q + 2 * kv, hidden)
        if model_type == "qwen2":
            bias = 0.5 * random.standard_normal(q + 2 * kv)
            result[f"{layer}self_attn.{qkv}.bias"] = bias.astype(np.float32)
        if model_type == "qwen3":
            result[f"{layer}self_attn.q_norm.weight"] = norm(d)
            result[f"{layer}self_attn.k_norm.weight"] = norm(d)
        result[f"{layer}self_attn.o_proj.weight"] = matrix(hidden, q)
        result[f"{layer}mlp.gate_up_proj.weight"] = matrix(2 * inner, hidden)
        result[f"{layer}mlp.down_proj.weight"] = matrix(hidden, inner)
        result[f"{layer}input_layernorm.weight"] = norm(hidden)
        result[f"{layer}post_attention_layernorm.weight"] = norm(hidden)
    result["model.norm.weight"] = norm(hidden)
    if not c["tie_word_embeddings"]:
        result["lm_head.weight"] = embedding[random.permutation(c["vocab_size"])]
    return result


def _random(model_type: mlc_format.ModelType) -> np.random.RandomState:
    # RandomState's streams are frozen; those of newer generators may change.
    return np.random.RandomState(sum(map(ord, model_type)))
