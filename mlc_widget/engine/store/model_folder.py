"""From a model_id to a folder on disk with a readable mlc-chat-config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from mlc_widget.api.errors import (
    BadRequestError,
    ModelError,
    ModelFormatError,
    ModelNotFoundError,
)

CONFIG_FILE: Final = "mlc-chat-config.json"
HUB_PREFIX: Final = "HF://"

OVERRIDABLE: Final = (
    "context_window_size",
    "sliding_window_size",
    "prefill_chunk_size",
    "attention_sink_size",
    "max_batch_size",
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "max_tokens",
    "conv_template",
    "model_task",
    "embedding_metadata",
    "numerics",
)
"""What `chat_opts` may override in mlc-chat-config.json."""


def builtin_models() -> dict[str, Path]:
    """The models shipped inside this package, by name."""
    root = Path(str(files("mlc_widget"))) / "models"
    if not root.is_dir():
        return {}
    return {p.name: p for p in sorted(root.iterdir()) if (p / CONFIG_FILE).is_file()}


def resolve(model_id: str) -> Path:
    """The folder of a model.

    Raises:
        ModelNotFoundError: neither a built-in name nor a folder with an mlc-chat-config.json.
        ModelError: `model_id` names a hub repository, which this version cannot download.
    """
    builtin = builtin_models()
    if model_id in builtin:
        return builtin[model_id]
    if model_id.startswith(HUB_PREFIX):
        raise ModelError(
            f"{model_id}: this version does not download models. Download the repository with "
            f"`huggingface-cli download {model_id.removeprefix(HUB_PREFIX)}` and give its folder.",
            code="download_unsupported",
            param="model_id",
        )
    folder = Path(model_id).expanduser()
    if not folder.is_dir():
        known = ", ".join(builtin) or "none"
        raise ModelNotFoundError(
            f"{model_id!r} is neither a folder here nor a built-in model ({known}). "
            "Give the path of a folder in MLC format.",
            param="model_id",
        )
    if not (folder / CONFIG_FILE).is_file():
        raise ModelFormatError(
            f"{folder / CONFIG_FILE} is missing: give a folder in MLC format, as "
            "`mlc_llm gen_config` and `mlc_llm convert_weight` make.",
            param=str(folder / CONFIG_FILE),
        )
    return folder


def read_config(folder: Path, chat_opts: Mapping[str, Any] | None) -> dict[str, Any]:
    """mlc-chat-config.json with `chat_opts` applied.

    Raises:
        ModelFormatError: the file is not JSON, or not an object.
        BadRequestError: `chat_opts` has a field that cannot be overridden.
    """
    path = folder / CONFIG_FILE
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ModelFormatError(
            f"{path} is not valid JSON ({error}): restore it, or regenerate it with "
            "`mlc_llm gen_config`.",
            param=str(path),
        ) from None
    if not isinstance(config, dict):
        raise ModelFormatError(
            f"{path} holds {type(config).__name__}, not an object: regenerate it with "
            "`mlc_llm gen_config`.",
            param=str(path),
        )
    for name, value in (chat_opts or {}).items():
        if name not in OVERRIDABLE:
            raise BadRequestError(
                f"chat_opts.{name} = {value!r}: no such option; known: {', '.join(OVERRIDABLE)}.",
                param=f"chat_opts.{name}",
            )
        config[name] = value
    return config
