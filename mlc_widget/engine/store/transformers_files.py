"""Names of the files that transformers saves of a model, in a folder or in a repository."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

from mlc_widget.api.errors import ModelFormatError
from mlc_widget.engine.store.model_files import read_json_object

CONFIG: Final = "config.json"
INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
SUFFIX: Final = ".safetensors"
_SHARD: Final = re.compile(r"model(?:-\d{5}-of-\d{5})?\.safetensors")
_LARGEST_INDEX: Final = 16 << 20


def needed(names: Collection[str]) -> list[str] | None:
    """The files of a repository that a model of safetensors needs; None if it is not one.

    Repositories may also contain the same weights in other formats.
    """
    weights = [name for name in names if name.endswith(SUFFIX) and "/" not in name]
    if CONFIG not in names or not weights:
        return None
    if INDEX in names or SINGLE in names:
        weights = [name for name in weights if _SHARD.fullmatch(name)]
    others = [
        name
        for name in names
        if "/" not in name and (name.endswith(".json") or name == "chat_template.jinja")
    ]
    return sorted({*weights, *others})


def is_complete(folder: Path) -> bool:
    """Whether a folder has the configuration and all weights of a model of safetensors."""
    if not (folder / CONFIG).is_file():
        return False
    if not (folder / INDEX).is_file():
        return any(name.endswith(SUFFIX) for name in os.listdir(folder))
    try:
        listed = read_json_object(folder / INDEX, _LARGEST_INDEX, "", "download it again")
        shards = set(listed["weight_map"].values())
        return bool(shards) and all((folder / name).is_file() for name in shards)
    except (ModelFormatError, OSError, LookupError, TypeError, ValueError, AttributeError):
        return False
