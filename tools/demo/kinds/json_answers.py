"""Answers that are JSON and nothing else."""

from __future__ import annotations

import json

from tools.demo.dialogue import Check, Dialogue, Kind, Pool, ask
from tools.demo.kinds.names import CITIES, GROUPS, a_name, a_word, made_up

OBJECT = ask("json.object")
EXTRACT = ask("json.extract")
ARRAY = ask("json.array")
GROUP = ask("json.group")
ADD_KEY = ask("json.add")
VALUES = Pool(
    "json.word",
    (
        "red|blue|green|large|small|cat|dog|open|closed|new|old|book|lamp|chair|Monday|Friday|"
        "apple|tea|coffee|fast|slow|north|south|Python|Rust|gold|silver|round|square|summer|"
        "winter|north|train|plane|piano|guitar|fox|owl|pencil|clock|bread|cheese|milk|warm|cold"
    ).split("|"),
    0.0,
)
KEYS = Pool(
    "json.key",
    (
        "colour|size|animal|status|title|day|fruit|drink|speed|direction|language|metal|shape|"
        "season|kind|label|type|level|model|team|country|brand|material|mood|topic|genre|role"
    ).split("|"),
)
NUMBER_KEYS = Pool(
    "json.number_key",
    (
        "age|count|price|year|height|weight|score|id|width|length|points|pages|rank|stock|seats|"
        "temperature|quantity|amount|total|distance|floor|minutes"
    ).split("|"),
)
FLAGS = Pool(
    "json.flag",
    "active|open|done|ready|public|valid|enabled|visible|student|member|paid".split("|"),
    0.0,
)

Value = str | int | bool


def _key(dialogue: Dialogue, pool: Pool) -> str:
    """A key; in training also any word that is not kept for evaluation as a key."""
    if dialogue.split == "test" or dialogue.chance(0.5):
        return dialogue.pick(pool)
    word = a_word(dialogue)
    return dialogue.pick(pool) if word in {*KEYS.kept, *NUMBER_KEYS.kept} else word


def _value(dialogue: Dialogue) -> str:
    """A word; in evaluation one that training never had."""
    known = dialogue.split == "train" and dialogue.chance(0.5)
    return dialogue.pick(VALUES) if known else a_word(dialogue)


def _pairs(dialogue: Dialogue) -> list[tuple[str, Value, str]]:
    """Keys, values and how a user says them."""
    parts: list[tuple[str, Value, str]] = []
    count = dialogue.rng.choice((1, 2, 2, 2, 3, 3, 4))
    if dialogue.chance(0.6):
        name = a_name(dialogue)
        parts.append(("name", name, dialogue.one(("the name {v}", "name {v}", 'name "{v}"'))))
    while len(parts) < count:
        roll = dialogue.rng.random()
        key: str
        value: Value
        if roll < 0.3:
            key, (value,) = "age", dialogue.numbers("json.age", (1, 99))
        elif roll < 0.5:
            key = _key(dialogue, NUMBER_KEYS)
            (value,) = dialogue.numbers("json.number", (0, 2500))
        elif roll < 0.65:
            key = "city"
            made = dialogue.split == "train" and dialogue.chance(0.2)
            value = made_up(dialogue.rng).capitalize() if made else dialogue.pick(CITIES)
        elif roll < 0.9:
            key = _key(dialogue, KEYS)
            value = _value(dialogue)
        else:
            key, value = dialogue.pick(FLAGS), dialogue.chance(0.5)
        if key not in [part[0] for part in parts]:
            parts.append(
                (key, value, dialogue.one(("{k} {v}", "{k} {v}", "{k} = {v}", "{k}: {v}")))
            )
    return parts


def _said(key: str, value: Value, how: str) -> str:
    return how.format(k=key, v=json.dumps(value) if isinstance(value, bool) else value)


def _joined(parts: list[str], word: str = "and") -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {word} {parts[-1]}"


def _say(
    dialogue: Dialogue, kind: str, question: str, value: object, literal: bool = False
) -> None:
    text = json.dumps(value, ensure_ascii=False)
    dialogue.say(kind, question, text, Check("json", (text,)), plain=True, literal=literal)


def objects(dialogue: Dialogue) -> None:
    """An object from keys and values, sometimes extended by one more."""
    parts = _pairs(dialogue)
    content = {key: value for key, value, _ in parts}
    said = [_said(*part) for part in parts]
    wanted = _joined(said) if dialogue.chance(0.8) else ", ".join(said)
    _say(dialogue, "json", dialogue.pick(OBJECT, w=wanted), content)
    while dialogue.chance(0.25):
        more = [part for part in _pairs(dialogue) if part[0] not in content]
        if not more:
            return
        content[more[0][0]] = more[0][1]
        _say(dialogue, "json_edit", dialogue.pick(ADD_KEY, w=_said(*more[0])), content)


SENTENCES = ask("json.sentence")


def extraction(dialogue: Dialogue) -> None:
    """An object from a sentence about a person."""
    name, city = a_name(dialogue), dialogue.pick(CITIES)
    (age,) = dialogue.numbers("json.age", (1, 99))
    sentence = dialogue.pick(SENTENCES, n=name, a=age, c=city)
    question = dialogue.pick(EXTRACT, s=sentence).replace("..", ".").replace(".?", "?")
    # The question stays as it is: it may begin with the name.
    _say(dialogue, "json_extract", question, {"name": name, "age": age, "city": city}, literal=True)


def arrays(dialogue: Dialogue) -> None:
    """Lists: of given numbers or words, of a range, of members of a group."""
    roll = dialogue.rng.random()
    if roll < 0.25:
        numbers = dialogue.numbers("json.array", *[(0, 99)] * dialogue.rng.randint(2, 6))
        listed = [str(number) for number in numbers]
        wanted = _joined(listed) if dialogue.chance(0.5) else ", ".join(listed)
        _say(dialogue, "json_array", dialogue.pick(ARRAY, w=f"the numbers {wanted}"), numbers)
    elif roll < 0.4:
        stop = dialogue.rng.randint(2, 15)
        question = dialogue.pick(ARRAY, w=f"the numbers from 1 to {stop}")
        _say(dialogue, "json_array", question, list(range(1, stop + 1)))
    elif roll < 0.65:
        words = list(dict.fromkeys(_value(dialogue) for _ in range(dialogue.rng.randint(2, 4))))
        wanted = _joined(words) if dialogue.chance(0.5) else ", ".join(words)
        _say(dialogue, "json_array", dialogue.pick(ARRAY, w=wanted), words)
    else:
        group = dialogue.one(tuple(GROUPS))
        count = dialogue.rng.randint(2, min(5, len(GROUPS[group])))
        shown = str(count) if dialogue.chance(0.5) else "_ _ two three four five".split()[count]
        # The answer is not unique, so evaluation asks for the first members in their order.
        members = list(GROUPS[group][:count])
        _say(dialogue, "json_array", dialogue.pick(GROUP, n=shown, g=group), members)


KINDS: dict[Kind, float] = {
    objects: 3.6,
    extraction: 1.2,
    arrays: 1.4,
}
