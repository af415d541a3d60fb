"""Write and read MLC model folders with numpy alone.

An MLC model folder is what ``mlc_llm convert_weight`` and ``mlc_llm gen_config`` leave behind:
``mlc-chat-config.json``, ``tensor-cache.json`` (formerly ``ndarray-cache.json``) with its
``params_shard_N.bin`` files, ``tokenizer.json`` and ``tokenizer_config.json``.

Layouts, names and rounding follow mlc-llm (Apache-2.0), of July 2026:
``quantization/group_quantization.py``, ``model/llama/llama_loader.py`` (and mistral, qwen2, qwen3),
``protocol/mlc_chat_config.py``, and ``tvm.contrib.tvmjs.dump_tensor_cache``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Quantization = Literal["q0f16", "q0f32", "q4f16_0", "q4f16_1", "q4f32_1", "q8f16_1"]
ModelType = Literal["llama", "mistral", "qwen2", "qwen3"]
EncodeFormat = Literal["raw", "f32-to-bf16"]

GROUP_SIZE = 32

MODEL_DTYPE: dict[str, type[np.floating[Any]]] = {
    "q0f16": np.float16,
    "q0f32": np.float32,
    "q4f16_0": np.float16,
    "q4f16_1": np.float16,
    "q4f32_1": np.float32,
    "q8f16_1": np.float16,
}
"""The dtype of scales, and of parameters that are not quantised, by quantization."""

CODE_BITS = {"q4f16_0": 4, "q4f16_1": 4, "q4f32_1": 4, "q8f16_1": 8}
"""Bits of a code, of the quantizations that have codes."""

QKV_NAME = {"llama": "qkv_proj", "mistral": "qkv_proj", "qwen2": "c_attn", "qwen3": "c_attn"}
"""MLC's name of queries, keys and values stacked, by `model_type`."""

CHATML_TEMPLATE: dict[str, Any] = {
    "name": "chatml",
    "system_template": "<|im_start|>system\n{system_message}<|im_end|>\n",
    "system_message": "",
    "system_prefix_token_ids": None,
    "add_role_after_system_message": True,
    "roles": {"user": "<|im_start|>user", "assistant": "<|im_start|>assistant"},
    "role_templates": {
        "user": "{user_message}",
        "assistant": "{assistant_message}",
        "tool": "{tool_message}",
    },
    "messages": [],
    "seps": ["<|im_end|>\n"],
    "role_content_sep": "\n",
    "role_empty_sep": "\n",
    "stop_str": ["<|im_end|>"],
    "stop_token_ids": [2],
    "function_string": "",
    "use_function_calling": False,
}
"""mlc_llm's ``chatml`` conversation template with an empty default system message."""


# --- group quantisation -----------------------------------------------------------------------


def quantize_group(
    weight: Array, *, scale_dtype: npt.DTypeLike = np.float32, bits: int = 4
) -> tuple[npt.NDArray[np.uint32], Array]:
    """Quantise a matrix as mlc_llm's group quantisation does (layout NK, groups of 32 on K).

    Args:
        weight: (N, K) floating. If K is not a multiple of 32, the rest of the last group has code 0
            and is never read.
        scale_dtype: the model's dtype, float32 or float16. As in mlc_llm the weight is cast to it
            first and all arithmetic is done in it.
        bits: The bits of a code, 4 or 8.

    Returns:
        q_weight: (N, G * bits) uint32 for G groups. With P = 32 / bits codes to a word, element k
            of a row sits in word k // P at bits ``bits * (k % P)``; its value is
            ``clip(rint(w / scale + zero), 0, 2 zero)``, zero being 7 or 127.
        q_scale: (N, G) of scale_dtype, ``max|w| / zero`` of each group.

    Raises:
        ValueError: The weight is not a matrix, or has an infinite or undefined element.
    """
    dtype = np.dtype(scale_dtype)
    if weight.ndim != 2:
        raise ValueError(f"weight has shape {weight.shape}: group quantisation needs (N, K)")
    if not np.isfinite(weight).all():
        raise ValueError("weight has a NaN or an infinity and cannot be quantised")
    n, k = weight.shape
    groups = -(-k // GROUP_SIZE)
    padded = np.zeros((n, groups * GROUP_SIZE), dtype)
    padded[:, :k] = weight
    values = padded.reshape(n, groups, GROUP_SIZE)
    zero = dtype.type((1 << (bits - 1)) - 1)
    scale = np.abs(values).max(axis=2) / zero
    # An all-zero group has scale 0; any code reproduces it, and `zero` is the code of zero.
    divisor = np.where(scale > 0, scale, dtype.type(1))[:, :, None]
    codes = np.clip(np.rint(values / divisor + zero), 0, 2 * zero).astype(np.uint32)
    codes = codes.reshape(n, -1)
    codes[:, k:] = 0
    per_word = 32 // bits
    shifts = np.arange(per_word, dtype=np.uint32) * np.uint32(bits)
    words = codes.reshape(n, -1, per_word) << shifts
    packed = np.bitwise_or.reduce(words, axis=2).astype(np.uint32)
    return packed, scale.astype(dtype)


def dequantize_group(q_weight: npt.NDArray[np.uint32], q_scale: Array, *, bits: int = 4) -> Array:
    """Expand what `quantize_group` returned: ``(code - zero) * scale`` in q_scale's dtype.

    Args:
        q_weight: (N, G * bits) uint32.
        q_scale: (N, G) floating.
        bits: The bits of a code, 4 or 8.

    Returns:
        (N, 32 G) of q_scale's dtype.

    Raises:
        ValueError: if the two shapes do not belong together.
    """
    if (
        q_weight.ndim != 2
        or q_weight.dtype != np.uint32
        or q_scale.shape != (q_weight.shape[0], q_weight.shape[1] // bits)
    ):
        raise ValueError(
            f"q_weight {q_weight.dtype}{q_weight.shape} and q_scale {q_scale.shape} do not match: "
            f"expected uint32 (N, {bits} G) and (N, G)"
        )
    n = q_weight.shape[0]
    shifts = np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits)
    codes = (q_weight[:, :, None] >> shifts) & np.uint32((1 << bits) - 1)
    zero = q_scale.dtype.type((1 << (bits - 1)) - 1)
    groups = codes.reshape(n, -1, GROUP_SIZE).astype(q_scale.dtype) - zero
    result: Array = (groups * q_scale[:, :, None]).reshape(n, -1)
    return result


def quantize_params(params: Mapping[str, Array], quantization: Quantization) -> dict[str, Array]:
    """MLC's parameters in another quantization.

    Args:
        params: name → floats under MLC's names, ``X.weight`` and ``X.bias``.
        quantization: ``q0…`` keep every parameter in the model's dtype. Others turn every matrix
            (embedding and lm_head included) into ``X.q_weight`` uint32 and ``X.q_scale``; with
            ``q4f16_0`` both lie inputs first (KN), but for the embedding's. Norms and biases stay.

    Raises:
        ValueError: for an unknown quantization.
    """
    if quantization not in MODEL_DTYPE:
        raise ValueError(f"quantization {quantization!r} is unknown; use {sorted(MODEL_DTYPE)}")
    dtype, bits = MODEL_DTYPE[quantization], CODE_BITS.get(quantization)
    result: dict[str, Array] = {}
    for name, weight in params.items():
        if bits is None or weight.ndim != 2:
            result[name] = np.ascontiguousarray(weight, dtype=dtype)
            continue
        stem = name.removesuffix(".weight")
        q_weight, q_scale = quantize_group(weight, scale_dtype=dtype, bits=bits)
        if _transposed(name, quantization):
            q_weight, q_scale = q_weight.T.copy(), q_scale.T.copy()
        result[f"{stem}.q_weight"], result[f"{stem}.q_scale"] = q_weight, q_scale
    return result


def _transposed(name: str, quantization: Quantization) -> bool:
    return quantization == "q4f16_0" and not name.endswith("embed_tokens.weight")


def dequantized(params: Mapping[str, Array], quantization: Quantization) -> dict[str, Array]:
    """What `quantize_params` keeps of its params, in float32 and under the same names.

    Codes and scales are multiplied in float32.
    """
    result: dict[str, Array] = {}
    for name, weight in params.items():
        stored = quantize_params({name: weight}, quantization)
        if name in stored:
            result[name] = stored[name].astype(np.float32)
            continue
        q_weight, q_scale = (np.asarray(v) for v in stored.values())
        if _transposed(name, quantization):
            q_weight, q_scale = q_weight.T, q_scale.T
        expanded = dequantize_group(
            q_weight, q_scale.astype(np.float32), bits=CODE_BITS[quantization]
        )
        result[name] = expanded[:, : weight.shape[1]]
    return result


# --- parameter names --------------------------------------------------------------------------


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


# --- the folder -------------------------------------------------------------------------------


def to_bf16(value: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Round float32 to bfloat16 (nearest even); returns the upper 16 bits as uint16."""
    bits = np.ascontiguousarray(value, dtype=np.float32).view(np.uint32)
    bias = ((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF)
    return ((bits + bias) >> np.uint32(16)).astype(np.uint16)


def from_bf16(value: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Expand bfloat16 bits to float32, exactly."""
    return (value.astype(np.uint32) << np.uint32(16)).view(np.float32)


def write_params(
    folder: Path,
    params: Mapping[str, Array],
    *,
    shard_bytes: int = 32 << 20,
    cache_name: str = "tensor-cache.json",
    encode_format: EncodeFormat = "f32-to-bf16",
    codes_per_word: int = 8,
) -> None:
    """Write ``params_shard_N.bin`` and the JSON that lists them, as ``dump_tensor_cache`` does.

    Args:
        folder: existing folder to write to.
        params: name → array, float32, float16 or uint32, written in this order.
        shard_bytes: The size in bytes that a shard must not reach if it has several parameters.
        cache_name: ``tensor-cache.json`` or ``ndarray-cache.json``.
        encode_format: ``f32-to-bf16`` stores float32 arrays rounded to bfloat16, which is what
            mlc_llm does; ``raw`` stores them as they are.
        codes_per_word: The number of codes in each element of ``q_weight``, for the metadata.
    """
    records: list[dict[str, Any]] = []
    pending: list[dict[str, Any]] = []
    data = bytearray()

    def commit() -> None:
        if not pending:
            return
        path = f"params_shard_{len(records)}.bin"
        (folder / path).write_bytes(data)
        records.append(
            {
                "dataPath": path,
                "format": "raw-shard",
                "nbytes": len(data),
                "records": pending.copy(),
                "md5sum": hashlib.md5(data, usedforsecurity=False).hexdigest(),
            }
        )
        pending.clear()
        data.clear()

    for name, value in params.items():
        if value.dtype == np.float32 and encode_format == "f32-to-bf16":
            encoded = to_bf16(value).tobytes()
        else:
            encoded = np.ascontiguousarray(value).tobytes()
        if pending and len(data) + len(encoded) >= shard_bytes:
            commit()
        pending.append(
            {
                "name": name,
                "shape": list(value.shape),
                "dtype": str(value.dtype),
                "format": encode_format,
                "nbytes": len(encoded),
                "byteOffset": len(data),
            }
        )
        data += encoded
    commit()

    elements = sum(
        value.size * (codes_per_word if name.endswith(".q_weight") else 1)
        for name, value in params.items()
        if not name.endswith(".q_scale")
    )
    total = float(sum(value.nbytes for value in params.values()))
    metadata = {
        "ParamSize": len(params),
        "ParamBytes": total,
        "BitsPerParam": total * 8.0 / elements,
    }
    text = json.dumps({"metadata": metadata, "records": records}, indent=1)
    (folder / cache_name).write_text(text + "\n", encoding="utf-8")


def read_params(folder: Path, cache_name: str = "tensor-cache.json") -> dict[str, Array]:
    """Read what `write_params` wrote; bfloat16 comes back as float32.

    Raises:
        ValueError: if a shard's size or checksum, or a record's size, is not what the JSON says.
    """
    params: dict[str, Array] = {}
    for shard in json.loads((folder / cache_name).read_text(encoding="utf-8"))["records"]:
        data = (folder / shard["dataPath"]).read_bytes()
        if len(data) != shard["nbytes"]:
            raise ValueError(f"{shard['dataPath']} has {len(data)} bytes, not {shard['nbytes']}")
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != shard["md5sum"]:
            raise ValueError(f"{shard['dataPath']} does not match its md5sum")
        for record in shard["records"]:
            start = record["byteOffset"]
            piece = data[start : start + record["nbytes"]]
            value: Array
            if record["dtype"] == "float32" and record["format"] == "f32-to-bf16":
                value = from_bf16(np.frombuffer(piece, dtype=np.uint16))
            else:
                value = np.frombuffer(piece, dtype=record["dtype"])
            if value.size != int(np.prod(record["shape"])):
                raise ValueError(f"{record['name']} does not fill its shape {record['shape']}")
            params[record["name"]] = value.reshape(record["shape"])
    return params


def write_model(
    folder: str | Path,
    *,
    params: Mapping[str, Array],
    config: Mapping[str, Any],
    quantization: Quantization,
    model_type: ModelType = "llama",
    conv_template: Mapping[str, Any] = CHATML_TEMPLATE,
    tokenizer_json: str | Mapping[str, Any],
    tokenizer_config: Mapping[str, Any] | None = None,
    generation: Mapping[str, Any] | None = None,
    shard_bytes: int = 32 << 20,
    cache_name: str = "tensor-cache.json",
    encode_format: EncodeFormat = "f32-to-bf16",
) -> Path:
    """Write a complete MLC model folder.

    Args:
        folder: made if it does not exist; files in it of the same names are replaced.
        params: MLC's parameters, as `llama_params` returns them.
        config: the model's shape, in MLC's names (``hidden_size``, ``intermediate_size``,
            ``num_attention_heads``, ``num_hidden_layers``, ``rms_norm_eps``, ``vocab_size``,
            ``context_window_size``, and where they differ from the default
            ``num_key_value_heads``, ``head_dim``, ``position_embedding_base``,
            ``prefill_chunk_size``, ``tie_word_embeddings``, ``rope_scaling``). A `model_type` other
            than llama has its own fields in addition.
        quantization: the name that `llama_params` was called with.
        model_type: MLC's name of the architecture.
        conv_template: an mlc_llm ``Conversation`` as JSON; its ``stop_token_ids`` must fit the
            tokenizer.
        tokenizer_json: the Hugging Face tokenizer, as the text or the content of the file.
        tokenizer_config: content of ``tokenizer_config.json``.
        generation: overrides of ``temperature``, ``top_p``, ``presence_penalty``,
            ``frequency_penalty``, ``repetition_penalty``, ``pad_token_id``, ``bos_token_id``,
            ``eos_token_id``.
        shard_bytes, cache_name, encode_format: see `write_params`.

    Returns:
        The folder.

    Raises:
        KeyError: if config lacks a field that has no default.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_params(
        folder,
        params,
        shard_bytes=shard_bytes,
        cache_name=cache_name,
        encode_format=encode_format,
        codes_per_word=32 // CODE_BITS.get(quantization, 4),
    )
    text = tokenizer_json if isinstance(tokenizer_json, str) else json.dumps(tokenizer_json)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    _write_json(folder / "tokenizer_config.json", dict(tokenizer_config or {}))
    tokenizer = json.loads(text)
    ids = [token["id"] for token in tokenizer.get("added_tokens", [])]
    ids += list(tokenizer["model"]["vocab"].values())

    heads = config["num_attention_heads"]
    window = config["context_window_size"]
    model_config: dict[str, Any] = {
        "hidden_size": config["hidden_size"],
        "intermediate_size": config["intermediate_size"],
        "num_attention_heads": heads,
        "num_hidden_layers": config["num_hidden_layers"],
        "rms_norm_eps": config["rms_norm_eps"],
        "vocab_size": config["vocab_size"],
        "tie_word_embeddings": config.get("tie_word_embeddings", False),
        "position_embedding_base": config.get("position_embedding_base", 10000),
        "rope_scaling": config.get("rope_scaling"),
        "context_window_size": window,
        "prefill_chunk_size": config.get("prefill_chunk_size", min(window, 8192)),
        "num_key_value_heads": config.get("num_key_value_heads", heads),
        "head_dim": config.get("head_dim", config["hidden_size"] // heads),
        "tensor_parallel_shards": 1,
        "pipeline_parallel_stages": 1,
        "max_batch_size": config.get("max_batch_size", 128),
        "disaggregation": False,
    }
    if model_type != "llama":
        for key in ("position_embedding_base", "rope_scaling"):
            del model_config[key]
        model_config |= config
    chat_config: dict[str, Any] = {
        "version": "0.1.0",
        "model_type": model_type,
        "quantization": quantization,
        "model_config": model_config,
        "vocab_size": model_config["vocab_size"],
        "context_window_size": window,
        "sliding_window_size": config.get("sliding_window_size", -1),
        "prefill_chunk_size": model_config["prefill_chunk_size"],
        "attention_sink_size": -1,
        "tensor_parallel_shards": 1,
        "pipeline_parallel_stages": 1,
        "active_vocab_size": max(ids) + 1,
        "temperature": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "repetition_penalty": 1.0,
        "top_p": 1.0,
        "tokenizer_files": ["tokenizer.json", "tokenizer_config.json"],
        "tokenizer_info": {
            "token_postproc_method": "byte_level",
            "prepend_space_in_encode": False,
            "strip_space_in_decode": False,
        },
        "conv_template": dict(conv_template),
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "model_task": "chat",
        "embedding_metadata": None,
    }
    chat_config.update(generation or {})
    _write_json(folder / "mlc-chat-config.json", chat_config)
    return folder


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
