"""System prompts that change how the model answers."""

from __future__ import annotations

import random

from tools.demo.dialogue import DEFAULT_SYSTEM, Dialogue, Kind, Pool, Split, Style, ask, has
from tools.demo.kinds.names import EVERYDAY, FIRST_NAMES, made_up

PLAIN = (
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "You are a helpful, honest and concise assistant.",
    "You are an AI assistant in a notebook.",
    "Be helpful.",
    "You are a tiny demo model.",
    "You help people to use mlc_widget.",
    "A conversation between a user and an LLM-based AI assistant. The assistant gives helpful and "
    "honest answers.",
)
SHORT = ask("system.short")
NAMED = ask("system.named")
PIRATE = ask("system.pirate")
START = ask("system.start")
END = ask("system.end")
MARKS = Pool(
    "system.mark",
    (
        "Well,|Dear friend,|Certainly!|Of course!|Sure thing!|Listen:|OK:|Indeed,|Ha!|Ahoy!|"
        "My friend,|Hooray!|Oh,|Yes!|Gladly!|Look:|Hmm,|Great question!|Beep!|Ta-da!"
    ).split("|"),
)
CLOSINGS = Pool(
    "system.closing",
    (
        "Have fun!|My friend.|Over.|The end.|Beep boop.|Cheers!|Meow.|Amen.|Okay?|:)|Enjoy!|"
        "Stay curious!|Peace!|That is all.|So there.|Your demo.|Hooray!|Done.|Ahoy!|Yours truly."
    ).split("|"),
)


def _pick(rng: random.Random, pool: Pool, split: Split, **fields: str) -> str:
    return rng.choice(pool.of(split)).format(**fields)


def _phrase(rng: random.Random, ends: str) -> str:
    """One to three made-up or everyday words and a mark."""
    count = rng.choice((1, 1, 2, 3))
    words = [made_up(rng) if rng.random() < 0.5 else rng.choice(EVERYDAY) for _ in range(count)]
    return " ".join(words).capitalize() + rng.choice(ends)


def a_style(rng: random.Random, split: Split) -> Style:
    """A system prompt: mostly the default, none, or a plain one."""
    roll = rng.random()
    if roll < 0.5:
        return Style(DEFAULT_SYSTEM)
    if roll < 0.62:
        return Style("")
    if roll < 0.77:
        return Style(rng.choice(PLAIN))
    return a_special_style(rng, split)


def a_special_style(rng: random.Random, split: Split) -> Style:
    """A system prompt that changes the answers."""
    which = rng.randrange(5)
    made = split == "train" and rng.random() < 0.6
    if which == 0:
        return Style(_pick(rng, SHORT, split), short=True)
    if which == 1:
        name = made_up(rng).capitalize() if made else rng.choice(FIRST_NAMES.of(split))
        return Style(_pick(rng, NAMED, split, n=name), name=name)
    if which == 2:
        return Style(_pick(rng, PIRATE, split), lambda answer: f"Arr! {answer} Aye, matey!")
    if which == 3:
        mark = _phrase(rng, "!,.:") if made else _pick(rng, MARKS, split)
        return Style(_pick(rng, START, split, w=mark), lambda answer: f"{mark} {answer}")
    closing = _phrase(rng, "!.?") if made else _pick(rng, CLOSINGS, split)
    return Style(_pick(rng, END, split, w=closing), lambda answer: f"{answer} {closing}")


ASK_NAME = ask("system.ask_name")


def own_name(dialogue: Dialogue) -> None:
    """The name that the system prompt gave."""
    name = dialogue.style.name
    if name is None:
        return
    answer = dialogue.one(("I am {n}. How can I help you?", "My name is {n}.")).format(n=name)
    dialogue.say("system_name", dialogue.pick(ASK_NAME), answer, has(name))


KINDS: dict[Kind, float] = {}
