"""Little facts: countries, animals, colours, the calendar, units, words' relations, translations.

Facts can only be learnt, so here the *questions* are held out and the entities are not.
"""

from __future__ import annotations

from collections.abc import Callable

from tools.demo.dialogue import DATA, Check, Dialogue, Kind, Pool, ask, has, has_any
from tools.demo.kinds.names import GROUPS, a_or_an, made_up


def rows(name: str) -> list[list[str]]:
    """The rows of a data file, split at ``|``, each padded with empty cells."""
    text = (DATA / f"{name}.txt").read_text(encoding="utf-8")
    lines = [line.split("|") for line in text.splitlines() if line and not line.startswith("#")]
    width = max(map(len, lines))
    return [line + [""] * (width - len(line)) for line in lines]


def capital_first(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


# --- countries --------------------------------------------------------------------------------

COUNTRIES = rows("countries")
COUNTRY_NAMES = {row[0].removeprefix("the ") for row in COUNTRIES}

CAPITAL = ask("capital.ask")
CAPITAL_OF = ask("capital.reverse")
AND_OF = ask("follow_up.and")
CONTINENT = ask("continent.ask")
LANGUAGE = ask("language.ask")
CURRENCY = ask("currency.ask")

_Fact = Callable[[list[str]], tuple[str, str]]
COUNTRY_FACTS: list[tuple[str, Pool, int, _Fact]] = [
    ("capitals", CAPITAL, 1, lambda r: (f"The capital of {r[0]} is {r[1]}.", r[1])),
    ("continents", CONTINENT, 2, lambda r: (f"{capital_first(r[0])} is in {r[2]}.", r[2])),
    ("languages", LANGUAGE, 3, lambda r: (f"In {r[0]} people mostly speak {r[3]}.", r[3])),
    ("currencies", CURRENCY, 4, lambda r: (f"The currency of {r[0]} is the {r[4]}.", r[4])),
]


def countries(dialogue: Dialogue) -> None:
    """Capitals above all, with follow-ups such as "And of Spain?"."""
    roll = dialogue.rng.random()
    if roll < 0.2:
        row = dialogue.rng.choice(COUNTRIES)
        answer = f"{row[1]} is the capital of {row[0]}."
        if dialogue.style.short:
            answer = capital_first(row[0])
        check = has(row[0].removeprefix("the "))
        dialogue.say("capitals", dialogue.pick(CAPITAL_OF, k=row[1]), answer, check)
        return
    if roll < 0.26:
        unknown = made_up(dialogue.rng).capitalize() + dialogue.one(("", "ia", "land", "stan"))
        if unknown not in COUNTRY_NAMES:
            answer = f"I don't know a country called {unknown}."
            dialogue.say(
                "unknown_facts", dialogue.pick(CAPITAL, c=unknown), answer, has("don't know")
            )
            return
    index = 0 if dialogue.chance(0.7) else dialogue.rng.randrange(1, len(COUNTRY_FACTS))
    kind, pool, column, make = COUNTRY_FACTS[index]
    known = [row for row in COUNTRIES if row[column]]
    row = dialogue.rng.choice(known)
    _say_fact(dialogue, kind, dialogue.pick(pool, c=row[0]), make(row))
    while dialogue.chance(0.3):
        if dialogue.chance(0.75):
            row = dialogue.rng.choice(known)
            question = dialogue.pick(AND_OF, c=row[0])
        else:
            fitting = [fact for fact in COUNTRY_FACTS if row[fact[2]] and fact[0] != kind]
            if not fitting:
                return
            kind, pool, column, make = dialogue.rng.choice(fitting)
            known = [other for other in COUNTRIES if other[column]]
            asked = dialogue.pick(pool, c="it" if "'s" not in pool.name else row[0])
            question = asked.replace("it's", f"{row[0]}'s")
        _say_fact(dialogue, "follow_up", question, make(row))


def _say_fact(dialogue: Dialogue, kind: str, question: str, fact: tuple[str, str]) -> None:
    answer, key = fact
    dialogue.say(kind, question, capital_first(key) if dialogue.style.short else answer, has(key))


# --- animals and colours ----------------------------------------------------------------------

ANIMALS = rows("animals")
LEGS = ask("legs.ask")
SOUND = ask("sound.ask")
YOUNG = ask("young.ask")
HOME = ask("home.ask")
CLASS = ask("class.ask")
ABOUT = ask("about_animal.ask")


def _animal_fact(row: list[str], which: str) -> tuple[str, str] | None:
    name, legs, sound, young, home, group = row
    the = a_or_an(name)
    if which == "legs" and legs:
        return f"{capital_first(the)} has {legs if legs != '0' else 'no'} legs.", (
            legs if legs != "0" else "no"
        )
    if which == "sound" and sound:
        return f"{capital_first(the)} {sound}.", sound
    if which == "young" and young:
        return f"A young {name} is called {a_or_an(young)}.", young
    if which == "home" and home:
        return f"{capital_first(the)} lives in {home}.", home
    if which == "class" and group:
        return f"{capital_first(the)} is {a_or_an(group)}.", group
    return None


ANIMAL_ASK = {"legs": LEGS, "sound": SOUND, "young": YOUNG, "home": HOME, "class": CLASS}


def animals(dialogue: Dialogue) -> None:
    """Legs, sounds, young, homes and kinds of animals."""
    which = dialogue.one(tuple(ANIMAL_ASK))
    known = [row for row in ANIMALS if _animal_fact(row, which)]
    row = dialogue.rng.choice(known)
    if dialogue.chance(0.15):
        parts = [_animal_fact(row, key) for key in ("class", "home", "sound", "young")]
        told = [part for part in parts if part]
        the = capital_first(a_or_an(row[0]))
        answer = " ".join(
            [told[0][0], *(part[0].replace(the + " ", "It ", 1) for part in told[1:])]
        )
        check = Check("all", tuple(part[1] for part in told))
        question = dialogue.pick(ABOUT, a=a_or_an(row[0]))
        dialogue.say("animals", question, answer, check)
        return
    fact = _animal_fact(row, which)
    while fact:
        the = a_or_an(row[0])
        question = dialogue.pick(ANIMAL_ASK[which], a=the, n=row[0], A=capital_first(the))
        _say_fact(dialogue, "animals", question, fact)
        if not dialogue.chance(0.3):
            return
        row = dialogue.rng.choice(known)
        fact = _animal_fact(row, which)
        if fact:
            the = row[0] if which == "young" else a_or_an(row[0])
            _say_fact(dialogue, "follow_up", dialogue.pick(AND_OF, c=the), fact)
            return


COLOUR_OF = ask("colour.ask")


def colours(dialogue: Dialogue) -> None:
    """What colour things are."""
    thing, colour = dialogue.rng.choice(COLOURS)
    question = dialogue.pick(COLOUR_OF, t=thing, T=capital_first(thing))
    _say_fact(dialogue, "colours", question, (f"{capital_first(thing)} is {colour}.", colour))
    if dialogue.chance(0.25):
        thing, colour = dialogue.rng.choice(COLOURS)
        question = dialogue.pick(AND_OF, c=thing)
        _say_fact(dialogue, "follow_up", question, (f"{capital_first(thing)} is {colour}.", colour))


COLOURS = [(row[0], row[1]) for row in rows("colours")]


# --- the calendar -----------------------------------------------------------------------------

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December".split()
)
LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
DAY_AFTER = ask("calendar.after")
DAY_BEFORE = ask("calendar.before")
MONTH_AFTER = ask("calendar.month_after")
MONTH_DAYS = ask("calendar.month_days")
MONTH_NUMBER = ask("calendar.month_number")
ALL_DAYS = ask("calendar.days")
ALL_MONTHS = ask("calendar.months")


def calendar(dialogue: Dialogue) -> None:
    """Days and months."""
    roll = dialogue.rng.randrange(8)
    if roll in (0, 1):
        day = dialogue.rng.randrange(7)
        step, pool, word = (1, DAY_AFTER, "after") if roll == 0 else (-1, DAY_BEFORE, "before")
        other = DAYS[(day + step) % 7]
        fact = f"The day {word} {DAYS[day]} is {other}.", other
        _say_fact(dialogue, "calendar", dialogue.pick(pool, x=DAYS[day]), fact)
    elif roll in (2, 3):
        month = dialogue.rng.randrange(12)
        other = MONTHS[(month + 1) % 12]
        fact = f"The month after {MONTHS[month]} is {other}.", other
        _say_fact(dialogue, "calendar", dialogue.pick(MONTH_AFTER, x=MONTHS[month]), fact)
    elif roll in (4, 5):
        month = dialogue.rng.randrange(12)
        days = str(LENGTHS[month])
        extra = ", and 29 in a leap year" if month == 1 else ""
        fact = f"{MONTHS[month]} has {days} days{extra}.", days
        _say_fact(dialogue, "calendar", dialogue.pick(MONTH_DAYS, x=MONTHS[month]), fact)
        if dialogue.chance(0.3):
            month = dialogue.rng.choice((0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11))
            days = str(LENGTHS[month])
            fact = f"{MONTHS[month]} has {days} days.", days
            _say_fact(dialogue, "follow_up", dialogue.pick(AND_OF, c=MONTHS[month]), fact)
    elif roll == 6:
        month = dialogue.rng.randrange(12)
        ordinal = ORDINALS.split()[month]
        fact = f"The {ordinal} month is {MONTHS[month]}.", MONTHS[month]
        _say_fact(dialogue, "calendar", dialogue.pick(MONTH_NUMBER, o=ordinal), fact)
    else:
        pool, names = (ALL_DAYS, DAYS) if dialogue.chance(0.5) else (ALL_MONTHS, MONTHS)
        answer = ", ".join(names[:-1]) + f" and {names[-1]}."
        dialogue.say("calendar", dialogue.pick(pool), answer, has(*names))


# --- units ------------------------------------------------------------------------------------

UNITS = (
    ("minutes", "hour", 60), ("seconds", "minute", 60), ("hours", "day", 24),
    ("days", "week", 7), ("months", "year", 12), ("centimetres", "metre", 100),
    ("metres", "kilometre", 1000), ("grams", "kilogram", 1000), ("millilitres", "litre", 1000),
    ("millimetres", "centimetre", 10), ("cents", "euro", 100), ("kilograms", "ton", 1000),
    ("years", "century", 100), ("years", "decade", 10), ("eggs", "dozen", 12),
)  # fmt: skip
UNIT_ONE = ask("units.one")
UNIT_MANY = ask("units.many")


def units(dialogue: Dialogue) -> None:
    """How many of one unit another has, once or several times."""
    small, big, factor = dialogue.rng.choice(UNITS)
    the = "an hour" if big == "hour" else a_or_an(big).replace("an euro", "a euro")
    if dialogue.chance(0.5):
        answer = f"{capital_first(the)} has {factor} {small}."
        question = dialogue.pick(UNIT_ONE, u=small, a=the, A=capital_first(the))
        _say_fact(dialogue, "units", question, (answer, str(factor)))
        return
    (n,) = dialogue.numbers(f"units.{small}", (2, 30))
    plural = {"century": "centuries", "dozen": "dozen"}.get(big, big + "s")
    question = dialogue.pick(UNIT_MANY, u=small, n=n, v=plural)
    answer = f"{n} × {factor} = {n * factor}, so {n} {plural} are {n * factor} {small}."
    if dialogue.style.short:
        answer = f"{n * factor} {small}"
    dialogue.say("units", question, answer, has(str(n * factor)))


# --- single facts -----------------------------------------------------------------------------

GENERAL = [
    (row[0], row[1], Pool(f"general.{i}", filter(None, row[2:]), wordings=True, last=1))
    for i, row in enumerate(rows("general"))
]


def general(dialogue: Dialogue) -> None:
    """Facts that stand alone; the last question of each line of the file is held out."""
    answer, key, questions = dialogue.rng.choice(GENERAL)
    dialogue.say("general_facts", dialogue.pick(questions), answer, has(key))


MEMBER = ask("member.ask")
SINGULAR = {
    "fruits": "fruit", "vegetables": "vegetable", "animals": "animal", "colours": "colour",
    "countries": "country", "birds": "bird", "planets": "planet", "sports": "sport",
    "instruments": "instrument", "languages": "language", "trees": "tree", "flowers": "flower",
    "metals": "metal", "insects": "insect", "vehicles": "vehicle",
    "programming languages": "programming language",
}  # fmt: skip


def member(dialogue: Dialogue) -> None:
    """One example of a kind of thing."""
    group = dialogue.one(tuple(SINGULAR))
    word = dialogue.one(GROUPS[group])
    answer = f"{capital_first(word)} is {a_or_an(SINGULAR[group])}."
    answer = word if dialogue.style.short else answer
    check = has_any(*GROUPS[group])
    dialogue.say("examples", dialogue.pick(MEMBER, a=a_or_an(SINGULAR[group])), answer, check)


KINDS: dict[Kind, float] = {
    countries: 3.0,
    animals: 1.5,
    colours: 0.7,
    calendar: 1.2,
    units: 1.0,
    general: 3.0,
    member: 0.4,
}
