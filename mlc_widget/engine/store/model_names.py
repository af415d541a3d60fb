"""What to do about a model's name that stands for nothing here."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

_HUB_URL: Final = re.compile(
    r"^(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/(?:models/)?([\w.-]+/[\w.-]+)", re.I
)
_HUB_PREFIX: Final = re.compile(r"^hf:/{0,2}([\w.-]+/[\w.-]+(?:@[\w./-]+)?)$", re.I)
_REPOSITORY: Final = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+(?:@[\w./-]+)?$")
_TAGGED: Final = re.compile(r"^(?:[\w.-]+/)?([A-Za-z0-9][\w.-]*):[\w.-]+$")


def advice(model_id: str, builtin: Collection[str]) -> str:
    """One sentence, or two, on what to give in place of an unknown name.

    Args:
        model_id: The name, which is neither a folder nor built in.
        builtin: The names of the built-in models.
    """
    if close := difflib.get_close_matches(model_id.lower(), builtin, 1):
        return f"Did you mean {close[0]!r}?"
    for pattern in (_HUB_URL, _HUB_PREFIX):
        if found := pattern.match(model_id):
            return f"To download it from the Hugging Face Hub, give 'HF://{found[1]}'."
    if model_id.lower().endswith(".gguf"):
        if Path(model_id).expanduser().is_file():
            return (
                "It is a GGUF file, as llama.cpp reads them: give a folder in MLC format, such as "
                "one of https://huggingface.co/mlc-ai."
            )
        return "There is no file at this path: check it, or give it from the root on."
    if model_id.startswith(("/", "./", "../", "~")) or "\\" in model_id:
        return "There is no folder at this path: check it, or give it from the root on."
    if tagged := _TAGGED.match(model_id):
        return (
            "Names with a tag are Ollama's: look for this model in MLC format at "
            f"https://huggingface.co/mlc-ai?search_models={tagged[1]} and give 'HF://mlc-ai/…'."
        )
    if _REPOSITORY.match(model_id):
        return f"If it is a repository on the Hugging Face Hub, give 'HF://{model_id}'."
    return (
        "Give the path of a folder in MLC format, or 'HF://user/repo' to download one from the "
        "Hugging Face Hub, such as those of https://huggingface.co/mlc-ai."
    )
