"""What the user says of themselves, and what was said before, recalled turns later."""

from __future__ import annotations

from tools.demo.kinds.facts import ask
from tools.demo.kinds.names import CITIES, a_name, made_up
from tools.demo.talk import Check, Kind, Pool, Talk, exactly, has

MY_NAME = ask(
    "name.tell",
    "My name is {n}.|I am {n}.|I'm {n}.|Hi, I'm {n}.|Hello, my name is {n}.|Hi! My name is {n}.|"
    "You can call me {n}.|Call me {n}.|Hello! I am {n}.|They call me {n}.|Hey, {n} here.|"
    "Hi there, I am {n}.|People call me {n}.|I go by {n}.|Please call me {n}.|The name's {n}.|"
    "Hello, {n} is my name.",
)
WHAT_NAME = ask(
    "name.recall",
    "What is my name?|What's my name?|Do you remember my name?|Who am I?|Do you know my name?|"
    "Can you tell me my name?|Remember my name?|What am I called?|How am I called?|"
    "Tell me my name.|What did I say my name was?|Do you still know my name?|Say my name.",
)
NEW_NAME = ask(
    "name.change",
    "Actually, my name is {n}.|Sorry, my name is {n}.|No, my name is {n}.|From now on call me {n}.|"
    "I changed my mind: call me {n}.|Now call me {n}.|Wait, I am {n}.",
)
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
)
COLOUR_WORDS = Pool(
    "memory.colour",
    "red blue green yellow orange purple black white pink brown grey turquoise violet gold".split(),
)
PETS = Pool("memory.pet", "cat dog rabbit hamster parrot horse turtle fish mouse goat".split())
JOBS = Pool(
    "memory.job",
    (
        "teacher doctor nurse baker farmer pilot cook painter builder student singer driver "
        "programmer scientist writer gardener lawyer plumber dentist musician"
    ).split(),
)
LIKE_TELL = ask(
    "likes.tell",
    "I like {v}.|I love {v}.|I really like {v}.|I am fond of {v}.|I enjoy {v}.|"
    "My favourite thing is {v}.|I'm a big fan of {v}.|What I like most is {v}.",
)
LIKE_RECALL = ask(
    "likes.recall",
    "What do I like?|Do you remember what I like?|What did I say I like?|What do I love?|"
    "Tell me what I like.|What am I fond of?|Do you know what I like?",
)
COLOUR_TELL = ask(
    "colour.tell",
    "My favourite colour is {v}.|My favorite color is {v}.|The colour I like most is {v}.|"
    "I like the colour {v} best.|Of all colours I like {v} most.",
)
COLOUR_RECALL = ask(
    "colour.recall",
    "What is my favourite colour?|What's my favorite color?|Which colour do I like?|"
    "Do you remember my favourite colour?|Which is my favourite colour?|What colour do I like most?",
)
CITY_TELL = ask(
    "city.tell",
    "I live in {v}.|I am from {v}.|I'm from {v}.|My home is {v}.|I come from {v}.|"
    "My city is {v}.|I have a flat in {v}.",
)
CITY_RECALL = ask(
    "city.recall",
    "Where do I live?|Where am I from?|Which city do I live in?|Do you remember where I live?|"
    "Where is my home?|What is my city?|In which city am I at home?",
)
AGE_TELL = ask(
    "age.tell",
    "I am {v} years old.|I'm {v} years old.|My age is {v}.|I am {v}.|I turned {v} today.|"
    "I'm {v} now.|I have just turned {v}.",
)
AGE_RECALL = ask(
    "age.recall",
    "How old am I?|What is my age?|Do you remember my age?|Do you know how old I am?|"
    "What's my age?|Tell me how old I am.",
)
PET_TELL = ask(
    "pet.tell",
    "I have a {k} called {v}.|My {k} is called {v}.|I have a {k}. Its name is {v}.|"
    "My {k}'s name is {v}.|I've got a {k} named {v}.|The name of my {k} is {v}.",
)
PET_RECALL = ask(
    "pet.recall",
    "What is my {k} called?|What's my {k}'s name?|What is the name of my {k}?|"
    "Do you remember my {k}'s name?|How is my {k} called?|Tell me the name of my {k}.",
)
JOB_TELL = ask(
    "job.tell",
    "I am a {v}.|I work as a {v}.|I'm a {v}.|My job is {v}.|I earn my money as a {v}.|"
    "By profession I am a {v}.",
)
JOB_RECALL = ask(
    "job.recall",
    "What is my job?|What do I do for work?|What's my profession?|Do you remember my job?|"
    "What do I work as?|Tell me my job.",
)
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


def tell_about_me(talk: Talk) -> None:
    """The user says something of themselves."""
    topic = talk.one(tuple(PLAIN_TOPICS))
    tell, _, answer, _ = PLAIN_TOPICS[topic]
    fields: dict[str, object] = {}
    if topic == "likes":
        value = talk.pick(LIKED)
    elif topic == "colour":
        value = talk.pick(COLOUR_WORDS)
    elif topic == "city":
        made = talk.split == "train" and talk.chance(0.2)
        value = made_up(talk.rng).capitalize() if made else talk.pick(CITIES)
    elif topic == "age":
        value = str(talk.numbers("age", (3, 99))[0])
    elif topic == "job":
        value = talk.pick(JOBS)
    else:
        value, fields["k"] = a_name(talk), talk.pick(PETS)
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


LAST_ASKED = ask(
    "last.asked",
    "What did I just say?|What did I just ask?|What was my last message?|What did I say before?|"
    "Repeat my last message.|What was my last question?|What did I ask you before this?",
)
LAST_SAID = ask(
    "last.said",
    "Say that again.|Can you repeat that?|Repeat that, please.|Once more, please.|Again please.|"
    "What did you just say?|Repeat your answer.|Please say that again.|Sorry, what did you say?",
)
FIRST_SAID = ask(
    "first.said",
    "What was my first message?|What did I say first?|What was the first thing I said?|"
    "How did this conversation start?|What was my first question?|What did I first write?",
)


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
    recall_name: 1.6,
    tell_about_me: 1.6,
    recall_about_me: 1.8,
    recall_talk: 1.2,
}
