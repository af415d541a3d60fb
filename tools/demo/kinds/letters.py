"""Spelling, reversing, counting letters, repeating."""

from __future__ import annotations

from tools.demo.kinds.names import a_word, made_up
from tools.demo.talk import Check, Kind, Talk, ask, exactly, has

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


def _shown(talk: Talk, word: str) -> str:
    roll = talk.rng.random()
    return word if roll < 0.5 else f'"{word}"' if roll < 0.9 else f"'{word}'"


def spelling(talk: Talk) -> None:
    """A word letter by letter."""
    word = a_word(talk)
    answer = "-".join(word)
    talk.say("spelling", talk.pick(SPELL, w=_shown(talk, word)), answer, has(answer))


def reversing(talk: Talk) -> None:
    """A word backwards, spelled on the way."""
    word = a_word(talk)
    answer = f"{'-'.join(word)} backwards is {'-'.join(reversed(word))}: {word[::-1]}"
    check = has("-".join(reversed(word)), word[::-1])
    talk.say("reversing", talk.pick(REVERSE, w=_shown(talk, word)), answer, check)


def letter_count(talk: Talk) -> None:
    """How many letters, by spelling them; the first and the last letter."""
    word = a_word(talk)
    if talk.chance(0.6):
        answer = f"{'-'.join(word)}: that is {len(word)} letters."
        question = talk.pick(LETTERS, w=_shown(talk, word))
        talk.say("letter_count", question, answer, Check("last", (str(len(word)),)))
        return
    ordinal, verb, letter = talk.rng.choice((("first", "start", 0), ("last", "end", -1)))
    question = talk.pick(FIRST, w=_shown(talk, word), o=ordinal, v=verb)
    answer = f"{'-'.join(word)}: the {ordinal} letter is {word[letter]}."
    talk.say("letter_count", question, answer, has(f"letter is {word[letter]}"))


def repeating(talk: Talk) -> None:
    """The user's words back, once or several times."""
    if talk.chance(0.4):
        word, count = a_word(talk), talk.rng.randint(2, 6)
        answer = " ".join([word] * count)
        shown = str(count) if talk.chance(0.6) else ("two three four five six".split()[count - 2])
        question = talk.pick(TIMES, w=_shown(talk, word), n=shown)
        talk.say("repeating", question, answer, exactly(answer), literal=True)
        return
    roll = talk.rng.random()
    if roll < 0.4:
        text = f"{talk.one(SUBJECTS)} {talk.one(VERBS)} {talk.one(OBJECTS)}"
        if talk.chance(0.5):
            text = f"{text[:1].upper()}{text[1:]}."
    elif roll < 0.7:
        text = " ".join(a_word(talk) for _ in range(talk.rng.randint(1, 6)))
    else:
        text = " ".join(made_up(talk.rng) for _ in range(talk.rng.randint(1, 4)))
    talk.say("repeating", talk.pick(REPEAT, t=text), text, exactly(text), literal=True)


KINDS: dict[Kind, float] = {
    spelling: 1.4,
    reversing: 1.5,
    letter_count: 1.2,
    repeating: 1.7,
}
