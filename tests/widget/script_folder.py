"""A model folder for the scripted runtime: a tokenizer of bytes and a template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers


def write_script_folder(folder: Path, *, tools: bool = False) -> Path:
    """Make the folder, and return it; with `tools`, its template is one that knows them."""
    folder.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "model_type": "llama",
        "context_window_size": 4096,
        "conv_template": {
            "name": "plain",
            "system_template": "{system_message}\n",
            "system_message": "",
            "roles": {"user": "U", "assistant": "A"},
            "role_templates": {"user": "{user_message}", "assistant": "{assistant_message}"},
            "seps": ["\n"],
            "role_content_sep": ":",
            "role_empty_sep": ":",
            "stop_str": [],
            "stop_token_ids": [],
        },
    }
    if tools:
        config["conv_template"] |= {
            "name": "chatml",
            "system_template": "<|im_start|>system\n{system_message}<|im_end|>\n",
            "roles": {"user": "<|im_start|>user", "assistant": "<|im_start|>assistant"},
            "seps": ["<|im_end|>\n"],
            "role_content_sep": "\n",
            "role_empty_sep": "\n",
        }
    (folder / "mlc-chat-config.json").write_text(json.dumps(config))
    return folder
