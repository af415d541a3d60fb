"""Spelling, reversing, counting letters, repeating."""

from __future__ import annotations

from tools.demo.kinds.facts import ask
from tools.demo.kinds.names import made_up
from tools.demo.talk import Check, Kind, Pool, Talk, exactly, has

WORDS = Pool(
    "spelling.word",
    (
        "apple banana orange lemon cherry bread butter cheese water coffee house garden window "
        "kitchen table chair bottle spoon cat dog horse rabbit tiger lion mouse bird fish whale "
        "owl bear fox wolf sun moon star cloud rain snow wind storm river ocean island mountain "
        "forest desert tree flower leaf grass stone sand fire paper pencil book letter story music "
        "piano guitar dance song game ball train plane ship bicycle car road bridge city village "
        "school teacher friend family mother father sister brother child happy green yellow purple "
        "silver golden summer winter spring autumn morning evening night today python kernel model "
        "token widget notebook jupyter browser engine memory number window castle dragon lantern "
        "candle mirror magic secret treasure pirate captain doctor baker farmer king queen prince "
        "planet rocket robot circle square triangle puzzle pocket button jacket basket blanket"
    ).split(),
    0.12,
)
SPELL = ask(
    "spelling.ask",
    "Spell {w}.|Spell the word {w}.|How do you spell {w}?|Can you spell {w}?|Please spell {w}.|"
    "Spell {w} letter by letter.|What are the letters of {w}?|spell {w}|"
    "How is {w} spelled?|Write {w} letter by letter.",
)
REVERSE = ask(
    "reversing.ask",
    "Reverse {w}.|Reverse the word {w}.|Write {w} backwards.|Spell {w} backwards.|"
    "What is {w} backwards?|What is {w} in reverse?|Turn {w} around.|Can you reverse {w}?|"
    "Say {w} backwards.",
)
LETTERS = ask(
    "letter_count.ask",
    "How many letters does {w} have?|How many letters are in {w}?|Count the letters in {w}.|"
    "How long is the word {w}?|How many letters has {w}?|Count the letters of {w}.|"
    "Number of letters in {w}?",
)
FIRST = ask(
    "first_letter.ask",
    "What is the {o} letter of {w}?|Which letter is the {o} in {w}?|{o} letter of {w}?|"
    "Tell me the {o} letter of {w}.|What's the {o} letter in {w}?|"
    "With which letter does {w} {v}?|Give me the {o} letter of {w}.",
)
REPEAT = ask(
    "repeat.ask",
    "Repeat after me: {t}|Say: {t}|Repeat this: {t}|Please say: {t}|Copy this: {t}|"
    "Echo: {t}|Repeat exactly: {t}|Write: {t}|Say exactly this: {t}",
)
TIMES = ask(
    "repeat.times",
    "Say {w} {n} times.|Repeat {w} {n} times.|Write {w} {n} times.|Please say {w} {n} times.|"
    "Can you say {w} {n} times?|Type {w} {n} times.",
)
SUBJECTS = "the cat|my friend|a little bird|the old king|our teacher|the red car|she|he|it".split("|")
VERBS = "likes|sees|finds|wants|carries|forgets|draws|needs|brings|keeps".split("|")
OBJECTS = "the moon|a warm hat|green apples|the small house|music|two coins|a story|the sea".split("|")


def _word(talk: Talk) -> str:
    if talk.split == "train" and talk.chance(0.35):
        return made_up(talk.rng)
    return talk.pick(WORDS)


def _shown(talk: Talk, word: str) -> str:
    roll = talk.rng.random()
    return word if roll < 0.5 else f'"{word}"' if roll < 0.9 else f"'{word}'"


def spelling(talk: Talk) -> None:
    """A word letter by letter."""
    word = _word(talk)
    answer = "-".join(word)
    talk.say("spelling", talk.pick(SPELL, w=_shown(talk, word)), answer, has(answer))


def reversing(talk: Talk) -> None:
    """A word backwards, spelled on the way."""
    word = _word(talk)
    answer = f"{'-'.join(word)} backwards is {'-'.join(reversed(word))}: {word[::-1]}"
    check = has("-".join(reversed(word)), word[::-1])
    talk.say("reversing", talk.pick(REVERSE, w=_shown(talk, word)), answer, check)


def letter_count(talk: Talk) -> None:
    """How many letters, by spelling them; the first and the last letter."""
    word = _word(talk)
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
        word, count = _word(talk), talk.rng.randint(2, 6)
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
        text = " ".join(_word(talk) for _ in range(talk.rng.randint(1, 6)))
    else:
        text = " ".join(made_up(talk.rng) for _ in range(talk.rng.randint(1, 4)))
    talk.say("repeating", talk.pick(REPEAT, t=text), text, exactly(text), literal=True)


KINDS: dict[Kind, float] = {
    spelling: 1.0,
    reversing: 1.0,
    letter_count: 0.8,
    repeating: 1.2,
}
