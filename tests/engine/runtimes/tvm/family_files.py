"""The tiny models of `families` as GGUF files, in llama.cpp's names and order of rows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlc_widget.engine.store.formats.ggml_types import TYPES_BY_NAME
from tests.engine.store.formats.gguf_writer import write

Array = np.ndarray[Any, Any]

ARCHITECTURES = {
    "gemma3_text": "gemma3",
    "gpt_neox": "gptneox",
    "granitemoehybrid": "granite",
    "ministral3": "mistral3",
    "phi": "phi2",
}
"""llama.cpp's names of architectures, where they differ from transformers'."""
PAIRED = ("llama", "granite", "mistral3", "smollm3")
"""Architectures whose rows of queries and keys llama.cpp's converter puts in pairs."""
_NAMES = (
    (r"(model|transformer|gpt_neox)\.(layers|h)\.(\d+)\.", r"blk.\3."),
    (r"^(model\.embed_tokens|transformer\.wte|gpt_neox\.embed_in)", "token_embd"),
    (r"^transformer\.wpe", "position_embd"),
    (r"^(model\.(norm|final_layernorm)|transformer\.ln_f)", "output_norm"),
    (r"^gpt_neox\.final_layer_norm", "output_norm"),
    (r"^(lm_head|embed_out)", "output"),
    (r"self_attn\.([qkv])_proj", r"attn_\1"),
    (r"self_attn\.qkv_proj|attention\.query_key_value|attn\.c_attn", "attn_qkv"),
    (r"self_attn\.(o_proj|dense)|attention\.dense|attn\.c_proj", "attn_output"),
    (r"self_attn\.([qk])_(norm|layernorm)", r"attn_\1_norm"),
    (r"mlp\.gate_proj", "ffn_gate"),
    (r"mlp\.(up_proj|gate_up_proj|fc1|c_fc|dense_h_to_4h)", "ffn_up"),
    (r"mlp\.(down_proj|fc2|c_proj|dense_4h_to_h)", "ffn_down"),
    (r"input_layernorm|ln_1", "attn_norm"),
    (r"pre_feedforward_layernorm|ln_2", "ffn_norm"),
    (r"post_feedforward_layernorm", "post_ffw_norm"),
)  # fmt: skip


def _name(name: str, arch: str) -> str:
    after = arch in ("gemma2", "gemma3", "olmo2")
    name = name.replace("post_attention_layernorm", "post_attention_norm" if after else "ffn_norm")
    for pattern, theirs in _NAMES:
        name = re.sub(pattern, theirs, name)
    return name


def write_family(path: Path, config: Mapping[str, Any], state: Mapping[str, Array]) -> Path:
    """Write a model's GGUF file, all in F32."""
    arch = ARCHITECTURES.get(config["model_type"], config["model_type"])
    heads = config.get("num_attention_heads", config.get("n_head"))
    hidden = config.get("hidden_size", config.get("n_embd"))
    head = config.get("head_dim", hidden // heads)
    kind, tensors = TYPES_BY_NAME["F32"], {}
    state = _norms_stacked(dict(_gate_and_up_apart(state)))
    for tensor, value in state.items():
        name = _name(tensor, arch)
        if arch.startswith("gemma") and value.ndim == 1:
            value = value + 1
        if arch in PAIRED and re.search(r"attn_[qk]\.", name):
            value = value.reshape(-1, 2, head // 2, *value.shape[1:]).swapaxes(1, 2)
            value = value.reshape(state[tensor].shape)
        if arch == "gptneox" and "attn_qkv" in name:
            value = value.reshape(heads, 3, head, *value.shape[1:]).swapaxes(0, 1)
            value = value.reshape(state[tensor].shape)
        if arch == "gpt2" and value.ndim == 2 and name.startswith("blk"):
            value = value.T
        data = np.ascontiguousarray(value, np.float32)
        tensors[name] = (kind, data.view(np.uint8).reshape(*data.shape[:-1], -1))
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    for key in ("short", "long"):
        if f"{key}_factor" in rope:
            factors = np.array(rope[f"{key}_factor"], np.float32)
            tensors[f"rope_factors_{key}.weight"] = (kind, factors.view(np.uint8))
    return write(path, tensors, _fields(arch, config, head))


def _norms_stacked(state: Mapping[str, Array]) -> dict[str, Array]:
    """The weights, with norms that each head has as one matrix."""
    made: dict[str, Array] = {}
    for name, value in state.items():
        stacked, of_head, _ = name.partition(".norms.")
        if of_head:
            heads = sum(other.startswith(f"{stacked}.norms.") for other in state)
            rows = [state[f"{stacked}.norms.{head}.weight"] for head in range(heads)]
            made[f"{stacked}.weight"] = np.stack(rows)
        else:
            made[name] = value
    return made


def _gate_and_up_apart(state: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """The weights, with those of Granite 4 as Granite 3 has them."""
    for name, value in state.items():
        if "shared_mlp.input_linear" in name:
            for part, half in zip(("gate_proj", "up_proj"), np.split(value, 2), strict=True):
                yield name.replace("shared_mlp.input_linear", f"mlp.{part}"), half
        else:
            yield name.replace("shared_mlp.output_linear", "mlp.down_proj"), value


def _fields(arch: str, c: Mapping[str, Any], head: int) -> dict[str, Any]:
    rope = {**(c.get("rope_scaling") or {}), **(c.get("rope_parameters") or {})}
    share = c.get("partial_rotary_factor", c.get("rotary_pct", 1.0))
    names = {
        "context_length": c.get("max_position_embeddings", c.get("n_positions")),
        "embedding_length": c.get("hidden_size", c.get("n_embd")),
        "block_count": c.get("num_hidden_layers", c.get("n_layer")),
        "feed_forward_length": c.get(
            "shared_intermediate_size", c.get("intermediate_size", 4 * c.get("n_embd", 0))
        ),
        "attention.head_count": c.get("num_attention_heads", c.get("n_head")),
        "attention.head_count_kv": c.get("num_key_value_heads", c.get("n_head")),
        "attention.key_length": c.get("head_dim"),
        "attention.value_length": c.get("head_dim"),
        "attention.layer_norm_rms_epsilon": c.get("rms_norm_eps"),
        "attention.layer_norm_epsilon": c.get("layer_norm_eps", c.get("layer_norm_epsilon")),
        "rope.freq_base": rope.get("rope_theta", c.get("rope_theta", c.get("rotary_emb_base"))),
        "rope.dimension_count": int(head * share) if share != 1.0 else None,
        "attention.sliding_window": c.get("sliding_window"),
        "attn_logit_softcapping": c.get("attn_logit_softcapping"),
        "final_logit_softcapping": c.get("final_logit_softcapping"),
        "use_parallel_residual": c.get("use_parallel_residual"),
        "embedding_scale": c.get("embedding_multiplier"),
        "residual_scale": c.get("residual_multiplier"),
        "attention.scale": c.get("attention_multiplier"),
        "logit_scale": c.get("logits_scaling"),
        "rope.scaling.original_context_length": rope.get(
            "original_max_position_embeddings", c.get("original_max_position_embeddings")
        ),
    }
    if rope.get("rope_type") == "yarn":
        names["rope.scaling.type"] = "yarn"
        names["rope.scaling.factor"] = rope["factor"]
    if "llama_4_scaling_beta" in rope:
        names["attention.temperature_scale"] = rope["llama_4_scaling_beta"]
        names["rope.scaling.yarn_log_multiplier"] = rope["mscale_all_dim"]
    vocab = c["vocab_size"]
    letters = [chr(ord("!") + i) for i in range(vocab - 4)]
    tokens = ["<pad>", "<|im_start|>", "<|im_end|>", *letters, '!"']
    return {
        "general.architecture": arch,
        **{f"{arch}.{key}": value for key, value in names.items() if value is not None},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * 3 + [1] * (vocab - 3),
        "tokenizer.ggml.merges": ['! "'],
        "tokenizer.ggml.eos_token_id": 2,
    }
