"""The demo model's corpus: the same text everywhere, and nothing of the evaluation in it."""

from __future__ import annotations

import hashlib
import os
import random
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from tools.demo import corpus
from tools.demo.dialogue import (
    POOLS,
    Check,
    Dialogue,
    exactly,
    has,
    has_any,
    held_out_numbers,
    plain_text,
)
from tools.demo.kinds.names import CITIES, FIRST_NAMES, UNSEEN, made_up
from tools.demo.wording import expand, finish, reword

ROOT = Path(__file__).parents[2]
DIALOGUES = 2500

DIGEST = """
import hashlib
from itertools import islice
from tools.demo import corpus
text = "".join(corpus.show(dialogue) for dialogue in islice(corpus.training(3), 200))
print(hashlib.sha256(text.encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def training() -> list[Dialogue]:
    return list(islice(corpus.training(11), DIALOGUES))


def held_out(per_kind: int) -> list[Dialogue]:
    dialogues = [
        dialogue for kind in corpus.KINDS for dialogue in corpus.single_turns(5, kind, per_kind)
    ]
    return dialogues + list(corpus.recalls(5, 30)) + list(corpus.long_dialogues(5, 3))


def test_a_seed_gives_the_same_text_in_every_process() -> None:
    digests = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        run = subprocess.run(
            [sys.executable, "-c", DIGEST],
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(run.stdout.strip())
    text = "".join(corpus.show(dialogue) for dialogue in islice(corpus.training(3), 200))
    assert digests == {hashlib.sha256(text.encode()).hexdigest()}


def test_another_seed_gives_another_text() -> None:
    first, second = next(corpus.training(1)), next(corpus.training(2))
    assert corpus.show(first) != corpus.show(second)


@pytest.mark.parametrize("name", [name for name, pool in POOLS.items() if not pool.shared])
def test_no_pool_trains_on_what_it_holds_out(name: str) -> None:
    pool = POOLS[name]
    assert pool.test
    assert not {plain_text(item) for item in pool.train} & {plain_text(item) for item in pool.test}
    rng = random.Random(name)
    drawn = {plain_text(pool.choose(rng, "train")) for _ in range(500)}
    assert not drawn & pool.kept


def test_no_question_of_the_evaluation_is_asked_in_training(training: list[Dialogue]) -> None:
    trained = {plain_text(turn.user) for dialogue in training for turn in dialogue.turns}
    asked = {
        plain_text(turn.user)
        for dialogue in held_out(20)
        for turn in dialogue.turns
        # A guess at a riddle, or nonsense, has no wording of its own.
        if turn.kind not in ("riddles", "unclear")
    }
    assert len(asked) > 500
    assert not asked & trained


def test_names_cities_and_words_of_the_evaluation_never_occur(training: list[Dialogue]) -> None:
    texts = " ".join(
        f"{dialogue.style.system} {turn.user} {turn.answer}"
        for dialogue in training
        for turn in dialogue.turns
    )
    words = set(re.findall(r"\w+", texts.lower()))
    # Cities are also capitals of countries, which are facts.
    names = {name.lower() for name in FIRST_NAMES.test}
    assert not words & names
    assert not words & set(UNSEEN)


def test_made_up_words_are_not_those_of_the_evaluation() -> None:
    rng = random.Random(0)
    made = {made_up(rng) for _ in range(50_000)}
    kept = {*UNSEEN, *(name.lower() for name in (*FIRST_NAMES.test, *CITIES.test))}
    assert not made & kept
    assert len(made) > 10_000


@pytest.mark.parametrize(
    ("sign", "kind"), [("+", "addition"), ("-", "subtraction")], ids=["addition", "subtraction"]
)
def test_sums_of_the_evaluation_are_never_solved(
    training: list[Dialogue], sign: str, kind: str
) -> None:
    for dialogue in training:
        for turn in dialogue.turns:
            if turn.kind in (kind, "arithmetic_chain", "word_problem"):
                found = re.search(rf"(\d+) {re.escape(sign)} (\d+) =", turn.answer)
                if found:
                    assert not held_out_numbers(kind, int(found[1]), int(found[2])), turn


def test_every_answer_passes_its_own_check() -> None:
    for dialogue in held_out(40):
        for turn in dialogue.turns:
            assert turn.check.passes(turn.answer), turn


def test_every_kind_makes_training_dialogues_and_is_scored() -> None:
    rng = random.Random(0)
    for kind in corpus.KINDS:
        assert any(_makes_turns(kind, rng) for _ in range(20)), kind
    assert len(corpus.KINDS) > 35


def _makes_turns(kind: object, rng: random.Random) -> bool:
    dialogue = Dialogue(rng)
    kind(dialogue)  # type: ignore[operator]
    return bool(dialogue.turns)


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (exactly("Paris"), "Paris ", "paris"),
        (has("17", "Ada"), "ada is 17.", "Ada is 170."),
        (has_any("yes", "no"), "No, it is not.", "I know."),
        (Check("last", ("42",)), "17 + 25 = 42.", "42 - 25 = 17."),
        (Check("last", ("-3",)), "4 - 7 = -3.", "4 - 7 = 3."),
        (Check("json", ('{"a": 1}',)), '{ "a":1 }', '{"a": 2}'),
        (Check("json", ('{"a": 1}',)), '{"a": 1}', '{"a": 1'),
        (Check("list", ("2", "cat", "dog")), "- Dog\n- Cat", "- Dog\n- Dog"),
        (Check("list", ("2", "cat", "dog")), "1. Cat\n2. Dog", "1. Cat\n2. Cow"),
    ],
)
def test_checks_tell_right_from_wrong(check: Check, right: str, wrong: str) -> None:
    assert check.passes(right)
    assert not check.passes(wrong)


def test_wordings_expand_and_end_well() -> None:
    assert expand("[Tell me|Say] [the |]name of {x}") == [
        "Tell me the name of {x}.",
        "Tell me name of {x}.",
        "Say the name of {x}.",
        "Say name of {x}.",
    ]
    assert finish("what  is it") == "What is it?"
    assert expand("a [b|c]", sentence=False) == ["a b", "a c"]


def test_rewordings_keep_the_fields() -> None:
    rng = random.Random(0)
    for pool in POOLS.values():
        if pool.wordings:
            for _ in range(30):
                item = pool.train[rng.randrange(len(pool.train))]
                fields = sorted(re.findall(r"\{\w+\}", item))
                assert sorted(re.findall(r"\{\w+\}", reword(rng, item))) == fields, item
