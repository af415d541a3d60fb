"""Little stories from given words, questions about them, poems, jokes and riddles."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tools.demo.dialogue import Dialogue, Kind, Pool, ask, has, has_any
from tools.demo.kinds.facts import capital_first
from tools.demo.kinds.names import a_name, a_or_an, a_word

HEROES = Pool(
    "story.hero",
    (
        "fox|cat|dog|bear|owl|rabbit|mouse|horse|lion|tiger|whale|duck|frog|hedgehog|squirrel|"
        "robot|dragon|princess|pirate|king|queen|wizard|knight|astronaut|baker|painter|fisherman|"
        "gardener|girl|boy|snail|bee|elephant|penguin|turtle|wolf|crow|cloud|star|snowman|train|"
        "teapot|tree|goat|donkey|sheep|ghost|giant|parrot|spider|ant|butterfly|monkey|goose|"
        "kangaroo|unicorn|mermaid|captain|doctor|farmer|clockmaker|musician|detective|camel|bat"
    ).split("|"),
    0.0,
)
THINGS = Pool(
    "story.thing",
    (
        "lantern|key|map|hat|boat|bell|book|mirror|ring|coin|feather|shell|kite|umbrella|violin|"
        "letter|candle|basket|apple|stone|clock|blanket|flute|rope|bottle|crown|telescope|cake|"
        "drum|seed|scarf|box|pencil|ladder|teapot|star|button|bicycle|puzzle|cookie|sword|compass"
    ).split("|"),
    0.0,
)
PLACES = Pool(
    "story.place",
    (
        "forest|castle|village|island|garden|mountain|lighthouse|harbour|desert|library|meadow|"
        "cave|city|river|valley|market|farm|mill|tower|beach|swamp|school|station|moon|jungle"
    ).split("|"),
    0.0,
)
TRAITS = Pool(
    "story.trait",
    (
        "little|brave|curious|clever|shy|old|young|kind|lonely|cheerful|sleepy|tiny|gentle|lazy"
    ).split("|"),
    0.0,
)
TELL = ask("story.ask")
TELL_ANY = ask("story.any")
ANOTHER = ask("story.another")
ASK_NAME = ask("story.name")
ASK_THING = ask("story.found")
ASK_PLACE = ask("story.where")
MORAL = ask("story.moral")
NEAR = {
    "forest": "in a quiet forest", "castle": "in an old castle", "village": "in a small village",
    "island": "on a green island", "garden": "in a wide garden", "mountain": "on a high mountain",
    "lighthouse": "in a white lighthouse", "harbour": "by a busy harbour",
    "desert": "in a warm desert", "library": "in a large library", "meadow": "in a sunny meadow",
    "cave": "in a deep cave", "city": "in a bright city", "river": "by a slow river",
    "valley": "in a green valley", "market": "near a noisy market", "farm": "on a small farm",
    "mill": "in an old mill", "tower": "in a tall tower", "beach": "on a sandy beach",
    "swamp": "in a misty swamp", "school": "next to a school", "station": "near a small station",
    "moon": "on the moon", "jungle": "in a thick jungle",
}  # fmt: skip


@dataclass(frozen=True)
class Story:
    """A story and what can be asked about it."""

    text: str
    hero: str
    name: str
    thing: str
    place: str
    moral: str


_WISHES = (
    ("wanted to see the world", "But {n} had never left home before."),
    ("dreamed of a true friend", "But nobody ever came by."),
    ("could not fall asleep", "The night was long and very quiet."),
    ("loved to sing", "But {n} was afraid that others would laugh."),
    ("was always in a hurry", "{n} never stopped to look around."),
    ("wanted to know everything", "{n} asked questions all day long."),
    ("had lost the way home", "It was getting dark and cold."),
    ("was waiting for the spring", "The winter did not want to end."),
)
_FOUND = (
    "One morning {n} found {t} under a tree.",
    "One day {n} found {t} beside the road.",
    "One evening {n} found {t} in the tall grass.",
    "Then, one rainy day, {n} found {t} behind a stone.",
    "Early one day {n} found {t} in the sand.",
)
_LOOK = (
    "It was dusty, but it shone a little in the light.",
    "It looked as if somebody had lost it.",
    "It was the most beautiful thing {n} had ever seen.",
    '"Whose is this?" {n} wondered.',
    '"How strange," said {n}, and looked at it for a long time.',
)
_MEET = (
    ("an old owl", "owl"), ("a friendly mouse", "mouse"), ("a wise turtle", "turtle"),
    ("a tired traveller", "traveller"), ("a little bird", "bird"), ("a grumpy goat", "goat"),
)  # fmt: skip
_MIDDLE = (
    (
        '"That is mine," said the {m}. "I looked for it everywhere." {n} gave it back at once.',
        "The {m} was so glad that it stayed, and the two became friends.",
        "Kindness makes friends.",
    ),
    (
        '"Follow me," said the {m}, "and I will show you where it belongs." They walked all day.',
        "When they arrived, the whole {pl} was waiting with a feast.",
        "The best way is the one you walk together.",
    ),
    (
        '"I am too weak to carry it," said the {m}. So {n} helped, although the way was steep.',
        "In the evening they sat by a fire and shared a warm soup.",
        "Those who help are never alone.",
    ),
    (
        '"Be careful," said the {m}, "it brings luck only to the brave." {n} took a deep breath.',
        "From that day on {n} was not afraid any more.",
        "Courage grows with every step.",
    ),
    (
        '"Share it," said the {m}, "and it will become two." {n} was puzzled, but shared it.',
        "And indeed: soon everybody in the {pl} had something to be happy about.",
        "Joy grows when it is shared.",
    ),
    (
        '"Wait," said the {m}, "and listen." {n} sat down and listened to the wind.',
        "For the first time {n} noticed how beautiful the {pl} was.",
        "Take your time: good things are close by.",
    ),
)
_ENDS = (
    "And if you pass the {pl} today, you may still hear {n} laugh.",
    "That night {n} slept better than ever before.",
    "{n} kept the {t} forever.",
    "And so they lived happily ever after.",
    "Everyone still tells this story today.",
)


def make_story(
    rng: random.Random, hero: str, thing: str, place: str, trait: str, name: str
) -> Story:
    """A story of eight or so sentences."""
    wish, trouble = rng.choice(_WISHES)
    meet, short = rng.choice([pair for pair in _MEET if pair[1] != hero])
    middle, after, moral = rng.choice(_MIDDLE)
    fields = {"n": name, "t": a_or_an(thing), "m": short, "pl": place}
    start = rng.choice(("Once upon a time", "Long ago", "Once", "Many years ago"))
    first = f"{start}, {NEAR[place]}, there lived {a_or_an(f'{trait} {hero}')} called {name}."
    parts = [
        first,
        f"{name} {wish}. " + trouble.format(**fields),
        rng.choice(_FOUND).format(**fields),
        rng.choice(_LOOK).format(**fields),
    ]
    body = [
        f"On the way home {name} met {meet}.",
        middle.format(**fields),
        after.format(**fields),
    ]
    end = rng.choice(_ENDS).format(**{**fields, "t": thing})
    text = " ".join(parts) + "\n\n" + " ".join(body) + "\n\n" + end
    return Story(text, hero, name, thing, place, moral)


def stories(dialogue: Dialogue) -> None:
    """A story with what the user wants in it, and questions about it."""
    known = dialogue.split == "train"
    hero = dialogue.pick(HEROES) if known and dialogue.chance(0.55) else a_word(dialogue)
    thing = dialogue.pick(THINGS) if known and dialogue.chance(0.7) else a_word(dialogue)
    place = dialogue.pick(PLACES)
    trait, name = dialogue.pick(TRAITS), a_name(dialogue, 0.1)
    wanted: tuple[str, ...]
    roll = dialogue.rng.random()
    if roll < 0.12:
        question, wanted = dialogue.pick(TELL_ANY), ("there lived",)
    else:
        told = a_or_an(hero)
        if roll < 0.55:
            wanted = (hero,)
        elif roll < 0.7:
            told, wanted = f"{told} and {a_or_an(thing)}", (hero, thing)
        elif roll < 0.8:
            told = f"{told} in {a_or_an(place)}" if place != "moon" else f"{told} on the moon"
            wanted = (hero, place)
        elif roll < 0.9:
            told, wanted = f"{told} called {name}", (hero, name)
        else:
            told, wanted = a_or_an(f"{trait} {hero}"), (f"{trait} {hero}",)
        question = dialogue.pick(TELL, h=told)
    story = make_story(dialogue.rng, hero, thing, place, trait, name)
    dialogue.say("stories", question, story.text, has(*wanted))
    while dialogue.chance(0.3):
        _about(dialogue, story)
    if dialogue.chance(0.12):
        story = make_story(
            dialogue.rng, dialogue.pick(HEROES), dialogue.pick(THINGS), dialogue.pick(PLACES),
            dialogue.pick(TRAITS), a_name(dialogue, 0.1),
        )  # fmt: skip
        started = has_any("there lived", "lived")
        dialogue.say("stories", dialogue.pick(ANOTHER), story.text, started)


def _about(dialogue: Dialogue, story: Story) -> None:
    which = dialogue.rng.randrange(4)
    if which == 0:
        question = dialogue.pick(ASK_NAME, h=story.hero)
        answer, check = f"The {story.hero} was called {story.name}.", has(story.name)
    elif which == 1:
        question = dialogue.pick(ASK_THING, h=story.hero, n=story.name)
        answer, check = f"{story.name} found {a_or_an(story.thing)}.", has(story.thing)
    elif which == 2:
        question = dialogue.pick(ASK_PLACE, h=story.hero, n=story.name)
        answer, check = f"{story.name} lived {NEAR[story.place]}.", has(story.place)
    else:
        question = dialogue.pick(MORAL)
        answer, check = story.moral, has(story.moral.split(":")[0].rstrip("."))
    dialogue.say("story_questions", question, answer, check)


# --- poems, jokes, riddles --------------------------------------------------------------------

POEM = ask("poem.ask")
TOPICS = Pool(
    "poem.topic",
    (
        "the sea|the moon|the rain|spring|autumn|winter|a cat|a dog|the stars|a tree|the wind|"
        "coffee|music|a river|snow|the night|a bird|friendship|a garden|the sun|a train|books|"
        "computers|a robot|love|a mouse|the morning|home|a flower|a notebook"
    ).split("|"),
)
_COUPLETS = (
    ("I looked for you by day and night,", "and found you in the evening light."),
    ("The road was long, the hill was steep,", "the little stars had gone to sleep."),
    ("I write it down on paper white,", "then fold it small and hold it tight."),
    ("A gentle song, a quiet tune,", "that rises softly to the moon."),
    ("The clock goes on, the kettle sings,", "and morning comes on silver wings."),
    ("So sit with me a little while,", "and lend the world a little smile."),
    ("The door is open, come inside,", "there is no need to run and hide."),
    ("And when the day is nearly done,", "we think of you, and of the sun."),
    ("I count to ten, I count to three,", "and every number smiles at me."),
)


def poems(dialogue: Dialogue) -> None:
    """Four to six lines that rhyme."""
    topic = dialogue.pick(TOPICS) if dialogue.chance(0.5) else a_or_an(a_word(dialogue))
    picked = dialogue.rng.sample(_COUPLETS, dialogue.rng.choice((2, 2, 3)))
    opening = dialogue.one((f"Oh {topic}, how I think of you,", f"I sing of {topic}, old and new,"))
    second = dialogue.one(("of skies above, so wide and blue.", "and all I say of it is true."))
    lines = [opening, second, *(line for pair in picked for line in pair)]
    dialogue.say("poems", dialogue.pick(POEM, x=topic), "  \n".join(lines), has(topic))


JOKES = (
    "Why did the kernel cross the road? To get to the other thread.",
    "Why do programmers prefer dark mode? Because light attracts bugs.",
    "What do you call a fish without eyes? A fsh.",
    "Why was the maths book sad? It had too many problems.",
    "What do you call a bear with no teeth? A gummy bear.",
    "Why did the computer go to the doctor? It had a virus.",
    "What is orange and sounds like a parrot? A carrot.",
    "Why can't a bicycle stand on its own? It is two tired.",
    "What did zero say to eight? Nice belt!",
    "Why did the notebook feel lonely? All its cells were empty.",
    "How does the ocean say hello? It waves.",
    "Why did the cookie cry? Because its mother was a wafer so long.",
    "What do you call a sleeping dinosaur? A dino-snore.",
    "There are 10 kinds of people: those who understand binary and those who don't.",
)
JOKE = ask("joke.ask")
MORE_JOKES = ask("joke.more")


def jokes(dialogue: Dialogue) -> None:
    """One joke or several different ones."""
    order = dialogue.rng.sample(JOKES, 3)
    dialogue.say("jokes", dialogue.pick(JOKE), order[0], has_any(*JOKES))
    for joke in order[1:]:
        if not dialogue.chance(0.3):
            return
        dialogue.say("jokes", dialogue.pick(MORE_JOKES), joke, has_any(*JOKES))


RIDDLES = (
    ("What has hands but cannot clap?", "a clock"),
    ("What gets wetter the more it dries?", "a towel"),
    ("What has a neck but no head?", "a bottle"),
    ("What has keys but opens no doors?", "a piano"),
    ("What goes up but never comes down?", "your age"),
    ("What has many teeth but cannot bite?", "a comb"),
    ("What can you catch but not throw?", "a cold"),
    ("What has one eye but cannot see?", "a needle"),
    ("What is full of holes but still holds water?", "a sponge"),
    ("What has cells but is not alive?", "a notebook"),
)
RIDDLE = ask("riddle.ask")
GIVE_UP = ask("riddle.give_up")


def riddles(dialogue: Dialogue) -> None:
    """A riddle, and its answer guessed or given up."""
    question, solution = dialogue.rng.choice(RIDDLES)
    all_riddles = has_any(*(riddle for riddle, _ in RIDDLES))
    dialogue.say("riddles", dialogue.pick(RIDDLE), question, all_riddles)
    roll = dialogue.rng.random()
    if roll < 0.45:
        answer = f"It is {solution}!"
        dialogue.say("riddles", dialogue.pick(GIVE_UP), answer, has(solution))
    elif roll < 0.7:
        guess = dialogue.one(
            (f"{capital_first(solution)}?", f"Is it {solution}?", f"It is {solution}.")
        )
        dialogue.say("riddles", guess, f"Yes, it is {solution}. Well done!", has("yes", solution))
    elif roll < 0.9:
        wrong = dialogue.rng.choice([other for _, other in RIDDLES if other != solution])
        guess = dialogue.one((f"{capital_first(wrong)}?", f"Is it {wrong}?"))
        dialogue.say("riddles", guess, "No, not quite. Try again!", has("no"))
        if dialogue.chance(0.6):
            dialogue.say("riddles", dialogue.pick(GIVE_UP), f"It is {solution}!", has(solution))


KINDS: dict[Kind, float] = {
    stories: 3.0,
    poems: 0.8,
    jokes: 0.9,
    riddles: 0.7,
}
