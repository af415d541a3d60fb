"""Of each model that WebLLM offers: it runs, or what it lacks (tools/webllm_models.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlc_widget.engine.runtimes.tvm.architectures import ARCHITECTURES, architecture_of
from mlc_widget.engine.runtimes.tvm.layers import CpuBuilder
from mlc_widget.engine.runtimes.tvm.quantization import QUANTIZATIONS
from mlc_widget.engine.runtimes.tvm.target import host_target

FILE = Path(__file__).parents[3] / "fixtures" / "webllm_models.json"
MODELS = [tuple(model) for model in json.loads(FILE.read_text())["models"]]
LACKS = {
    "gemma4": "embeddings of each layer, and layers that share keys and values",
    "phi3_v": "vision",
    "qwen3_5": "a recurrent state",
    "q3f16_1": "codes of 3 bits",
}
"""The mechanism that a family or a quantization lacks."""


def reason(family: str, quantization: str) -> str | None:
    """Why a model does not run; None if it does."""
    if family not in ARCHITECTURES:
        return LACKS[family]
    return None if quantization in QUANTIZATIONS else LACKS[quantization]


def llama(
    hidden: int, inner: int, layers: int, heads: int, kv: int, vocab: int, **more: Any
) -> dict[str, Any]:
    """A `model_config` as MLC writes it."""
    return {
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv, "vocab_size": vocab,
        "rms_norm_eps": 1e-5, "context_window_size": 4096, **more,
    }  # fmt: skip


_LONGROPE = {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
CONFIGS = {
    "llama": llama(2048, 8192, 16, 32, 8, 128256, position_embedding_base=500000),
    "mistral": llama(4096, 14336, 32, 32, 8, 32768, sliding_window_size=-1),
    "qwen2": llama(896, 4864, 24, 14, 2, 151936, rope_theta=1e6),
    "qwen3": llama(1024, 3072, 28, 16, 8, 151936, head_dim=128, rope_theta=1e6),
    "phi3": llama(
        3072, 8192, 32, 32, 32, 32064, rope_scaling=_LONGROPE,
        original_max_position_embeddings=4096, max_position_embeddings=131072,
    ),
    "gemma": llama(
        2048, 16384, 18, 8, 1, 256000, head_dim=256, hidden_activation=None, hidden_act="gelu"
    ),
    "gemma2": llama(
        2304, 9216, 26, 8, 4, 256000, head_dim=256, hidden_activation="gelu_pytorch_tanh",
        attn_logit_softcapping=50.0, final_logit_softcapping=30.0, query_pre_attn_scalar=256,
        sliding_window=4096,
    ),
    "gemma3_text": llama(
        1152, 6912, 26, 4, 1, 262144, head_dim=256, hidden_activation="gelu_pytorch_tanh",
        sliding_window_size=512,
    ),
    "olmo2": llama(2048, 8192, 16, 16, 16, 100352, position_embedding_base=500000),
    "stablelm": llama(
        2048, 5632, 24, 32, 32, 100352, layer_norm_eps=1e-5, partial_rotary_factor=0.25,
        rope_theta=10000, use_qkv_bias=True,
    ),
    "gpt_neox": llama(
        2560, 10240, 32, 32, 32, 50432, layer_norm_eps=1e-5, rotary_pct=1.0,
        use_parallel_residual=True,
    ),
    "phi": llama(
        2048, 8192, 24, 32, 32, 51200, layer_norm_eps=1e-5, partial_rotary_factor=0.5,
        hidden_act="gelu_new",
    ),
    "phi-msft": {
        "model_type": "phi-msft", "vocab_size": 51200, "n_positions": 2048, "n_embd": 2560,
        "n_layer": 32, "n_inner": 0, "n_head": 32, "rotary_dim": 32, "n_head_kv": 32,
        "layer_norm_epsilon": 1e-5, "context_window_size": 2048, "head_dim": 80,
    },
    "ministral3": llama(
        3072, 9216, 26, 32, 8, 131072, head_dim=128, sliding_window_size=-1,
        rope_parameters={
            "rope_type": "yarn", "type": "yarn", "rope_theta": 1e6, "factor": 16.0,
            "original_max_position_embeddings": 16384, "beta_fast": 32.0, "beta_slow": 1.0,
            "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
        },
    ),
}  # fmt: skip
"""The published shapes of one model of each family."""


def test_nine_of_ten_run():
    left = [(name, why) for name, *kind in MODELS if (why := reason(*kind)) is not None]
    assert len(MODELS) == 167
    assert len(left) <= 0.1 * len(MODELS), left


def test_every_family_that_runs_has_its_published_shape_here():
    families = {family for _, family, _ in MODELS if family in ARCHITECTURES}
    assert families - {"bert"} == CONFIGS.keys()


@pytest.mark.parametrize("family", CONFIGS)
def test_the_published_shapes_are_accepted_by_the_kernels(family):
    from mlc_widget.engine.store.families import common_config

    architecture: Any = architecture_of(family, common_config(CONFIGS[family]))
    build = CpuBuilder(QUANTIZATIONS["q4f16_1"], host_target().isa, int8=True)
    for layer in range(architecture.shape.layers):
        build.attention(architecture.attention_spec(layer), layer)
    assert architecture.shape.head_dim in (64, 80, 96, 128, 256)
