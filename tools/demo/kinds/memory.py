"""What the user says of themselves, and what was said before, recalled turns later."""

from __future__ import annotations

from tools.demo.kinds.names import CITIES, a_name, a_word, made_up
from tools.demo.talk import Check, Kind, Pool, Talk, ask, exactly, has

MY_NAME = ask("name.tell")
WHAT_NAME = ask("name.recall")
NEW_NAME = ask("name.change")
NICE = (
    "Nice to meet you, {n}!",
    "Hello, {n}! What can I do for you?",
    "Hi {n}, nice to meet you! How can I help?",
    "Pleased to meet you, {n}!",
)


def tell_name(talk: Talk) -> None:
    """The user gives a name."""
    known = "name" in talk.memory
    name = a_name(talk)
    if talk.chance(0.12):
        name = name.lower()
    talk.memory["name"] = name
    question = talk.pick(NEW_NAME if known else MY_NAME, n=name)
    answer = f"OK, I will call you {name}." if known else talk.one(NICE).format(n=name)
    talk.say("name", question, answer, has(name))


def recall_name(talk: Talk) -> None:
    """The user asks for the name given before, or never given."""
    if "name" not in talk.memory and talk.turns and talk.chance(0.7):
        return
    question = talk.pick(WHAT_NAME)
    if "name" in talk.memory:
        name = talk.memory["name"]
        answer = talk.one(("Your name is {n}.", "Your name is {n}.", "You are {n}!")).format(n=name)
        talk.say("name_recall", question, answer, has(name))
    else:
        answer = "You have not told me your name yet. What is it?"
        talk.say("name_unknown", question, answer, has("not told me"))


# topic → (tell, recall, pool of values, answers)
LIKED = Pool(
    "memory.thing",
    (
        "pizza|music|tea|coffee|cats|dogs|books|chess|football|tennis|painting|dancing|the sea|"
        "the mountains|chocolate|cheese|bread|soup|apples|trains|stars|gardening|cooking|poetry|"
        "swimming|running|cycling|jazz|films|maths|physics|history|cake|pasta|rice|flowers|birds|"
        "horses|snow|rain|puzzles|robots|Python|notebooks|hiking|singing|drawing|skiing|tulips"
    ).split("|"),
    0.0,
)
COLOUR_WORDS = Pool(
    "memory.colour",
    "red blue green yellow orange purple black white pink brown grey turquoise violet gold".split(),
    0.0,
)
PETS = Pool("memory.pet", "cat dog rabbit hamster parrot horse turtle fish mouse goat".split(), 0.0)
JOBS = Pool(
    "memory.job",
    (
        "teacher doctor nurse baker farmer pilot cook painter builder student singer driver "
        "programmer scientist writer gardener lawyer plumber dentist musician"
    ).split(),
    0.0,
)
LIKE_TELL = ask("likes.tell")
LIKE_RECALL = ask("likes.recall")
COLOUR_TELL = ask("colour.tell")
COLOUR_RECALL = ask("colour.recall")
CITY_TELL = ask("city.tell")
CITY_RECALL = ask("city.recall")
AGE_TELL = ask("age.tell")
AGE_RECALL = ask("age.recall")
PET_TELL = ask("pet.tell")
PET_RECALL = ask("pet.recall")
JOB_TELL = ask("job.tell")
JOB_RECALL = ask("job.recall")
PLAIN_TOPICS = {
    "likes": (LIKE_TELL, LIKE_RECALL, "{V}: good choice!", "You like {v}."),
    "colour": (
        COLOUR_TELL, COLOUR_RECALL, "{V} is a nice colour.", "Your favourite colour is {v}.",
    ),
    "city": (CITY_TELL, CITY_RECALL, "{V}, how nice!", "You told me about {v}: that is your city."),
    "age": (AGE_TELL, AGE_RECALL, "{v} is a good age.", "You are {v} years old."),
    "job": (JOB_TELL, JOB_RECALL, "A {v}, how interesting!", "You are a {v}."),
    "pet": (PET_TELL, PET_RECALL, "{v} is a lovely name for a {k}.", "Your {k} is called {v}."),
}  # fmt: skip


def _open(talk: Talk, pool: Pool) -> str:
    """Something of a pool, or any word; in evaluation a word that training never had."""
    return talk.pick(pool) if talk.split == "train" and talk.chance(0.6) else a_word(talk)


def _pet(talk: Talk) -> str:
    """A kind of pet: what matters for evaluation is its name."""
    return talk.pick(PETS) if talk.split == "test" or talk.chance(0.5) else a_word(talk)


def tell_about_me(talk: Talk) -> None:
    """The user says something of themselves."""
    topic = talk.one(tuple(PLAIN_TOPICS))
    tell, _, answer, _ = PLAIN_TOPICS[topic]
    fields: dict[str, object] = {}
    if topic == "likes":
        value = _open(talk, LIKED)
    elif topic == "colour":
        value = talk.pick(COLOUR_WORDS)
    elif topic == "city":
        made = talk.split == "train" and talk.chance(0.2)
        value = made_up(talk.rng).capitalize() if made else talk.pick(CITIES)
    elif topic == "age":
        value = str(talk.numbers("age", (3, 99))[0])
    elif topic == "job":
        value = _open(talk, JOBS)
    else:
        value, fields["k"] = a_name(talk), _pet(talk)
        talk.memory["pet_kind"] = str(fields["k"])
    talk.memory[topic] = value
    capital = value[:1].upper() + value[1:]
    reply = answer.format(v=value, V=capital, **fields)
    if talk.chance(0.3):
        reply = f"{reply} I will remember that."
    talk.say("about_me", talk.pick(tell, v=value, **fields), reply, has(value))


def recall_about_me(talk: Talk) -> None:
    """The user asks for something said before, or never said."""
    told = [topic for topic in PLAIN_TOPICS if topic in talk.memory]
    if told and talk.chance(0.85):
        topic = talk.one(told)
        _, recall, _, answer = PLAIN_TOPICS[topic]
        fields = {"v": talk.memory[topic], "k": talk.memory.get("pet_kind", "")}
        reply = answer.format(**fields)
        talk.say("about_me_recall", talk.pick(recall, **fields), reply, has(fields["v"]))
        return
    if talk.turns and talk.chance(0.6):
        return
    topic = talk.one([topic for topic in PLAIN_TOPICS if topic not in talk.memory] or ["likes"])
    if topic in talk.memory:
        return
    question = talk.pick(PLAIN_TOPICS[topic][1], k="cat", v="")
    reply = "You have not told me that yet."
    talk.say("about_me_unknown", question, reply, has("not told me"))


LAST_ASKED = ask("last.asked")
LAST_SAID = ask("last.said")
FIRST_SAID = ask("first.said")


def recall_talk(talk: Talk) -> None:
    """The last question, the last answer, or the first message of the conversation."""
    short = [turn for turn in talk.turns if len(turn.user) < 120 and "\n" not in turn.user]
    last = talk.turns[-1] if talk.turns else None
    roll = talk.rng.random()
    if last is None:
        answer = "We have only just started: nothing has been said yet."
        talk.say("talk_recall", talk.pick(LAST_ASKED), answer, has("only just started"))
    elif roll < 0.4 and last in short:
        answer = f'You said: "{last.user}"'
        check = Check("all", (last.user.strip(),))
        talk.say("talk_recall", talk.pick(LAST_ASKED), answer, check, plain=True)
    elif roll < 0.75 and len(last.answer) < 160:
        talk.say("talk_repeat", talk.pick(LAST_SAID), last.answer, exactly(last.answer), plain=True)
    elif talk.turns[0] in short:
        answer = f'Your first message was: "{talk.turns[0].user}"'
        check = Check("all", (talk.turns[0].user.strip(),))
        talk.say("talk_recall", talk.pick(FIRST_SAID), answer, check, plain=True)


KINDS: dict[Kind, float] = {
    tell_name: 1.2,
    recall_name: 1.2,
    tell_about_me: 1.6,
    recall_about_me: 1.8,
    recall_talk: 1.2,
}
