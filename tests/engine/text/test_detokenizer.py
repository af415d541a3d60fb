from __future__ import annotations

import random

import pytest

from mlc_widget.engine.text.detokenizer import Detokenizer, StopStrings
from mlc_widget.engine.text.token_bytes import TokenBytes, decode_bytes
from mlc_widget.engine.text.tokenizer import Tokenizer


class Bytes(Tokenizer):
    """Tokens that are given byte strings, so that any cut of any text can be tried."""

    def __init__(
        self, pieces: list[bytes], *, special: set[int] = frozenset(), strip=False
    ) -> None:
        self._bytes = TokenBytes(pieces)
        self._special = frozenset(special)
        self._strips_leading_space = strip


def cuts(data: bytes, rng: random.Random) -> list[bytes]:
    pieces = []
    while data:
        n = rng.randint(1, 4)
        pieces.append(data[:n])
        data = data[n:]
    return pieces


def run(tokenizer: Tokenizer, stop: tuple[str, ...] = ()) -> tuple[list[str], Detokenizer]:
    detokenizer = Detokenizer(tokenizer, stop)
    pieces = [detokenizer.push(i) for i in range(tokenizer.vocab_size)]
    return [*pieces, detokenizer.flush()], detokenizer


TEXT = " naïve 🙂 犬\u0301 e\u0301 \U0001f468\u200d\U0001f469\u200d\U0001f467 end"


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("strip", [False, True])
def test_any_cut_of_a_text_gives_the_text(seed, strip):
    pieces, _ = run(Bytes(cuts(TEXT.encode(), random.Random(seed)), strip=strip))
    assert "".join(pieces) == TEXT.removeprefix(" " if strip else "")
    assert not any("\ufffd" in p for p in pieces)


@pytest.mark.parametrize("seed", range(200))
def test_any_bytes_give_what_decoding_them_at_once_gives(seed):
    rng = random.Random(seed)
    alphabet = [0x20, 0x41, 0x80, 0xBF, 0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x99, 0xED, 0xFF]
    data = bytes(rng.choice(alphabet) for _ in range(rng.randint(0, 24)))
    tokenizer = Bytes(cuts(data, rng), strip=bool(seed % 2))
    text = "".join(run(tokenizer)[0])
    assert text == tokenizer.decode(range(tokenizer.vocab_size))
    # Finished by a letter, it is Python's own decoding.
    whole = decode_bytes(data + b"!", strip_leading_space=False)
    assert whole == (data + b"!").decode("utf-8", "replace")
    assert whole.removeprefix(" " if seed % 2 else "").startswith(text)


def test_a_character_comes_with_its_last_byte():
    pieces, _ = run(Bytes([b"\xf0\x9f", b"\x99", b"\x82!"]))
    assert pieces == ["", "", "🙂!", ""]


def test_an_unfinished_character_never_appears():
    pieces, _ = run(Bytes([b"a", b"\xf0\x9f"]))
    assert pieces == ["a", "", ""]


def test_invalid_bytes_are_replaced_as_soon_as_they_are_known_to_be():
    pieces, _ = run(Bytes([b"\xf0\x9f", b"A", b"\xff"]))
    assert pieces == ["", "\ufffdA", "\ufffd", ""]


def test_special_tokens_have_no_text():
    pieces, _ = run(Bytes([b"\xf0\x9f", b"<|x|>", b"\x99\x82"], special={1}))
    assert pieces == ["", "", "🙂", ""]


def test_only_one_leading_space_of_the_text_is_dropped():
    pieces, _ = run(Bytes([b"<s>", b" ", b" a", b" b"], special={0}, strip=True))
    assert pieces == ["", "", " a", " b", ""]


@pytest.mark.parametrize(
    ("pieces", "stop", "want"),
    [
        (["Hello", " wor", "ld", "!"], ("o w",), "Hell"),
        (["aab"], ("ab",), "a"),
        (["a", "a", "b"], ("ab",), "a"),
        (["x<|", "im_", "end", "|>y"], ("<|im_end|>",), "x"),
        (["a", "b", "c", "d"], ("abcd", "bc"), "a"),
        (["abcd"], ("abcd", "bc"), "a"),
        (["abc"], ("c", "bc"), "a"),
        (["\n", "\n", "x"], ("\n\n",), ""),
    ],
)
def test_text_ends_before_the_first_stop_string(pieces, stop, want):
    stops = StopStrings(stop)
    assert "".join(map(stops.push, pieces)) + stops.flush() == want
    assert stops.stopped in stop
    assert stops.push("more") == ""


def test_text_that_only_looked_like_a_stop_string_is_given_back():
    stops = StopStrings(("END",))
    assert [stops.push(t) for t in ("a E", "N", "x", "E")] == ["a ", "", "ENx", ""]
    assert stops.flush() == "E"
    assert stops.stopped is None


def test_nothing_is_held_without_need():
    stops = StopStrings(("</s>", "User:"))
    for text in ("Hello", " Us", "ed", " < ", "</", "p>"):
        stops.push(text)
    assert stops.flush() == ""


@pytest.mark.parametrize("seed", range(300))
def test_stop_strings_do_not_depend_on_the_cut(seed):
    rng = random.Random(seed)
    text = "".join(rng.choice("ab🙂") for _ in range(30))
    stop = tuple("".join(rng.choice("ab🙂") for _ in range(rng.randint(1, 5))) for _ in range(3))
    whole = StopStrings(stop)
    want = whole.push(text) + whole.flush()
    detokenizer_text, detokenizer = run(Bytes(cuts(text.encode(), rng)), stop)
    assert "".join(detokenizer_text) == want
    assert detokenizer.stopped == (whole.stopped is not None)
    # Against the definition: the shortest beginning of the text that ends with a stop string.
    ends = [n for n in range(len(text) + 1) if text[:n].endswith(stop)]
    if ends:
        found = max((s for s in stop if text[: ends[0]].endswith(s)), key=len)
        assert want == text[: ends[0] - len(found)]
    else:
        assert want == text


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ValueError, match="empty"):
        StopStrings(("",))
