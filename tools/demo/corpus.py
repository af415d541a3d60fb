"""Conversations without end: from a seed, the same text on every machine.

``python -m tools.demo.corpus --seed 1 --count 3`` prints some.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator

from tools.demo.dialogue import Dialogue, Kind, Split
from tools.demo.kinds import (
    facts,
    json_answers,
    language,
    letters,
    markdown,
    memory,
    numbers,
    refusals,
    smalltalk,
    stories,
    systems,
)

KINDS: dict[Kind, float] = {
    **smalltalk.KINDS,
    **numbers.KINDS,
    **facts.KINDS,
    **language.KINDS,
    **letters.KINDS,
    **memory.KINDS,
    **stories.KINDS,
    **json_answers.KINDS,
    **markdown.KINDS,
    **refusals.KINDS,
}
"""Every kind of task with its share of the corpus."""

_NAMES = tuple(KINDS)
_WEIGHTS = tuple(KINDS.values())
# Kinds whose answers show at once whether a system prompt was obeyed.
_STYLED = (
    numbers.addition,
    numbers.subtraction,
    facts.countries,
    facts.colours,
    language.words,
    facts.general,
    language.translation,
    smalltalk.greetings,
    smalltalk.small_talk,
    smalltalk.identity,
    systems.own_name,
    memory.tell_name,
    memory.recall_name,
)


def conversation(rng: random.Random, exchanges: int, split: Split = "train") -> Dialogue:
    """A conversation in which so many kinds of task take their turn."""
    dialogue = Dialogue(rng, split, style=systems.a_style(rng, split))
    special = dialogue.style.short or dialogue.style.name or dialogue.style.apply("x") != "x"
    if exchanges > 1 and dialogue.chance(0.3):
        smalltalk.greetings(dialogue)
    for _ in range(exchanges):
        if special and dialogue.chance(0.7):
            rng.choice(_STYLED)(dialogue)
        elif dialogue.memory and dialogue.chance(0.2):
            recall = memory.recall_name if dialogue.chance(0.5) else memory.recall_about_me
            recall(dialogue)
        else:
            rng.choices(_NAMES, _WEIGHTS)[0](dialogue)
    if exchanges > 2 and dialogue.chance(0.15):
        smalltalk.goodbyes(dialogue)
    return dialogue


def how_long(rng: random.Random) -> int:
    """How many exchanges a training conversation has: mostly few, sometimes many."""
    roll = rng.random()
    if roll < 0.35:
        return 1
    if roll < 0.75:
        return rng.randint(2, 6)
    return rng.randint(7, 30)


def training(seed: int) -> Iterator[Dialogue]:
    """Training conversations forever."""
    rng = random.Random(f"mlc_widget demo {seed}")
    while True:
        dialogue = conversation(rng, how_long(rng))
        if dialogue.turns:
            yield dialogue


# --- evaluation -------------------------------------------------------------------------------


def single_turns(seed: int, kind: Kind, count: int) -> Iterator[Dialogue]:
    """Held-out conversations of one kind of task, under the default system prompt."""
    rng = random.Random(f"mlc_widget demo evaluation {kind.__name__} {seed}")
    made = 0
    while made < count:
        dialogue = Dialogue(rng, "test")
        kind(dialogue)
        if dialogue.turns:
            made += 1
            yield dialogue


def recalls(seed: int, count: int) -> Iterator[Dialogue]:
    """Held-out conversations: something is told, other things are talked of, it is asked for."""
    rng = random.Random(f"mlc_widget demo recall {seed}")
    made = 0
    while made < count:
        dialogue = Dialogue(rng, "test")
        about_name = dialogue.chance(0.5)
        (memory.tell_name if about_name else memory.tell_about_me)(dialogue)
        for _ in range(rng.randint(1, 6)):
            others = [kind for kind in _NAMES if kind not in memory.KINDS]
            rng.choice(others)(dialogue)
        before = len(dialogue.turns)
        (memory.recall_name if about_name else memory.recall_about_me)(dialogue)
        if len(dialogue.turns) > before:
            made += 1
            yield dialogue


def styled(seed: int, count: int) -> Iterator[Dialogue]:
    """Held-out conversations under a system prompt that changes the answers."""
    rng = random.Random(f"mlc_widget demo system {seed}")
    made = 0
    while made < count:
        dialogue = Dialogue(rng, "test", style=systems.a_special_style(rng, "test"))
        if dialogue.style.name:
            systems.own_name(dialogue)
        else:
            rng.choice((numbers.addition, facts.countries, facts.colours))(dialogue)
        if dialogue.turns:
            made += 1
            yield dialogue


def long_dialogues(seed: int, count: int, exchanges: int = 24) -> Iterator[Dialogue]:
    """Held-out conversations of many turns, about everything."""
    rng = random.Random(f"mlc_widget demo long {seed}")
    made = 0
    while made < count:
        dialogue = Dialogue(rng, "test")
        for _ in range(exchanges):
            rng.choices(_NAMES, _WEIGHTS)[0](dialogue)
        if dialogue.turns:
            made += 1
            yield dialogue


def show(dialogue: Dialogue) -> str:
    """A conversation to be read by people."""
    lines = [f"[{dialogue.style.system}]"] if dialogue.style.system else []
    for turn in dialogue.turns:
        lines += [f"> {turn.user}", f"  {turn.answer}    ({turn.kind})"]
    return "\n".join(lines)


def main() -> None:
    """Print some conversations."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=5)
    arguments = parser.parse_args()
    dialogues = training(arguments.seed)
    for _ in range(arguments.count):
        print(show(next(dialogues)), end="\n\n")


if __name__ == "__main__":
    main()
