"""Models that no runtime computes are refused with the mechanism that is missing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mlc_widget.api.errors import UnsupportedModelError
from mlc_widget.engine.runtimes.tvm.architectures import ARCHITECTURES, architecture_of
from mlc_widget.engine.store.families import FAMILIES
from mlc_widget.engine.store.formats import gguf_config, hf_config
from mlc_widget.engine.store.unsupported_models import mechanism_of_kind, missing_mechanism

RECURRENT, EXPERTS, IMAGES, ENCODER = "recurrent state", "mixture of experts", "images", "encoder"
GRANITE4 = {
    "model_type": "granitemoehybrid",
    "hidden_size": 64,
    "intermediate_size": 8,
    "shared_intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 50,
    "max_position_embeddings": 64,
    "layer_types": ["attention", "attention"],
    "num_local_experts": 0,
    "position_embedding_type": "rope",
}


def gguf(architecture: str, **fields: Any) -> Any:
    """The fields of a GGUF file; two underscores stand for a dot."""
    named = {f"{architecture}.{key.replace('__', '.')}": value for key, value in fields.items()}
    named["general.architecture"] = architecture
    file = SimpleNamespace(path="some.gguf")
    model = SimpleNamespace(fields=named, files=[file], tensors={})
    return gguf_config._Fields(model)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("architecture", "mechanism"),
    [
        *((name, RECURRENT) for name in (
            "mamba", "mamba2", "rwkv6", "rwkv7", "arwkv7", "granitehybrid", "nemotron_h",
            "nemotron_h_moe", "lfm2", "lfm2moe", "qwen3next", "qwen35", "falcon-h1", "jamba",
            "plamo2", "kimi-linear",
        )),
        *((name, EXPERTS) for name in (
            "granitemoe", "qwen2moe", "qwen3moe", "deepseek", "deepseek2", "gpt-oss", "olmoe",
            "phimoe", "glm4moe", "llama4", "dbrx", "ernie4_5-moe", "bailingmoe2", "mixtral",
        )),
        *((name, IMAGES) for name in ("qwen2vl", "qwen3vl", "qwen3vlmoe", "clip", "cogvlm")),
        *((name, ENCODER) for name in ("t5", "t5encoder")),
    ],
)  # fmt: skip
def test_a_gguf_architecture_is_refused_with_its_mechanism(architecture, mechanism):
    with pytest.raises(UnsupportedModelError, match=mechanism) as caught:
        gguf(architecture).model_type()
    assert f"'{architecture}'" in str(caught.value)
    assert "the supported ones are llama, qwen2" in str(caught.value)


@pytest.mark.parametrize("architecture", ["llama", "granite", "phi3", "some-new-one"])
def test_the_fields_of_a_gguf_file_count_more_than_its_name(architecture):
    with pytest.raises(UnsupportedModelError, match=r"mixture of experts.*expert_count is 8"):
        gguf(architecture, expert_count=8).model_type()
    with pytest.raises(UnsupportedModelError, match=RECURRENT):
        gguf(architecture, ssm__state_size=16).model_type()


def test_a_dense_gguf_file_may_say_that_it_has_no_experts():
    assert gguf("llama", expert_count=0).model_type() == "llama"
    assert gguf("granite", expert_count=0, expert_used_count=0).model_type() == "granite"


def test_a_granite_gguf_file_without_rotation_is_refused():
    fields = gguf("granite", rope__scaling__finetuned=False)
    with pytest.raises(UnsupportedModelError, match="not rotated"):
        gguf_config._OWN["granite"](fields)


@pytest.mark.parametrize(
    ("kind", "mechanism"),
    [
        *((name, RECURRENT) for name in (
            "mamba", "falcon_mamba", "rwkv", "bamba", "jamba", "zamba2", "nemotron_h", "lfm2",
            "qwen3_next", "qwen3_5", "recurrent_gemma",
        )),
        *((name, EXPERTS) for name in (
            "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2", "deepseek_v3", "granitemoe",
            "granitemoeshared", "olmoe", "phimoe", "gpt_oss", "glm4_moe",
        )),
        *((name, IMAGES) for name in ("qwen2_vl", "qwen2_5_vl", "mllama", "smolvlm", "phi3_v")),
        *((name, ENCODER) for name in ("t5", "bart", "whisper")),
    ],
)  # fmt: skip
def test_a_model_type_is_refused_with_its_mechanism(kind, mechanism):
    with pytest.raises(UnsupportedModelError, match=rf"'{kind}'.*{mechanism}.*llama, mistral"):
        hf_config.model_config({"model_type": kind}, has_output=True)
    with pytest.raises(UnsupportedModelError, match=rf"'{kind}'.*{mechanism}.*llama, mistral"):
        architecture_of(kind, {})


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"layer_types": ["mamba", "attention"]}, RECURRENT),
        ({"layer_types": ["linear_attention", "full_attention"]}, RECURRENT),
        ({"layer_types": ["mamba", "attention"], "num_local_experts": 64}, RECURRENT),
        ({"layer_types": None, "layers_block_type": ["mamba", "attention"]}, RECURRENT),
        ({"layer_types": None}, RECURRENT),
        ({"num_local_experts": 32}, r"mixture of experts.*num_local_experts is 32"),
        ({"num_local_experts": None}, EXPERTS),
        ({"layer_types": ["attention", "sliding_attention"]}, "layer_types"),
        ({"layer_types": [["mamba"], 3]}, "layer_types"),
        ({"position_embedding_type": None}, "position_embedding_type"),
        ({"position_embedding_type": "nope"}, "position_embedding_type"),
        ({"mlp_bias": True}, "mlp_bias"),
    ],
)
def test_granite_4_runs_only_if_it_is_dense(changes, match):
    made = hf_config.model_config(GRANITE4, has_output=True)
    assert made["intermediate_size"] == 96
    assert hf_config.mlc_model_type(GRANITE4) == "granite"
    with pytest.raises(UnsupportedModelError, match=match):
        hf_config.model_config({**GRANITE4, **changes}, has_output=True)


def test_nothing_is_known_against_what_runs():
    for kind in ("gptj", "falcon", "bloom", "no-such-model", "x" * 10**5, None, 3, ["t5"]):
        assert mechanism_of_kind(kind) is None
    for kind in FAMILIES.keys() - {"granitemoehybrid"} | ARCHITECTURES.keys():
        assert mechanism_of_kind(kind) is None
    for fields in ({}, {"num_experts": None}, {"num_experts": True}, {"layer_types": {"a": 1}}):
        assert missing_mechanism(fields) is None
