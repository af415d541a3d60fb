"""Answers that are JSON and nothing else."""

from __future__ import annotations

import json

from tools.demo.kinds.names import CITIES, GROUPS, a_name, a_word, made_up
from tools.demo.talk import Check, Kind, Pool, Talk, ask

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


def _key(talk: Talk, pool: Pool) -> str:
    """A key; in training also any word that is not kept for evaluation as a key."""
    if talk.split == "test" or talk.chance(0.5):
        return talk.pick(pool)
    word = a_word(talk)
    return talk.pick(pool) if word in {*KEYS.kept, *NUMBER_KEYS.kept} else word


def _value(talk: Talk) -> str:
    """A word; in evaluation one that training never had."""
    known = talk.split == "train" and talk.chance(0.5)
    return talk.pick(VALUES) if known else a_word(talk)


def _pairs(talk: Talk) -> list[tuple[str, Value, str]]:
    """Keys, values and how a user says them."""
    parts: list[tuple[str, Value, str]] = []
    count = talk.rng.choice((1, 2, 2, 2, 3, 3, 4))
    if talk.chance(0.6):
        name = a_name(talk)
        parts.append(("name", name, talk.one(("the name {v}", "name {v}", 'name "{v}"'))))
    while len(parts) < count:
        roll = talk.rng.random()
        key: str
        value: Value
        if roll < 0.3:
            key, (value,) = "age", talk.numbers("json.age", (1, 99))
        elif roll < 0.5:
            key = _key(talk, NUMBER_KEYS)
            (value,) = talk.numbers("json.number", (0, 2500))
        elif roll < 0.65:
            key = "city"
            made = talk.split == "train" and talk.chance(0.2)
            value = made_up(talk.rng).capitalize() if made else talk.pick(CITIES)
        elif roll < 0.9:
            key = _key(talk, KEYS)
            value = _value(talk)
        else:
            key, value = talk.pick(FLAGS), talk.chance(0.5)
        if key not in [part[0] for part in parts]:
            parts.append((key, value, talk.one(("{k} {v}", "{k} {v}", "{k} = {v}", "{k}: {v}"))))
    return parts


def _said(key: str, value: Value, how: str) -> str:
    return how.format(k=key, v=json.dumps(value) if isinstance(value, bool) else value)


def _joined(parts: list[str], word: str = "and") -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} {word} {parts[-1]}"


def _say(talk: Talk, kind: str, question: str, value: object, literal: bool = False) -> None:
    text = json.dumps(value, ensure_ascii=False)
    talk.say(kind, question, text, Check("json", (text,)), plain=True, literal=literal)


def objects(talk: Talk) -> None:
    """An object from keys and values, sometimes extended by one more."""
    parts = _pairs(talk)
    content = {key: value for key, value, _ in parts}
    said = [_said(*part) for part in parts]
    wanted = _joined(said) if talk.chance(0.8) else ", ".join(said)
    _say(talk, "json", talk.pick(OBJECT, w=wanted), content)
    while talk.chance(0.25):
        more = [part for part in _pairs(talk) if part[0] not in content]
        if not more:
            return
        content[more[0][0]] = more[0][1]
        _say(talk, "json_edit", talk.pick(ADD_KEY, w=_said(*more[0])), content)


SENTENCES = ask("json.sentence")


def extraction(talk: Talk) -> None:
    """An object from a sentence about a person."""
    name, city = a_name(talk), talk.pick(CITIES)
    (age,) = talk.numbers("json.age", (1, 99))
    sentence = talk.pick(SENTENCES, n=name, a=age, c=city)
    question = talk.pick(EXTRACT, s=sentence).replace("..", ".").replace(".?", "?")
    # The question stays as it is: it may begin with the name.
    _say(talk, "json_extract", question, {"name": name, "age": age, "city": city}, literal=True)


def arrays(talk: Talk) -> None:
    """Lists: of given numbers or words, of a range, of members of a group."""
    roll = talk.rng.random()
    if roll < 0.25:
        numbers = talk.numbers("json.array", *[(0, 99)] * talk.rng.randint(2, 6))
        listed = [str(number) for number in numbers]
        wanted = _joined(listed) if talk.chance(0.5) else ", ".join(listed)
        _say(talk, "json_array", talk.pick(ARRAY, w=f"the numbers {wanted}"), numbers)
    elif roll < 0.4:
        stop = talk.rng.randint(2, 15)
        question = talk.pick(ARRAY, w=f"the numbers from 1 to {stop}")
        _say(talk, "json_array", question, list(range(1, stop + 1)))
    elif roll < 0.65:
        words = list(dict.fromkeys(_value(talk) for _ in range(talk.rng.randint(2, 4))))
        wanted = _joined(words) if talk.chance(0.5) else ", ".join(words)
        _say(talk, "json_array", talk.pick(ARRAY, w=wanted), words)
    else:
        group = talk.one(tuple(GROUPS))
        count = talk.rng.randint(2, min(5, len(GROUPS[group])))
        shown = str(count) if talk.chance(0.5) else "_ _ two three four five".split()[count]
        # The answer is not unique, so evaluation asks for the first members in their order.
        members = list(GROUPS[group][:count])
        _say(talk, "json_array", talk.pick(GROUP, n=shown, g=group), members)


KINDS: dict[Kind, float] = {
    objects: 3.6,
    extraction: 1.2,
    arrays: 1.4,
}
