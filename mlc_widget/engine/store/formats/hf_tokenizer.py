"""The chat template and special tokens of a model saved by transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mlc_widget.api.errors import ModelFormatError
from mlc_widget.api.request_values import shortened
from mlc_widget.engine.store.formats.hf_folder import HFFolder

TOKENIZER: Final = "tokenizer.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
TEMPLATE: Final = "chat_template.jinja"
_SPECIAL: Final = "special_tokens_map.json"
_LARGEST_TEMPLATE: Final = 1 << 20
_TOKENS: Final = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")


def check_tokenizer(folder: HFFolder) -> None:
    """Refuse a folder without tokenizer.json, and say how to make one.

    Raises:
        ModelFormatError: There is none, or it is a link out of the folder.
    """
    if folder.has(TOKENIZER):
        folder.inside(TOKENIZER)
        return
    older = next((n for n in ("tokenizer.model", "vocab.json", "vocab.txt") if folder.has(n)), None)
    has = f" has {older} but" if older else " has"
    raise ModelFormatError(
        f"{folder.path}{has} no {TOKENIZER}. Download the whole repository, or make the file with "
        "transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder).",
        param=str(folder.path / TOKENIZER),
    )


def tokenizer_config(folder: HFFolder) -> dict[str, Any]:
    """The parts of tokenizer_config.json and related files that a conversation needs.

    Returns:
        ``chat_template``, a text or None; special tokens such as ``eos_token``, as texts; and
        ``add_bos_token`` where the folder says whether texts begin with ``bos_token``.

    Raises:
        ModelFormatError: A file is malformed.
    """
    given = folder.read_optional_json(TOKENIZER_CONFIG)
    special = folder.read_optional_json(_SPECIAL)
    made: dict[str, Any] = {"chat_template": _template(folder, given)}
    for name in _TOKENS:
        value = given[name] if given.get(name) is not None else special.get(name)
        if isinstance(value, Mapping):
            value = value.get("content")
        if isinstance(value, str):
            made[name] = value
    if isinstance(given.get("add_bos_token"), bool):
        made["add_bos_token"] = given["add_bos_token"]
    return made


def _template(folder: HFFolder, given: Mapping[str, Any]) -> str | None:
    if folder.has(TEMPLATE):
        try:
            return folder.read(TEMPLATE, _LARGEST_TEMPLATE).decode()
        except UnicodeDecodeError:
            raise ModelFormatError(
                f"{folder.path / TEMPLATE} is not text in UTF-8. Download it again.",
                param=str(folder.path / TEMPLATE),
            ) from None
    value = given.get("chat_template")
    if isinstance(value, list):  # several by name
        named = {
            entry.get("name"): entry.get("template")
            for entry in value
            if isinstance(entry, Mapping) and isinstance(entry.get("name"), str)
        }
        value = named.get("default", next(iter(named.values()), None))
    if value is None or isinstance(value, str):
        return value
    where = folder.path / TOKENIZER_CONFIG
    raise ModelFormatError(
        f"{where}: chat_template is {shortened(value)}; it must be a text. Download it again.",
        param=str(where),
    )
