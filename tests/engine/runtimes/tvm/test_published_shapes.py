"""Models of all families in their published sizes: what their config.json says is accepted.

Sizes differ in the heads (of 32 to 256 dimensions, a part of which is rotated), in how many share
their keys and values, and in vocabularies and MLPs that no power of two divides. No weights are
made: `test_families.py` runs small models of each family.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from mlc_widget.api.errors import UnsupportedModelError
from mlc_widget.engine.runtimes.tvm.architectures import ARCHITECTURES, architecture_of
from mlc_widget.engine.runtimes.tvm.builder import Builder
from mlc_widget.engine.runtimes.tvm.cuda.layers import CudaBuilder
from mlc_widget.engine.runtimes.tvm.cuda.tensor_layers import TensorBuilder
from mlc_widget.engine.runtimes.tvm.layers import CpuBuilder
from mlc_widget.engine.runtimes.tvm.quantization import QUANTIZATIONS
from mlc_widget.engine.runtimes.tvm.target import host_target
from mlc_widget.engine.store.families import common_config
from mlc_widget.engine.store.formats import hf_config

Q4 = QUANTIZATIONS["q4f16_1"]


@dataclass(frozen=True)
class Model:
    """What a config.json says, and the dimensions of a head: all, and those that are rotated."""

    name: str
    kind: str
    hidden: int
    inner: int
    heads: int
    kv: int
    vocab: int
    head_dim: int
    rotated: int
    layers: int = 2
    more: dict[str, Any] = field(default_factory=dict)

    def config(self) -> dict[str, Any]:
        norm = "layer_norm_eps" if self.kind in ("gpt_neox", "phi", "stablelm") else "rms_norm_eps"
        return {
            "model_type": self.kind, "hidden_size": self.hidden, "intermediate_size": self.inner,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv,
            "num_hidden_layers": self.layers, "vocab_size": self.vocab, norm: 1e-5,
            "max_position_embeddings": 4096, "tie_word_embeddings": False, **self.more,
        }  # fmt: skip


def llama(name: str, *sizes: int, **more: Any) -> Model:
    return Model(name, "llama", *sizes, more={"rope_theta": 10000.0, **more})


def qwen(name: str, *sizes: int) -> Model:
    kind = name[:5].lower()
    more = {"head_dim": sizes[5]} if kind == "qwen3" else {}
    more |= {"use_sliding_window": False, "sliding_window": None, "max_window_layers": 28}
    return Model(name, kind, *sizes, more=more)


def gemma(kind: str, name: str, *sizes: int, **more: Any) -> Model:
    given = {"head_dim": sizes[5], "hidden_activation": "gelu_pytorch_tanh", **more}
    return Model(name, kind, *sizes, more=given)


def neox(name: str, hidden: int, heads: int, vocab: int, rotated: int, **more: Any) -> Model:
    given = {"rotary_pct": 0.25, "hidden_act": "gelu", "use_parallel_residual": True, **more}
    return Model(
        name, "gpt_neox", hidden, 4 * hidden, heads, heads, vocab, hidden // heads, rotated,
        more=given,
    )  # fmt: skip


def gpt2(name: str, hidden: int, heads: int) -> Model:
    more = {
        "n_embd": hidden, "n_head": heads, "n_layer": 2, "n_positions": 1024, "n_inner": None,
        "activation_function": "gelu_new", "tie_word_embeddings": True,
    }  # fmt: skip
    return Model(name, "gpt2", hidden, 4 * hidden, heads, heads, 50257, 64, 0, more=more)


def longrope(factors: int) -> dict[str, Any]:
    scaling = {"short_factor": [1.0] * factors, "long_factor": [2.0] * factors, "type": "longrope"}
    return {"rope_scaling": scaling, "original_max_position_embeddings": 4096}


LLAMA3 = {
    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
GRANITE = {
    "embedding_multiplier": 12.0, "attention_multiplier": 0.015625, "residual_multiplier": 0.22,
    "logits_scaling": 8.0, "attention_bias": False, "hidden_act": "silu",
}  # fmt: skip
GRANITE4 = {**GRANITE, "num_local_experts": 0, "position_embedding_type": "rope"}
GEMMA3 = {"sliding_window": 512, "rope_local_base_freq": 10000.0, "query_pre_attn_scalar": 256}
GEMMA3_LAYERS = (["sliding_attention"] * 5 + ["full_attention"]) * 5
STABLELM = {"partial_rotary_factor": 0.25, "rope_theta": 10000}
STABLELM_12B = {"qk_layernorm": True, "use_parallel_residual": True, "use_qkv_bias": False}
PHI = {"partial_rotary_factor": 0.5, "hidden_act": "gelu_new", "qk_layernorm": False}

MODELS = [
    llama("SmolLM2-135M", 576, 1536, 9, 3, 49152, 64, 64, tie_word_embeddings=True),
    llama("SmolLM2-360M", 960, 2560, 15, 5, 49152, 64, 64),
    llama("SmolLM2-1.7B", 2048, 8192, 32, 32, 49152, 64, 64),
    llama("TinyLlama-1.1B", 2048, 5632, 32, 4, 32000, 64, 64, rope_scaling=None),
    llama("Llama-3.2-1B", 2048, 8192, 32, 8, 128256, 64, 64, rope_scaling=LLAMA3),
    llama("Llama-3.2-3B", 3072, 8192, 24, 8, 128256, 128, 128, rope_parameters={
        **LLAMA3, "rope_theta": 500000.0}),
    llama("Llama-2-7B", 4096, 11008, 32, 32, 32000, 128, 128),
    llama("Llama-2-13B", 5120, 13824, 40, 40, 32000, 128, 128),
    llama("Llama-3.1-70B", 8192, 28672, 64, 8, 128256, 128, 128),
    llama("DeepSeek-Coder-1.3B", 2048, 5504, 16, 16, 32256, 128, 128, rope_scaling={
        "type": "linear", "factor": 4.0}),
    llama("H2O-Danube3-500M", 1536, 4096, 16, 8, 32000, 96, 96),
    Model("Mistral-7B-v0.1", "mistral", 4096, 14336, 32, 8, 32000, 128, 128, more={
        "sliding_window": 4096}),
    Model("Mistral-7B-v0.3", "mistral", 4096, 14336, 32, 8, 32768, 128, 128, more={
        "sliding_window": None}),
    Model("Mistral-Nemo", "mistral", 5120, 14336, 32, 8, 131072, 128, 128, more={
        "head_dim": 128, "sliding_window": None}),
    Model("H2O-Danube-1.8B", "mistral", 2560, 6912, 32, 8, 32000, 80, 80, more={
        "sliding_window": 4096}),
    qwen("Qwen2.5-0.5B", 896, 4864, 14, 2, 151936, 64, 64),
    qwen("Qwen2.5-1.5B", 1536, 8960, 12, 2, 151936, 128, 128),
    qwen("Qwen2.5-3B", 2048, 11008, 16, 2, 151936, 128, 128),
    qwen("Qwen2.5-7B", 3584, 18944, 28, 4, 152064, 128, 128),
    qwen("Qwen2.5-32B", 5120, 27648, 40, 8, 152064, 128, 128),
    qwen("Qwen3-0.6B", 1024, 3072, 16, 8, 151936, 128, 128),
    qwen("Qwen3-4B", 2560, 9728, 32, 8, 151936, 128, 128),
    qwen("Qwen3-32B", 5120, 25600, 64, 8, 151936, 128, 128),
    gemma("gemma", "Gemma-2B", 2048, 16384, 8, 1, 256000, 256, 256),
    gemma("gemma", "Gemma-7B", 3072, 24576, 16, 16, 256000, 256, 256, hidden_activation=None),
    gemma("gemma2", "Gemma-2-2B", 2304, 9216, 8, 4, 256000, 256, 256, query_pre_attn_scalar=256),
    gemma("gemma2", "Gemma-2-9B", 3584, 14336, 16, 8, 256000, 256, 256),
    gemma("gemma2", "Gemma-2-27B", 4608, 36864, 32, 16, 256000, 128, 128,
        query_pre_attn_scalar=144),
    gemma("gemma3_text", "Gemma-3-270M", 640, 2048, 4, 1, 262144, 256, 256, **GEMMA3),
    gemma("gemma3_text", "Gemma-3-1B", 1152, 6912, 4, 1, 262144, 256, 256, 26, **GEMMA3),
    gemma("gemma3_text", "Gemma-3-4B", 2560, 10240, 8, 4, 262208, 256, 256, 34, **{
        **GEMMA3, "sliding_window": 1024, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    gemma("gemma3_text", "Gemma-3-27B", 5376, 21504, 32, 16, 262208, 128, 128, 30, **{
        **GEMMA3, "query_pre_attn_scalar": 168, "layer_types": GEMMA3_LAYERS}),
    Model("Phi-3-mini-4k", "phi3", 3072, 8192, 32, 32, 32064, 96, 96, more={
        "sliding_window": 2047, "original_max_position_embeddings": 4096}),
    Model("Phi-3.5-mini", "phi3", 3072, 8192, 32, 32, 32064, 96, 96, more=longrope(48)),
    Model("Phi-3-medium", "phi3", 5120, 17920, 40, 10, 32064, 128, 128, more=longrope(64)),
    Model("Phi-4", "phi3", 5120, 17920, 40, 10, 100352, 128, 128, more={"sliding_window": None}),
    Model("Phi-4-mini", "phi3", 3072, 8192, 24, 8, 200064, 128, 96, more={
        **longrope(48), "partial_rotary_factor": 0.75, "tie_word_embeddings": True}),
    Model("SmolLM3-3B", "smollm3", 2048, 11008, 16, 4, 128256, 128, 128, 36, {
        "no_rope_layers": [1, 1, 1, 0] * 9, "use_sliding_window": False}),
    Model("Granite-3.1-2B", "granite", 2048, 8192, 32, 8, 49155, 64, 64, more=GRANITE),
    Model("Granite-3.1-8B", "granite", 4096, 12800, 32, 8, 49155, 128, 128, more=GRANITE),
    Model("Granite-4.0-350M", "granitemoehybrid", 1024, 2048, 16, 4, 100352, 64, 64, more={
        **GRANITE4, "shared_intermediate_size": 2048, "layer_types": ["attention"] * 2}),
    Model("Granite-4.0-micro", "granitemoehybrid", 2560, 8192, 40, 8, 100352, 64, 64, more={
        **GRANITE4, "shared_intermediate_size": 8192, "layer_types": ["attention"] * 2}),
    Model("OLMo-2-1B", "olmo2", 2048, 8192, 16, 16, 100352, 128, 128),
    Model("OLMo-2-13B", "olmo2", 5120, 13824, 40, 40, 100352, 128, 128),
    Model("OLMo-2-32B", "olmo2", 5120, 27648, 40, 8, 100352, 128, 128),
    Model("StableLM-2-1.6B", "stablelm", 2048, 5632, 32, 32, 100352, 64, 16, more={
        **STABLELM, "use_qkv_bias": True}),
    Model("StableLM-Zephyr-3B", "stablelm", 2560, 6912, 32, 32, 50304, 80, 20, more=STABLELM),
    Model("StableLM-2-12B", "stablelm", 5120, 13824, 32, 8, 100352, 160, 40, more={
        **STABLELM, **STABLELM_12B}),
    neox("Pythia-14M", 128, 4, 50304, 8),
    neox("Pythia-31M", 256, 8, 50304, 8),
    neox("Pythia-70M", 512, 8, 50304, 16),
    neox("Pythia-160M", 768, 12, 50304, 16),
    neox("Pythia-410M", 1024, 16, 50304, 16),
    neox("Pythia-1B", 2048, 8, 50304, 64),
    neox("Pythia-1.4B", 2048, 16, 50304, 32),
    neox("Pythia-2.8B", 2560, 32, 50304, 20),
    neox("Pythia-6.9B", 4096, 32, 50432, 32),
    neox("Pythia-12B", 5120, 40, 50688, 32),
    neox("Dolly-v2-3B", 2560, 32, 50280, 20),
    neox("GPT-NeoX-20B", 6144, 64, 50432, 24, hidden_act="gelu_fast"),
    neox("RedPajama-3B", 2560, 32, 50432, 80, rotary_pct=1.0, use_parallel_residual=False),
    neox("RedPajama-7B", 4096, 32, 50432, 128, rotary_pct=1.0, use_parallel_residual=False),
    neox("Polyglot-Ko-1.3B", 2048, 16, 30080, 64, rotary_pct=0.5),
    Model("Phi-1.5", "phi", 2048, 8192, 32, 32, 51200, 64, 32, more=PHI),
    Model("Phi-2", "phi", 2560, 10240, 32, 32, 51200, 80, 32, more={
        **PHI, "partial_rotary_factor": 0.4}),
    gpt2("GPT-2", 768, 12),
    gpt2("GPT-2-medium", 1024, 16),
    gpt2("GPT-2-large", 1280, 20),
    gpt2("GPT-2-XL", 1600, 25),
]  # fmt: skip
REFUSED = [
    llama("OpenLLaMA-3B", 3200, 8640, 32, 32, 32000, 100, 100),
    llama("H2O-Danube3-4B", 3840, 10240, 32, 8, 32000, 120, 120),
]
"""Heads have a multiple of 16 dimensions."""


@pytest.fixture(scope="module")
def builders() -> list[Builder]:
    isa = host_target().isa
    return [CpuBuilder(Q4, isa, int8=True), CudaBuilder(Q4), TensorBuilder(Q4)]


def accepted(model: Model) -> Any:
    config = hf_config.model_config(model.config(), has_output=True)
    return architecture_of(hf_config.mlc_model_type(model.config()), common_config(config))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_published_sizes_are_accepted(model, builders):
    architecture = accepted(model)
    shape = architecture.shape
    assert (shape.head_dim, shape.kv_heads) == (model.head_dim, model.kv)
    assert shape.vocab_size == model.vocab
    assert {rope.dims for rope in shape.ropes} == ({model.rotated} if model.rotated else set())
    for build in builders:
        for layer in range(model.layers):
            spec = architecture.attention_spec(layer)
            assert build.attention(spec, layer).spec.heads == (
                model.heads, model.kv, model.head_dim,
            )  # fmt: skip


def test_every_family_has_a_published_size():
    other_names = {"bert", "gemma3", "phi-msft", "ministral3"}  # test_webllm_models has the last
    tested = {hf_config.mlc_model_type(model.config()) for model in MODELS}
    assert tested == ARCHITECTURES.keys() - other_names


@pytest.mark.parametrize("model", REFUSED, ids=lambda model: model.name)
def test_sizes_without_kernels_are_refused_by_name(model):
    with pytest.raises(UnsupportedModelError, match=rf"head_dim is {model.head_dim}"):
        accepted(model)
