"""Prepares a model folder for mlc_llm: verifies its weights and replaces its stop tokens.

mlc_llm reads stop strings and tokens from the folder's mlc-chat-config.json and adds them to every
request, text completions included. In our engine they may be overridden (by `chat_opts`), and it
handles stop strings itself. So mlc_llm gets a folder of links whose configuration has the stop
tokens' ids and no stop strings. It also wants a conversation template, which folders whose template
is Jinja lack; prompts reach it as tokens, so any template will do.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from mlc_widget.api.errors import ModelFormatError
from mlc_widget.engine.runtimes.base import ModelSource
from mlc_widget.engine.store.model_files import read_file
from mlc_widget.engine.store.model_folder import read_config_file
from mlc_widget.engine.store.verification import PublishedFile, verify_files
from mlc_widget.models import CONFIG_FILE

_LARGEST_INDEX: Final = 1 << 26
_MISSING: Final = "Download the model again."
_INDEXES: Final = ("tensor-cache.json", "ndarray-cache.json")
"""The files in which mlc_llm looks up the shards: in current and in earlier versions."""
_NO_TEMPLATE: Final[Mapping[str, Any]] = {
    "name": "LM",
    "system_template": "{system_message}",
    "system_message": "",
    "roles": {"user": "", "assistant": ""},
    "role_templates": {
        "user": "{user_message}",
        "assistant": "{assistant_message}",
        "tool": "{tool_message}",
    },
    "seps": [""],
    "role_content_sep": "",
    "role_empty_sep": "",
}
"""mlc_llm's template ``LM``, which adds nothing to a text."""


def stop_token_ids(config: Mapping[str, Any]) -> frozenset[int]:
    """The ids at which mlc_llm ends a text: the end-of-text tokens and the template's."""
    eos = config.get("eos_token_id")
    ids = [eos] if isinstance(eos, int) else list(eos or ())
    template = config.get("conv_template")
    if isinstance(template, Mapping):
        ids += template.get("stop_token_ids") or ()
    return frozenset(ids)


def check_weights(folder: Path, progress: Callable[[int, int], None] | None = None) -> int:
    """Check that all of a model's weights exist and are undamaged; return their size in bytes.

    mlc_llm does not check this, and would fail in its background thread.

    Args:
        folder: The model's folder.
        progress: Called with the bytes that were compared with their MD5 sums and the total.
            Files that passed before are not read again. An exception from it ends the check.

    Raises:
        ModelFormatError: A file is missing or damaged; the message names it.
    """
    index = next((folder / name for name in _INDEXES if (folder / name).is_file()), None)
    if index is None:
        raise ModelFormatError(
            f"{folder / _INDEXES[0]} is missing: convert the weights with "
            "`mlc_llm convert_weight`, or download the model again.",
            param=str(folder / _INDEXES[0]),
        )
    shards = _shards(index)
    for shard in shards:
        file = shard.path
        if file.parent != folder or not file.is_file():
            raise ModelFormatError(f"{file} is missing: download the model again.", param=str(file))
        found = file.stat().st_size
        if found != shard.nbytes:
            raise ModelFormatError(
                f"{file} has {found} bytes and should have {shard.nbytes}: download it again.",
                param=str(file),
            )
    verify_files(shards, index, progress, policy="once")
    return sum(shard.nbytes for shard in shards)


def _shards(index: Path) -> list[PublishedFile]:
    try:
        records = json.loads(read_file(index, _LARGEST_INDEX, _MISSING))["records"]
        return [
            PublishedFile(
                index.parent / str(r["dataPath"]),
                int(r["nbytes"]),
                str(r["md5sum"]).lower() if r.get("md5sum") else None,
            )
            for r in records
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFormatError(
            f"{index} is not a list of shards as MLC writes it ({type(error).__name__}: {error}).",
            param=str(index),
        ) from error


@contextlib.contextmanager
def view(source: ModelSource) -> Iterator[Path]:
    """A temporary folder from which mlc_llm loads the model."""
    folder = Path(tempfile.mkdtemp(prefix="mlc_widget-model-"))
    try:
        for file in source.path.iterdir():
            if file.name != CONFIG_FILE:
                _link(file.absolute(), folder / file.name)
        for name, other in (_INDEXES, _INDEXES[::-1]):
            if not (folder / name).exists() and (source.path / other).is_file():
                _link((source.path / other).absolute(), folder / name)
        (folder / CONFIG_FILE).write_text(json.dumps(_config(source)), encoding="utf-8")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _config(source: ModelSource) -> dict[str, Any]:
    config: dict[str, Any] = read_config_file(source.path)
    given = source.config.get("conv_template")
    template = given if isinstance(given, Mapping) else _NO_TEMPLATE
    ids = sorted(stop_token_ids(source.config))
    config["conv_template"] = {**template, "stop_str": [], "stop_token_ids": ids}
    return config


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source, target_is_directory=source.is_dir())
    except OSError:  # Windows requires a privilege for symbolic links
        if source.is_dir():
            shutil.copytree(source, target)
            return
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
