"""Writing MLC folders: hand-made codes, names, shards, what TVM itself reads back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tools.mlc_format import (
    dequantize_group,
    from_bf16,
    llama_params,
    quantize_group,
    read_params,
    to_bf16,
    write_model,
    write_params,
)

CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": 64,
    "context_window_size": 128,
}
TOKENIZER = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 2}]}


def llama_state(*, tied: bool) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (64, 64),
        "model.norm.weight": (64,),
    }
    if not tied:
        shapes["lm_head.weight"] = (64, 64)
    for layer in range(2):
        at = f"model.layers.{layer}"
        shapes |= {
            f"{at}.self_attn.q_proj.weight": (64, 64),
            f"{at}.self_attn.k_proj.weight": (32, 64),
            f"{at}.self_attn.v_proj.weight": (32, 64),
            f"{at}.self_attn.o_proj.weight": (64, 64),
            f"{at}.mlp.gate_proj.weight": (96, 64),
            f"{at}.mlp.up_proj.weight": (96, 64),
            f"{at}.mlp.down_proj.weight": (64, 96),
            f"{at}.input_layernorm.weight": (64,),
            f"{at}.post_attention_layernorm.weight": (64,),
        }
    return {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_codes_made_by_hand() -> None:
    # Scale 7/7 = 1, so the code of w is w + 7: 14, 0, 7, 8, 6, 9, 7, 7 and sevens after that.
    weight = np.zeros((1, 32), dtype=np.float32)
    weight[0, :6] = (7, -7, 0, 1, -1, 2.4)
    q_weight, q_scale = quantize_group(weight)
    codes = (14, 0, 7, 8, 6, 9, 7, 7)
    assert q_scale.tolist() == [[1.0]]
    assert q_weight.shape == (1, 4)
    assert q_weight.dtype == np.uint32
    assert q_weight[0, 0] == sum(code << 4 * i for i, code in enumerate(codes))
    assert q_weight[0, 1:].tolist() == [0x77777777] * 3
    assert dequantize_group(q_weight, q_scale)[0, :6].tolist() == [7, -7, 0, 1, -1, 2]


def test_every_group_has_its_own_scale() -> None:
    weight = np.concatenate([np.full((2, 32), 14.0), np.full((2, 32), -0.7)], axis=1)
    _, q_scale = quantize_group(weight.astype(np.float32))
    np.testing.assert_allclose(q_scale, [[2.0, 0.1]] * 2, rtol=1e-6)


def test_the_error_of_a_round_trip_is_at_most_half_a_scale() -> None:
    weight = np.random.default_rng(1).normal(size=(48, 256)).astype(np.float32)
    q_weight, q_scale = quantize_group(weight)
    error = np.abs(dequantize_group(q_weight, q_scale) - weight).reshape(48, 8, 32)
    assert (error <= q_scale[:, :, None] * 0.5001).all()


def test_what_was_rounded_once_stays() -> None:
    weight = np.random.default_rng(2).normal(size=(16, 64)).astype(np.float32)
    q_weight, q_scale = quantize_group(weight)
    again, _ = quantize_group(dequantize_group(q_weight, q_scale))
    np.testing.assert_array_equal(again, q_weight)


def test_a_group_of_zeros_is_zero() -> None:
    q_weight, q_scale = quantize_group(np.zeros((1, 32), dtype=np.float32))
    assert q_scale.tolist() == [[0.0]]
    assert not dequantize_group(q_weight, q_scale).any()


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        quantize_group(np.full((1, 32), np.nan, dtype=np.float32))


def test_bfloat16_rounds_to_nearest_even() -> None:
    values = np.array([1.0, 1.00390625, 1.01171875, -3.14159], dtype=np.float32)
    assert from_bf16(to_bf16(values)).tolist() == [1.0, 1.0, 1.015625, -3.140625]


def test_names_and_layouts_are_mlc_s() -> None:
    state = llama_state(tied=True)
    params = llama_params(state, "q0f32")
    at = "model.layers.1"
    np.testing.assert_array_equal(
        params[f"{at}.self_attn.qkv_proj.weight"],
        np.concatenate([state[f"{at}.self_attn.{part}_proj.weight"] for part in "qkv"]),
    )
    np.testing.assert_array_equal(
        params[f"{at}.mlp.gate_up_proj.weight"],
        np.concatenate([state[f"{at}.mlp.{part}_proj.weight"] for part in ("gate", "up")]),
    )
    assert "lm_head.weight" not in params
    assert len(params) == 2 + 2 * 6

    packed = llama_params(llama_state(tied=False), "q4f32_1")
    assert packed["lm_head.q_weight"].shape == (64, 8)
    assert packed["model.embed_tokens.q_scale"].shape == (64, 2)
    assert packed["model.norm.weight"].dtype == np.float32
    assert f"{at}.mlp.down_proj.weight" not in packed


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_a_state_that_is_not_llama_is_refused(change: str) -> None:
    state = llama_state(tied=True)
    if change == "missing":
        del state["model.layers.1.self_attn.k_proj.weight"]
    else:
        state["model.layers.0.self_attn.q_proj.bias"] = np.zeros(64, dtype=np.float32)
    with pytest.raises(ValueError, match=r"k_proj|bias"):
        llama_params(state, "q0f32")


@pytest.mark.parametrize("quantization", ["q0f32", "q0f16", "q4f16_1", "q4f32_1"])
@pytest.mark.parametrize("shard_bytes", [1 << 12, 32 << 20])
def test_what_is_written_is_read_back(tmp_path: Path, quantization: str, shard_bytes: int) -> None:
    params = llama_params(llama_state(tied=False), quantization)  # type: ignore[arg-type]
    write_params(tmp_path, params, shard_bytes=shard_bytes, encode_format="raw")
    back = read_params(tmp_path)
    assert list(back) == list(params)
    for name, value in params.items():
        assert back[name].dtype == value.dtype
        np.testing.assert_array_equal(back[name], value)
    shards = len(list(tmp_path.glob("params_shard_*.bin")))
    assert shards > 1 if shard_bytes == 1 << 12 else shards == 1


def test_floats_are_stored_as_bfloat16_like_mlc_llm_does(tmp_path: Path) -> None:
    params = llama_params(llama_state(tied=True), "q0f32")
    write_params(tmp_path, params)
    cache = json.loads((tmp_path / "tensor-cache.json").read_text())
    (record, *_) = cache["records"][0]["records"]
    assert (record["dtype"], record["format"], record["nbytes"]) == ("float32", "f32-to-bf16", 8192)
    for name, value in read_params(tmp_path).items():
        np.testing.assert_array_equal(value, from_bf16(to_bf16(params[name])))


def test_tvm_reads_the_same(tmp_path: Path) -> None:
    tvm = pytest.importorskip("tvm")
    from tvm.contrib import tvmjs

    params = llama_params(llama_state(tied=False), "q4f32_1")
    write_params(tmp_path, params)
    read, _ = tvmjs.load_tensor_cache(str(tmp_path), tvm.cpu())
    for name, value in read_params(tmp_path).items():
        np.testing.assert_array_equal(read[name].numpy(), value)


@pytest.mark.parametrize("damage", ["shorter", "changed"])
def test_a_damaged_shard_is_noticed(tmp_path: Path, damage: str) -> None:
    write_params(tmp_path, llama_params(llama_state(tied=True), "q4f32_1"))
    shard = tmp_path / "params_shard_0.bin"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data[:-8] if damage == "shorter" else data)
    with pytest.raises(ValueError, match=r"params_shard_0\.bin"):
        read_params(tmp_path)


def test_the_chat_config_is_complete(tmp_path: Path) -> None:
    folder = write_model(
        tmp_path / "model",
        params=llama_params(llama_state(tied=True), "q4f32_1"),
        config={**CONFIG, "tie_word_embeddings": True},
        quantization="q4f32_1",
        tokenizer_json=TOKENIZER,
        generation={"temperature": 0.5},
        cache_name="ndarray-cache.json",
    )
    config = json.loads((folder / "mlc-chat-config.json").read_text())
    assert config["version"] == "0.1.0"
    assert config["model_type"] == "llama"
    assert config["quantization"] == "q4f32_1"
    assert config["model_config"]["tie_word_embeddings"] is True
    assert config["model_config"]["head_dim"] == 32
    assert config["active_vocab_size"] == 3
    assert config["temperature"] == 0.5
    assert config["conv_template"]["roles"]["assistant"] == "<|im_start|>assistant"
    assert all((folder / name).exists() for name in config["tokenizer_files"])
    assert read_params(folder, "ndarray-cache.json")
