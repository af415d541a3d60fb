"""Complete model folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .parameters import ModelType
from .quantization import CODE_BITS, Array, Quantization, quantize_params
from .tensor_cache import EncodeFormat, read_params, write_params

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


def requantize(folder: Path, quantization: Quantization) -> None:
    """Replace the floats of a model folder by what another quantization keeps of them.

    Raises:
        ValueError: for an unknown quantization.
    """
    params = quantize_params(read_params(folder), quantization)
    for shard in folder.glob("params_shard_*.bin"):
        shard.unlink()
    write_params(folder, params, encode_format="raw")
    file = folder / "mlc-chat-config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    _write_json(file, config | {"quantization": quantization})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
