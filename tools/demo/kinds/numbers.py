"""Counting, arithmetic, comparing and number words."""

from __future__ import annotations

from tools.demo.dialogue import Check, Dialogue, Kind, Pool, ask, has, held_out_numbers
from tools.demo.kinds.names import FIRST_NAMES, a_word

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()


def in_words(number: int) -> str:
    """An English number word for 0 to 999."""
    if number < 20:
        return ONES[number]
    if number < 100:
        rest = f"-{ONES[number % 10]}" if number % 10 else ""
        return TENS[number // 10] + rest
    rest = f" and {in_words(number % 100)}" if number % 100 else ""
    return f"{ONES[number // 100]} hundred{rest}"


# --- arithmetic -------------------------------------------------------------------------------

ADD = ask("addition.ask")
SUBTRACT = ask("subtraction.ask")
MULTIPLY = ask("multiplication.ask")
DIVIDE = ask("division.ask")
STEPS = ask("arithmetic.steps")
SURE = ask("arithmetic.sure")
CHAIN = ask("arithmetic.chain")


def _answer(dialogue: Dialogue, sum_text: str, result: int) -> str:
    if dialogue.style.short:
        return str(result)
    roll = dialogue.rng.random()
    if roll < 0.8:
        return f"{sum_text} = {result}."
    if roll < 0.9:
        return f"{sum_text} = {result}. Anything else?"
    return f"{sum_text} = **{result}**."


def _last(value: int) -> Check:
    return Check("last", (str(value),))


def _splits(a: int, b: int) -> str:
    """The steps of an addition, by tens and ones."""
    tens_a, ones_a, tens_b, ones_b = a // 10 * 10, a % 10, b // 10 * 10, b % 10
    if not (tens_a and tens_b):
        return f"I start at {a} and go {b} further: {a} + {b} = {a + b}."
    return (
        f"First the tens: {tens_a} + {tens_b} = {tens_a + tens_b}. "
        f"Then the ones: {ones_a} + {ones_b} = {ones_a + ones_b}. "
        f"Together: {tens_a + tens_b} + {ones_a + ones_b} = {a + b}."
    )


def _range(dialogue: Dialogue) -> tuple[int, int]:
    roll = dialogue.rng.random()
    return (0, 20) if roll < 0.2 else (0, 99) if roll < 0.75 else (10, 999)


def addition(dialogue: Dialogue) -> None:
    """A sum, sometimes with its steps, a doubt or a chain of further operations."""
    first = _range(dialogue)
    second = first if dialogue.chance(0.8) else _range(dialogue)
    a, b = dialogue.numbers("addition", first, second)
    total = a + b
    ask = dialogue.pick(ADD, a=a, b=b)
    dialogue.say("addition", ask, _answer(dialogue, f"{a} + {b}", total), _last(total))
    if dialogue.style.short:
        return
    if dialogue.chance(0.08) and max(a, b) < 100:
        dialogue.say("arithmetic_steps", dialogue.pick(STEPS), _splits(a, b), has(str(total)))
    elif dialogue.chance(0.06):
        answer = f"Yes: {a} + {b} = {total}."
        dialogue.say("arithmetic_sure", dialogue.pick(SURE), answer, _last(total))
    while dialogue.chance(0.25):
        total = _chain(dialogue, total)


def _chain(dialogue: Dialogue, value: int) -> int:
    """Go on with the last result."""
    for _ in range(1000):
        operation = dialogue.one(("plus", "plus", "minus", "times"))
        if operation == "times" and value <= 60:
            by = dialogue.rng.choice((2, 3, 10)) if value > 12 else dialogue.rng.randint(2, 9)
            sign, result, key = "×", value * by, "multiplication"
        elif operation == "minus" and value > 1:
            by = dialogue.rng.randint(1, min(value, 99))
            sign, result, key = "-", value - by, "subtraction"
        else:
            operation = "plus"
            by = dialogue.rng.randint(1, 99)
            sign, result, key = "+", value + by, "addition"
        # No sum that is kept for evaluation is given away here.
        if dialogue.split == "test" or not held_out_numbers(key, value, by):
            break
    word = operation if dialogue.chance(0.8) else sign
    dialogue.say(
        "arithmetic_chain",
        dialogue.pick(CHAIN, op=f"{word} {by}"),
        f"{value} {sign} {by} = {result}.",
        _last(result),
    )
    return result


def subtraction(dialogue: Dialogue) -> None:
    """A difference, usually not negative."""
    spread = _range(dialogue)
    a, b = dialogue.numbers("subtraction", spread, spread)
    if a < b and dialogue.chance(0.85):
        a, b = b, a
    ask = dialogue.pick(SUBTRACT, a=a, b=b)
    dialogue.say("subtraction", ask, _answer(dialogue, f"{a} - {b}", a - b), _last(a - b))
    if a >= b and dialogue.chance(0.15) and not dialogue.style.short:
        _chain(dialogue, a - b)


def multiplication(dialogue: Dialogue) -> None:
    """A product: tables up to 12 by heart, two digits times one with the steps."""
    if dialogue.chance(0.5):
        a, b = dialogue.rng.randint(0, 12), dialogue.rng.randint(0, 12)
        answer = _answer(dialogue, f"{a} × {b}", a * b)
    else:
        a, b = dialogue.numbers("multiplication", (13, 99), (2, 9))
        if dialogue.style.short:
            answer = str(a * b)
        elif a % 10 == 0:
            answer = f"{a} × {b} = {a * b}."
        else:
            tens, ones = a // 10 * 10, a % 10
            answer = (
                f"{tens} × {b} = {tens * b} and {ones} × {b} = {ones * b}, "
                f"so {a} × {b} = {tens * b} + {ones * b} = {a * b}."
            )
            if dialogue.chance(0.3):
                ask = dialogue.pick(MULTIPLY, a=b, b=a)
                dialogue.say("multiplication", ask, answer, _last(a * b))
                return
    dialogue.say("multiplication", dialogue.pick(MULTIPLY, a=a, b=b), answer, _last(a * b))


def division(dialogue: Dialogue) -> None:
    """An exact quotient from the tables, and now and then a division by zero."""
    if dialogue.chance(0.06):
        a = dialogue.rng.randint(1, 99)
        answer = f"I cannot divide by zero, so {a} / 0 has no answer."
        dialogue.say("division", dialogue.pick(DIVIDE, a=a, b=0), answer, has("cannot"))
        return
    b, quotient = dialogue.rng.randint(1, 12), dialogue.rng.randint(1, 12)
    a = b * quotient
    ask = dialogue.pick(DIVIDE, a=a, b=b)
    dialogue.say("division", ask, _answer(dialogue, f"{a} / {b}", quotient), _last(quotient))


TOO_BIG = ask("too_big.ask")


def too_big(dialogue: Dialogue) -> None:
    """A product that the model must not pretend to know."""
    a, b = dialogue.rng.randint(1000, 999999), dialogue.rng.randint(101, 99999)
    answer = dialogue.one(
        (
            "That is too big for me: I am a tiny demo model. I am good at sums up to a few "
            "hundred and at the times tables.",
            "Those numbers are too big for a tiny demo model. Try a smaller sum, like 17 + 25.",
        )
    )
    dialogue.say("too_big", dialogue.pick(TOO_BIG, a=a, b=b), answer, has("too big"))


THINGS = Pool(
    "word_problem.thing",
    (
        "apples|books|cards|pencils|cookies|marbles|coins|stamps|shells|flowers|eggs|balls|stars|"
        "buttons|oranges|toys|stickers|cups|keys|hats|pears|nuts|stones|tickets|candles|cakes"
    ).split("|"),
    0.0,
)
GAINS = ask("word_problem.gain")
LOSSES = ask("word_problem.loss")


def word_problem(dialogue: Dialogue) -> None:
    """A little problem in words."""
    known = dialogue.split == "train" and dialogue.chance(0.6)
    name, thing = (
        dialogue.pick(FIRST_NAMES),
        dialogue.pick(THINGS) if known else f"{a_word(dialogue)}s",
    )
    if dialogue.chance(0.5):
        a, b = dialogue.numbers("addition", (1, 50), (1, 50))
        result = a + b
        ask = dialogue.pick(GAINS, n=name, t=thing, a=a, b=b)
        answer = f"{a} + {b} = {result}, so it is {result} {thing}."
    else:
        b, a = sorted(dialogue.numbers("subtraction", (1, 50), (1, 50)))
        result = a - b
        ask = dialogue.pick(LOSSES, n=name, t=thing, a=a, b=b)
        answer = f"{a} - {b} = {result}, so {result} {thing} are left."
    if dialogue.style.short:
        answer = str(result)
    dialogue.say("word_problem", ask, answer, _last(result))


# --- counting ---------------------------------------------------------------------------------

COUNT_TO = ask("counting.to")
COUNT_FROM = ask("counting.from")
COUNT_DOWN = ask("counting.down")
COUNT_STEP = ask("counting.step")
AFTER = ask("counting.after")
BEFORE = ask("counting.before")
GO_ON = ask("counting.go_on")


def counting(dialogue: Dialogue) -> None:
    """Counting up, down, in steps; the next number and the one before."""
    roll = dialogue.rng.random()
    step = 1
    if roll < 0.25:
        start, stop = 1, dialogue.rng.randint(2, 30)
        ask = dialogue.pick(COUNT_TO, b=stop)
    elif roll < 0.45:
        (start,) = dialogue.numbers("counting.from", (0, 480))
        stop = start + dialogue.rng.randint(3, 15)
        ask = dialogue.pick(COUNT_FROM, a=start, b=stop)
    elif roll < 0.65:
        (start,) = dialogue.numbers("counting.down", (3, 120))
        stop, step = max(0, start - dialogue.rng.randint(3, 15)), -1
        ask = dialogue.pick(COUNT_DOWN, a=start, b=stop)
    elif roll < 0.85:
        step = dialogue.rng.choice((2, 2, 3, 4, 5, 5, 10, 10, 20, 25, 50, 100))
        start = dialogue.rng.choice((0, step, dialogue.rng.randint(0, 20)))
        stop = start + step * dialogue.rng.randint(4, 11)
        ask = dialogue.pick(COUNT_STEP, a=start, b=stop, s=step)
    elif roll < 0.93:
        (a,) = dialogue.numbers("counting.after", (0, 998))
        dialogue.say(
            "counting", dialogue.pick(AFTER, a=a), f"After {a} comes {a + 1}.", _last(a + 1)
        )
        return
    else:
        (a,) = dialogue.numbers("counting.before", (1, 999))
        dialogue.say(
            "counting", dialogue.pick(BEFORE, a=a), f"Before {a} comes {a - 1}.", _last(a - 1)
        )
        return
    listed = ", ".join(map(str, range(start, stop + (1 if step > 0 else -1), step)))
    dialogue.say("counting", ask, listed, has(listed))
    if step > 0 and stop < 900 and dialogue.chance(0.12):
        further = stop + step * (5 if step > 1 else dialogue.rng.choice((5, 10)))
        ask = dialogue.pick(GO_ON, b=further)
        if str(further) not in ask:
            further = stop + step * 5
        listed = ", ".join(map(str, range(stop + step, further + 1, step)))
        dialogue.say("counting_go_on", ask, listed, has(listed))


# --- comparing --------------------------------------------------------------------------------

BIGGER = ask("compare.bigger")
IS_BIGGER = ask("compare.is_bigger")
EVEN = ask("compare.even")
SORT = ask("sort.ask")
EXTREME = ask("sort.extreme")


def comparing(dialogue: Dialogue) -> None:
    """Which number is bigger; even or odd."""
    tops = dialogue.rng.choice(((20, 20), (99, 99), (999, 999), (99, 999), (999, 99)))
    a = b = 0
    while a == b:
        a, b = dialogue.numbers("compare", (0, tops[0]), (0, tops[1]))
    roll = dialogue.rng.random()
    if roll < 0.35:
        big, small = max(a, b), min(a, b)
        answer = f"{big} is bigger than {small}."
        dialogue.say("comparing", dialogue.pick(BIGGER, a=a, b=b), answer, has(answer.rstrip(".")))
    elif roll < 0.6:
        answer = f"Yes, {a} is bigger than {b}." if a > b else f"No, {a} is smaller than {b}."
        dialogue.say(
            "comparing", dialogue.pick(IS_BIGGER, a=a, b=b), answer, has("yes" if a > b else "no")
        )
    else:
        word = "odd" if a % 2 else "even"
        dialogue.say(
            "comparing", dialogue.pick(EVEN, a=a), f"{a} is {word}.", has(f"{a} is {word}")
        )


def sorting(dialogue: Dialogue) -> None:
    """A short list of numbers: sorted, its largest, its smallest."""
    top = dialogue.rng.choice((20, 99, 99, 300))
    count = dialogue.rng.randint(3, 6)
    numbers = dialogue.numbers("sort", *[(0, top)] * count)
    listed = ", ".join(map(str, numbers))
    if dialogue.chance(0.6):
        answer = ", ".join(map(str, sorted(numbers)))
        dialogue.say("sorting", dialogue.pick(SORT, list=listed), answer, has(answer))
        return
    which = dialogue.one(("largest", "biggest", "smallest", "highest", "lowest"))
    value = min(numbers) if which in ("smallest", "lowest") else max(numbers)
    answer = f"The {which} number is {value}."
    dialogue.say("sorting", dialogue.pick(EXTREME, which=which, list=listed), answer, _last(value))


WORDS = ask("number_words.ask")
DIGITS = ask("number_words.digits")


def number_words(dialogue: Dialogue) -> None:
    """From digits to words and back."""
    # The words up to twenty have no parts, so they are learnt by heart and not held out.
    if dialogue.split == "train" and dialogue.chance(0.3):
        a = dialogue.rng.choice((*range(21), *range(30, 100, 10)))
    else:
        (a,) = dialogue.numbers("number_words", (21, 999 if dialogue.chance(0.4) else 99))
    word = in_words(a)
    if dialogue.chance(0.6):
        answer = f"{a} is {word}." if not dialogue.style.short else word
        dialogue.say("number_words", dialogue.pick(WORDS, a=a), answer, has(word))
    else:
        answer = f"{word[0].upper()}{word[1:]} is {a}." if not dialogue.style.short else str(a)
        dialogue.say("number_words", dialogue.pick(DIGITS, w=word), answer, _last(a))


KINDS: dict[Kind, float] = {
    addition: 5.0,
    subtraction: 3.0,
    multiplication: 2.5,
    division: 0.8,
    word_problem: 2.0,
    too_big: 0.3,
    counting: 2.0,
    comparing: 0.8,
    sorting: 1.4,
    number_words: 0.8,
}
