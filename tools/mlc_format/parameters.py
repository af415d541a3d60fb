"""MLC's names of parameters, from Hugging Face's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np

from .quantization import Array, Quantization, quantize_params

ModelType = Literal["llama", "mistral", "qwen2", "qwen3"]

QKV_NAME = {"llama": "qkv_proj", "mistral": "qkv_proj", "qwen2": "c_attn", "qwen3": "c_attn"}
"""MLC's name of queries, keys and values stacked, by `model_type`."""


def fuse(
    hf_state: Mapping[str, Array],
    *,
    model_type: ModelType = "llama",
    tie_word_embeddings: bool | None = None,
) -> Iterator[tuple[str, Array]]:
    """Hugging Face parameters under MLC's names: q, k, v and gate, up stacked on axis 0.

    Args:
        hf_state: name → array as in ``LlamaForCausalLM.state_dict()`` and its like.
        model_type: MLC's name of the architecture.
        tie_word_embeddings: drop ``lm_head``; by default it is dropped where hf_state has none.

    Raises:
        ValueError: if a parameter is missing or one is left that the architecture does not have.
    """
    left = {name for name in hf_state if not name.endswith("rotary_emb.inv_freq")}

    def take(name: str) -> Array:
        if name not in hf_state:
            raise ValueError(f"parameter {name!r} is missing from the Hugging Face state")
        left.discard(name)
        return hf_state[name]

    def stack(prefix: str, names: tuple[str, ...], kind: str) -> Array:
        return np.concatenate([take(f"{prefix}.{name}.{kind}") for name in names], axis=0)

    yield "model.embed_tokens.weight", take("model.embed_tokens.weight")
    layer = 0
    while any(name.startswith(f"model.layers.{layer}.") for name in left):
        at = f"model.layers.{layer}"
        for kind in ("weight", "bias"):
            # Qwen2 has biases in q, k and v; Qwen3 may have them, and then in o as well.
            if kind == "weight" or f"{at}.self_attn.q_proj.bias" in left:
                yield (
                    f"{at}.self_attn.{QKV_NAME[model_type]}.{kind}",
                    stack(f"{at}.self_attn", ("q_proj", "k_proj", "v_proj"), kind),
                )
        yield f"{at}.self_attn.o_proj.weight", take(f"{at}.self_attn.o_proj.weight")
        if f"{at}.self_attn.o_proj.bias" in left:
            yield f"{at}.self_attn.o_proj.bias", take(f"{at}.self_attn.o_proj.bias")
        if model_type == "qwen3":
            for name in ("q_norm", "k_norm"):
                yield f"{at}.self_attn.{name}.weight", take(f"{at}.self_attn.{name}.weight")
        yield (
            f"{at}.mlp.gate_up_proj.weight",
            stack(f"{at}.mlp", ("gate_proj", "up_proj"), "weight"),
        )
        for name in ("mlp.down_proj", "input_layernorm", "post_attention_layernorm"):
            yield f"{at}.{name}.weight", take(f"{at}.{name}.weight")
        layer += 1
    yield "model.norm.weight", take("model.norm.weight")
    if tie_word_embeddings is None:
        tie_word_embeddings = "lm_head.weight" not in hf_state
    if tie_word_embeddings:
        left.discard("lm_head.weight")
    else:
        yield "lm_head.weight", take("lm_head.weight")
    if left:
        raise ValueError(f"parameters that {model_type} does not have: {', '.join(sorted(left))}")


def llama_params(
    hf_state: Mapping[str, Array],
    quantization: Quantization,
    *,
    tie_word_embeddings: bool | None = None,
) -> dict[str, Array]:
    """Convert a Hugging Face Llama state to MLC's parameters; see `fuse` and `quantize_params`.

    Raises:
        ValueError: for an unknown quantization, or a state that is not Llama's.
    """
    fused = dict(fuse(hf_state, tie_word_embeddings=tie_word_embeddings))
    return quantize_params(fused, quantization)
