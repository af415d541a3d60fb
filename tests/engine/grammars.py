"""Texts that match a grammar, without a model: checked byte by byte, and made at random."""

from __future__ import annotations

import json
import random
from typing import Any

import llguidance

from mlc_widget.engine.structured_output import response_grammar


class Bytes:
    """A vocabulary of single bytes."""

    eos_token_id, bos_token_id, is_tokenizer_wrapper = 256, None, True
    tokens = [*(bytes([i]) for i in range(256)), b"<eos>"]  # noqa: RUF012
    special_token_ids = [256]  # noqa: RUF012

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


TOKENIZER = llguidance.LLTokenizer(Bytes())


def matcher_of(grammar: str) -> Any:
    matcher = llguidance.LLMatcher(TOKENIZER, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return matcher


def follows(grammar: str, text: str) -> int:
    """The number of bytes of a text that a grammar accepts."""
    return int(matcher_of(grammar).try_consume_tokens(list(text.encode())))


def takes(grammar: str, text: str) -> bool:
    """Whether a grammar accepts a text as complete."""
    matcher = matcher_of(grammar)
    return bool(
        matcher.try_consume_tokens(list(text.encode())) == len(text.encode())
        and matcher.is_accepting()
    )


def schema_grammar(schema: Any) -> str:
    grammar = response_grammar({"type": "json_object", "schema": schema})
    assert grammar is not None
    return grammar


def takes_value(schema: Any, text: str) -> bool:
    return takes(schema_grammar(schema), text)


def random_text(grammar: str, seed: int, limit: int = 4000) -> str | None:
    """A complete text that matches a grammar; None if none was found within a limit."""
    chance, matcher, made = random.Random(seed), matcher_of(grammar), bytearray()
    patience = chance.choice([5, 40, 150])
    while len(made) < limit:
        if matcher.is_stopped():
            return made.decode()
        bits = matcher.compute_bitmask()
        assert not matcher.is_error(), matcher.get_error()
        allowed = [i for i in range(257) if bits[i // 8] >> (i % 8) & 1]
        assert allowed, made
        if 256 in allowed and (len(allowed) == 1 or chance.random() < 0.5):
            return made.decode()
        more = ",:" if len(made) < patience else ""
        ends = [i for i in allowed if i < 256 and chr(i) in f'}}]"{more}']
        plain = [i for i in allowed if 0x20 < i < 0x7F] or [i for i in allowed if i < 256]
        ending = ends and chance.random() < (0.8 if len(made) > patience else 0.4)
        byte = chance.choice(ends if ending else plain)
        assert matcher.consume_token(byte), made
        made.append(byte)
    return None


def random_value(schema: Any, seed: int) -> Any:
    text = random_text(schema_grammar(schema), seed)
    return ... if text is None else json.loads(text)
