"""What a model's files say of it: architecture, quantization, licence, context.

The files are not trusted: a text is cut and loses what cannot be printed, and a file that cannot be
read tells nothing.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlc_widget.api.errors import MLCEngineError
from mlc_widget.engine.store.model_files import read_file, read_json_object
from mlc_widget.engine.store.split_files import quantization_of
from mlc_widget.models import CONFIG_FILE

LONGEST: Final = 60
"""The maximum length of a text that a file gives."""
_LARGEST_CONFIG: Final = 1 << 22
_LARGEST_TEXT: Final = 1 << 20
_MOST_CONTEXT: Final = 1 << 40
_FRONT_MATTER: Final = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)\r?\n---", re.S)
_NAMED: Final = re.compile(r"^(license|license_name):[ \t]*[\"']?([^\"'\r\n#]+)", re.M)
_LICENCES: Final = {
    "Apache License": "Apache-2.0",
    "MIT License": "MIT",
    "GNU AFFERO GENERAL PUBLIC LICENSE": "AGPL-3.0",
    "GNU GENERAL PUBLIC LICENSE": "GPL",
    "Gemma Terms of Use": "Gemma",
    "LLAMA 2 COMMUNITY LICENSE": "Llama 2",
    "LLAMA 3": "Llama 3",
}


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a model; "" or None for what is not.

    Attributes:
        family: Its architecture.
        quantization: How its weights are stored.
        licence: The name of its licence.
        context: Tokens of context.
    """

    family: str = ""
    quantization: str = ""
    licence: str = ""
    context: int | None = None


def plain(value: object, longest: int = LONGEST) -> str:
    """A text of a file for a terminal: one line, printable, of limited length."""
    if not isinstance(value, str):
        return ""
    cut = value[: 4 * longest]
    text = " ".join("".join(c if c.isprintable() else " " for c in cut).split())
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def size_text(nbytes: int) -> str:
    """A number of bytes, for people."""
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.0f} MB"


def facts_of(files: Sequence[Path]) -> ModelFacts:
    """The facts of a model with these files."""
    with contextlib.suppress(MLCEngineError, OSError, ImportError, ValueError, TypeError):
        by_name = {path.name: path for path in files}
        licence = licence_of(by_name)
        if (config := by_name.get(CONFIG_FILE)) is not None:
            return _of_mlc(_json(config), licence)
        if (config := by_name.get("config.json")) is not None:
            return _of_transformers(_json(config), licence)
        ggufs = [path for path in files if path.suffix.lower() == ".gguf"]
        if first := ggufs or [path for path in files if path.name.startswith("sha256-")]:
            return _of_gguf(min(first), licence)
    return ModelFacts()


def licence_of(files: Mapping[str, Path]) -> str:
    """The licence that a model card or a file LICENSE names.

    Args:
        files: Files by name.
    """
    for name in ("README.md", "LICENSE", "LICENSE.txt", "LICENSE.md"):
        if (path := files.get(name)) is None:
            continue
        with contextlib.suppress(MLCEngineError, OSError):
            text = read_file(path, _LARGEST_TEXT, "").decode("utf-8", "replace")
            if name == "README.md":
                if (card := _FRONT_MATTER.match(text)) is not None:
                    named = dict(_NAMED.findall(card[1]))
                    given = named.get("license", "").strip()
                    if given == "other":
                        given = named.get("license_name", given)
                    if given:
                        return plain(given)
                continue
            known = (short for words, short in _LICENCES.items() if words in text[:2000])
            lines = (line for line in text.splitlines() if line.strip())
            if found := next(known, None) or plain(next(lines, "")):
                return found
    return ""


def _of_gguf(path: Path, licence: str) -> ModelFacts:
    from mlc_widget.engine.store.formats.gguf_file import GGUFFile

    with contextlib.closing(GGUFFile(path)) as file:
        fields, sizes = file.fields, Counter[str]()
        for tensor in file.tensors.values():
            sizes[tensor.kind.name] += tensor.nbytes
    family = fields.get("general.architecture")
    stored = quantization_of(path.name) or (sizes.most_common(1)[0][0] if sizes else "")
    return ModelFacts(
        plain(family, 20),
        plain(stored, 20),
        plain(fields.get("general.license")) or licence,
        _count(fields.get(f"{family}.context_length")),
    )


def _of_mlc(config: Mapping[str, Any], licence: str) -> ModelFacts:
    return ModelFacts(
        plain(config.get("model_type"), 20),
        plain(config.get("quantization"), 20),
        licence,
        _count(config.get("context_window_size")),
    )


def _of_transformers(config: Mapping[str, Any], licence: str) -> ModelFacts:
    packed = config.get("quantization_config")
    stored = packed.get("quant_method") if isinstance(packed, Mapping) else None
    return ModelFacts(
        plain(config.get("model_type"), 20),
        plain(stored or config.get("dtype") or config.get("torch_dtype"), 20),
        licence,
        _count(config.get("max_position_embeddings")),
    )


def _count(value: object) -> int | None:
    return value if type(value) is int and 0 < value < _MOST_CONTEXT else None


def _json(path: Path) -> dict[str, Any]:
    return read_json_object(path, _LARGEST_CONFIG, "", "")
