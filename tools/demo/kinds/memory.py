"""What the user says of themselves, and what was said before, recalled turns later."""

from __future__ import annotations

from tools.demo.dialogue import Check, Dialogue, Kind, Pool, ask, exactly, has
from tools.demo.kinds.names import CITIES, a_name, a_word, made_up

MY_NAME = ask("name.tell")
WHAT_NAME = ask("name.recall")
NEW_NAME = ask("name.change")
NICE = (
    "Nice to meet you, {n}!",
    "Hello, {n}! What can I do for you?",
    "Hi {n}, nice to meet you! How can I help?",
    "Pleased to meet you, {n}!",
)


def tell_name(dialogue: Dialogue) -> None:
    """The user gives a name."""
    known = "name" in dialogue.memory
    name = a_name(dialogue)
    if dialogue.chance(0.12):
        name = name.lower()
    dialogue.memory["name"] = name
    question = dialogue.pick(NEW_NAME if known else MY_NAME, n=name)
    answer = f"OK, I will call you {name}." if known else dialogue.one(NICE).format(n=name)
    dialogue.say("name", question, answer, has(name))


def recall_name(dialogue: Dialogue) -> None:
    """The user asks for the name given before, or never given."""
    if "name" not in dialogue.memory and dialogue.turns and dialogue.chance(0.7):
        return
    question = dialogue.pick(WHAT_NAME)
    if "name" in dialogue.memory:
        name = dialogue.memory["name"]
        answer = dialogue.one(("Your name is {n}.", "Your name is {n}.", "You are {n}!")).format(
            n=name
        )
        dialogue.say("name_recall", question, answer, has(name))
    else:
        answer = "You have not told me your name yet. What is it?"
        dialogue.say("name_unknown", question, answer, has("not told me"))


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


def _open(dialogue: Dialogue, pool: Pool) -> str:
    """Something of a pool, or any word; in evaluation a word that training never had."""
    return (
        dialogue.pick(pool)
        if dialogue.split == "train" and dialogue.chance(0.6)
        else a_word(dialogue)
    )


def _pet(dialogue: Dialogue) -> str:
    """A kind of pet: what matters for evaluation is its name."""
    return (
        dialogue.pick(PETS)
        if dialogue.split == "test" or dialogue.chance(0.5)
        else a_word(dialogue)
    )


def tell_about_me(dialogue: Dialogue) -> None:
    """The user says something of themselves."""
    topic = dialogue.one(tuple(PLAIN_TOPICS))
    tell, _, answer, _ = PLAIN_TOPICS[topic]
    fields: dict[str, object] = {}
    if topic == "likes":
        value = _open(dialogue, LIKED)
    elif topic == "colour":
        value = dialogue.pick(COLOUR_WORDS)
    elif topic == "city":
        made = dialogue.split == "train" and dialogue.chance(0.2)
        value = made_up(dialogue.rng).capitalize() if made else dialogue.pick(CITIES)
    elif topic == "age":
        value = str(dialogue.numbers("age", (3, 99))[0])
    elif topic == "job":
        value = _open(dialogue, JOBS)
    else:
        value, fields["k"] = a_name(dialogue), _pet(dialogue)
        dialogue.memory["pet_kind"] = str(fields["k"])
    dialogue.memory[topic] = value
    capital = value[:1].upper() + value[1:]
    reply = answer.format(v=value, V=capital, **fields)
    if dialogue.chance(0.3):
        reply = f"{reply} I will remember that."
    dialogue.say("about_me", dialogue.pick(tell, v=value, **fields), reply, has(value))


def recall_about_me(dialogue: Dialogue) -> None:
    """The user asks for something said before, or never said."""
    told = [topic for topic in PLAIN_TOPICS if topic in dialogue.memory]
    if told and dialogue.chance(0.85):
        topic = dialogue.one(told)
        _, recall, _, answer = PLAIN_TOPICS[topic]
        fields = {"v": dialogue.memory[topic], "k": dialogue.memory.get("pet_kind", "")}
        reply = answer.format(**fields)
        dialogue.say("about_me_recall", dialogue.pick(recall, **fields), reply, has(fields["v"]))
        return
    if dialogue.turns and dialogue.chance(0.6):
        return
    topic = dialogue.one(
        [topic for topic in PLAIN_TOPICS if topic not in dialogue.memory] or ["likes"]
    )
    if topic in dialogue.memory:
        return
    question = dialogue.pick(PLAIN_TOPICS[topic][1], k="cat", v="")
    reply = "You have not told me that yet."
    dialogue.say("about_me_unknown", question, reply, has("not told me"))


LAST_ASKED = ask("last.asked")
LAST_SAID = ask("last.said")
FIRST_SAID = ask("first.said")


def recall_dialogue(dialogue: Dialogue) -> None:
    """The last question, the last answer, or the first message of the conversation."""
    short = [turn for turn in dialogue.turns if len(turn.user) < 120 and "\n" not in turn.user]
    last = dialogue.turns[-1] if dialogue.turns else None
    roll = dialogue.rng.random()
    if last is None:
        answer = "We have only just started: nothing has been said yet."
        dialogue.say("talk_recall", dialogue.pick(LAST_ASKED), answer, has("only just started"))
    elif roll < 0.4 and last in short:
        answer = f'You said: "{last.user}"'
        check = Check("all", (last.user.strip(),))
        dialogue.say("talk_recall", dialogue.pick(LAST_ASKED), answer, check, plain=True)
    elif roll < 0.75 and len(last.answer) < 160:
        dialogue.say(
            "talk_repeat", dialogue.pick(LAST_SAID), last.answer, exactly(last.answer), plain=True
        )
    elif dialogue.turns[0] in short:
        answer = f'Your first message was: "{dialogue.turns[0].user}"'
        check = Check("all", (dialogue.turns[0].user.strip(),))
        dialogue.say("talk_recall", dialogue.pick(FIRST_SAID), answer, check, plain=True)


KINDS: dict[Kind, float] = {
    tell_name: 1.2,
    recall_name: 1.2,
    tell_about_me: 1.6,
    recall_about_me: 1.8,
    recall_dialogue: 1.2,
}
