"""Many wordings from few: alternatives in brackets, short names for common beginnings, slips.

``<what> [the capital|the capital city] of {c}`` stands for "What is the capital of {c}?", "Tell me
the capital city of {c}." and two dozen more.
"""

from __future__ import annotations

import itertools
import random
import re

SHORTHANDS = {
    "<what>": "[What is|What's|Tell me|Name|Say|Do you know|Can you tell me|Could you tell me|"
    "Please tell me|I want to know|I would like to know|Please say]",
    "<give>": "[Give me|Show me|Write|Make|Create|I need|I want|I'd like|Can you give me|"
    "Could you give me|Can you write|Could you make|Please give me|Please write|Please make|"
    "Can you show me|Would you write]",
    "<do>": "[|Please |Can you |Could you |Would you |I want you to |I'd like you to |Will you |"
    "Kindly |Now |Can you please |I need you to |I would like you to ]",
    "<how>": "[How do I|How can I|How to|How should I|How would I|How could I|What do I do to|"
    "What must I do to|I want to|I would like to|Tell me how to|Show me how to|Explain how to|"
    "Is there a way to|What is the way to|Is it possible to|I need to|Can you tell me how to]",
    "<know>": "[Do you know|Do you remember|Can you tell me|Tell me|Say|Do you still know|"
    "Can you remember|Please tell me|Do you still remember|Could you tell me|I forgot]",
    "<about>": "[Tell me about|What do you know about|Explain|What is|What's|Describe|"
    "Tell me something about|Can you explain|Please explain|Could you explain|"
    "What can you tell me about|Can you tell me about|What does one mean by]",
}
_QUESTION = re.compile(
    r"(?:what|which|who|whose|where|when|how|why|is|are|am|do|does|did|can|could|would|will|may|"
    r"in which|on which|at what|of which|by whom|with which|what's|has|have|whats)\b",
    re.IGNORECASE,
)
LIMIT = 300


def split_outside(text: str) -> list[str]:
    """Split at ``|`` where it is not inside brackets."""
    parts, depth, start = [], 0, 0
    for index, char in enumerate(text):
        depth += (char == "[") - (char == "]")
        if char == "|" and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    parts.append(text[start:])
    return [part.strip(" \n") for part in parts]


def expand(template: str, *, sentence: bool = True) -> list[str]:
    """All wordings of one template; a sentence gets its capital and its full stop."""
    for short, long in SHORTHANDS.items():
        template = template.replace(short, long)
    if "[" not in template:
        return [template]
    pieces = re.split(r"\[([^\[\]]*)\]", template)
    choices = [piece.split("|") if index % 2 else [piece] for index, piece in enumerate(pieces)]
    texts = ["".join(parts) for parts in itertools.product(*choices)]
    return [finish(text) for text in texts] if sentence else texts


def finish(text: str) -> str:
    """One space between words, a capital, and a full stop or question mark."""
    text = re.sub(r"\s+", " ", text).strip()
    text = text[:1].upper() + text[1:]
    if text[-1] in ".?!:}\"'" and not text.endswith("}"):
        return text
    return text + ("?" if _QUESTION.match(text) else ".")


# --- slips and rewordings, for training only ----------------------------------------------------

_SMALL = frozenset("the a an is are of to me do does please you can in it for some".split())
_SYNONYMS = {
    "tell": ("give", "say", "show"), "give": ("show", "tell", "write"),
    "show": ("give", "write"), "write": ("make", "give", "create"), "make": ("write", "create"),
    "create": ("make", "write"), "say": ("tell", "name"), "name": ("tell", "list"),
    "calculate": ("compute", "work out"), "little": ("short", "small"), "short": ("little",),
    "want": ("would like", "need"), "need": ("want", "would like"), "answer": ("reply",),
    "reply": ("answer", "response"), "called": ("named",), "which": ("what",), "what": ("which",),
    "know": ("remember",), "big": ("large",), "find": ("get",), "use": ("work with",),
    "get": ("have", "obtain"), "load": ("open", "start"), "start": ("begin",),
    "explain": ("describe",), "turn": ("change",), "put": ("bring",), "model": ("LLM",),
}  # fmt: skip
_REWORDED = (
    (re.compile(r"^What(?: is|'s) (.*)\?$"), (
        "{0}?", "Tell me {0}.", "Do you know {0}?", "Can you tell me {0}?", "I want to know {0}.",
        "What might be {0}?", "{0}, please", "Just tell me {0}.", "So what is {0}?",
        "I wonder what {0} is.", "Do you know what {0} is?", "Can you say what {0} is?")),
    (re.compile(r"^How do I (.*)\?$"), (
        "How can I {0}?", "How to {0}?", "Show me how to {0}.", "I want to {0}.", "{0}: how?",
        "What do I do to {0}?", "Is there a way to {0}?", "Tell me how to {0}, please.",
        "How does one {0}?", "I would like to {0}. How?", "Can you show me how to {0}?",
        "Explain to me how to {0}.", "I don't know how to {0}.")),
    (re.compile(
        r"^(?:Please )?((?:Write|Give|Tell|Make|Show|List|Name|Sort|Count|Spell|Reverse|Say|Repeat|"
        r"Add|Subtract|Multiply|Divide|Compute|Calculate|Translate|Turn|Put|Create|Return|Find|"
        r"Explain|Describe|Convert)\b.*)[.!]$"), (
        "Please {0}.", "Can you {0}?", "Could you {0}?", "I want you to {0}.", "Would you {0}?",
        "Could you please {0}?", "Can you please {0}?", "{0}!", "I'd like you to {0}.",
        "Now {0}.", "Will you {0}?", "{0} for me.", "Try to {0}.")),
    (re.compile(r"^((?:Who|Where|Which|When|How many|How much|How old|How long|Why)\b.*)\?$"), (
        "Tell me: {0}?", "Do you know: {0}?", "My question is: {0}?", "I wonder: {0}?",
        "{0}, do you know?", "{0}, please?", "And tell me, {0}?", "{0}, can you tell me?")),
)  # fmt: skip


def _lower(text: str) -> str:
    """Without its first capital, unless that belongs to a word of its own."""
    keep = text[:2] in ("I ", "I'") or text[:1] == "{" or text[:2].isupper()
    return text if keep else text[:1].lower() + text[1:]


def reword(rng: random.Random, template: str) -> str:
    """Another wording of a template; its ``{fields}`` stay as they are."""
    if rng.random() < 0.5:
        for pattern, others in _REWORDED:
            match = pattern.match(template)
            if match:
                # Doubled braces would be read as a field; there are none in templates.
                other = others[int(rng.random() * len(others))]
                return finish(other.replace("{0}", _lower(match[1])))
    words = template.split(" ")
    for _ in range(1 + (rng.random() < 0.3)):
        index = int(rng.random() * len(words))
        bare = words[index].strip(".,?!:").lower()
        if "{" in words[index] or not bare:
            continue
        if bare in _SYNONYMS and rng.random() < 0.7:
            other = rng.choice(_SYNONYMS[bare])
            if words[index][:1].isupper():
                other = other[:1].upper() + other[1:]
            words[index] = re.sub(re.escape(bare), other, words[index], flags=re.IGNORECASE)
        elif bare in _SMALL and len(words) > 3:
            words[index] = ""
        elif len(bare) > 3 and rng.random() < 0.35:
            at = 1 + int(rng.random() * (len(bare) - 2))
            word = words[index]
            slip = int(rng.random() * 3)
            if slip == 0:
                words[index] = word[:at] + word[at + 1 :]
            elif slip == 1:
                words[index] = word[:at] + word[at + 1 : at + 2] + word[at] + word[at + 2 :]
            else:
                words[index] = word[: at + 1] + word[at:]
    return " ".join(word for word in words if word)


_BEFORE = (
    "By the way: ", "One question: ", "I have a question. ", "Let me ask: ", "Tell me: ", "Well: ",
    "Next: ", "Another thing: ", "Thanks. ", "Good. ", "Nice! ", "Great, now ", "All right. ",
    "OK, now ", "Oh, ", "And ", "Also: ", "Then ", "Hello! ", "Hi! ", "Hey! ", "Dear model, ",
    "Hello, ", "Quick question: ", "I see. ", "Aha. ", "Cool. ", "Sorry, ", "Excuse me, ",
)  # fmt: skip
_AFTER = (
    " I am curious.", " It is for my homework.", " I forgot.", " Quickly!", " Thank you!", " Go!",
    " I'd like to know.", " Just asking.", " Can you do that?", " That would be nice.", " :-)",
    " Tell me.", " I need it.", " It's important.", " Be quick.", " If you can.", " ok?", " thx",
)  # fmt: skip


def framed(rng: random.Random, text: str) -> str:
    """A question with some talk before or after it."""
    if rng.random() < 0.6:
        return rng.choice(_BEFORE) + _lower(text)
    return text + rng.choice(_AFTER)
