"""Translates a GGUF file's vocabulary to the content of a Hugging Face ``tokenizer.json``.

``tokenizer.ggml.model`` names the kind: ``gpt2`` is byte-level BPE, whose pre-tokenizer is named by
``tokenizer.ggml.pre``; ``llama`` is SentencePiece's BPE, with scores instead of merges; ``bert`` is
WordPiece. The patterns are those of the models' own tokenizer.json files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from mlc_widget.api.errors import ModelFormatError, UnsupportedModelError
from mlc_widget.engine.store.formats.merges import pairs_of

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_SPACE: Final = "\u2581"
_MAX_TOKEN: Final = 1 << 9
"""The maximum length of a token in a SentencePiece vocabulary."""
_MAX_VOCABULARY: Final = 1 << 20

_CONTRACTIONS: Final = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3: Final = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
)
_QWEN2: Final = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
)
_QWEN35: Final = (
    _CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|"
    + _SPACES
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_WORDS: Final = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+",
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*",
)
_TEKKEN: Final = "|".join(_WORDS) + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES
_GPT4O: Final = (
    "|".join(f"{words}{_CONTRACTIONS}?" for words in _WORDS)
    + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
    + _SPACES
)
_DIGITS: Final = r"\p{N}"
_DEEPSEEK_V3: Final = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|" + _SPACES,
)

_PATTERNS: Final[dict[str, tuple[str, ...]]] = {
    "default": (r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"),
    "gpt-2": (_GPT2,),
    "phi-2": (_GPT2,),
    "olmo": (_GPT2,),
    "mpt": (_GPT2,),
    "jais": (_GPT2,),
    "exaone4": (_GPT2,),
    "smollm": (_DIGITS, _GPT2),
    "starcoder": (_DIGITS, _GPT2),
    "refact": (_DIGITS, _GPT2),
    "command-r": (_DIGITS, _GPT2),
    "codeshell": (_DIGITS, _GPT2),
    "exaone": (_DIGITS, _GPT2),
    "llama-bpe": (_LLAMA3,),
    "llama3": (_LLAMA3,),
    "llama-v3": (_LLAMA3,),
    "falcon3": (_LLAMA3,),
    "lfm2": (_LLAMA3,),
    "dbrx": (_LLAMA3,),
    "smaug-bpe": (_LLAMA3,),
    "chatglm-bpe": (_LLAMA3,),
    "glm4": (_LLAMA3,),
    "qwen2": (_QWEN2,),
    "deepseek-r1-qwen": (_QWEN2,),
    "megrez": (_QWEN2,),
    "stablelm2": (_QWEN2,),
    "hunyuan": (_QWEN2,),
    "qwen35": (_QWEN35,),
    "solar-open": (_QWEN2,),
    "deepseek-coder": (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", _DIGITS),
    "deepseek-v3": _DEEPSEEK_V3,
    "hunyuan-dense": _DEEPSEEK_V3,
    "tekken": (_TEKKEN,),
    "gpt-4o": (_GPT4O,),
    "llama4": (_GPT4O,),
}
"""The patterns by which text is split before BPE; each splits the pieces of the one before. Files
that name no pre-tokenizer are split as in llama.cpp ("default"), which is not any model's own way.
"""

_WHOLE_WORDS: Final = frozenset({"llama-bpe", "llama3", "llama-v3", "falcon3", "lfm2", "tekken"})
"""Pre-tokenizers with which a word of the vocabulary is one token, whatever the merges say."""


def tokenizer_spec(fields: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Make the content of a tokenizer.json for a file.

    Args:
        fields: The file's metadata.
        where: The file, for messages.

    Raises:
        ModelFormatError: The vocabulary is missing or inconsistent.
        UnsupportedModelError: The kind of vocabulary is not known.
    """
    vocabulary = _Vocabulary(fields, where)
    kind = fields.get("tokenizer.ggml.model")
    if not isinstance(kind, str):
        raise vocabulary.wrong("tokenizer.ggml.model", "must be a name, such as gpt2")
    if kind == "gpt2":
        made = _byte_level(vocabulary)
    elif kind == "llama":
        made = _sentence_piece(vocabulary)
    elif kind == "bert":
        made = _word_piece(vocabulary)
    else:
        raise UnsupportedModelError(
            f"{where}: tokenizer.ggml.model is {kind!r}; gpt2, llama and bert can be read.",
            param="model_id",
        )
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": vocabulary.added(),
        "post_processor": None,
        **made,
    }


class _Vocabulary:
    """The checked tokens of a file."""

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        self._fields, self.where = fields, where
        tokens = fields.get("tokenizer.ggml.tokens")
        if not isinstance(tokens, list) or not 0 < len(tokens) <= _MAX_VOCABULARY:
            raise self.wrong("tokenizer.ggml.tokens", "must be a list of tokens")
        self.tokens: list[str] = tokens
        types = fields.get("tokenizer.ggml.token_type")
        if types is None:
            types = np.full(len(tokens), _NORMAL)
        self.types = self._numbers("tokenizer.ggml.token_type", types)

    def wrong(self, key: str, what: str) -> ModelFormatError:
        return ModelFormatError(f"{self.where}: {key} {what}.", param="model_id")

    def _numbers(self, key: str, values: Any) -> list[Any]:
        if not isinstance(values, np.ndarray) or len(values) != len(self.tokens):
            raise self.wrong(key, f"must have a number for each of {len(self.tokens)} tokens")
        numbers: list[Any] = values.tolist()
        return numbers

    def pre(self) -> str:
        name = self._fields.get("tokenizer.ggml.pre")
        if name is None:
            return "default"
        if not isinstance(name, str) or name not in _PATTERNS:
            raise UnsupportedModelError(
                f"{self.where}: tokenizer.ggml.pre is {name!r}; the known ones are "
                f"{', '.join(sorted(_PATTERNS))}.",
                param="model_id",
            )
        return name

    def ids(self) -> dict[str, int]:
        """The ids by token; if a token occurs twice, the first counts."""
        last = len(self.tokens) - 1
        return dict(zip(reversed(self.tokens), range(last, -1, -1), strict=True))

    def added(self) -> list[dict[str, Any]]:
        """The added tokens: control tokens, and others that are matched before text is split."""
        return [
            {
                "id": i,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": kind != _USER_DEFINED,
            }
            for i, (token, kind) in enumerate(zip(self.tokens, self.types, strict=True))
            if kind in (_CONTROL, _USER_DEFINED, _UNKNOWN) and token
        ]

    def merges(self) -> list[tuple[str, str]]:
        """The merges of a byte-level vocabulary, by descending priority."""
        merges = self._fields.get("tokenizer.ggml.merges")
        if not isinstance(merges, list):
            raise self.wrong("tokenizer.ggml.merges", "must be a list of pairs")
        known = {token: token for token in self.tokens}
        pairs = []
        for merge in merges:
            cut = merge.find(" ", 1)
            # The vocabulary's own objects, as there are some 100,000.
            left, right = known.get(merge[:cut]), known.get(merge[cut + 1 :])
            if cut < 0 or left is None or right is None or left + right not in known:
                raise self.wrong(
                    "tokenizer.ggml.merges", f"has {merge[:80]!r}, which is not a pair of tokens"
                )
            pairs.append((left, right))
        return pairs

    def scores(self) -> list[float]:
        """The scores of a SentencePiece vocabulary."""
        return self._numbers("tokenizer.ggml.scores", self._fields.get("tokenizer.ggml.scores"))

    def flag(self, key: str, default: bool) -> bool:
        value = self._fields.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, f"is {value!r}, and must be true or false")
        return value


def _byte_level(v: _Vocabulary) -> dict[str, Any]:
    pre = v.pre()
    cuts = [
        {"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False}
        for p in _PATTERNS[pre]
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [*cuts, {**byte_level, "use_regex": False}],
        },
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": pre in _WHOLE_WORDS,
            "vocab": v.ids(),
            "merges": v.merges(),
        },
    }


def _sentence_piece(v: _Vocabulary) -> dict[str, Any]:
    prefix = v.flag("tokenizer.ggml.add_space_prefix", True)
    to_marks = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    to_spaces = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    unknown = next((t for t, kind in zip(v.tokens, v.types, strict=True) if kind == _UNKNOWN), None)
    return {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                *([{"type": "Prepend", "prepend": _SPACE}] if prefix else []),
                to_marks,
            ],
        },
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                to_spaces,
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *([strip] if prefix else []),
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": v.ids(),
            "merges": _merges_by_score(v),
        },
    }


def _merges_by_score(v: _Vocabulary) -> list[tuple[str, str]]:
    """The merges that equal SentencePiece's rule of joining the pair with the best score."""
    longest = max(map(len, v.tokens))
    if longest > _MAX_TOKEN:
        raise v.wrong("tokenizer.ggml.tokens", f"has a token of {longest} characters")
    scores, types = np.array(v.scores(), np.float64), np.array(v.types)
    wholes, lefts, rights = pairs_of(v.tokens)
    made = types[wholes] == _NORMAL
    wholes, lefts, rights = wholes[made], lefts[made], rights[made]
    order = np.lexsort((rights, lefts, -scores[wholes]))
    tokens = np.array(v.tokens, np.object_)
    return list(zip(tokens[lefts[order]], tokens[rights[order]], strict=True))


def _word_piece(v: _Vocabulary) -> dict[str, Any]:
    def named(token: str, kind: int) -> str:
        # GGUF marks tokens that begin a word, tokenizer.json those that continue one.
        if kind != _NORMAL:
            return token
        return token[1:] if token.startswith(_SPACE) else f"##{token}"

    names = [named(t, kind) for t, kind in zip(v.tokens, v.types, strict=True)]
    unknown = next((t for t, kind in zip(v.tokens, v.types, strict=True) if kind == _UNKNOWN), "")
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": unknown or "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {name: i for i, name in reversed(list(enumerate(names)))},
        },
    }
