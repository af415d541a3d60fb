"""A short text that identifies a model, made without reading its weights."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlc_widget.engine.store.split_files import parts_of


def model_fingerprint(path: Path, config: Mapping[str, Any]) -> str:
    """A text that differs for different models, and changes if a model's files change.

    A file is identified by its name, its size, the time of its last change and, if it is a link,
    its target: in the Hub's cache, that is the hash of its content.

    Args:
        path: The model's folder or file.
        config: Its configuration with all overrides.
    """
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for file in _files(path):
        info = file.stat()
        target = os.path.basename(os.path.realpath(file))
        digest.update(repr((file.name, target, info.st_size, info.st_mtime_ns)).encode())
    return digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from sorted(file for file in path.iterdir() if file.is_file())
    else:
        parts = (path.with_name(name) for name in parts_of(path.name))
        yield from (part for part in parts if part.is_file())
