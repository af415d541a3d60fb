"""What a corpus is made of: pools with held-out items, checked turns, and the dialogue under way.

Everything random comes from the `random.Random` of the `Dialogue`, so a seed gives the same text on
every machine. What is held out is decided by a hash of the item's text, not by chance, so that
training and evaluation cannot disagree about it.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tools.demo.wording import LIMIT, expand, framed, reword

DATA = Path(__file__).with_name("data")
Split = Literal["train", "test"]

DEFAULT_SYSTEM = "You are the demo model of mlc_widget."

POOLS: dict[str, Pool] = {}
"""Every pool by name, in order of definition."""


def _questions() -> dict[str, list[str]]:
    """The templates of data/questions.txt by the name of their pool."""
    text = (DATA / "questions.txt").read_text(encoding="utf-8")
    sections = re.split(r"^\[([\w.]+)\]$", text, flags=re.MULTILINE)[1:]
    return {
        name: [line.strip() for line in body.splitlines() if line.strip()]
        for name, body in zip(sections[::2], sections[1::2], strict=True)
    }


QUESTIONS = _questions()


def ask(name: str) -> Pool:
    """The pool of question templates of that name in data/questions.txt."""
    return Pool(name, QUESTIONS[name], wordings=True)


def stable_hash(text: str) -> int:
    """A 64-bit number that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


class Pool:
    """Strings to choose from, of which a fixed part is kept for evaluation.

    Args:
        name: unique, such as ``addition.ask``.
        items: strings; templates carry ``{fields}``.
        held_out: the fraction of the items kept for evaluation (at least one item if it is not
            zero). With 0 both splits use all items: right for facts, which can only be learnt.
        wordings: the items are templates in the notation of `wording`.
        last: so many items at the end are held out, besides wordings of bracketed templates.
        sentences: False for templates that are a part of a sentence.
    """

    def __init__(
        self,
        name: str,
        items: Iterable[str],
        held_out: float = 0.15,
        *,
        wordings: bool = False,
        last: int = 0,
        sentences: bool = True,
    ) -> None:
        if name in POOLS:
            raise ValueError(f"pool {name!r} is defined twice")
        items = list(items)
        items, chosen = items[: len(items) - last], items[len(items) - last :]
        groups = [
            expand(item, sentence=sentences) if wordings else [item]
            for item in dict.fromkeys(items)
        ]
        self.name = name
        self.wordings = wordings
        self.shared = not held_out
        # A template with brackets holds wordings of its own out; where there is none, one in so
        # many templates is held out whole.
        many = [group for group in groups if len(group) >= 8]
        self.train_groups: list[list[str]] = []
        test: list[str] = []
        if last or (many and held_out):
            test += chosen
            for group in groups:
                ranked = sorted(dict.fromkeys(group), key=self._rank)[:LIMIT]
                count = round(held_out * len(ranked)) if len(group) >= 8 else 0
                test += ranked[:count]
                self.train_groups.append(ranked[count:])
        else:
            flat = dict.fromkeys(item for group in groups for item in group)
            ranked = sorted(flat, key=self._rank)
            count = max(1, round(held_out * len(ranked))) if held_out else 0
            if count >= len(ranked):
                raise ValueError(f"pool {name!r} has too few items to hold {count} out")
            test = ranked[:count]
            self.train_groups = [[item] for item in flat if item not in set(test)]
        kept = {plain_text(item) for item in test}
        self.train_groups = [
            left
            for group in self.train_groups
            if (left := [item for item in group if plain_text(item) not in kept])
        ]
        self.kept = frozenset(kept)
        self.train = tuple(item for group in self.train_groups for item in group)
        self.test = tuple(test) or self.train
        POOLS[name] = self

    def _rank(self, item: str) -> int:
        return stable_hash(f"{self.name}/{item}")

    def choose(self, rng: random.Random, split: Split) -> str:
        """One item; in training every template is as likely as every other."""
        if split == "test":
            return self.test[int(rng.random() * len(self.test))]
        group = self.train_groups[int(rng.random() * len(self.train_groups))]
        item = group[int(rng.random() * len(group))]
        if self.wordings and rng.random() < 0.35:
            other = reword(rng, item)
            if plain_text(other) not in self.kept:
                return other
        return item

    def of(self, split: Split) -> tuple[str, ...]:
        """The items of one split."""
        return self.train if split == "train" else self.test


def plain_text(text: str) -> str:
    """A text without capitals and the marks at its end, to tell wordings apart."""
    return " ".join(text.lower().rstrip(".?!: ").split())


def held_out_numbers(kind: str, *numbers: int) -> bool:
    """Whether a combination of numbers is kept for evaluation (one in eight is)."""
    return stable_hash(f"{kind}:{sorted(numbers)}") % 8 == 0


@dataclass(frozen=True)
class Check:
    """How an answer is judged.

    ``rule`` is one of: ``exact`` (equal to one value), ``all`` (contains every value), ``any``
    (contains one), ``json`` (parses to the value), ``last`` (its last number is the value),
    ``list`` (a Markdown list of as many different items as the first value says, all of them among
    the other values). Letter case counts only in ``exact`` and ``json``.
    """

    rule: Literal["exact", "all", "any", "json", "last", "list"]
    values: tuple[str, ...]

    def passes(self, answer: str) -> bool:
        """Judge one answer."""
        answer = answer.strip()
        lower = answer.lower()
        if self.rule == "exact":
            return answer in self.values
        if self.rule == "all":
            return all(_contains(lower, value.lower()) for value in self.values)
        if self.rule == "any":
            return any(_contains(lower, value.lower()) for value in self.values)
        if self.rule == "last":
            numbers = re.findall(r"-?\d+", answer.replace(",", ""))
            return bool(numbers) and numbers[-1] == self.values[0]
        if self.rule == "list":
            items = [re.sub(r"^(?:-|\d+\.) ", "", line) for line in lower.splitlines()]
            allowed = {value.lower() for value in self.values[1:]}
            return len(items) == len(set(items)) == int(self.values[0]) and set(items) <= allowed
        try:
            return bool(json.loads(answer) == json.loads(self.values[0]))
        except json.JSONDecodeError:
            return False


def _contains(text: str, value: str) -> bool:
    """Whether value occurs in text as whole words."""
    start = r"(?<!\w)" if value[:1].isalnum() else ""
    end = r"(?!\w)" if value[-1:].isalnum() else ""
    return re.search(start + re.escape(value) + end, text) is not None


def exactly(*values: str) -> Check:
    """The answer is one of the values."""
    return Check("exact", values)


def has(*values: str) -> Check:
    """The answer contains all the values as whole words."""
    return Check("all", values)


def has_any(*values: str) -> Check:
    """The answer contains at least one of the values as whole words."""
    return Check("any", values)


@dataclass(frozen=True)
class Turn:
    """One question with its answer, and how to judge another answer to it."""

    user: str
    answer: str
    kind: str
    check: Check


@dataclass
class Style:
    """What a system prompt asks of every answer."""

    system: str
    apply: Callable[[str], str] = lambda answer: answer
    short: bool = False
    name: str | None = None


Kind = Callable[["Dialogue"], None]

# Answers to these repeat nothing that the user wrote, so the question may be all lower case.
_LOWER_KINDS = frozenset(
    "capitals continents languages currencies colours calendar general_facts usage identity "
    "greetings goodbyes small_talk glossary translation jokes riddles refusals formulas code "
    "animals name_unknown about_me_unknown lists statements".split()
)


@dataclass
class Dialogue:
    """A conversation as it grows: kinds of task append turns to it.

    Attributes:
        rng: the only source of chance.
        split: which part of every pool to draw from.
        memory: what the user has said of themselves (``name``, ``age``, …).
        style: what the system prompt asks for.
        turns: the conversation so far.
    """

    rng: random.Random
    split: Split = "train"
    memory: dict[str, str] = field(default_factory=dict)
    style: Style = field(default_factory=lambda: Style(DEFAULT_SYSTEM))
    turns: list[Turn] = field(default_factory=list)

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.rng.random() < probability

    def pick(self, pool: Pool, **fields: object) -> str:
        """One item of the pool's split, with its ``{fields}`` filled in."""
        item = pool.choose(self.rng, self.split)
        return item.format(**fields) if fields else item

    def some(self, pool: Pool, count: int) -> list[str]:
        """Several different items of the pool's split."""
        items = pool.of(self.split)
        return self.rng.sample(items, min(count, len(items)))

    def one(self, items: Sequence[str]) -> str:
        """One of the items; for wording of answers, which needs no held-out part."""
        return items[int(self.rng.random() * len(items))]

    def numbers(self, kind: str, *ranges: tuple[int, int]) -> list[int]:
        """Numbers drawn from inclusive ranges, held out or not as the split demands."""
        want = self.split == "test"
        for _ in range(2000):
            drawn = [self.rng.randint(low, high) for low, high in ranges]
            if held_out_numbers(kind, *drawn) == want:
                return drawn
        raise ValueError(f"{kind}: no numbers of split {self.split!r} in {ranges}")

    def say(
        self,
        kind: str,
        user: str,
        answer: str,
        check: Check,
        *,
        plain: bool = False,
        literal: bool = False,
    ) -> None:
        """Append a turn.

        Args:
            kind: the kind of task that is scored.
            user: the question.
            answer: the answer, before the system prompt's style is applied.
            check: how another answer is judged.
            plain: keep the style away: the answer is code, JSON or a table.
            literal: the answer repeats the question's words, so keep the style and the casual
                spelling away.
        """
        if not (plain or literal):
            answer = self.style.apply(answer)
        if not literal:
            if self.split == "train" and self.rng.random() < 0.08:
                user = framed(self.rng, user)
            user = casual(self.rng, user)
            if kind in _LOWER_KINDS and self.rng.random() < 0.08:
                user = user.lower()
        self.turns.append(Turn(user, answer, kind, check))


LEADS = ("Please: ", "Hey, ", "OK. ", "Ok, ", "So, ", "Now: ", "Next question: ", "Hmm. ", "Well, ")
TAILS = (" Please.", " Thanks!", " Thank you.", " please", " :)")


def casual(rng: random.Random, text: str) -> str:
    """Write a question as people type it: sometimes without capitals or full stop."""
    roll = rng.random()
    if roll < 0.62 or "\n" in text:
        return text
    if roll < 0.74:
        return text[:1].lower() + text[1:]
    if roll < 0.84:
        return text.rstrip(".?!")
    if roll < 0.93:
        return (text[:1].lower() + text[1:]).rstrip(".?!")
    if roll < 0.97:
        return rng.choice(LEADS) + text
    return text + rng.choice(TAILS)
