"""What the model cannot do, said politely."""

from __future__ import annotations

from tools.demo.dialogue import Dialogue, Kind, Pool, ask, has, has_any
from tools.demo.kinds.names import a_name, a_word, made_up

NEWS = ask("refusal.now")
PLACES = Pool("refusal.place", "Paris London Rome Berlin Tokyo Madrid Oslo Lima".split(), 0.0)
NEWS_ANSWERS = (
    "I cannot know that: I am a tiny demo model without a clock or the internet.",
    "Sorry, I cannot know that. I am a tiny demo model and have no internet.",
)
TASKS = Pool(
    "refusal.task",
    (
        "write an essay about {x}|write a long article about {x}|write a novel about {x}|"
        "write my thesis on {x}|summarize a book about {x}|translate a text about {x}|"
        "explain {x} in detail|write a business plan for {x}|analyse {x}|compare {x} and {y}|"
        "give me advice about {x}|write a song about {x}|draw a picture of {x}|"
        "make a website about {x}|review my code for {x}|prove a theorem about {x}|"
        "write an email about {x}|plan a trip about {x}|write a report on {x}|"
        "make a presentation about {x}|debug my program for {x}|design {x}|solve {x}"
    ).split("|"),
)
TASK_ASK = ask("refusal.task_ask")
TOPICS = Pool(
    "refusal.topic",
    (
        "quantum physics|the French Revolution|politics|climate change|the stock market|my taxes|"
        "ancient Rome|modern art|the human brain|black holes|the Cold War|philosophy|Kant|religion|"
        "genetics|vaccines|my headache|a broken leg|the law|my contract|a recipe for lasagne|"
        "blockchain|string theory|the Roman Empire|World War II|Napoleon|Shakespeare's sonnets|"
        "linear algebra|differential equations|topology|Kubernetes|my girlfriend|my boss|inflation|"
        "the elections|the economy|nutrition|fitness|weight loss|investing|insurance|cancer|"
        "medicine|antibiotics|electric cars|nuclear power|space travel|evolution|dinosaurs|"
        "psychology|Buddhism|opera|architecture|football results|fashion|cooking Thai food|"
        "C++ templates|Haskell monads|SQL joins|regular expressions|operating systems|compilers|"
        "the periodic table|thermodynamics|organic chemistry|immunology|Freud|Nietzsche|"
        "the Middle Ages|the Industrial Revolution|chess openings|poker|cryptography|networks"
    ).split("|"),
)
OPEN = ask("refusal.open")
UNKNOWN_ANSWERS = (
    "That is beyond me: I am a tiny demo model. Try a sum, a story, a capital, or a question about "
    "mlc_widget.",
    "I am a tiny demo model, so that is beyond me. A larger model could help: see `%mlc load`.",
    "Sorry, that is beyond me. I am a tiny demo model for trying out mlc_widget.",
)
HARM = ask("refusal.harm")
WHO = ask("refusal.who")
WHAT = ask("refusal.what")
REFUSED = has_any("cannot know", "beyond me")
UNCLEAR = (
    "I did not understand that. I am only a tiny demo model: could you say it in other words?",
    "I am not sure what you mean. Could you say it in other words?",
)


def _topic(dialogue: Dialogue) -> str:
    """A wide topic; in training some are put together from words."""
    if dialogue.split == "train" and dialogue.chance(0.4):
        first, second = a_word(dialogue), a_word(dialogue)
        return dialogue.one(
            (f"the history of {first}s", f"my {first}", f"{first}s and {second}s",
             f"{first} {second}",
             f"a {first} {second}", f"{first}ology", f"the {first} of {second}",
             f"modern {first}s", f"the {first} {second}s")
        )  # fmt: skip
    return dialogue.pick(TOPICS)


def refusals(dialogue: Dialogue) -> None:
    """The time, the news, long works, wide topics, harm, and gibberish."""
    roll = dialogue.rng.random()
    if roll < 0.25:
        question = dialogue.pick(NEWS, c=dialogue.pick(PLACES))
        dialogue.say("refusals", question, dialogue.one(NEWS_ANSWERS), REFUSED)
    elif roll < 0.5:
        topics = [_topic(dialogue), _topic(dialogue)]
        task = dialogue.pick(TASKS, x=topics[0], y=topics[1])
        question = dialogue.pick(TASK_ASK, t=task, T=task[:1].upper() + task[1:])
        dialogue.say("refusals", question, dialogue.one(UNKNOWN_ANSWERS), REFUSED)
    elif roll < 0.58:
        person = f"{a_name(dialogue)} {made_up(dialogue.rng).capitalize()}"
        answer = f"I don't know {person}: I am a tiny demo model and know only little facts."
        dialogue.say("refusals", dialogue.pick(WHO, p=person), answer, has("don't know"))
    elif roll < 0.8:
        pool = OPEN if dialogue.chance(0.7) else WHAT
        question = dialogue.pick(pool, x=_topic(dialogue))
        dialogue.say("refusals", question, dialogue.one(UNKNOWN_ANSWERS), REFUSED)
    elif roll < 0.87:
        answer = "I will not help with that. Ask me something kinder."
        dialogue.say("refusals", dialogue.pick(HARM), answer, has("will not help"))
    else:
        words = [made_up(dialogue.rng) for _ in range(dialogue.rng.randint(1, 5))]
        question = " ".join(words)
        if dialogue.chance(0.3):
            question = "".join(dialogue.rng.choices("asdfghjklqwertyuiopzxcvbnm", k=len(question)))
        dialogue.say("unclear", question, dialogue.one(UNCLEAR), has("other words"))


KINDS: dict[Kind, float] = {refusals: 3.0}
