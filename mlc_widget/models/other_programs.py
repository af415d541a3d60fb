"""The models that other programs have downloaded, as far as their names and sizes tell.

Only names are read here; `mlc_widget.engine.store.other_caches` checks what it uses.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from mlc_widget.models import CONFIG_FILE
from mlc_widget.models.places import llama_cpp_root, lm_studio_roots, mlc_llm_root, ollama_root

_MOST: Final = 1000
_LARGEST_MANIFEST: Final = 1 << 20
_MODEL_LAYER: Final = "application/vnd.ollama.image.model"
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_LATER_PART: Final = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$", re.I)


@dataclass(frozen=True, slots=True)
class ForeignModel:
    """A model of another program.

    Attributes:
        name: What loads it here: its name there, its id on the Hub, or its path.
        program: The program's name.
        remedy: How it is removed.
        files: Its files.
    """

    name: str
    program: str
    remedy: str
    files: tuple[Path, ...]


def foreign_models() -> Iterator[ForeignModel]:
    """What Ollama, llama.cpp, mlc_llm and LM Studio have; what cannot be read is left out."""
    for found in (_of_ollama(), _of_mlc_llm(), _of_llama_cpp(), _of_lm_studio()):
        yield from islice(found, _MOST)


def _of_ollama() -> Iterator[ForeignModel]:
    root = ollama_root()
    for manifest in _files(root / "manifests" / "registry.ollama.ai", depth=3):
        *user, model, tag = manifest.relative_to(root / "manifests" / "registry.ollama.ai").parts
        name = f"{model}:{tag}" if user in ([], ["library"]) else f"{user[0]}/{model}:{tag}"
        with contextlib.suppress(OSError, ValueError, RecursionError, LookupError, TypeError):
            if manifest.stat().st_size > _LARGEST_MANIFEST:
                continue
            for layer in json.loads(manifest.read_bytes())["layers"]:
                digest = _DIGEST.fullmatch(layer["digest"])
                if layer["mediaType"] == _MODEL_LAYER and digest:
                    blob = root / "blobs" / f"sha256-{digest[1]}"
                    if blob.is_file():
                        yield ForeignModel(name, "Ollama", f"`ollama rm {name}`", (blob,))
                    break


def _of_mlc_llm() -> Iterator[ForeignModel]:
    root = mlc_llm_root() / "model_weights" / "hf"
    for config in _files(root, depth=3):
        if config.name == CONFIG_FILE and len(config.relative_to(root).parts) == 3:
            name = config.parent.relative_to(root).as_posix()
            files = tuple(sorted(p for p in config.parent.iterdir() if p.is_file()))
            yield ForeignModel(f"HF://{name}", "mlc_llm", f"`rm -r {config.parent}`", files)


def _of_llama_cpp() -> Iterator[ForeignModel]:
    yield from _ggufs(llama_cpp_root(), "llama.cpp", 1)


def _of_lm_studio() -> Iterator[ForeignModel]:
    for root in lm_studio_roots():
        yield from _ggufs(root, "LM Studio", 3)


def _ggufs(root: Path, program: str, depth: int) -> Iterator[ForeignModel]:
    for path in _files(root, depth):
        if path.suffix.lower() != ".gguf" or _LATER_PART.search(path.name):
            continue
        parts = [path]
        if (stem := re.sub(r"-00001-of-(\d{5})\.gguf$", "", path.name)) != path.name:
            parts = [p for p in _files(path.parent, 1) if p.name.startswith(f"{stem}-")]
        yield ForeignModel(str(path), program, f"{program} or `rm`", tuple(parts))


def _files(root: Path, depth: int) -> Iterator[Path]:
    """The files of a folder and of those below it, by name."""
    for at, folders, names in os.walk(root):
        below = len(Path(at).relative_to(root).parts)
        folders[:] = sorted(folders) if below + 1 < depth else []
        for name in sorted(names):
            path = Path(at, name)
            if path.is_file():
                yield path
