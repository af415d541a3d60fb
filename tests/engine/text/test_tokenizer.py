from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from mlc_widget.api.errors import BadRequestError, ModelFormatError
from mlc_widget.engine.text.prompt_text import markup
from mlc_widget.engine.text.token_bytes import TokenBytes
from mlc_widget.engine.text.tokenizer import Tokenizer

TEXT = [
    "The quick brown fox jumps over the lazy dog. Hello, hello world!",
    "Žluťoučký kůň 犬が走る 🙂🙃 naïve café — ﬁn",
]
SPECIAL = ["<|im_start|>", "<|im_end|>"]


def byte_level() -> tokenizers.Tokenizer:
    t = tokenizers.Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    t.train_from_iterator(TEXT, trainer)
    t.add_tokens(["<tool call>"])
    return t


def byte_fallback() -> tokenizers.Tokenizer:
    """As Llama 2's tokenizer.json is made of."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    letters = sorted(set("▁" + "".join(TEXT[0].split()) + "é"))
    merges = [("▁", "T"), ("▁T", "h"), ("▁Th", "e"), ("l", "o"), ("▁", "▁")]
    vocab = {n: i for i, n in enumerate([*names, *letters, *(a + b for a, b in merges)])}
    t = tokenizers.Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    t.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    t.add_special_tokens(["<unk>", "<s>", "</s>"])
    return t


def metaspace() -> tokenizers.Tokenizer:
    vocab = {"<unk>": 0, "▁": 1, "a": 2, "▁a": 3}
    t = tokenizers.Tokenizer(models.BPE(vocab, [("▁", "a")], unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    return t


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
@pytest.mark.parametrize("text", [*TEXT, "", " ", "  two", "a\nb\t\0", "\u2581 raw"])
def test_round_trip(make, text):
    tokenizer = Tokenizer(make())
    ids = tokenizer.encode(text)
    # SentencePiece cannot tell its own space mark from a space.
    want = text.replace("\u2581", " ") if make is byte_fallback else text
    assert tokenizer.decode(ids) == want
    data = b"".join(map(tokenizer.token_bytes, ids))
    assert data.removeprefix(b" " if tokenizer.strips_leading_space else b"") == want.encode()


@pytest.mark.parametrize("make", [byte_level, byte_fallback, metaspace])
def test_every_token_decodes_as_the_tokenizers_package_does(make):
    backend = make()
    tokenizer = Tokenizer(make())
    last = "Z" if make is byte_level else "o" if make is byte_fallback else "a"
    anchor = tokenizer.token_to_id(last)
    for i in range(tokenizer.vocab_size):
        want = backend.decode([anchor, i, anchor], skip_special_tokens=True)
        assert tokenizer.decode([anchor, i, anchor]) == want, backend.id_to_token(i)


def test_kinds():
    assert Tokenizer(byte_level()).kind == "byte_level"
    assert not Tokenizer(byte_level()).strips_leading_space
    for make in (byte_fallback, metaspace):
        assert Tokenizer(make()).kind == "byte_fallback"
        assert Tokenizer(make()).strips_leading_space


def test_special_tokens_are_recognised_marked_and_never_added():
    tokenizer = Tokenizer(byte_level())
    start, end = map(tokenizer.token_to_id, SPECIAL)
    ids = tokenizer.encode_prompt(markup("<|im_start|>Hello<|im_end|>"))
    assert ids[0] == start
    assert ids[-1] == end
    assert [i for i in ids if tokenizer.is_special(i)] == [start, end]
    assert tokenizer.decode(ids) == "Hello"
    assert tokenizer.token_bytes(end) == b"<|im_end|>"
    added = tokenizer.token_to_id("<tool call>")
    assert not tokenizer.is_special(added)
    assert tokenizer.decode([added]) == "<tool call>"
    assert tokenizer.encode("Hello") == ids[1:-1]


def test_ids_outside_the_vocabulary_have_no_text():
    tokenizer = Tokenizer(byte_level())
    assert tokenizer.token_bytes(tokenizer.vocab_size) == b""
    assert tokenizer.token_bytes(-1) == b""
    assert not tokenizer.is_special(tokenizer.vocab_size)
    assert tokenizer.token_to_id("no such token") is None


def test_vocab_size_counts_added_tokens():
    backend = byte_level()
    assert Tokenizer(backend).vocab_size == backend.get_vocab_size(with_added_tokens=True)


def test_ids_may_have_gaps():
    tokenizer = Tokenizer(tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 5}, unk_token="a")))
    assert tokenizer.vocab_size == 6
    assert [tokenizer.token_bytes(i) for i in (0, 1, 5)] == [b"a", b"", b"b"]


def test_truncation_and_padding_of_the_file_are_ignored():
    backend = byte_level()
    backend.enable_truncation(2)
    backend.enable_padding(length=64)
    tokenizer = Tokenizer(backend)
    assert tokenizer.decode(tokenizer.encode(TEXT[0])) == TEXT[0]


def test_text_that_is_not_unicode():
    with pytest.raises(BadRequestError, match="UTF-8"):
        Tokenizer(byte_level()).encode("a\ud800b")


def test_from_folder(tmp_path: Path):
    byte_level().save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer.from_folder(tmp_path).encode("fox") == Tokenizer(byte_level()).encode("fox")


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"model": {"type": "Nonsense"}}', b"\xff\xfe"])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes):
    file = tmp_path / "tokenizer.json"
    file.write_bytes(content)
    with pytest.raises(ModelFormatError) as caught:
        Tokenizer.from_folder(tmp_path)
    assert caught.value.param == str(file)
    assert str(file) in caught.value.message


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ModelFormatError, match="missing") as caught:
        Tokenizer.from_folder(tmp_path)
    assert caught.value.param == str(tmp_path / "tokenizer.json")


def test_decoder_free_files_decode_plainly(tmp_path: Path):
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    spec = json.loads(backend.to_str())
    assert spec["decoder"] is None
    assert Tokenizer(backend).decode([0, 1]) == "ab"


def test_the_bytes_of_tokens_are_kept_apart():
    pieces = [b"", b"a", b"\xff\x00", b"", b"long one", b""]
    tokens = TokenBytes(pieces)
    assert [tokens.of(i) for i in range(len(tokens))] == pieces
    assert [tokens.of(i) for i in (-1, 6, 1 << 40)] == [b""] * 3
    assert tokens.longest == 8
    assert (len(TokenBytes([])), TokenBytes([]).of(0), TokenBytes([]).longest) == (0, b"", 1)


def test_tokens_are_found_by_their_exact_texts():
    tokenizer = Tokenizer(byte_level())
    end, added = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<tool call>")
    texts = ["<|im_end|>", "<tool call>", "H", " ", "no token is as long as this", "é"]
    found = tokenizer.ids_of_texts(texts)
    assert list(found) == texts
    assert (found["<|im_end|>"], found["<tool call>"]) == ([end], [added])
    assert found["no token is as long as this"] == []
    assert [tokenizer.token_bytes(i) for i in found[" "]] == [b" "]
    sentencepiece = Tokenizer(byte_fallback())
    assert len(sentencepiece.ids_of_texts(["T"])["T"]) == 2  # the letter, and its byte
    assert sentencepiece.ids_of_texts([" The"])[" The"] == [sentencepiece.token_to_id("▁The")]
