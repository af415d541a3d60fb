"""What was read of GGUF files, kept so that their vocabularies need not be read and checked again.

An entry is a file ``<root>/gguf/<name>.parts``: a line of JSON that says what it was made from,
then JSON and numbers. Reading a vocabulary from it takes a quarter of the time. An entry is not
used if it is damaged, if a file has changed, or if another user could have written it (see
`UserCache`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from mlc_widget.engine.store.formats.ggml_types import TYPES_BY_NAME
from mlc_widget.engine.store.formats.gguf_file import GGUFHeader, GGUFTensor, split_paths
from mlc_widget.engine.store.user_cache import UserCache
from mlc_widget.engine.store.verification import FileIdentity, wait_for_tick

_SMALLEST: Final = 8192
"""The number of tokens from which an entry saves time."""
_MOST: Final = 32
"""The number of entries that are kept."""
_SUFFIX: Final = ".parts"


@dataclass(frozen=True, slots=True)
class GGUFParts:
    """A model, but for its weights.

    Attributes:
        config: The equivalent of its mlc-chat-config.json.
        tokenizer: The content of a tokenizer.json.
        jinja: The fields of its `JinjaSource`.
        headers: The headers of its files, without the vocabulary.
    """

    config: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    jinja: Mapping[str, Any]
    headers: Mapping[Path, GGUFHeader]


def find(path: Path) -> GGUFParts | None:
    """What was kept of a file, or of all parts of a split one; None if there is nothing good.

    Raises:
        ModelFormatError: A part is missing.
    """
    paths = split_paths(path)
    content = _cache().read(_name(paths))
    if content is None:
        return None
    head, _, payload = content.partition(b"\n")
    try:
        said = json.loads(head)
        identities = {part: FileIdentity.of(part) for part in paths}
        if said["key"] != _key(identities) or said["sha256"] != _sha256(payload):
            return None
        return _parts(payload, said["sizes"], identities)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def keep(parts: GGUFParts) -> None:
    """Keep what was read of a file, if its vocabulary is large, for `find`."""
    if len(parts.tokenizer["model"]["vocab"]) < _SMALLEST:
        return
    identities = {path: header.identity for path, header in parts.headers.items()}
    # A later change of a file must show in its times.
    if not all(wait_for_tick(identity) for identity in identities.values()):
        return
    sections = _sections(parts)
    if sections is None:
        return
    payload = b"".join(sections)
    head = {
        "key": _key(identities),
        "sizes": [len(section) for section in sections],
        "sha256": _sha256(payload),
    }
    cache = _cache()
    cache.write(_name(list(parts.headers)), json.dumps(head).encode() + b"\n" + payload)
    kept = [item for item in cache.files().items() if item[0].endswith(_SUFFIX)]
    kept.sort(key=lambda item: item[1].st_mtime_ns)
    for name, _ in kept[:-_MOST]:
        cache.remove(name)


@functools.cache
def readers_digest() -> str:
    """The SHA-256 of the sources of all that reads models, since others may read them otherwise."""
    digest = hashlib.sha256()
    here = Path(__file__).parent
    others = ("stored_model.py", "gguf_cache.py", "tensor_cache.py", "families.py")
    for file in (*sorted((here / "formats").glob("*.py")), *(here / name for name in others)):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _cache() -> UserCache:
    return UserCache("gguf")


def _name(paths: Sequence[Path]) -> str:
    real = [os.path.realpath(path) for path in paths]
    return hashlib.sha256(json.dumps(real).encode()).hexdigest()[:32] + _SUFFIX


def _key(identities: Mapping[Path, FileIdentity]) -> list[Any]:
    states = [[i.inode, i.size, i.mtime_ns, i.ctime_ns] for i in identities.values()]
    return [os.path.realpath(next(iter(identities))), states, readers_digest()]


def _sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()


def _sections(parts: GGUFParts) -> list[bytes] | None:
    """The parts as bytes; None if they have something that would not come back as it was."""
    model = dict(parts.tokenizer["model"])
    vocab: dict[str, int] = model.pop("vocab")
    merges: list[tuple[str, str]] | None = model.pop("merges", None)
    place = {token: at for at, token in enumerate(vocab)}
    rest = {
        "config": parts.config,
        "tokenizer": {**parts.tokenizer, "model": model},
        "jinja": parts.jinja,
        "merges": merges is not None,
        "headers": [
            [
                [[key, *_plain(value)] for key, value in header.fields.items()],
                [[t.name, t.shape, t.kind.name, t.offset, t.nbytes]
                 for t in header.tensors.values()],
            ]
            for header in parts.headers.values()
        ],
    }  # fmt: skip
    try:
        text = json.dumps(rest)
        lefts = array("i", [place[left] for left, _ in merges or ()])
        rights = array("i", [place[right] for _, right in merges or ()])
        ids = array("i", vocab.values())
    except (TypeError, ValueError, KeyError, OverflowError):
        return None
    back = json.loads(text)
    if any(back[name] != rest[name] for name in ("config", "tokenizer", "jinja")):
        return None
    tokens = json.dumps(list(vocab), ensure_ascii=False).encode()
    return [text.encode(), tokens, ids.tobytes(), lefts.tobytes(), rights.tobytes()]


def _parts(
    payload: bytes, sizes: Sequence[int], identities: Mapping[Path, FileIdentity]
) -> GGUFParts:
    """What `_sections` was given.

    Raises:
        ValueError, KeyError, TypeError: The entry is not one.
    """
    sections, at = [], 0
    for size in sizes:
        sections.append(payload[at : at + size])
        at += size
    text, names, *numbers = sections
    rest, tokens = json.loads(text), json.loads(names)
    ids, lefts, rights = (np.frombuffer(data, np.int32).tolist() for data in numbers)
    model = rest["tokenizer"]["model"]
    model["vocab"] = dict(zip(tokens, ids, strict=True))
    if rest["merges"]:
        name = tokens.__getitem__
        model["merges"] = list(zip(map(name, lefts), map(name, rights), strict=True))
    headers = {}
    for (path, identity), (fields, tensors) in zip(
        identities.items(), rest["headers"], strict=True
    ):
        headers[path] = GGUFHeader(
            identity,
            {key: _value(*plain) for key, *plain in fields},
            {
                name: GGUFTensor(name, tuple(shape), TYPES_BY_NAME[kind], offset, nbytes)
                for name, shape, kind, offset, nbytes in tensors
            },
        )
    return GGUFParts(rest["config"], rest["tokenizer"], rest["jinja"], headers)


def _plain(value: Any) -> tuple[str, Any]:
    """A metadata value as JSON values, and the dtype of an array."""
    return (value.dtype.str, value.tolist()) if isinstance(value, np.ndarray) else ("", value)


def _value(dtype: str, value: Any) -> Any:
    return np.array(value, dtype) if dtype else value
