"""GGUF files that are damaged or made to do harm: one clear error each, or a model as before."""

from __future__ import annotations

import random
import resource
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlc_widget.api.errors import MLCEngineError
from mlc_widget.engine.chat_template import template_of
from mlc_widget.engine.runtimes.base import ModelSource
from mlc_widget.engine.runtimes.tvm.options import TVMOptions
from mlc_widget.engine.runtimes.tvm.planning import ModelPlanner
from mlc_widget.engine.runtimes.tvm.sizing import sizes
from mlc_widget.engine.runtimes.tvm.weights import check_layers, check_weights
from mlc_widget.engine.store.stored_model import read_model
from mlc_widget.engine.text.tokenizer import Tokenizer

LONGEST_S = 60.0
MOST_BYTES = 256 << 20
"""How much more memory the process may have taken at its peak, after all the cases of a test."""
U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_PACK = dict(zip(range(13), "BbHhIif?__QqD".replace("D", "d"), strict=True))
HIDDEN, TOKENS = 32, [chr(c) for c in range(0x21, 0x7F)]
NUMBERS = [0, 1, 7, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**60, 2**63 - 1, 2**63, 2**64 - 1]
FLOATS = [0.0, -1.0, 1e-45, 3e38, float("inf"), float("nan")]
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"
TEMPLATES = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x~n.x %}{% endfor %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ '%999999999d' % 1 }}",
    "{{ 9 ** 9 ** 9 }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ " + "(" * 5000 + ")" * 5000 + " }}",
    "{% if %}",
    "x" * (1 << 20),
    "\0\ufdd0\ufdd1",
    "",
]


@dataclass(frozen=True)
class Place:
    """A field of the file: where it is, and how it is packed (``s`` for text)."""

    name: str
    at: int
    form: str


class Writer:
    """A GGUF file, byte by byte, that remembers where each field lies."""

    def __init__(self) -> None:
        self.content, self.places = bytearray(), list[Place]()

    def number(self, name: str, form: str, value: Any) -> None:
        self.places.append(Place(name, len(self.content), form))
        self.content += struct.pack(f"<{form}", value)

    def text(self, name: str, value: str) -> None:
        self.number(f"{name} length", "Q", len(value.encode()))
        self.places.append(Place(name, len(self.content), "s"))
        self.content += value.encode()

    def field(self, key: str, kind: int, value: Any) -> None:
        self.text("key", key)
        self.number(f"{key} type", "I", kind)
        if kind == ARRAY:
            items, values = value
            self.number(f"{key} item type", "I", items)
            self.number(f"{key} count", "Q", len(values))
            for i, item in enumerate(values):
                self._value(f"{key} item" if i < 2 else "", items, item)
        else:
            self._value(key, kind, value)

    def _value(self, name: str, kind: int, value: Any) -> None:
        kept = len(self.places)
        if kind == STRING:
            self.text(name, value)
        else:
            self.number(name, _PACK[kind], value)
        if not name:
            del self.places[kept:]


def fields(changes: dict[str, tuple[int, Any] | None]) -> dict[str, tuple[int, Any]]:
    """A whole model's metadata, by key: type and value."""
    found: dict[str, tuple[int, Any]] = {
        "general.architecture": (STRING, "llama"),
        "general.alignment": (U32, 32),
        "llama.context_length": (U32, 64),
        "llama.embedding_length": (U32, HIDDEN),
        "llama.block_count": (U32, 1),
        "llama.feed_forward_length": (U32, HIDDEN),
        "llama.attention.head_count": (U32, 2),
        "llama.attention.head_count_kv": (U32, 1),
        "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
        "llama.rope.freq_base": (F32, 1e4),
        "tokenizer.ggml.model": (STRING, "gpt2"),
        "tokenizer.ggml.pre": (STRING, "gpt-2"),
        "tokenizer.ggml.tokens": (ARRAY, (STRING, [*TOKENS, "<|end|>", "ab"])),
        "tokenizer.ggml.token_type": (ARRAY, (I32, [1] * len(TOKENS) + [3, 1])),
        "tokenizer.ggml.merges": (ARRAY, (STRING, ["a b"])),
        "tokenizer.ggml.eos_token_id": (U32, len(TOKENS)),
        "tokenizer.ggml.add_bos_token": (BOOL, False),
        "tokenizer.chat_template": (STRING, TEMPLATE),
    }
    for key, change in changes.items():
        if change is None:
            found.pop(key, None)
        else:
            found[key] = change
    return found


SHAPES = {
    "token_embd.weight": (len(TOKENS) + 2, HIDDEN),
    "output_norm.weight": (HIDDEN,),
    "blk.0.attn_norm.weight": (HIDDEN,),
    "blk.0.ffn_norm.weight": (HIDDEN,),
    "blk.0.attn_q.weight": (HIDDEN, HIDDEN),
    "blk.0.attn_k.weight": (HIDDEN // 2, HIDDEN),
    "blk.0.attn_v.weight": (HIDDEN // 2, HIDDEN),
    "blk.0.attn_output.weight": (HIDDEN, HIDDEN),
    "blk.0.ffn_gate.weight": (HIDDEN, HIDDEN),
    "blk.0.ffn_up.weight": (HIDDEN, HIDDEN),
    "blk.0.ffn_down.weight": (HIDDEN, HIDDEN),
}


def model(
    changes: dict[str, tuple[int, Any] | None] | None = None,
    shapes: dict[str, tuple[int, ...]] | None = None,
) -> Writer:
    """A model of one layer in F32."""
    made, metadata, shapes = Writer(), fields(changes or {}), shapes or SHAPES
    made.content += b"GGUF"
    made.number("version", "I", 3)
    made.number("tensor count", "Q", len(shapes))
    made.number("field count", "Q", len(metadata))
    for key, (kind, value) in metadata.items():
        made.field(key, kind, value)
    offset = 0
    for name, shape in shapes.items():
        made.text("tensor name", name)
        made.number(f"{name} dimensions", "I", len(shape))
        for size in shape[::-1]:
            made.number(f"{name} size", "Q", size)
        made.number(f"{name} type", "I", 0)
        made.number(f"{name} offset", "Q", offset)
        offset += -(-4 * int(np.prod(shape)) // 32) * 32
    made.content += bytes(-len(made.content) % 32)
    made.content += np.full(offset // 4, 0.01, np.float32).tobytes()
    return made


def damaged() -> Iterator[tuple[str, bytes]]:
    """A sound file cut at each field, and with each field changed."""
    whole = model()
    for place in whole.places:
        yield f"cut at {place.name}", bytes(whole.content[: place.at])
        if place.form == "s":
            content = bytearray(whole.content)
            content[place.at] = 0xFF
            yield f"{place.name} is not UTF-8", bytes(content)
            continue
        for value in FLOATS if place.form in "fd" else NUMBERS:
            size = struct.calcsize(place.form)
            packed = (
                struct.pack(f"<{place.form}", value)
                if place.form in "fd"
                else (value % (1 << 8 * size)).to_bytes(size, "little")
            )
            content = bytearray(whole.content)
            content[place.at : place.at + size] = packed
            yield f"{place.name} is {value}", bytes(content)


def hostile() -> Iterator[tuple[str, bytes]]:
    """Files that are well formed, and say what is absurd."""
    for key, (kind, _) in fields({}).items():
        yield f"without {key}", bytes(model({key: None}).content)
        others: list[tuple[int, Any]] = [
            (STRING, "x" * 1000), (BOOL, True), (F64, float("nan")), (I64, -1), (U64, 2**62),
            (ARRAY, (U8, [])), (ARRAY, (F64, [1.5, 2.5])), (ARRAY, (STRING, ["a", "", "a"])),
        ]  # fmt: skip
        for other in others:
            if other[0] != kind:
                yield f"{key} of type {other[0]}", bytes(model({key: other}).content)
    for template in TEMPLATES:
        change = {"tokenizer.chat_template": (STRING, template)}
        yield f"template {template[:30]!r}", bytes(model(change).content)
    tokens = [*TOKENS, "<|end|>", "ab"]
    for name, odd in {
        "the same": ["a"] * len(tokens),
        "empty": [""] * len(tokens),
        "long": ["a" * 4000] * len(tokens),
        "control characters": ["\0\n\t"] * len(tokens),
        "none": [],
    }.items():
        change = {"tokenizer.ggml.tokens": (ARRAY, (STRING, odd))}
        yield f"tokens that are {name}", bytes(model(change).content)
        spm = {
            **change,
            "tokenizer.ggml.model": (STRING, "llama"),
            "tokenizer.ggml.scores": (ARRAY, (F32, [0.0] * len(odd))),
        }
        yield f"pieces that are {name}", bytes(model(spm).content)
    for merges in (["a"], ["a  b"], [" "], ["a b"] * 3000, ["ab a"], ["z" * 9999]):
        change = {"tokenizer.ggml.merges": (ARRAY, (STRING, merges))}
        yield f"merges {merges[0][:9]!r} × {len(merges)}", bytes(model(change).content)
    scores = [float("nan"), float("inf")] * (len(tokens) // 2)
    change = {
        "tokenizer.ggml.model": (STRING, "llama"),
        "tokenizer.ggml.scores": (ARRAY, (F32, scores)),
    }
    yield "scores that are no numbers", bytes(model(change).content)
    for name, shape in SHAPES.items():
        yield (
            f"without {name}",
            bytes(model(shapes={k: v for k, v in SHAPES.items() if k != name}).content),
        )
        for odd in ((32,), (64, 32), (32, 64), (1, 1, 32, 32), (3, 31)):
            if odd != shape:
                yield f"{name} of {odd}", bytes(model(shapes={**SHAPES, name: odd}).content)


def load(path: Path, cache: Path) -> None:
    """All that happens before a model is compiled, and a prompt."""
    stored = read_model(path, {})
    assert stored.tokenizer is not None
    tokenizer = Tokenizer.from_spec(stored.tokenizer, path)
    template = template_of(stored, tokenizer)
    source = ModelSource("m", path, stored.config, tokenizer, stored.open_weights)
    template.render([{"role": "user", "content": "ab <|end|>"}])
    weights, options = stored.open_weights(), TVMOptions.parse({"cache_dir": cache})
    try:
        check_layers(stored.config.get("model_config"), weights)
        plan = ModelPlanner(source, options, "cpu", None, weights).plan()
        check_weights(plan.parameters, weights)
        sizes(source, options)
    finally:
        weights.close()


def check(cases: list[tuple[str, bytes]], folder: Path) -> None:
    """Load each of the files.

    Args:
        cases: What is wrong with each, and its content.
        folder: For files.
    """
    path, said = folder / "model.gguf", list[tuple[str, str]]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, content in cases:
        path.write_bytes(content)
        started = time.monotonic()
        try:
            load(path, folder)
        except MLCEngineError as error:
            said.append((name, error.message))
        except Exception as error:
            raise AssertionError(f"{name}: {error!r}") from error
        assert time.monotonic() - started < LONGEST_S, name
    assert len(said) > len(cases) / 4
    assert [case for case in said if not 10 < len(case[1]) < 2000] == []
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MOST_BYTES


ALL = [*damaged(), *hostile()]


def test_a_sound_file_loads(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(model().content)
    load(path, tmp_path)


def test_a_sample_of_bad_files(tmp_path):
    check(random.Random(3).sample(ALL, 60), tmp_path)


@pytest.mark.soak
def test_all_bad_files(tmp_path):
    assert len(ALL) >= 500
    check(ALL, tmp_path)
