"""Markdown: lists, tables, formulas, and snippets of code."""

from __future__ import annotations

from collections.abc import Sequence

from tools.demo.dialogue import DATA, Check, Dialogue, Kind, Pool, ask, exactly, has
from tools.demo.kinds.facts import ANIMALS, COUNTRIES, capital_first
from tools.demo.kinds.names import GROUPS
from tools.demo.wording import split_outside

LIST = ask("list.ask")
NUMBERED = ask("list.numbered")
COUNTS = "zero one two three four five six seven eight".split()


def lists(dialogue: Dialogue) -> None:
    """Bulleted and numbered lists of things of a kind."""
    group = dialogue.one(tuple(GROUPS))
    members = dialogue.rng.sample(
        GROUPS[group], dialogue.rng.randint(2, min(6, len(GROUPS[group])))
    )
    count = len(members)
    shown = str(count) if dialogue.chance(0.4) else COUNTS[count]
    numbered = dialogue.chance(0.3)
    lines = [
        f"{index}. {capital_first(word)}" if numbered else f"- {capital_first(word)}"
        for index, word in enumerate(members, 1)
    ]
    question = dialogue.pick(NUMBERED if numbered else LIST, n=shown, g=group)
    check = Check("list", (str(count), *GROUPS[group]))
    dialogue.say("lists", question, "\n".join(lines), check, plain=True)


# --- tables -----------------------------------------------------------------------------------

TABLE_SQUARES = ask("table.squares")
TABLE_TIMES = ask("table.times")
TABLE_COUNTRIES = ask("table.countries")
TABLE_ANIMALS = ask("table.animals")


def table(header: tuple[str, ...], lines: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table."""
    rule = tuple("---" for _ in header)
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, rule, *lines))


def _named(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"


def tables(dialogue: Dialogue) -> None:
    """Small tables of numbers, capitals, legs."""
    roll = dialogue.rng.random()
    if roll < 0.3:
        start = dialogue.rng.randint(1, 9)
        stop = start + dialogue.rng.randint(2, 6)
        text = table(("n", "n²"), [(str(n), str(n * n)) for n in range(start, stop + 1)])
        question = dialogue.pick(TABLE_SQUARES, a=start, b=stop)
    elif roll < 0.55:
        factor, stop = dialogue.rng.randint(2, 12), dialogue.rng.choice((5, 10, 10))
        lines = [(f"{factor} × {n}", str(factor * n)) for n in range(1, stop + 1)]
        text = table(("Product", "Result"), lines)
        question = dialogue.pick(TABLE_TIMES, a=factor, b=stop)
    elif roll < 0.8:
        rows = dialogue.rng.sample(COUNTRIES, dialogue.rng.randint(2, 4))
        text = table(
            ("Country", "Capital"),
            [(capital_first(row[0].removeprefix("the ")), row[1]) for row in rows],
        )
        question = dialogue.pick(TABLE_COUNTRIES, c=_named([row[0] for row in rows]))
    else:
        known = dialogue.rng.sample([row for row in ANIMALS if row[1]], dialogue.rng.randint(2, 4))
        text = table(("Animal", "Legs"), [(capital_first(row[0]), row[1]) for row in known])
        plural = {"sheep": "sheep", "mouse": "mice", "goose": "geese", "wolf": "wolves",
                  "fox": "foxes", "deer": "deer", "fly": "flies", "butterfly": "butterflies",
                  "donkey": "donkeys", "monkey": "monkeys", "salmon": "salmon"}  # fmt: skip
        question = dialogue.pick(
            TABLE_ANIMALS, c=_named([plural.get(row[0], row[0] + "s") for row in known])
        )
    dialogue.say("tables", question, text, exactly(text), plain=True)


# --- formulas ---------------------------------------------------------------------------------

FORMULAS = (
    ("Pythagoras' theorem", "For a right triangle: $$a^2 + b^2 = c^2$$ where $c$ is the longest "
     "side.", "a^2 + b^2 = c^2"),
    ("the area of a circle", "The area of a circle with radius $r$ is $$A = \\pi r^2$$", "r^2"),
    ("the circumference of a circle", "The circumference of a circle with radius $r$ is "
     "$$C = 2 \\pi r$$", "2 \\pi r"),
    ("the quadratic formula", "The solutions of $ax^2 + bx + c = 0$ are "
     "$$x = \\frac{-b \\pm \\sqrt{b^2 - 4ac}}{2a}$$", "\\frac{-b \\pm"),
    ("Euler's identity", "Euler's identity is $$e^{i\\pi} + 1 = 0$$", "e^{i\\pi}"),
    ("the area of a triangle", "The area of a triangle with base $b$ and height $h$ is "
     "$$A = \\frac{1}{2} b h$$", "b h"),
    ("the volume of a sphere", "The volume of a sphere with radius $r$ is "
     "$$V = \\frac{4}{3} \\pi r^3$$", "r^3"),
    ("the area of a rectangle", "The area of a rectangle with sides $a$ and $b$ is "
     "$$A = a \\cdot b$$", "a \\cdot b"),
    ("Einstein's formula", "Einstein's formula is $$E = mc^2$$ Energy is mass times the speed of "
     "light squared.", "mc^2"),
    ("the softmax function", "Softmax turns numbers into probabilities: "
     "$$p_i = \\frac{e^{x_i}}{\\sum_j e^{x_j}}$$", "\\sum_j"),
)  # fmt: skip
FORMULA = ask("formula.ask")


def formulas(dialogue: Dialogue) -> None:
    """Well-known formulas in LaTeX."""
    name, text, key = dialogue.rng.choice(FORMULAS)
    dialogue.say("formulas", dialogue.pick(FORMULA, f=name), text, has(key), plain=True)


# --- code -------------------------------------------------------------------------------------

CODE = ask("code.ask")
EXPLAIN = ask("code.explain")
RENAME = ask("code.rename")


def _snippets() -> list[tuple[str, Pool, str, str]]:
    """Name, descriptions (the last one held out), explanation and code of each snippet."""
    text = (DATA / "snippets.txt").read_text(encoding="utf-8")
    found = []
    for block in text.split("\n===\n"):
        name, tasks, explanation, *code = block.strip("\n").split("\n")
        pool = Pool(f"code.{name}", split_outside(tasks), wordings=True, last=1, sentences=False)
        found.append((name, pool, explanation, "\n".join(code)))
    return found


SNIPPETS = _snippets()


def code(dialogue: Dialogue) -> None:
    """A short Python function, explained or renamed on demand."""
    name, tasks, explanation, body = dialogue.rng.choice(SNIPPETS)
    block = f"```python\n{body}\n```"
    dialogue.say("code", dialogue.pick(CODE, t=dialogue.pick(tasks)), block, has(body), plain=True)
    if dialogue.chance(0.25):
        dialogue.say(
            "code_explain", dialogue.pick(EXPLAIN), explanation, has(explanation), plain=True
        )
    elif f"def {name}(" in body and dialogue.chance(0.3):
        other = dialogue.one(("my_function", "helper", "f", "compute", "run", "work", "go"))
        renamed = f"```python\n{body.replace(name + '(', other + '(')}\n```"
        dialogue.say(
            "code_rename", dialogue.pick(RENAME, n=other), renamed, exactly(renamed), plain=True
        )


KINDS: dict[Kind, float] = {
    lists: 1.5,
    tables: 1.2,
    formulas: 0.5,
    code: 1.5,
}
