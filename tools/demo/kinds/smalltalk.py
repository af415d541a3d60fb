"""Greetings, thanks, moods, and questions about the model itself."""

from __future__ import annotations

from dataclasses import dataclass

from tools.demo.dialogue import DATA, Dialogue, Kind, Pool, has_any
from tools.demo.kinds.names import a_or_an, a_word
from tools.demo.wording import split_outside


@dataclass(frozen=True)
class Topic:
    """What people say of one matter, and what the model answers."""

    kind: str
    keys: list[str]
    questions: Pool
    answers: list[str]


def _topics() -> list[Topic]:
    """The topics of data/topics.md.

    A block is: ``kind | key words``, one line of questions parted by ``|`` in the notation of
    `wording` (the last two are held out), then answers parted by lines of ``--``.
    """
    found: list[Topic] = []
    for block in (DATA / "topics.md").read_text(encoding="utf-8").strip().split("\n===\n"):
        head, questions, rest = block.strip("\n").split("\n", 2)
        kind, *keys = [part.strip() for part in head.split("|")]
        answers = [answer.strip("\n") for answer in rest.split("\n--\n")]
        name = f"{kind}.{len(found)}"
        pool = Pool(name, split_outside(questions), wordings=True, last=2)
        found.append(Topic(kind, keys, pool, answers))
    return found


TOPICS = _topics()
BY_KIND = {topic.kind: [t for t in TOPICS if t.kind == topic.kind] for topic in TOPICS}


def _say(dialogue: Dialogue, topic: Topic) -> None:
    kind = topic.kind
    question = topic.questions.choose(dialogue.rng, dialogue.split)
    answer = dialogue.one(topic.answers)
    name = dialogue.style.name
    if name and kind == "identity":
        answer = answer.replace("the demo model", f"{name}, the demo model")
        answer = answer.replace(" You can call me Demo.", "")
    if "name" in dialogue.memory and kind in ("greetings", "goodbyes") and dialogue.chance(0.6):
        answer = answer.replace("!", f", {dialogue.memory['name']}!", 1)
    dialogue.say(kind, question, answer, has_any(*topic.keys))


def _kind(name: str) -> Kind:
    def make(dialogue: Dialogue) -> None:
        _say(dialogue, dialogue.rng.choice(BY_KIND[name]))

    make.__name__ = name
    make.__doc__ = f"One of the {name}."
    return make


WHO = Pool(
    "statement.who",
    "I|I|I|My brother|My sister|My friend|My mother|My father|We|My neighbour|My teacher".split(
        "|"
    ),
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
VERBS = (
    "bought saw found lost made painted sold broke repaired cleaned visited forgot heard drew "
    "built took brought met liked carried opened washed wanted watched hid stole called"
).split()
ACTS = (
    "slept|worked|danced|sang|ran|played|went running|went hiking|went sailing|went shopping|"
    "talked|waited|sat|walked|travelled|swam|laughed|cried|studied|cooked|felt"
).split("|")
MANNERS = (
    "well|a lot|too long|until late|in the garden|at home|with friends|all night|for hours|slowly|"
    "very little|in the rain|by the sea|alone|together|in town|happily|quite well|poorly"
).split("|")
WHEN = ("Yesterday {w} {d}.", "{w} {d} today.", "{w} {d}.", "Last week {w} {d}.", "{w} {d} again.")
REPLIES = (
    "That sounds interesting! Tell me more.",
    "Oh, really? How was it?",
    "I see! And what happened then?",
    "How nice that you tell me! And how was it?",
)


def statements(dialogue: Dialogue) -> None:
    """The user tells what happened; the model listens."""
    who, did = dialogue.pick(WHO), dialogue.pick(DID)
    if dialogue.split == "train" and dialogue.chance(0.6):
        did = f"{dialogue.one(VERBS)} {a_or_an(a_word(dialogue))}"
        if dialogue.chance(0.4):
            did = f"{dialogue.one(ACTS)} {dialogue.one(MANNERS)}"
    frame = dialogue.one(WHEN)
    if who != "I" and not frame.startswith("{w}"):
        who = who[:1].lower() + who[1:]
    check = has_any(*REPLIES, "sorry to hear", "glad to hear")
    dialogue.say("statements", frame.format(w=who, d=did), dialogue.one(REPLIES), check)


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
