"""Spelling, reversing, counting letters, repeating."""

from __future__ import annotations

from tools.demo.dialogue import Check, Dialogue, Kind, ask, exactly, has
from tools.demo.kinds.names import a_word, made_up

SPELL = ask("spelling.ask")
REVERSE = ask("reversing.ask")
LETTERS = ask("letter_count.ask")
FIRST = ask("first_letter.ask")
REPEAT = ask("repeat.ask")
TIMES = ask("repeat.times")
SUBJECTS = "the cat|my friend|a little bird|the old king|our teacher|the red car|she|he|it".split(
    "|"
)
VERBS = "likes|sees|finds|wants|carries|forgets|draws|needs|brings|keeps".split("|")
OBJECTS = "the moon|a warm hat|green apples|the small house|music|two coins|a story|the sea".split(
    "|"
)


def _shown(dialogue: Dialogue, word: str) -> str:
    roll = dialogue.rng.random()
    return word if roll < 0.5 else f'"{word}"' if roll < 0.9 else f"'{word}'"


def spelling(dialogue: Dialogue) -> None:
    """A word letter by letter."""
    word = a_word(dialogue)
    answer = "-".join(word)
    dialogue.say("spelling", dialogue.pick(SPELL, w=_shown(dialogue, word)), answer, has(answer))


def reversing(dialogue: Dialogue) -> None:
    """A word backwards, spelled on the way."""
    word = a_word(dialogue)
    answer = f"{'-'.join(word)} backwards is {'-'.join(reversed(word))}: {word[::-1]}"
    check = has("-".join(reversed(word)), word[::-1])
    dialogue.say("reversing", dialogue.pick(REVERSE, w=_shown(dialogue, word)), answer, check)


def letter_count(dialogue: Dialogue) -> None:
    """How many letters, by spelling them; the first and the last letter."""
    word = a_word(dialogue)
    if dialogue.chance(0.6):
        answer = f"{'-'.join(word)}: that is {len(word)} letters."
        question = dialogue.pick(LETTERS, w=_shown(dialogue, word))
        dialogue.say("letter_count", question, answer, Check("last", (str(len(word)),)))
        return
    ordinal, verb, letter = dialogue.rng.choice((("first", "start", 0), ("last", "end", -1)))
    question = dialogue.pick(FIRST, w=_shown(dialogue, word), o=ordinal, v=verb)
    answer = f"{'-'.join(word)}: the {ordinal} letter is {word[letter]}."
    dialogue.say("letter_count", question, answer, has(f"letter is {word[letter]}"))


def repeating(dialogue: Dialogue) -> None:
    """The user's words back, once or several times."""
    if dialogue.chance(0.4):
        word, count = a_word(dialogue), dialogue.rng.randint(2, 6)
        answer = " ".join([word] * count)
        shown = (
            str(count) if dialogue.chance(0.6) else ("two three four five six".split()[count - 2])
        )
        question = dialogue.pick(TIMES, w=_shown(dialogue, word), n=shown)
        dialogue.say("repeating", question, answer, exactly(answer), literal=True)
        return
    roll = dialogue.rng.random()
    if roll < 0.4:
        text = f"{dialogue.one(SUBJECTS)} {dialogue.one(VERBS)} {dialogue.one(OBJECTS)}"
        if dialogue.chance(0.5):
            text = f"{text[:1].upper()}{text[1:]}."
    elif roll < 0.7:
        text = " ".join(a_word(dialogue) for _ in range(dialogue.rng.randint(1, 6)))
    else:
        text = " ".join(made_up(dialogue.rng) for _ in range(dialogue.rng.randint(1, 4)))
    dialogue.say("repeating", dialogue.pick(REPEAT, t=text), text, exactly(text), literal=True)


KINDS: dict[Kind, float] = {
    spelling: 1.4,
    reversing: 1.5,
    letter_count: 1.2,
    repeating: 1.7,
}
