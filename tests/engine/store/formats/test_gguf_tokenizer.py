"""Tokenizers out of a GGUF file's metadata."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from mlc_widget.api.errors import ModelFormatError, UnsupportedModelError
from mlc_widget.engine.store.formats import gguf_tokenizer
from mlc_widget.engine.store.formats.gguf_tokenizer import tokenizer_spec
from mlc_widget.engine.store.formats.merges import pairs_of
from mlc_widget.engine.text.tokenizer import Tokenizer
from mlc_widget.engine.text.tokenizer_backend import (
    backend_from_spec,
    import_tokenizers,
    names_of,
    names_of_spec,
)

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
FILE = Path("model.gguf")
LETTERS = [chr(c) for c in (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x144))]
TEXTS = [
    "",
    "low lower lowest  new\n\n newer",
    "What's 12345.67? <|im_end|> is <b>",
    "naïve café — 犬が走る 🙂",
    "   a <s> b\t\r\n",
]


def byte_level(**more):
    merges = ["l o", "lo w", "e r", "low er", "Ġ low", "n e", "ne w", "1 2", "3 4", "Ġ Ġ", "Ċ Ċ"]
    tokens = [
        "<|im_start|>",
        "<|im_end|>",
        *LETTERS,
        *(m.replace(" ", "") for m in merges),
        "<b>",
    ]
    types = [CONTROL] * 2 + [NORMAL] * (len(tokens) - 3) + [USER_DEFINED]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(types),
        "tokenizer.ggml.merges": merges,
    } | more


def sentence_piece(**more):
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256
    words = [
        "▁",
        *"lowernst",
        "lo",
        "low",
        "er",
        "ne",
        "▁low",
        "lower",
        "▁lower",
        "st",
        "est",
        "▁▁",
    ]
    words += ["<b>"]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*tokens, *words],
        "tokenizer.ggml.token_type": np.array(types + [NORMAL] * (len(words) - 1) + [USER_DEFINED]),
        "tokenizer.ggml.scores": np.array([0.0] * 259 + [-float(i) for i in range(len(words))]),
    } | more


def word_piece(**more):
    tokens = ["[UNK]", "[CLS]", "▁low", "er", "▁a", "▁new", "▁.", "▁is", "▁b"]
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([UNKNOWN, CONTROL] + [NORMAL] * (len(tokens) - 2)),
    } | more


def made(fields):
    return Tokenizer.from_spec(tokenizer_spec(fields, "model.gguf"), FILE)


@pytest.mark.parametrize("fields", [byte_level, sentence_piece, word_piece])
def test_a_tokenizer_made_of_parts_is_that_of_its_json(fields):
    spec = tokenizer_spec(fields(), "model.gguf")
    parts = Tokenizer.from_spec(spec, FILE)
    whole = Tokenizer.from_bytes(json.dumps(spec).encode(), FILE)
    assert [parts.encode(text) for text in TEXTS] == [whole.encode(text) for text in TEXTS]
    assert parts.vocab_size == whole.vocab_size == len(fields()["tokenizer.ggml.tokens"])
    ids = range(parts.vocab_size)
    assert [parts.token_bytes(i) for i in ids] == [whole.token_bytes(i) for i in ids]
    assert [parts.is_special(i) for i in ids] == [whole.is_special(i) for i in ids]
    assert set(parts.control_names) == set(whole.control_names)


@pytest.mark.parametrize("fields", [byte_level, sentence_piece, word_piece])
@pytest.mark.parametrize("twice", [0, 3, -1], ids=["no name", "a name", "the last name"])
def test_names_are_those_of_the_package(fields, twice):
    """Also if a name occurs twice, so that an id has none."""
    made_fields = fields()
    if twice:
        made_fields["tokenizer.ggml.tokens"][twice] = made_fields["tokenizer.ggml.tokens"][4]
        made_fields.pop("tokenizer.ggml.merges", None)
        if fields is byte_level:
            made_fields["tokenizer.ggml.merges"] = []
    spec = tokenizer_spec(made_fields, "model.gguf")
    assert names_of_spec(spec) == names_of(backend_from_spec(spec, import_tokenizers()))


@pytest.mark.parametrize("fields", [byte_level, sentence_piece])
def test_texts_come_back(fields):
    tokenizer = made(fields())
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def _tokens(fields, text):
    return [fields["tokenizer.ggml.tokens"][i] for i in made(fields).encode(text)]


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        # Nobody's own way to cut, but llama.cpp's: punctuation first, digits by three at most.
        (None, "1234 = low", ["12", "3", "4", "Ġ", "=", "Ġlow"]),
        ("default", "1234 = low", ["12", "3", "4", "Ġ", "=", "Ġlow"]),
        ("gpt-2", "1234", ["12", "34"]),
        ("smollm", "1234", ["1", "2", "3", "4"]),
        ("llama-bpe", "12345 low", ["12", "3", "4", "5", "Ġlow"]),
        ("qwen2", "1234\n\n", ["1", "2", "3", "4", "ĊĊ"]),
        ("deepseek-coder", "\n\n12", ["Ċ", "Ċ", "1", "2"]),
        ("deepseek-v3", "12345\n\n", ["12", "3", "4", "5", "ĊĊ"]),
    ],
)
def test_text_is_cut_as_the_file_says(pre, text, expected):
    more = {} if pre is None else {"tokenizer.ggml.pre": pre}
    assert _tokens(byte_level(**more), text) == expected


def test_a_vocabulary_of_152_thousand_tokens():
    """As large as Qwen's: ids are those of the `tokenizers` package."""
    from tokenizers import Regex, models, normalizers, pre_tokenizers

    letters = [chr(c) for c in (*range(65, 91), *range(97, 123))]
    pairs = [(a, b) for a in ("Ġ", *letters) for b in letters]
    triples = [(a + b, c) for a, b in pairs for c in letters]
    words = [("Ġthe", c) for c in letters] + [("Ġand", c) for c in letters]
    merges = list(dict.fromkeys([*pairs, *triples, ("Ġth", "e"), ("Ġan", "d"), *words]))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = list(dict.fromkeys([*alphabet, *(a + b for a, b in merges)]))
    controls = [f"<|{i}|>" for i in range(151_936 - len(tokens))]
    made_of = made(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "qwen2",
            "tokenizer.ggml.tokens": [*tokens, *controls],
            "tokenizer.ggml.token_type": np.array(
                [NORMAL] * len(tokens) + [CONTROL] * len(controls)
            ),
            "tokenizer.ggml.merges": [f"{a} {b}" for a, b in merges],
        }
    )
    vocab = {token: i for i, token in enumerate(tokens)}
    package = import_tokenizers().Tokenizer(models.BPE(vocab=vocab, merges=merges))
    package.normalizer = normalizers.NFC()
    expression = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    package.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(expression), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    assert made_of.vocab_size == 151_936
    assert made_of.token_to_id(controls[-1]) == 151_935
    rng = random.Random(0)
    pieces = [
        "the",
        " and",
        "I'LL",
        "don't",
        "é",
        "日本語",
        " ",
        "\n\n",
        "2345",
        "🙂",
        "x=1;",
        "\u202e",
    ]
    for _ in range(200):
        text = "".join(
            rng.choice([rng.choice(pieces), "".join(rng.choices(letters, k=5)), " "])
            for _ in range(rng.randrange(30))
        )
        assert made_of.encode(text) == package.encode(text).ids, text
        assert made_of.decode(made_of.encode(text)) == text


def test_pairs_with_the_best_scores_are_joined_first():
    fields = sentence_piece()
    assert _tokens(fields, "lower low") == ["▁lower", "▁low"]
    fields["tokenizer.ggml.tokens"][-1] = "el"
    fields["tokenizer.ggml.token_type"][-1] = NORMAL
    assert _tokens(fields, "elo") == ["▁", "e", "lo"]
    fields["tokenizer.ggml.scores"][-1] = 1.0
    assert _tokens(fields, "elo") == ["▁", "el", "o"]


def test_pairs_are_all_that_there_are():
    draw = random.Random(5)
    tokens = ["", "a", *("".join(draw.choices("abé🙂", k=draw.randrange(7))) for _ in range(2000))]
    first = {token: i for i, token in reversed(list(enumerate(tokens)))}
    expected = {
        (i, first[token[:cut]], first[token[cut:]])
        for token, i in first.items()
        for cut in range(1, len(token))
        if token[:cut] in first and token[cut:] in first
    }
    found = list(zip(*(a.tolist() for a in pairs_of(tokens)), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == expected


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (byte_level(**{"tokenizer.ggml.model": 7}), "model must be a name"),
        (byte_level(**{"tokenizer.ggml.model": np.zeros(2)}), "model must be a name"),
        (byte_level(**{"tokenizer.ggml.tokens": None}), "tokens must be a list"),
        (byte_level(**{"tokenizer.ggml.tokens": []}), "tokens must be a list"),
        (byte_level(**{"tokenizer.ggml.token_type": np.zeros(3)}), "token_type must have a number"),
        (byte_level(**{"tokenizer.ggml.merges": None}), "merges must be a list"),
        (byte_level(**{"tokenizer.ggml.merges": ["l o", "low"]}), "'low', which is not a pair"),
        (byte_level(**{"tokenizer.ggml.merges": ["l zz"]}), "'l zz', which is not a pair"),
        (byte_level(**{"tokenizer.ggml.merges": [""]}), "'', which is not a pair"),
        (sentence_piece(**{"tokenizer.ggml.scores": None}), "scores must have a number"),
        (sentence_piece(**{"tokenizer.ggml.scores": np.zeros(2)}), "scores must have a number"),
        (sentence_piece(**{"tokenizer.ggml.add_space_prefix": 1}), "add_space_prefix is 1"),
    ],
)  # fmt: skip
def test_a_vocabulary_that_does_not_hold_together_is_named(fields, named):
    with pytest.raises(ModelFormatError, match=rf"model\.gguf: tokenizer\.ggml\..*{named}"):
        tokenizer_spec(fields, "model.gguf")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (byte_level(**{"tokenizer.ggml.pre": "martian"}), "martian"),
        (byte_level(**{"tokenizer.ggml.pre": ["qwen2"]}), "qwen2"),
        (byte_level(**{"tokenizer.ggml.model": "t5"}), "t5"),
    ],
)
def test_a_kind_that_is_not_known_is_named(fields, named):
    with pytest.raises(UnsupportedModelError, match=named):
        tokenizer_spec(fields, "model.gguf")


def test_long_tokens_are_refused_before_work_is_done_for_them(monkeypatch):
    monkeypatch.setattr(gguf_tokenizer, "pairs_of", lambda *_: pytest.fail("it has begun"))
    tokens = ["<unk>", *("a" * 4000 + str(i) for i in range(20_000))]
    fields = sentence_piece() | {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.ones(len(tokens), int),
        "tokenizer.ggml.scores": np.zeros(len(tokens)),
    }
    with pytest.raises(ModelFormatError, match="a token of 400"):
        tokenizer_spec(fields, "model.gguf")
