"""The demo model's tokenizer: byte-level BPE of 2048 tokens, trained on the corpus.

Digits stand alone, which is what makes arithmetic learnable, and so does the capital that begins a
word (with the space before it), so that a name is the same tokens after a space and after a quote.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tools.demo import corpus
from tools.demo.dialogue import Dialogue

VOCAB_SIZE = 2048
END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIALS = (END_OF_TEXT, IM_START, IM_END)
END_OF_TEXT_ID, IM_START_ID, IM_END_ID = 0, 1, 2

WORDS = (
    r"'(?:[sdmt]|ll|ve|re)| ?\p{Lu}(?=\p{Ll})| ?\p{Lu}+(?!\p{Ll})| ?\p{Ll}+| ?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def train_tokenizer(seed: int = 0, conversations: int = 12000) -> Tokenizer:
    """A tokenizer trained on the first conversations of a seed; deterministic."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )

    def texts() -> Iterator[str]:
        for dialogue in itertools.islice(corpus.training(seed), conversations):
            yield from (text for turn in dialogue.turns for text in (turn.user, turn.answer))

    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


def tokenizer_config() -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 2048,
        "clean_up_tokenization_spaces": False,
        "pad_token": END_OF_TEXT,
        "eos_token": IM_END,
        "chat_template": CHAT_TEMPLATE,
    }


def compact_json(tokenizer: Tokenizer) -> str:
    """tokenizer.json without white space."""
    content = json.loads(tokenizer.to_str())
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def chat_segments(dialogue: Dialogue) -> list[tuple[str | int, bool]]:
    """A conversation as ChatML: pieces of text or special token ids, and whether to learn them."""
    pieces: list[tuple[str | int, bool]] = []

    def message(role: str, content: str, learn: bool) -> None:
        pieces.append((IM_START_ID, False))
        pieces.append((f"{role}\n", False))
        pieces.append((content, learn))
        pieces.append((IM_END_ID, learn))
        pieces.append(("\n", False))

    if dialogue.style.system:
        message("system", dialogue.style.system, False)
    for turn in dialogue.turns:
        message("user", turn.user, False)
        message("assistant", turn.answer, True)
    return pieces
