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


def tokens(
    tokenizer: Any, prompt: Sequence[int], seed: int, temperature: float, stop_ids: Sequence[int]
) -> Iterator[int]:
    """Token after token without end, now and then one that ends a text."""
    key = seed if temperature > 1e-5 else 0
    for i in range(10**9):
        draw = number(tuple(prompt), key, i)
        text = SENTENCES[draw % len(SENTENCES)]
        yield from tokenizer.encode(text, add_special_tokens=False).ids
        if stop_ids and draw // 7 % 3 == 0:
            yield stop_ids[0]


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
            return instance(schema[name][-1], root, seed)
    kind = schema["type"][0] if isinstance(schema["type"], list) else schema["type"]
    if kind == "object":
        return {k: instance(v, root, seed) for k, v in schema.get("properties", {}).items()}
    if kind == "array":
        items = schema.get("items", True)
        return [instance(items, root, seed) for _ in range(max(schema.get("minItems", 1), 1))]
    simple = {"string": "é text", "number": 1.5, "integer": 7, "boolean": True, "null": None}
    return simple[kind]


def json_tokens(tokenizer: Any, schema: str, stop_ids: Sequence[int]) -> Iterator[int]:
    parsed = json.loads(schema)
    if not isinstance(parsed, dict):
        raise ValueError("a JSON schema is an object")
    text = json.dumps(instance(parsed, parsed), ensure_ascii=False)
    yield from tokenizer.encode(text, add_special_tokens=False).ids
    while True:
        yield stop_ids[0]
