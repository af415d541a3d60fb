"""The app config: names for models, as in WebLLM's ``AppConfig``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mlc_widget.api.chat_opts import check_chat_opts
from mlc_widget.api.request_values import bad, plain

# WebLLM's fields that choose a browser's cache or a WebAssembly file; they mean nothing here.
_IGNORED: Final = frozenset({"cacheBackend", "useIndexedDBCache", "opfsAccessMode"})
_RECORD_IGNORED: Final = frozenset(
    {
        "model_lib",
        "model_type",
        "vram_required_MB",
        "low_resource_required",
        "buffer_size_required_bytes",
        "required_features",
        "integrity",
    }
)


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """One entry of ``model_list``.

    Attributes:
        model_id: The name to give to `reload`.
        model: The model that the name stands for: a folder in MLC format or of safetensors, a
            ``.gguf`` file, a built-in name, ``HF://user/repo[@revision]``,
            ``HF://user/repo/file.gguf`` or ``PYPI://package/file.gguf``.
        overrides: Its default `chat_opts`; those given to `reload` take precedence.
    """

    model_id: str
    model: str
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AppConfig:
    """Models by name.

    Attributes:
        models: The records by `model_id`.
        digest: The same for equal configs; empty if no config was given.
        source: The mapping that it was read from; None if no config was given.
    """

    models: Mapping[str, ModelRecord] = field(default_factory=dict)
    digest: str = ""
    source: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, config: Mapping[str, Any] | None) -> AppConfig:
        """Read ``{"model_list": [{"model_id", "model", "overrides"?}, …]}``.

        Fields that only a browser needs are ignored; None means no config.

        Raises:
            BadRequestError: A field is invalid; the message names it and its value.
        """
        if config is None:
            return cls()
        if not isinstance(config, Mapping):
            raise bad("app_config", config, 'give {"model_list": […]}.')
        for name in config:
            if name != "model_list" and name not in _IGNORED:
                raise bad(f"app_config.{name}", config[name], "no such field; known: model_list.")
        listed = config.get("model_list")
        if not isinstance(listed, list | tuple):
            raise bad("app_config.model_list", listed, "give a list of records.")
        models: dict[str, ModelRecord] = {}
        for i, entry in enumerate(listed):
            record = _record(f"app_config.model_list[{i}]", entry)
            if record.model_id in models:
                raise bad(
                    f"app_config.model_list[{i}].model_id",
                    record.model_id,
                    "this model_id appears twice.",
                )
            models[record.model_id] = record
        source = plain("app_config", config)
        digest = hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()
        return cls(models, digest, source)


def _record(at: str, entry: Any) -> ModelRecord:
    if not isinstance(entry, Mapping):
        raise bad(at, entry, 'give {"model_id": …, "model": …}.')
    for name in ("model_id", "model"):
        if not isinstance(entry.get(name), str) or not entry[name]:
            raise bad(f"{at}.{name}", entry.get(name), "give a string.")
    overrides = check_chat_opts(f"{at}.overrides", entry.get("overrides"))
    for name in entry:
        if name not in ("model_id", "model", "overrides") and name not in _RECORD_IGNORED:
            raise bad(f"{at}.{name}", entry[name], "known: model_id, model, overrides.")
    return ModelRecord(entry["model_id"], entry["model"], overrides)
