"""What the scripted runtime takes for a model: a tokenizer of bytes and a template."""

from __future__ import annotations

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers


def write_script_folder(folder: Path) -> Path:
    """Make the folder, and return it."""
    folder.mkdir(parents=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
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
    (folder / "mlc-chat-config.json").write_text(json.dumps(config))
    return folder
