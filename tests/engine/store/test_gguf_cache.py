"""GGUF files' vocabularies and headers from the cache: the same as from the files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlc_widget.engine.store import gguf_cache, stored_model
from mlc_widget.engine.store.stored_model import StoredModel, read_model
from mlc_widget.engine.text.tokenizer import Tokenizer

from .formats.gguf_writer import random_blocks, write
from .formats.test_gguf_tokenizer import TEXTS, byte_level, sentence_piece, word_piece

VOCABULARIES = [byte_level, sentence_piece, word_piece]
KIND = next(kind for kind in gguf_cache.TYPES_BY_NAME.values() if kind.name == "Q8_0")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLC_WIDGET_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(gguf_cache, "_SMALLEST", 1)
    return tmp_path / "home" / "gguf"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were parsed."""
    found: list[Path] = []
    original = stored_model._parse_gguf

    def parse(path: Path) -> Any:
        found.append(path)
        return original(path)

    monkeypatch.setattr(stored_model, "_parse_gguf", parse)
    return found


def model_fields(vocabulary: Any) -> dict[str, Any]:
    return {
        "general.architecture": "llama",
        "general.alignment": 32,
        "llama.context_length": 64,
        "llama.embedding_length": 32,
        "llama.block_count": 1,
        "llama.feed_forward_length": 64,
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 10000.0,
        "some.numbers": [1.5, 2.5],
        "some.names": ["a\nb", "\x00", "ü"],
        "tokenizer.chat_template": "{{ messages[0]['content'] }}\n",
        "tokenizer.ggml.eos_token_id": 1,
        **{k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vocabulary().items()},
    }


def model_file(path: Path, vocabulary: Any = byte_level, **more: Any) -> Path:
    tensors = {
        f"blk.0.{name}.weight": (KIND, random_blocks(KIND, 32, 32, i))
        for i, name in enumerate(("attn_q", "attn_k", "ffn_down"))
    }
    fields = model_fields(vocabulary) | more
    tokens = len(fields["tokenizer.ggml.tokens"])
    tensors["token_embd.weight"] = (KIND, random_blocks(KIND, tokens, 32))
    write(path, tensors, fields)
    return path


def told(stored: StoredModel) -> Any:
    """All that a load takes of it, but for the weights."""
    assert stored.tokenizer is not None
    tokenizer = Tokenizer.from_spec(stored.tokenizer, stored.path)
    return (
        stored.path, stored.config, stored.jinja, stored.tokenizer,
        list(stored.tokenizer["model"]["vocab"].items()),
        [tokenizer.encode(text) for text in TEXTS],
        [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)],
        set(tokenizer.control_names),
    )  # fmt: skip


def rows(stored: StoredModel) -> Any:
    weights = stored.open_weights()
    try:
        header = weights._model.files[0].header
        record = weights.find("model.layers.0.mlp.down_proj.part0")
        [data] = weights.read_rows(record, [(0, 32)])
        numbers = header.fields["some.numbers"]
        assert numbers.dtype == np.float32
        return header.fields.keys(), numbers.tolist(), header.tensors, data.tobytes()
    finally:
        weights.close()


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_a_model_from_the_cache_is_that_of_its_file(tmp_path, home, parsed, vocabulary):
    path = model_file(tmp_path / "m.gguf", vocabulary)
    first = read_model(path, {"temperature": 0.5})
    second = read_model(path, {"temperature": 0.5})
    assert parsed == [path]
    assert told(first) == told(second)
    assert rows(first) == rows(second)
    [entry] = home.iterdir()
    assert entry.stat().st_mode & 0o77 == 0


def test_other_names_of_a_file_have_one_entry(tmp_path, parsed, monkeypatch):
    path = model_file(tmp_path / "m.gguf")
    (tmp_path / "link.gguf").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    read_model(path, {})
    for name in ("link.gguf", "m.gguf"):
        stored = read_model(Path(name), {})
        assert stored.path == Path(name)
        assert stored.jinja is not None
        assert stored.jinja.where == name
        rows(stored)
    assert parsed == [path]


@pytest.mark.parametrize("changed", [0, 1])
def test_a_split_model_is_read_again_if_any_part_changes(tmp_path, parsed, changed):
    paths = [tmp_path / f"m-0000{n}-of-00002.gguf" for n in (1, 2)]
    model_file(paths[0], **{"split.no": 0, "split.count": 2})
    tensor = {"output_norm.weight": (KIND, random_blocks(KIND, 1, 32))}
    write(paths[1], tensor, {"split.no": 1, "split.count": 2})
    first, second = read_model(paths[0], {}), read_model(paths[1], {})
    assert parsed == [paths[0]]
    assert first.tokenizer == second.tokenizer
    assert rows(first) == rows(second)
    os.utime(paths[changed], ns=(0, paths[changed].stat().st_mtime_ns + 1))
    read_model(paths[0], {})
    assert len(parsed) == 2


def _rewrite(path: Path) -> None:
    model_file(path, sentence_piece)


def _touch(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def _copy(path: Path) -> None:
    before = path.stat()
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(0, before.st_mtime_ns))
    other.rename(path)


@pytest.mark.parametrize("change", [_rewrite, _touch, _copy])
def test_a_file_that_has_changed_is_read_again(tmp_path, home, parsed, change):
    path = model_file(tmp_path / "m.gguf")
    read_model(path, {})
    change(path)
    again = read_model(path, {})
    assert len(parsed) == 2
    assert told(again) == told(read_model(path, {}))
    assert len(parsed) == 2
    assert len(list(home.iterdir())) == 1


def _damages() -> list[Any]:
    def cut(data: bytes) -> bytes:
        return data[: len(data) // 2]

    def flipped(data: bytes) -> bytes:
        at = 3 * len(data) // 4
        return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]

    def line(data: bytes) -> bytes:
        return data.replace(b"\n", b" ", 1)

    def sizes(data: bytes) -> bytes:
        return data.replace(b'"sizes": [', b'"sizes": [1, ', 1)

    return [
        cut, flipped, line, sizes, lambda _: b"", lambda _: b"{}\n", lambda _: b"[" * 100_000,
        lambda _: os.urandom(1000), lambda data: data[:-1], lambda data: data + b"x",
    ]  # fmt: skip


@pytest.mark.parametrize("damage", _damages())
def test_a_damaged_entry_is_not_used_and_replaced(tmp_path, home, parsed, damage):
    path = model_file(tmp_path / "m.gguf")
    first = read_model(path, {})
    [entry] = home.iterdir()
    entry.write_bytes(damage(entry.read_bytes()))
    assert told(read_model(path, {})) == told(first)
    assert told(read_model(path, {})) == told(first)
    assert len(parsed) == 2


def test_other_code_reads_the_file_again(tmp_path, parsed, monkeypatch):
    path = model_file(tmp_path / "m.gguf")
    read_model(path, {})
    monkeypatch.setattr(gguf_cache, "readers_digest", lambda: "other")
    read_model(path, {})
    assert len(parsed) == 2


def test_what_is_small_or_changed_just_now_is_not_kept(tmp_path, home, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(gguf_cache, "wait_for_tick", lambda identity: False)
        read_model(model_file(tmp_path / "a.gguf"), {})
    monkeypatch.setattr(gguf_cache, "_SMALLEST", 10_000)
    read_model(model_file(tmp_path / "b.gguf"), {})
    assert not home.exists()


def test_the_newest_entries_are_kept(tmp_path, home, monkeypatch, parsed):
    monkeypatch.setattr(gguf_cache, "_MOST", 2)
    paths = [model_file(tmp_path / f"{i}.gguf") for i in range(3)]
    for i, path in enumerate(paths):
        read_model(path, {})
        newest = max(home.iterdir(), key=lambda entry: entry.stat().st_mtime_ns)
        os.utime(newest, (i, i))
    assert len(list(home.iterdir())) == 2
    for path in paths[::-1]:
        read_model(path, {})
    assert parsed == [*paths, paths[0]]


def test_a_cache_that_cannot_be_written_changes_nothing(tmp_path, home, parsed):
    home.parent.mkdir()
    home.write_text("a file in the place of the folder")
    path = model_file(tmp_path / "m.gguf")
    assert told(read_model(path, {})) == told(read_model(path, {}))
    assert len(parsed) == 2
