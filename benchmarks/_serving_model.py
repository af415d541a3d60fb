"""A tokenizer of a real size for models with random weights: words are cut as in English text."""

from __future__ import annotations

import itertools
import json
import string
from pathlib import Path
from typing import Any

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def tokenizer_json(size: int) -> str:
    """Byte-level BPE with `size` tokens: numbers, JSON's punctuation, and letters by the four."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {token: i for i, token in enumerate(SPECIAL)}
    for char in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocab.setdefault(char, len(vocab))
    merges: list[tuple[str, str]] = []

    def add(left: str, right: str) -> None:
        if len(vocab) < size and left + right not in vocab:
            vocab[left + right] = len(vocab)
            merges.append((left, right))

    for pair in ('""', '":', '",', '"}', '"]', "{}", "[]", '{"', '["', "},", "],", "}}", "]]"):
        add(pair[0], pair[1])
    add('":', "Ġ")
    add('",', "Ġ")
    for n in (1, 2):
        for digits in itertools.product(string.digits, repeat=n):
            for digit in string.digits:
                add("".join(digits), digit)
    letters = string.ascii_lowercase
    words = ["Ġ", *letters]
    for n in range(3):
        for word in [w for w in words if len(w) == n + 1]:
            for letter in letters:
                add(word, letter)
                words.append(word + letter)
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    text: str = tokenizer.to_str()
    return text


def complete(folder: Path, vocab: int) -> None:
    """Make a folder of `_kernel_models.write_mlc` one that the engine can load."""
    (folder / "tokenizer.json").write_text(tokenizer_json(vocab), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text("{}\n", encoding="utf-8")
    file = folder / "mlc-chat-config.json"
    config: dict[str, Any] = json.loads(file.read_text())
    config["conv_template"] = {
        "name": "chatml",
        "system_template": "<|im_start|>system\n{system_message}<|im_end|>\n",
        "roles": {"user": "<|im_start|>user", "assistant": "<|im_start|>assistant"},
        "role_templates": {},
        "seps": ["<|im_end|>\n"],
        "role_content_sep": "\n",
        "role_empty_sep": "\n",
        "stop_str": [],
        "stop_token_ids": [2],
    }
    config["eos_token_id"] = 2
    file.write_text(json.dumps(config))
