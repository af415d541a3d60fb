"""Fields of config.json that are left out, null, or unlike those of all published models."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from mlc_widget.api.errors import UnsupportedModelError
from mlc_widget.engine.store.formats import hf_config

sys.path.append(str(Path(__file__).parents[4] / "tools"))
import families

LLAMA = {"model_type": "llama", **families._TINY}
MISTRAL = {**LLAMA, "model_type": "mistral"}
QWEN3 = {**LLAMA, "model_type": "qwen3"}
TINY = {**families.CONFIGS, "llama": LLAMA, "mistral": MISTRAL, "qwen3": QWEN3}


def read(name: str, *left_out: str, **changes: Any) -> dict[str, Any]:
    config = {k: v for k, v in {**TINY[name], **changes}.items() if k not in left_out}
    return hf_config.model_config(config, has_output=True)


@pytest.mark.parametrize(
    ("name", "field", "ours", "value"),
    [
        ("llama", "head_dim", "head_dim", 16),  # hidden_size / num_attention_heads
        ("mistral", "head_dim", "head_dim", 16),
        ("qwen3", "head_dim", "head_dim", 128),
        ("gemma", "head_dim", "head_dim", 256),
        ("gemma2", "head_dim", "head_dim", 256),
        ("gemma3", "head_dim", "head_dim", 256),
        ("ministral3", "head_dim", "head_dim", 128),
        ("llama", "rope_theta", "position_embedding_base", 10000.0),
        ("smollm3", "rope_theta", "position_embedding_base", 2000000.0),
        ("gemma3", "rope_theta", "position_embedding_base", 1000000.0),
        ("gemma3", "rope_local_base_freq", "rope_local_base_freq", 10000.0),
        ("llama", "rms_norm_eps", "rms_norm_eps", 1e-6),
        ("olmo2", "rms_norm_eps", "rms_norm_eps", 1e-5),
        ("phi3", "rms_norm_eps", "rms_norm_eps", 1e-5),
        ("stablelm", "layer_norm_eps", "layer_norm_eps", 1e-5),
        ("mistral", "sliding_window", "sliding_window_size", 4096),
        ("ministral3", "sliding_window", "sliding_window_size", -1),
        ("gemma2", "sliding_window", "sliding_window", 4096),
        ("gemma2", "attn_logit_softcapping", "attn_logit_softcapping", 50.0),
        ("gemma2", "final_logit_softcapping", "final_logit_softcapping", 30.0),
        ("gemma2", "query_pre_attn_scalar", "query_pre_attn_scalar", 256.0),
        ("gpt_neox", "rotary_pct", "rotary_pct", 0.25),
        ("gpt_neox", "use_parallel_residual", "use_parallel_residual", True),
        ("stablelm-12b", "qk_layernorm", "qk_layernorm", False),
        ("stablelm-12b", "use_parallel_residual", "use_parallel_residual", False),
        ("granite", "logits_scaling", "logits_scaling", 1.0),
        ("smollm3", "no_rope_layers", "no_rope_layer_interval", 4),
    ],
)
def test_a_field_that_is_left_out_has_the_value_that_transformers_gives_it(
    name, field, ours, value
):
    assert read(name, field)[ours] == value


def test_null_is_not_the_same_as_left_out():
    assert read("mistral", sliding_window=None)["sliding_window_size"] == -1
    caps = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
    assert not caps.keys() & read("gemma2", **caps).keys()
    assert not caps.keys() & read("gemma3", **caps).keys()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gemma3", {"use_bidirectional_attention": True}),  # EmbeddingGemma
        ("gemma", {"use_bidirectional_attention": True}),
        ("gemma3", {"attn_logit_softcapping": 50.0}),
        ("gemma3", {"final_logit_softcapping": 30.0}),
        ("gemma2", {"layer_types": ["full_attention", "sliding_attention"]}),
        ("gemma2", {"layer_types": ["full_attention"] * 2}),
        ("gemma2", {"attention_bias": True}),
        ("gpt2", {"tie_word_embeddings": False}),
        ("gpt2", {"scale_attn_weights": False}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
        ("gpt_neox", {"attention_bias": False}),
        ("llama", {"mlp_bias": True}),
        ("granite", {"mlp_bias": True}),
        ("olmo2", {"mlp_bias": True}),
        ("smollm3", {"use_sliding_window": True}),
        ("phi", {"qk_layernorm": True}),
    ],
    ids=str,
)
def test_what_would_change_the_logits_unseen_is_refused_by_name(name, changes):
    [field] = changes
    read(name, field)
    with pytest.raises(UnsupportedModelError, match=rf"config\.json: {field} is ") as caught:
        read(name, **changes)
    assert caught.value.param == field


@pytest.mark.parametrize("name", ["llama", "granite", "granite4", "olmo2", "smollm3", "qwen3"])
def test_relatives_of_llama_may_have_biases(name):
    assert read(name, attention_bias=True)["attention_bias"] is True
    assert read(name, "attention_bias")["attention_bias"] is False
