"""The DRY penalty against its definition, written plainly."""

from __future__ import annotations

import random

import numpy as np
import pytest

from mlc_widget.engine.runtimes.tvm.dry import DryPenalty
from mlc_widget.engine.runtimes.tvm.sampler import Sampler

from .conftest import greedy


class Letters:
    """One token for each letter, one for a pair of letters, and one that is special."""

    names = (b"a", b"b", b"c", b"\n", b"ab", b"<end>", b"x", b"y")

    def token_bytes(self, token_id):
        return self.names[token_id]

    def is_special(self, token_id):
        return token_id == 5


def tokens(text):
    return [Letters.names.index(bytes([c])) for c in text.encode()]


def dry(**changes):
    given = {"dry_multiplier": 0.5, "dry_base": 2.0, "dry_allowed_length": 2}
    return greedy(**{**given, "dry_sequence_breakers": (), **changes})


def penalties(sampling, prompt, answer=()):
    penalty = DryPenalty(sampling, list(prompt), Letters())
    for token in answer:
        penalty.append(token)
    logits = np.zeros(len(Letters.names), np.float32)
    ids, amount = penalty.penalties()
    assert len(set(ids.tolist())) == len(ids)
    logits[ids] = amount
    return logits


def reference(sampling, ids):
    """For each place, compare backwards; the longest repetition before a token counts."""
    breaks, text = [], b""
    for token in ids:
        before, text = len(text), text + Letters.names[token]
        breaks.append(
            token == 5
            or any(
                text[i : i + len(b)] == b.encode() and i + len(b) > before
                for b in sampling.dry_sequence_breakers
                for i in range(len(text) - len(b) + 1)
            )
        )
    found = np.zeros(len(Letters.names))
    for at in range(len(ids) - 1):
        length = 0
        while (
            length <= at
            and ids[at - length] == ids[-1 - length]
            and not breaks[at - length]
            and not breaks[-1 - length]
        ):
            length += 1
        if length >= sampling.dry_allowed_length and not breaks[at + 1]:
            excess = length - sampling.dry_allowed_length
            amount = sampling.dry_multiplier * sampling.dry_base**excess
            found[ids[at + 1]] = max(found[ids[at + 1]], amount)
    return found


def test_a_token_that_continues_a_repetition_is_penalised():
    assert penalties(dry(), tokens("abcab"))[2] == 0.5  # "ab" was repeated, and c came after it
    assert penalties(dry(), tokens("xabcxab"))[2] == 1.0
    assert penalties(dry(dry_allowed_length=3), tokens("xabcxab"))[2] == 0.5
    assert not penalties(dry(dry_allowed_length=4), tokens("xabcxab")).any()
    assert not penalties(dry(), tokens("abcxyb")).any()


def test_breakers_end_repetitions_and_are_not_penalised():
    lines = tokens("xab\nyab")
    assert penalties(dry(), lines)[3] > 0
    assert not penalties(dry(dry_sequence_breakers=("\n",)), lines).any()
    assert penalties(dry(), tokens("x\nabcx\nab"))[2] == 2.0
    assert penalties(dry(dry_sequence_breakers=("\n",)), tokens("x\nabcx\nab"))[2] == 0.5
    assert not penalties(dry(dry_sequence_breakers=("bx",)), tokens("xxabxcabx")).any()
    assert not penalties(dry(), [6, 6, 7, 5, 6, 6, 7]).any()  # the end of a turn


SETTINGS = [
    dry(),
    dry(dry_sequence_breakers=("\n", "b")),
    dry(dry_sequence_breakers=("ba", "aba", "c")),
    dry(dry_allowed_length=1, dry_base=1.0),
    dry(dry_allowed_length=5, dry_base=1.1, dry_multiplier=3.0),
]


@pytest.mark.parametrize("sampling", SETTINGS)
def test_prompt_and_answer_count_alike_and_as_defined(sampling):
    chance = random.Random(3)
    for length in (0, 1, 2, 3, 9, 40, 90):
        for letters in (2, 3, 8):
            ids = [chance.randrange(letters) for _ in range(length)]
            expected = reference(sampling, ids)
            for prompt in (0, length // 2, length):
                found = penalties(sampling, ids[:prompt], ids[prompt:])
                assert np.allclose(found, expected, rtol=1e-6), (ids, prompt)


def test_long_repetitions_stay_finite_and_are_alike_in_prompt_and_answer():
    sampling = dry(dry_base=10.0, dry_multiplier=100.0)
    ids = [0] * 1000
    for prompt in (0, 500, 1000):
        found = penalties(sampling, ids[:prompt], ids[prompt:])
        assert found[0] == 1e4
        assert not found[1:].any()
    gentle = dry(dry_base=1.0001)
    assert np.array_equal(penalties(gentle, ids), penalties(gentle, ids[:10], ids[10:]))


def test_a_sampler_stops_repeating_itself():
    logits = np.array([3.0, 0, 0, 0, 0, 0, 2.9, 2.8], np.float32)
    sampler = Sampler(dry(), tokens("aaaa"), Letters())
    plain = Sampler(greedy(), tokens("aaaa"), Letters())
    assert [plain.sample(logits, i)[0] for i in range(4)] == [0] * 4
    assert [sampler.sample(logits, i)[0] for i in range(4)] == tokens("xaay")
