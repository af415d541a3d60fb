"""Models that Ollama, llama.cpp and mlc_llm have downloaded are used where they lie."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from mlc_widget.api.errors import ModelFormatError
from mlc_widget.engine.store import hub, other_caches
from mlc_widget.engine.store.model_folder import fetch
from mlc_widget.models import builtin_models

CONTENT = b"GGUF and so on"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
LAYER = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{SHA256}"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path / "llama.cpp"))
    monkeypatch.setenv("MLC_LLM_HOME", str(tmp_path / "mlc_llm"))
    monkeypatch.setenv("MLC_WIDGET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def ignore(*_: Any, **counts: Any) -> None:
    pass


def pulled(home: Path, manifest: Any, name: str = "library/qwen3/0.6b") -> Path:
    blob = home / "ollama" / "blobs" / f"sha256-{SHA256}"
    place = home / "ollama" / "manifests" / "registry.ollama.ai" / name
    for path in (blob, place):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(CONTENT)
    place.write_text(manifest if isinstance(manifest, str) else json.dumps(manifest))
    return blob


async def test_a_model_of_ollama(home: Path) -> None:
    config = {"mediaType": "application/json", "digest": "sha256:" + "0" * 64}
    blob = pulled(home, {"layers": [config, LAYER]})
    assert await fetch("qwen3:0.6b", ignore) == blob
    pulled(home, {"layers": [LAYER]}, "someone/model/q8")
    assert await fetch("someone/model:q8", ignore) == blob
    assert other_caches.ollama_model("qwen3:8b") is None
    for odd in ("qwen3", "../x:y", "a:..", "a/b/c:d", "qwen3:../../x", ""):
        assert other_caches.ollama_model(odd) is None


def test_a_damaged_file_of_ollama(home: Path) -> None:
    blob = pulled(home, {"layers": [LAYER]})
    assert other_caches.ollama_model("qwen3:0.6b") == blob
    blob.write_bytes(b"GGUF and so oN")
    with pytest.raises(ModelFormatError, match="is damaged"):
        other_caches.ollama_model("qwen3:0.6b")


@pytest.mark.parametrize(
    "manifest",
    [
        {},
        {"layers": 3},
        {"layers": [3, None, {}]},
        {"layers": [{**LAYER, "digest": "sha256:../../x"}]},
        {"layers": [{**LAYER, "digest": f"sha256:{'1' * 64}"}]},
        {"layers": [{**LAYER, "digest": [1]}]},
    ],
)
def test_a_manifest_that_names_no_file(home: Path, manifest: Any) -> None:
    pulled(home, manifest)
    assert other_caches.ollama_model("qwen3:0.6b") is None


@pytest.mark.parametrize("manifest", ["", "[]", "[" * 10_000])
def test_a_manifest_that_is_none(home: Path, manifest: str) -> None:
    pulled(home, manifest)
    with pytest.raises(ModelFormatError):
        other_caches.ollama_model("qwen3:0.6b")


@pytest.mark.parametrize("program", ["ollama", "llama.cpp"])
async def test_a_file_by_its_sum(home: Path, program: str) -> None:
    if program == "ollama":
        path = pulled(home, {})
    else:
        path = home / "llama.cpp" / "user_repo_a_x.gguf"
        path.parent.mkdir()
        path.write_bytes(CONTENT)
    model_id = f"HF://user/repo/a/x.gguf#sha256={SHA256}"
    assert await hub.download(model_id, ignore) == path
    assert hub.cached(hub.parse(model_id)) == path
    assert other_caches.find(hub.parse("HF://user/repo/a/x.gguf")) is None
    path.write_bytes(b"another")
    assert other_caches.find(hub.parse(model_id)) is None


async def test_a_folder_of_mlc_llm(home: Path) -> None:
    folder = home / "mlc_llm" / "model_weights" / "hf" / "user" / "repo"
    shutil.copytree(builtin_models()["demo"], folder)
    assert await hub.download("HF://user/repo", ignore) == folder
    assert other_caches.find(hub.parse("HF://user/repo@v1")) is None
    next(folder.glob("params_shard_*.bin")).unlink()
    assert other_caches.find(hub.parse("HF://user/repo")) is None
