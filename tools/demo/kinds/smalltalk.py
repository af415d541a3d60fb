"""Greetings, thanks, moods, and questions about the model itself."""

from __future__ import annotations

from tools.demo.talk import DATA, Check, Kind, Pool, Talk, has_any


def _topics() -> list[tuple[str, list[str], list[str], list[str]]]:
    """Kind, key words, questions and answers of each topic.

    A block of the file is: ``kind | key words``, one line of questions parted by ``|`` (the last
    two are held out), then answers parted by lines of ``--``.
    """
    text = (DATA / "topics.md").read_text(encoding="utf-8")
    found = []
    for block in text.strip().split("\n===\n"):
        head, questions, rest = block.strip("\n").split("\n", 2)
        kind, *keys = [part.strip() for part in head.split("|")]
        answers = [answer.strip("\n") for answer in rest.split("\n--\n")]
        asked = [question.strip() for question in questions.split("|")]
        found.append((kind, keys, asked, answers))
    return found


TOPICS = _topics()
BY_KIND = {kind: [topic for topic in TOPICS if topic[0] == kind] for kind, *_ in TOPICS}


def questions_of(topic: tuple[str, list[str], list[str], list[str]], talk: Talk) -> list[str]:
    """The questions of one split: the last two are held out."""
    return topic[2][-2:] if talk.split == "test" else topic[2][:-2]


def _say(talk: Talk, topic: tuple[str, list[str], list[str], list[str]]) -> None:
    kind, keys, _, answers = topic
    question = talk.one(questions_of(topic, talk))
    answer = talk.one(answers)
    name = talk.style.name
    if name and kind == "identity":
        answer = answer.replace("the demo model", f"{name}, the demo model")
    if "name" in talk.memory and kind in ("greetings", "goodbyes") and talk.chance(0.6):
        answer = answer.replace("!", f", {talk.memory['name']}!", 1)
    # Keys are alternatives; those joined by + must all occur.
    check = has_any(*keys) if "+" not in keys[0] else Check("all", tuple(keys[0].split("+")))
    talk.say(kind, question, answer, check)


def _kind(name: str) -> Kind:
    def make(talk: Talk) -> None:
        _say(talk, talk.rng.choice(BY_KIND[name]))

    make.__name__ = name
    make.__doc__ = f"One of the {name}."
    return make


WHO = Pool(
    "statement.who",
    "I|I|I|My brother|My sister|My friend|My mother|My father|We|My neighbour|My teacher".split("|"),
    0.1,
)
DID = Pool(
    "statement.did",
    (
        "went to the market|saw a film|baked a cake|bought a new car|read a good book|"
        "cleaned the house|walked in the park|cooked soup|played chess|visited a museum|"
        "wrote a letter|worked all day|slept badly|had a party|took the train|went swimming|"
        "learned Python|repaired the bicycle|planted a tree|painted the door|lost the keys|"
        "found an old coin|made a snowman|watched the stars|sang in a choir|missed the bus|"
        "moved to a new flat|started a new job|finished the homework|drank too much coffee"
    ).split("|"),
)
WHEN = ("Yesterday {w} {d}.", "{w} {d} today.", "{w} {d}.", "Last week {w} {d}.", "{w} {d} again.")
REPLIES = (
    "That sounds interesting! Tell me more.",
    "Oh, really? How was it?",
    "I see! And what happened then?",
    "How nice that you tell me! And how was it?",
)


def statements(talk: Talk) -> None:
    """The user tells what happened; the model listens."""
    who, did = talk.pick(WHO), talk.pick(DID)
    frame = talk.one(WHEN)
    if who != "I" and not frame.startswith("{w}"):
        who = who[:1].lower() + who[1:]
    talk.say("statements", frame.format(w=who, d=did), talk.one(REPLIES), has_any(*REPLIES))


greetings = _kind("greetings")
goodbyes = _kind("goodbyes")
identity = _kind("identity")
small_talk = _kind("small_talk")
usage = _kind("usage")
glossary = _kind("glossary")

KINDS: dict[Kind, float] = {
    greetings: 1.6,
    goodbyes: 0.7,
    identity: 2.0,
    small_talk: 2.2,
    statements: 0.8,
    usage: 6.0,
    glossary: 1.5,
}
