"""What the stand-in says: sentences drawn by the seed, JSON where a schema asks for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    " A língua é um rio; çà et là, naïve façades.",
    " Zwölf Boxkämpfer jagen Viktor über den Sylter Deich.",
    " 你好，世界。",
    " Emoji: 😀🚀👩‍👩‍👧.",
    " Numbers: 1, 2, 3, 4, 5, 6, 7, 8, 9, 10.",
    "\n\n```python\nprint('hello')\n```\n",
)


def number(*parts: object) -> int:
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=6).digest()
    return int.from_bytes(digest)


def tokens(tokenizer: Any, prompt: Sequence[int], config: Any, seed: int) -> Iterator[int]:
    """Token after token without end, now and then one that ends a text."""
    greedy = (config.temperature or 0) < 1e-5 or (config.top_p or 1) < 1e-3
    key = (0 if greedy else seed, config.frequency_penalty or 0, config.presence_penalty or 0)
    stop_ids = config.stop_token_ids or ()
    for i in range(10**9):
        draw = number(tuple(prompt), key, i)
        text = f"{draw % 9973}. {SENTENCES[draw % len(SENTENCES)]}"
        yield from tokenizer.encode(text, add_special_tokens=False).ids
        ignore_eos = config.debug_config is not None and config.debug_config.ignore_eos
        # Where the end is to be ignored, its token is one like others, with a text.
        may_end = i > 8 if ignore_eos else bool(stop_ids)
        if may_end and draw // 7 % 3 == 0:
            yield stop_ids[0] if stop_ids else tokenizer.token_to_id("<|im_end|>")


def biased(token: int, bias: dict[int, float] | None, size: int) -> int:
    """The token, unless the bias favours another or bans it."""
    if not bias:
        return token
    favoured = max(bias, key=lambda i: bias[i])
    if bias[favoured] >= 50:
        return favoured
    while bias.get(token, 0) <= -50:
        token = (token + 1) % size
    return token


def instance(schema: Any, root: Any, seed: int = 0) -> Any:
    """A value that a schema describes; raises where it does not understand the schema."""
    if schema is True or schema == {}:
        return None
    if "$ref" in schema:
        _, section, name = schema["$ref"].split("/")
        return instance(root[section][name], root, seed)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][seed % len(schema["enum"])]
    for name in ("anyOf", "oneOf"):
        if name in schema:
            made = instance(schema[name][-1], root, seed)
            # It does not hold to numbers there.
            return made + 1 if name == "oneOf" and isinstance(made, int | float) else made
    kind = schema["type"][0] if isinstance(schema["type"], list) else schema["type"]
    if kind == "object":
        return {k: instance(v, root, seed) for k, v in schema.get("properties", {}).items()}
    if kind == "array":
        items = schema.get("items", True)
        return [instance(items, root, seed) for _ in range(max(schema.get("minItems", 1), 1))]
    simple = {"string": "é text", "number": 1.5, "integer": 7, "boolean": True, "null": None}
    return simple[kind]


def check(schema: Any, root: Any, within: tuple[str, ...]) -> None:
    """Raise for what mlc_llm's grammar compiler dies of, though it is right."""
    if isinstance(schema, list):
        for one in schema:
            check(one, root, within)
    if not isinstance(schema, dict):
        return
    if isinstance(schema.get("type"), list):
        raise ValueError("several types")
    reference = schema.get("$ref")
    if isinstance(reference, str):
        if reference in within:
            raise RecursionError(reference)
        _, section, name = reference.split("/")
        check(root[section][name], root, (*within, reference))
    for name, value in schema.items():
        if name not in ("const", "enum"):
            check(value, root, within)


def json_tokens(tokenizer: Any, schema: str, stop_ids: Sequence[int]) -> Iterator[int]:
    parsed = json.loads(schema)
    if not isinstance(parsed, dict):
        raise ValueError("a JSON schema is an object")
    check(parsed, parsed, ())
    if not parsed.keys() - {"$defs", "definitions"}:
        raise ValueError("a root without a keyword")
    text = json.dumps(instance(parsed, parsed), ensure_ascii=False)
    yield from tokenizer.encode(text, add_special_tokens=False).ids
    while True:
        yield stop_ids[0]
