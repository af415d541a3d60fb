"""Folders as transformers saves them, made of the tests' own tiny models."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).parents[3] / "tools"))
import mlc_format

FIXTURES = Path(__file__).parents[2] / "fixtures" / "architectures"
NAMES = ("llama", "mistral", "qwen2", "qwen3")
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
_TYPES = {"F32": np.float32, "F16": np.float16}


def encoded(value: np.ndarray[Any, Any], dtype: str) -> bytes:
    """A tensor's bytes."""
    if dtype == "BF16":
        return mlc_format.to_bf16(value.astype(np.float32)).tobytes()
    return np.ascontiguousarray(value, _TYPES[dtype]).tobytes()


def header_of(tensors: Mapping[str, np.ndarray[Any, Any]], dtype: str) -> dict[str, Any]:
    """The header of a file with these tensors, one behind the other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, value in tensors.items():
        size = len(encoded(value, dtype))
        header[name] = {
            "dtype": dtype,
            "shape": list(value.shape),
            "data_offsets": [at, at + size],
        }
        at += size
    return header


def write(path: Path, header: Any, data: bytes) -> Path:
    """A safetensors file of this header and these bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def write_tensors(
    path: Path, tensors: Mapping[str, np.ndarray[Any, Any]], dtype: str = "F32"
) -> Path:
    """A safetensors file of these tensors."""
    data = b"".join(encoded(value, dtype) for value in tensors.values())
    return write(path, header_of(tensors, dtype), data)


def config_of(model_type: str) -> dict[str, Any]:
    """config.json of the tests' tiny model of an architecture."""
    stored = json.loads((FIXTURES / model_type / "mlc-chat-config.json").read_text())
    mlc = stored["model_config"]
    same = (
        *("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
        *("num_hidden_layers", "head_dim", "vocab_size", "rms_norm_eps", "tie_word_embeddings"),
    )
    config = {key: mlc[key] for key in same} | {
        "architectures": [f"{model_type.title()}ForCausalLM"],
        "model_type": model_type,
        "max_position_embeddings": mlc["context_window_size"],
        "rope_theta": mlc.get("rope_theta") or mlc["position_embedding_base"],
        "rope_scaling": mlc.get("rope_scaling"),
        "hidden_act": "silu",
        "eos_token_id": 2,
        "torch_dtype": "float32",
    }
    if model_type == "mistral":
        config["sliding_window"] = mlc["sliding_window_size"]
    return config


def tensors_of(model_type: str) -> dict[str, np.ndarray[Any, Any]]:
    """Its weights by transformers' names: `mlc_format.fuse` undone."""
    config = config_of(model_type)
    d, inner = config["head_dim"], config["intermediate_size"]
    q, kv = config["num_attention_heads"] * d, config["num_key_value_heads"] * d
    parts = {
        "qkv_proj": (("q_proj", "k_proj", "v_proj"), (q, q + kv)),
        "c_attn": (("q_proj", "k_proj", "v_proj"), (q, q + kv)),
        "gate_up_proj": (("gate_proj", "up_proj"), (inner,)),
    }
    found = {}
    for name, value in mlc_format.read_params(FIXTURES / model_type).items():
        stem, _, kind = name.rpartition(".")
        above, _, last = stem.rpartition(".")
        if last in parts:
            names, cuts = parts[last]
            for part, rows in zip(names, np.split(value, cuts), strict=True):
                found[f"{above}.{part}.{kind}"] = rows
        else:
            found[name] = value
    return found


def make(
    folder: Path,
    model_type: str = "llama",
    *,
    dtype: str = "F32",
    shards: int = 1,
    changes: Mapping[str, Any] | None = None,
) -> Path:
    """A folder with a tiny model.

    Args:
        folder: Where; made if need be.
        model_type: The architecture.
        dtype: Of all tensors.
        shards: Files of weights; with more than one there is an index.
        changes: To config.json; None removes a field.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {**config_of(model_type), **(changes or {})}
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(
        json.dumps({"do_sample": True, "temperature": 0.4, "top_p": 0.8, "eos_token_id": [2, 0]})
    )
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": TEMPLATE, "eos_token": {"content": "<|im_end|>"}})
    )
    shutil.copy(FIXTURES / model_type / "tokenizer.json", folder)
    tensors = tensors_of(model_type)
    if shards == 1:
        write_tensors(folder / "model.safetensors", tensors, dtype)
        return folder
    names, weight_map = list(tensors), {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        own = {name: tensors[name] for name in names[i::shards]}
        write_tensors(folder / file, own, dtype)
        weight_map |= dict.fromkeys(own, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def mlc_config(folder: Path) -> dict[str, Any]:
    """``model_config`` of a folder in MLC format, with the sliding window that is above it."""
    stored = json.loads((folder / "mlc-chat-config.json").read_text())
    window = stored["sliding_window_size"]
    return {**stored["model_config"], "sliding_window_size": window if window > 0 else None}
