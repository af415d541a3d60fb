"""`uniqueItems` of strings and numbers: no item comes twice, whatever tokens there are."""

from __future__ import annotations

import json
import random

import jsonschema
import numpy as np
import pytest

pytest.importorskip("llguidance")

from mlc_widget.api.errors import UnsupportedFieldError
from mlc_widget.engine.runtimes.tvm.grammar import GrammarCompiler
from mlc_widget.engine.structured_output import response_grammar

from ...schemas import BOOL, INT, NUM, STR, array, record, ref

LONGER = [
    '","', '", "', '",', '"]', '["', '[["', '[]', '["]', '[{"', "1,", "0,0", "1,2,", ',"a","a"',
    '["a","a"]', "[1,1]", "[1", 'a","a', "]}", "],", '],"u":["', ", ", ",\n ", "11", "aa", '""',
    '["",""', "true,", "null,null", "t-", '\\"', "\\n", "ä", ",b", "b,",
]  # fmt: skip
"""Tokens beside those of single bytes: many cross the border between two items."""


class Vocabulary:
    def __init__(self, tokens):
        self.tokens = [*tokens, b"<eos>"]
        self.vocab_size = len(self.tokens)

    def token_bytes(self, i):
        return self.tokens[i]

    def is_special(self, i):
        return i == self.vocab_size - 1

    def encode(self, text):
        return list(text.encode())


VOCABULARY = Vocabulary([*(bytes([i]) for i in range(256)), *(t.encode() for t in LONGER)])
EOS = VOCABULARY.vocab_size - 1
ROWS = VOCABULARY.vocab_size + 7
"""Logits are padded."""
COMPILER = GrammarCompiler(VOCABULARY, [EOS])


def grammar_of(schema):
    return COMPILER.compile(response_grammar({"type": "json_object", "schema": schema}))


def sampled(schema, seed, limit=1500):
    """The tokens of a complete answer, chosen at random; None if it has no end."""
    chance, grammar, tokens = random.Random(seed), grammar_of(schema), []
    alphabet = chance.choice(['ab",[]', '01",[]', 'a",]', "".join(map(chr, range(32, 127)))])
    usual = {ord(c) for c in alphabet}
    for _ in range(limit):
        ids = np.flatnonzero(grammar.allowed(ROWS))
        weights = [20 if i >= 256 else 8 if i in usual else 0.3 if i < 128 else 0.02 for i in ids]
        tokens.append(int(chance.choices(ids, weights)[0]))
        if grammar.accept(tokens[-1]):
            return tokens
    return None


def text_of(tokens):
    return b"".join(VOCABULARY.tokens[i] for i in tokens if i != EOS).decode()


def unique(items, **more):
    return array(items, uniqueItems=True, **more)


KINDS = {
    "strings": unique(STR, minItems=2),
    "integers": unique(INT, minItems=2),
    "numbers": unique(NUM, minItems=2),
    "a range": unique({"type": "integer", "minimum": 0, "maximum": 70}, minItems=3, maxItems=20),
    "all of a range": unique({"type": "integer", "minimum": 1, "maximum": 66}, minItems=66),
    "fractions": unique({"type": "number", "not": INT}, minItems=2, maxItems=9),
    "between": unique({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001},
                      maxItems=9),
    "multiples": unique({"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 1000},
                        minItems=2, maxItems=9),
    "strings or numbers": unique({"anyOf": [STR, INT, {"type": "null"}]}, minItems=2),
    "oneOf": unique({"oneOf": [STR, BOOL]}, minItems=2),
    "anything": {"type": "array", "uniqueItems": True, "minItems": 2},
    "a pattern": unique({"type": "string", "pattern": "^t-[0-9][0-9]$"}, minItems=5),
    "short": unique({"type": "string", "minLength": 1, "maxLength": 2}, minItems=4, maxItems=9),
    "not one": unique({"type": "string", "not": {"const": "a"}}, minItems=3, maxItems=9),
    "dates": unique({"type": "string", "format": "date"}, minItems=2, maxItems=4),
    "uuids": unique({"type": "string", "format": "uuid"}, maxItems=3),
    "times": unique({"type": "string", "format": "date-time"}, minItems=2, maxItems=3),
    "a long enum": unique({"enum": [f"w{i}" for i in range(70)]}, minItems=2, maxItems=20),
    "a mixed enum": unique({"enum": [*range(68), "a", None, True, 1.5]}, minItems=2, maxItems=20),
    "a model": record(t=unique(STR), u=unique(INT), l=array(INT, maxItems=2)),
    "in each other": array(unique(STR), minItems=2, maxItems=4),
    "a tree": {
        **ref("node"),
        "$defs": {"node": record(tags=unique(STR), kids=array(ref("node"), maxItems=2))},
    },
    "one of two": {"anyOf": [record(a=unique(STR)), record(a=unique(INT))]},
    "a list or a set": {"anyOf": [unique(STR), array(INT)]},
}  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_complete_answers_are_valid(name):
    schema, ended = KINDS[name], 0
    validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
    for seed in range(6):
        tokens = sampled(schema, seed)
        if tokens is not None:
            validator.validate(json.loads(text_of(tokens)))
            ended += 1
    assert ended


def allowed_after(schema, *texts):
    grammar = grammar_of(schema)
    for text in texts:
        for token in [text.encode()] if text in LONGER else [bytes([b]) for b in text.encode()]:
            i = VOCABULARY.tokens.index(token)
            assert grammar.allowed(ROWS)[i], (text, token)
            grammar.accept(i)
    return {VOCABULARY.tokens[i].decode(errors="replace")
            for i in np.flatnonzero(grammar.allowed(ROWS))}  # fmt: skip


def test_the_quote_that_would_repeat_an_item_is_forbidden():
    assert {'"', '",', '","', '"]'} <= allowed_after(unique(STR), '["a', '","', "b")
    assert not {'"', '",', '","', '"]', '""'} & allowed_after(unique(STR), '["a', '","', "a")
    assert not {",", "]", "1,"} & allowed_after(unique(INT), "[1,11,2, 1") - {"1,"}
    assert '"' not in allowed_after(unique(STR), '["\\n","\\n')
    assert '"' not in allowed_after(unique(STR), '["","')
    assert {"0", "1"} & allowed_after(unique(INT), "[0,-") == {"1"}


def test_a_beginning_of_which_nothing_is_left_is_forbidden():
    letters = unique({"type": "string", "pattern": "^(a[1-3]|b[0-9]|[c-z][0-9])$"})
    assert "a" not in allowed_after(letters, '["a1","a2","a3","') - {"aa"}
    digits = unique({"type": "integer", "minimum": 0, "maximum": 99})
    assert "," not in allowed_after(digits, "[" + ",".join(map(str, range(100))))


def test_a_text_that_is_followed_again_allows_the_same():
    for name in ("strings", "strings or numbers", "a model", "in each other"):
        tokens = next(t for seed in range(9) if (t := sampled(KINDS[name], seed)) is not None)
        asked, followed = grammar_of(KINDS[name]), grammar_of(KINDS[name])
        for i, token in enumerate(tokens[:-1]):
            mask = asked.allowed(ROWS)
            if i % 7 == 0:
                assert (followed.allowed(ROWS) == mask).all()
            asked.accept(token)
            followed.accept(token)


def test_a_vocabulary_without_single_characters_is_refused():
    compiler = GrammarCompiler(Vocabulary([bytes([i]) for i in range(256) if i != ord("@")]), [255])
    with pytest.raises(UnsupportedFieldError, match="vocabulary"):
        compiler.compile(response_grammar({"type": "json_object", "schema": unique(STR)}))


def test_a_grammar_is_not_known_to_have_been_compiled_with_another_salt(monkeypatch):
    made = []
    monkeypatch.setattr(COMPILER, "_make", lambda g, make=COMPILER._make: made.append(g) or make(g))
    grammar = response_grammar({"type": "regex", "regex": "only here"})
    for salt in ("", "a", "a", "b", ""):
        COMPILER.compile(grammar, salt=salt)
    assert made == [grammar] * 3
