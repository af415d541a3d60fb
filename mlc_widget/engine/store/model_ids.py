"""Reads the other ways in which people write a model's id: links, `hf://`, `file://`, Ollama's."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote, urlsplit

_REPOSITORY: Final = r"(?P<repository>[\w.-]+/[\w.-]+)"
_LINK: Final = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?:models/)?"
    + _REPOSITORY
    + r"(?P<rest>.*)",
    re.I | re.S,
)
_LINKED_FILE: Final = re.compile(r"/(?:blob|resolve|raw)/([^/?#]+)/([^?#]+\.gguf)(?:[?#]|$)", re.I)
_LINKED_REVISION: Final = re.compile(r"/(?:tree|blob|commit)/([^/?#]+)")
_SHOWN_FILE: Final = re.compile(r"[?&]show_file_info=([^&#]+\.gguf)", re.I)
_QUANTIZATION: Final = re.compile(r":[\w.-]+")
_PREFIX: Final = re.compile(r"(hf|pypi):/{0,2}(?=[\w.-])", re.I)
_OLLAMA: Final = re.compile(r"ollama(?::/{0,2}| +(?:run|pull) +)([\w./:-]+)", re.I)


def meant(model_id: str) -> str:
    """The id that is meant by what somebody wrote.

    - A link to a page or a file of the Hugging Face Hub, with or without ``https://``, and Ollama's
      ``hf.co/user/repo:Q4_K_M`` become ``HF://…``.
    - ``hf:`` and ``pypi:`` may be lower-case and may lack slashes.
    - ``ollama://model`` and ``ollama run model`` become ``model:latest``.
    - ``file://`` links become paths.
    - Spaces around an id are dropped.

    Anything else is returned as it is.
    """
    model_id = model_id.strip()
    if model_id.lower().startswith("file://"):
        return unquote(urlsplit(model_id).path)
    if found := _LINK.fullmatch(model_id):
        return _of_link(found["repository"], found["rest"])
    if found := _PREFIX.match(model_id):
        return f"{found[1].upper()}://{model_id[found.end() :]}"
    if found := _OLLAMA.fullmatch(model_id):
        return found[1] if ":" in found[1] else f"{found[1]}:latest"
    return model_id


def _of_link(repository: str, rest: str) -> str:
    """The id of the repository, or the file in it, that a link is about."""
    if _QUANTIZATION.fullmatch(rest):
        return f"HF://{repository}{rest}"
    file = revision = ""
    if found := _LINKED_FILE.match(rest):
        revision, file = unquote(found[1]), f"/{unquote(found[2])}"
    elif found := _LINKED_REVISION.match(rest):
        revision = unquote(found[1])
    if not file and (found := _SHOWN_FILE.search(rest)):
        file = f"/{unquote(found[1])}"
    at = f"@{revision}" if revision and revision != "main" else ""
    return f"HF://{repository}{file}{at}"
