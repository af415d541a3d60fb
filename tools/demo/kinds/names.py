"""Names, words and places that the kinds share; made-up names teach copying letter by letter."""

from __future__ import annotations

import random

from tools.demo.dialogue import Dialogue, Pool

FIRST_NAMES = Pool(
    "name",
    (
        "Ada Alan Alice Amir Amy Ana Andrea Anna Anton Arthur Aya Ben Bella Bob Boris Bruno Carl "
        "Carla Carlos Carmen Charlie Chen Chloe Clara Claire Daniel Daisy David Diana Diego Dora "
        "Ed Elena Eli Elif Ella Emil Emily Emma Eric Erik Eva Farid Fatima Felix Fiona Flora Frank "
        "Frida Gabriel George Gina Grace Greta Gus Hannah Harry Hassan Heidi Helen Henry Hugo "
        "Ian Ida Igor Ines Ingrid Iris Isaac Isabel Ivan Jack Jakob James Jan Jane Jasmin Jim Joe "
        "John Jose Julia Julian Karim Karl Kate Kenji Kim Kofi Lara Laura Lea Lena Leo "
        "Leon Lila Lily Lina Linus Lisa Liz Louis Lucas Lucy Luis Luna Maya Mara Marco Maria "
        "Marie Mark Martha Martin Mary Mateo Max Mei Mia Mike Mila Milo Mina Miriam Mohammed Mona "
        "Nadia Naomi Nina Noah Noor Olga Oliver Olivia Omar Oscar Otto Pablo Paul Paula Pedro "
        "Petra Philip Pia Priya Ravi Rita Robert Robin Rosa Rose Ruth Samuel "
        "Sana Sarah Sasha Simon Sonia Stella Sven Theo Thomas Tim Tina Tom Toni "
        "Uma Vera Victor Viola Wei Wendy Xenia Yara Yuki Yusuf Zara Zoe Grace Linda "
        "Dennis Barbara Margaret Donald Edsger Katherine Rachel Rebecca Kevin Justin "
        "Jessica Michael Jennifer Matthew Joshua Andrew Joseph Christopher Elizabeth Nicholas"
    ).split(),
    0.05,
)
_ONSETS = (
    "b c d f g h j k l m n p r s t v w z br ch cl dr fl gr kl kr pl sh st th tr y x qu bl gl pr "
    "sk sm sn sp sw tw wh str"
).split()
_ONSETS.append("")
_VOWELS = "a e i o u a e i o ai ea ia io ou".split()
_CODAS = (
    "n r l s m t d k x ra na lo ri th nn ck nd rn st rt p g ng ble tle mer ster low ght dy ly"
).split()
_CODAS += [""] * 10


def made_up(rng: random.Random) -> str:
    """A pronounceable lower-case word that is in no list."""
    while True:
        syllables = rng.choice((1, 2, 2, 2, 3))
        parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(syllables)]
        word = "".join(parts) + rng.choice(_CODAS)
        if word not in _KEPT:
            return word


def a_name(dialogue: Dialogue, made_up_share: float = 0.25) -> str:
    """A first name; in training some are made up."""
    if dialogue.split == "train" and dialogue.chance(made_up_share):
        return made_up(dialogue.rng).capitalize()
    return dialogue.pick(FIRST_NAMES)


CITIES = Pool(
    "city",
    (
        "Paris London Berlin Rome Madrid Vienna Lisbon Dublin Oslo Athens Cairo Tokyo Delhi "
        "Chicago Toronto Sydney Lima Quito Nairobi Accra Lagos Dakar Milan Munich Zurich "
        "Geneva Hamburg Lyon Porto Seville Krakow Prague Budapest Helsinki Stockholm Copenhagen "
        "Brussels Amsterdam Rotterdam Glasgow Leeds Bristol Oxford Cambridge Seattle Denver Austin "
        "Dallas Atlanta Montreal Vancouver Mumbai Kyoto Osaka Seoul Beijing Shanghai Hanoi"
    ).split(),
    0.11,
)

ARTICLE_AN = ("a", "e", "i", "o", "u")


def a_or_an(word: str) -> str:
    """The word with its indefinite article."""
    return f"{'an' if word.startswith(ARTICLE_AN) else 'a'} {word}"


# kind of thing → some of its members, for lists, tables and JSON
GROUPS: dict[str, tuple[str, ...]] = {
    "fruits": tuple("apple banana orange pear cherry grape lemon mango peach plum melon".split()),
    "vegetables": tuple("carrot potato tomato onion pea bean cabbage pumpkin leek".split()),
    "animals": tuple("cat dog horse cow lion tiger bear fox rabbit mouse owl whale".split()),
    "colours": tuple("red blue green yellow orange purple black white pink brown".split()),
    "countries": tuple("France Spain Italy Japan Brazil Kenya Canada India Norway Egypt".split()),
    "cities": tuple("Paris London Rome Tokyo Berlin Madrid Cairo Sydney Lima Oslo".split()),
    "birds": tuple("owl eagle robin swan duck crow sparrow parrot penguin".split()),
    "planets": tuple("Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune".split()),
    "instruments": tuple("piano violin guitar flute drum trumpet harp cello".split()),
    "sports": tuple("football tennis basketball swimming running cycling hockey".split()),
    "drinks": tuple("water tea coffee milk juice lemonade cocoa".split()),
    "languages": tuple("English French Spanish German Italian Japanese Arabic Hindi".split()),
    "programming languages": tuple("Python Rust C Java JavaScript Go Julia Haskell".split()),
    "trees": tuple("oak pine birch maple beech willow fir".split()),
    "flowers": tuple("rose tulip daisy lily sunflower violet orchid".split()),
    "jobs": tuple("teacher doctor nurse baker farmer pilot cook painter builder".split()),
    "shapes": tuple("circle square triangle rectangle star heart oval".split()),
    "metals": tuple("iron gold silver copper tin zinc lead".split()),
    "insects": tuple("ant bee fly butterfly beetle wasp moth".split()),
    "tools": tuple("hammer saw drill screwdriver pliers wrench".split()),
    "clothes": tuple("shirt hat coat sock shoe dress scarf glove".split()),
    "vehicles": tuple("car bus train bicycle boat plane truck tram".split()),
    "months": tuple("January February March April May June July".split()),
    "seasons": ("spring", "summer", "autumn", "winter"),
}

EVERYDAY = (
    "apple banana orange lemon cherry bread butter cheese water coffee house garden window kitchen "
    "table chair bottle spoon sun moon star cloud rain snow wind storm river ocean island mountain "
    "forest desert tree flower leaf grass stone sand fire paper pencil book letter story music "
    "piano guitar dance song game ball train plane ship bicycle car road bridge city village "
    "school teacher friend family mother father sister brother child happy green yellow purple "
    "silver golden summer winter spring autumn morning evening night today python kernel model "
    "token widget notebook jupyter browser engine memory number castle dragon lantern candle "
    "mirror magic secret treasure pirate captain doctor baker farmer king queen prince planet "
    "rocket robot circle square triangle puzzle pocket button jacket basket blanket open closed "
    "new old large small fast slow warm cold round north south east west tea milk lamp key map "
    "hat boat bell ring coin feather shell kite umbrella rope crown drum seed scarf box ladder "
    "sword compass wizard knight giant ghost princess fisherman painter gardener musician snowman "
    "teapot detective mermaid unicorn clockmaker astronaut cook nurse pilot builder student singer"
).split()
COMMON = (
    "year month week day hour minute time name age city country colour color size height width "
    "length weight price total amount count number brand kind type title topic genre role level "
    "label status team mood rank score stock seat page pages floor point id key value item list "
    "text word line code file data table user admin email phone address street code type class "
    "ready open done active public valid member paid drink food fruit meal bread sugar salt rice "
    "soup cake meat egg pepper onion garlic horse turtle pony hen calf deer bee bug worm crab "
    "shark seal lamb kitten puppy pet nest wing tail fur eye ear nose mouth hand foot arm leg hair "
    "head heart face body bone skin blood man woman boy girl baby uncle aunt cousin guest lawyer "
    "plumber dentist judge soldier sailor writer actor dancer tailor waiter clerk chef coach "
    "house room door wall roof floor bed sofa desk shelf lamp clock phone radio screen plate cup "
    "glass fork knife pan pot oven soap towel brush comb mountain hill lake beach wave cliff field "
    "path corner square market shop store bank office church temple museum library station harbour "
    "airport hotel park zoo farm barn well tower gate fence light dark sound noise smell taste "
    "idea dream plan wish hope fear joy love anger peace war luck truth lie game sport race prize "
    "team goal card dice toy doll kite drum horn bell song dance film play poem tale joke riddle "
    "quick quiet loud soft hard sharp heavy light strong weak thick thin deep high low near far "
    "early late young rich poor brave clever kind cruel lazy busy angry happy sad proud shy "
    "big small tiny huge long short wide narrow full empty clean dirty wet dry good bad best "
    "walk run jump swim climb fly ride drive push pull carry throw catch build break open close "
    "begin end learn teach read write draw paint sing cook bake eat drink sleep wake laugh cry "
    "smile speak talk listen look watch see hear think know forget remember find lose give take"
).split()
WORDS = tuple(dict.fromkeys([*EVERYDAY, *COMMON, *(w for group in GROUPS.values() for w in group)]))
"""Words that training may spell, repeat, put into JSON or into a story."""

# Words for evaluation alone. They are several tokens each: how a word is spelled that is a token of
# its own can only be learnt by heart.
UNSEEN = tuple(
    "marmot goblin walnut cobweb thimble pebble bramble ferret saffron mustard "
    "meteor nettle orchard parsnip quarry sparkle turnip urchin velvet whistle "
    "yonder zephyr acorn bonfire crater dandelion fjord glacier harvest igloo jigsaw "
    "lobster magnet oyster ripple tunnel vulture yogurt zipper badger".split()
)


def a_word(dialogue: Dialogue) -> str:
    """A lower-case word; in training also made-up ones, and halves of two words put together."""
    if dialogue.split == "test":
        return dialogue.one(UNSEEN)
    roll = dialogue.rng.random()
    if roll < 0.5:
        return dialogue.one(WORDS).lower()
    if roll < 0.75:
        return made_up(dialogue.rng)
    first, second = dialogue.one(WORDS).lower(), dialogue.one(WORDS).lower()
    word = first[: dialogue.rng.randint(1, 4)] + second[-dialogue.rng.randint(2, 5) :]
    return word if word.isalpha() and word not in UNSEEN else made_up(dialogue.rng)


_KEPT = frozenset(
    [*(name.lower() for name in (*FIRST_NAMES.test, *CITIES.test)), *UNSEEN],
)
