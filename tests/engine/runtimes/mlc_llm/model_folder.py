"""A model folder in MLC format without a real model: a byte-level tokenizer and random weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CORPUS = (
    "The quick brown fox jumps over the lazy dog. Hello, how are you today?",
    "Zwölf Boxkämpfer jagen Viktor über den Sylter Deich. Numbers: 1, 2, 3.",
    "system user assistant You are a helpful assistant.",
)
WINDOW = 2048


def make_tokenizer() -> Any:
    """Byte-level BPE, so that characters are cut across tokens."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def write_model_folder(folder: Path, **config: Any) -> Path:
    """Write a whole model folder; `config` overrides fields of mlc-chat-config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    end, start, turn = (tokenizer.token_to_id(t) for t in SPECIAL)
    chat_config = {
        "version": "0.1.0",
        "model_type": "llama",
        "quantization": "q0f32",
        "model_config": {"vocab_size": size, "context_window_size": WINDOW},
        "vocab_size": size,
        "context_window_size": WINDOW,
        "sliding_window_size": -1,
        "prefill_chunk_size": 512,
        "attention_sink_size": -1,
        "tensor_parallel_shards": 1,
        "temperature": 1.0,
        "top_p": 1.0,
        "tokenizer_files": ["tokenizer.json"],
        "pad_token_id": 0,
        "bos_token_id": start,
        "eos_token_id": end,
        "conv_template": {
            "name": "chatml",
            "system_template": "<|im_start|>system\n{system_message}<|im_end|>\n",
            "system_message": "You are a helpful assistant.",
            "roles": {"user": "<|im_start|>user", "assistant": "<|im_start|>assistant"},
            "role_templates": {
                "user": "{user_message}",
                "assistant": "{assistant_message}",
                "tool": "{tool_message}",
            },
            "seps": ["<|im_end|>\n"],
            "role_content_sep": "\n",
            "role_empty_sep": "\n",
            "stop_str": ["<|im_end|>"],
            "stop_token_ids": [turn],
        },
        **config,
    }
    (folder / "mlc-chat-config.json").write_text(json.dumps(chat_config))
    records = []
    for i in range(2):
        data = hashlib.sha512(bytes([i])).digest() * 4096
        (folder / f"params_shard_{i}.bin").write_bytes(data)
        records.append({"dataPath": f"params_shard_{i}.bin", "nbytes": len(data), "records": []})
    index = {"metadata": {"ParamSize": 2}, "records": records}
    (folder / "tensor-cache.json").write_text(json.dumps(index))
    return folder
