"""Words and their relations: opposites, plurals, past tenses, translations."""

from __future__ import annotations

from tools.demo.dialogue import Dialogue, Kind, Pool, ask, has, has_any
from tools.demo.kinds.facts import AND_OF, capital_first, rows
from tools.demo.kinds.names import a_word

OPPOSITES = [(row[0], row[1]) for row in rows("opposites")]
IRREGULAR = [(row[0], row[1]) for row in rows("plurals")]
PAST = [(row[0], row[1]) for row in rows("past")]
REGULAR = Pool(
    "plural.regular",
    (
        "dog cat tree house car book table chair cow horse apple banana river flower cloud star "
        "boy girl friend door window street ship train plane bird rabbit garden lamp pen pencil "
        "shoe hat coat king queen song game letter word number picture cake egg spoon bottle ball "
        "hand arm leg eye ear nose finger brother sister mother father teacher doctor farmer baker "
        "island mountain forest lake road bridge tower village town hospital museum shop market "
        "computer phone camera screen keyboard button kernel token model engine notebook cell"
    ).split(),
    0.0,
)
OPPOSITE = ask("opposite.ask")
PLURAL = ask("plural.ask")
TENSE = ask("past.ask")


def _sayable(word: str) -> str:
    return f'"{word}"'


def words(dialogue: Dialogue) -> None:
    """Opposites, plurals and past tenses."""
    roll = dialogue.rng.random()
    if roll < 0.45:
        first, second = dialogue.rng.choice(OPPOSITES)
        twice = [pair for pair in OPPOSITES if "light" in pair]
        if dialogue.chance(0.5) and (first, second) not in twice:
            first, second = second, first
        fitting = {b for a, b in OPPOSITES if a == first} | {a for a, b in OPPOSITES if b == first}
        answer = f"The opposite of {first} is {second}."
        quoted = first if dialogue.chance(0.8) else _sayable(first)
        answer = second if dialogue.style.short else answer
        dialogue.say("opposites", dialogue.pick(OPPOSITE, w=quoted), answer, has_any(*fitting))
        if dialogue.chance(0.25):
            first, second = dialogue.rng.choice(OPPOSITES)
            fitting = {b for a, b in OPPOSITES if a == first}
            fitting |= {a for a, b in OPPOSITES if b == first}
            answer = f"The opposite of {first} is {second}."
            answer = second if dialogue.style.short else answer
            dialogue.say("follow_up", dialogue.pick(AND_OF, c=first), answer, has_any(*fitting))
        return
    if roll < 0.75:
        if dialogue.chance(0.6):
            first, second = dialogue.rng.choice(IRREGULAR)
        else:
            known = dialogue.split == "train" and dialogue.chance(0.5)
            first = dialogue.pick(REGULAR) if known else a_word(dialogue)
            soft = first.endswith(("s", "x", "z", "ch", "sh"))
            second = first + ("es" if soft else "s")
            if first.endswith("y") and first[-2:-1] not in "aeiou":
                second = first[:-1] + "ies"
            second = dict(IRREGULAR).get(first, second)
        pool, fact, kind = PLURAL, f"The plural of {first} is {second}.", "plurals"
    else:
        first, second = dialogue.rng.choice(PAST)
        pool, fact, kind = TENSE, f"The past tense of {first} is {second}.", "past_tense"
    quoted = first if dialogue.chance(0.8) else _sayable(first)
    answer = second if dialogue.style.short else fact
    dialogue.say(kind, dialogue.pick(pool, w=quoted), answer, has(second))


TONGUES = ("French", "German", "Spanish", "Italian")
TRANSLATE = ask("translate.ask")
IN_TONGUE = ask("translate.follow_up")
GLOSSARY = rows("translate")


def translation(dialogue: Dialogue) -> None:
    """A handful of words in four languages."""
    row = dialogue.rng.choice(GLOSSARY)
    tongue = dialogue.rng.randrange(4)
    shown = f'"{row[0]}"' if dialogue.chance(0.5) else row[0]
    question = dialogue.pick(TRANSLATE, w=shown, l=TONGUES[tongue])
    kind = "translation"
    while True:
        word = row[1 + tongue]
        answer = f'"{capital_first(row[0])}" is "{word}" in {TONGUES[tongue]}.'
        dialogue.say(kind, question, word if dialogue.style.short else answer, has(word))
        if not dialogue.chance(0.3):
            return
        tongue = (tongue + dialogue.rng.randint(1, 3)) % 4
        question, kind = dialogue.pick(IN_TONGUE, l=TONGUES[tongue]), "follow_up"


KINDS: dict[Kind, float] = {
    words: 1.6,
    translation: 1.0,
}
