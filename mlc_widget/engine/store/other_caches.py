"""Models that other programs have downloaded: read where they lie, and never changed.

Ollama, llama.cpp and mlc_llm each keep a folder of models in the user's home. A file is used if its
content has the SHA-256 that its list, or the model's id, gives; a folder of mlc_llm's if it has all
the files of its list of weights, whose checksums are compared when it is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mlc_widget.api.errors import ModelFormatError
from mlc_widget.engine.store.hub_cache import HubModel, is_whole_folder
from mlc_widget.engine.store.model_files import read_json_object
from mlc_widget.engine.store.transfer import content_digest
from mlc_widget.engine.store.verification import FileIdentity, PublishedFile, VerifiedFiles
from mlc_widget.models.places import llama_cpp_root, mlc_llm_root, ollama_root

_OLLAMA_NAME: Final = re.compile(
    r"(?:(?P<user>[A-Za-z0-9][\w.-]*)/)?(?P<model>[A-Za-z0-9][\w.-]*):(?P<tag>[A-Za-z0-9][\w.-]*)"
)
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_LARGEST_MANIFEST: Final = 1 << 20
_MODEL_LAYER: Final = "application/vnd.ollama.image.model"


def ollama_model(name: str) -> Path | None:
    """The GGUF file of a model that Ollama has pulled, by its name there, such as ``qwen3:0.6b``.

    Raises:
        ModelFormatError: It is not the file that Ollama's manifest names.
    """
    match = _OLLAMA_NAME.fullmatch(name)
    if match is None:
        return None
    root = ollama_root()
    place = Path(match["user"] or "library", match["model"], match["tag"])
    manifest = root / "manifests" / "registry.ollama.ai" / place
    if not manifest.is_file():
        return None
    content = read_json_object(manifest, _LARGEST_MANIFEST, "", "pull the model again with Ollama")
    layers = content.get("layers")
    for layer in layers if isinstance(layers, list) else ():
        if isinstance(layer, dict) and layer.get("mediaType") == _MODEL_LAYER:
            digest = _DIGEST.fullmatch(str(layer.get("digest")))
            if digest is not None:
                blob = root / "blobs" / f"sha256-{digest[1]}"
                if blob.is_file() and not has_sha256(blob, digest[1]):
                    raise ModelFormatError(
                        f"{blob} is damaged: its SHA-256 is not the one in its name. Pull "
                        f"{name} again with Ollama.",
                        param=str(blob),
                    )
                return blob if blob.is_file() else None
    return None


def find(wanted: HubModel) -> Path | None:
    """A model of the Hub that another program has downloaded.

    Args:
        wanted: A file is found by its SHA-256, which must be given, a repository in MLC format by
            its name, if no revision is wanted.
    """
    if wanted.file is None:
        if wanted.revision is not None or wanted.quantization is not None:
            return None
        folder = mlc_llm_root() / "model_weights" / "hf" / wanted.repo
        return folder if is_whole_folder(folder) else None
    if wanted.sha256 is None:
        return None
    for path in _places(wanted, wanted.sha256):
        if path.is_file() and has_sha256(path, wanted.sha256):
            return path
    return None


def _places(wanted: HubModel, sha256: str) -> Iterator[Path]:
    yield ollama_root() / "blobs" / f"sha256-{sha256}"
    name = f"{wanted.repo}_{wanted.file}".replace("/", "_")
    yield llama_cpp_root() / name


def has_sha256(path: Path, sha256: str) -> bool:
    """Whether a file has a SHA-256. It is read once, and again when it has changed."""
    try:
        identity = FileIdentity.of(path)
        file = PublishedFile(path, identity.size, sha256)
        known = VerifiedFiles(path.parent)
        if known.has(file, identity):
            return True
        if content_digest(path, sha256) != sha256 or FileIdentity.of(path) != identity:
            return False
    except OSError:
        return False
    known.add(file, identity)
    known.save()
    return True
