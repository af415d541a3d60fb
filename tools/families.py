"""Tiny random models of the families, as transformers saves them: config.json, and weights.

The weights are made from a seed where they are needed; `golden_families.py` writes transformers'
logits. Of each model, ``tests/fixtures/families/<name>.npz`` has

- ``shapes``, the names and shapes of its tensors as JSON;
- ``logits`` (n, vocab) float32 of `prompt`, in float32, of the weights as they are;
- ``logits_<quantization>``, of the weights once they are quantized so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

PROMPT_TOKENS = 84
QUANTIZATIONS = ("q4f16_1", "q8f16_1")
"""Those with logits of their own."""

_TINY = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 67,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
_LAYER_NORM = {k: v for k, v in _TINY.items() if k != "rms_norm_eps"} | {"layer_norm_eps": 1e-5}
_GEMMA = {
    **_TINY,
    "head_dim": 16,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
}

CONFIGS: dict[str, dict[str, Any]] = {
    "gemma": {"model_type": "gemma", **_GEMMA, "rope_theta": 10000.0},
    "gemma2": {
        "model_type": "gemma2",
        **_GEMMA,
        "rope_theta": 10000.0,
        "query_pre_attn_scalar": 16,
        "sliding_window": 21,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma3": {
        "model_type": "gemma3_text",
        **_GEMMA,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 48,
        "rope_theta": 100000.0,
        "rope_local_base_freq": 1000.0,
        "query_pre_attn_scalar": 40,
        "sliding_window": 21,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    },
    "gpt2": {
        "model_type": "gpt2",
        "n_embd": 64,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 96,
        "vocab_size": 67,
        "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new",
        "eos_token_id": 2,
        "tie_word_embeddings": True,
    },
    "gpt_neox": {
        "model_type": "gpt_neox",
        **_LAYER_NORM,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "hidden_act": "gelu",
        "rotary_pct": 0.5,
        "rotary_emb_base": 10000,
        "use_parallel_residual": True,
    },
    "granite": {
        "model_type": "granite",
        **_TINY,
        "rope_theta": 10000.0,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.4,
        "residual_multiplier": 0.6,
        "logits_scaling": 2.5,
    },
    "granite4": {
        "model_type": "granitemoehybrid",
        **_TINY,
        "shared_intermediate_size": 160,
        "layer_types": ["attention", "attention"],
        "num_local_experts": 0,
        "num_experts_per_tok": 0,
        "position_embedding_type": "rope",
        # What transformers checks even of a model without Mamba's layers.
        "mamba_n_heads": 4,
        "mamba_d_head": 32,
        "rope_theta": 10000.0,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.4,
        "residual_multiplier": 0.6,
        "logits_scaling": 2.5,
    },
    "llama-yarn": {
        "model_type": "llama",
        **_TINY,
        "head_dim": 32,
        "attention_bias": True,
        "rope_theta": 10000.0,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "ministral3": {
        "model_type": "ministral3",
        **_TINY,
        "head_dim": 32,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1000000.0,
            "factor": 2.0,
            "original_max_position_embeddings": 128,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "llama_4_scaling_beta": 0.1,
        },
    },
    "olmo2": {"model_type": "olmo2", **_TINY, "rope_theta": 500000.0},
    "phi": {
        "model_type": "phi",
        **_LAYER_NORM,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "hidden_act": "gelu_new",
        "partial_rotary_factor": 0.5,
        "rope_theta": 10000.0,
    },
    "phi3": {
        "model_type": "phi3",
        **_TINY,
        "hidden_size": 128,
        "num_key_value_heads": 2,
        "partial_rotary_factor": 0.5,
        "rope_theta": 10000.0,
        "original_max_position_embeddings": 64,
        "rope_scaling": {
            "type": "longrope",
            "short_factor": [1.0] * 8,
            "long_factor": [1.0, 1.1, 1.3, 1.6, 2.0, 3.0, 4.0, 6.0],
        },
        "bos_token_id": 1,
        "pad_token_id": 0,
    },
    "smollm3": {
        "model_type": "smollm3",
        **_TINY,
        "rope_theta": 10000.0,
        "no_rope_layers": [1, 0],
        "pad_token_id": 0,
        "bos_token_id": 1,
    },
    "stablelm": {
        "model_type": "stablelm",
        **_LAYER_NORM,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "partial_rotary_factor": 0.5,
        "use_qkv_bias": True,
        "rope_theta": 10000.0,
    },
    "stablelm-12b": {
        "model_type": "stablelm",
        **_LAYER_NORM,
        "hidden_size": 320,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "partial_rotary_factor": 0.25,
        "qk_layernorm": True,
        "use_parallel_residual": True,
        "rope_theta": 10000.0,
    },
}
"""The content of config.json of each."""


def prompt(name: str) -> list[int]:
    """Token ids that cross pages and chunks."""
    vocab = CONFIGS[name]["vocab_size"]
    ids: list[int] = _random(name).randint(3, vocab, PROMPT_TOKENS).tolist()
    return ids


def state(name: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Weights of these names and shapes; attention and logits are far from uniform."""
    random, made = _random(name), {}
    for tensor, shape in sorted(shapes.items()):
        value = random.standard_normal(shape).astype(np.float32)
        if tensor.endswith("bias"):
            value *= 0.3
        elif len(shape) == 1:
            # Gemma stores its norms' weights without the 1.
            value = 0.2 * value + (0 if name.startswith("gemma") else 1)
        else:
            outer = any(part in tensor for part in ("embed", "lm_head", "wte", "wpe"))
            inputs = shape[0] if name == "gpt2" and not outer else shape[1]
            value *= (1.0 if outer else 1.6) / inputs**0.5
        made[tensor] = value.astype(np.float32)
    return made


def _random(name: str) -> np.random.RandomState:
    # RandomState's streams are frozen; those of newer generators may change.
    return np.random.RandomState(sum(map(ord, name)))
