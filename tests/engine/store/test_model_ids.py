"""Ids as people write them, and folders as other programs leave them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from mlc_widget.api.errors import ModelFormatError, ModelNotFoundError
from mlc_widget.engine.store.model_folder import fetch, resolve
from mlc_widget.engine.store.model_ids import meant


@pytest.mark.parametrize(
    ("written", "is_meant"),
    [
        ("hf://user/repo", "HF://user/repo"),
        ("HF:user/repo", "HF://user/repo"),
        ("Hf:/user/repo@v1", "HF://user/repo@v1"),
        ("hf://u/r/sub/a.gguf@main", "HF://u/r/sub/a.gguf@main"),
        ("https://huggingface.co/user/repo", "HF://user/repo"),
        ("https://huggingface.co/user/repo/", "HF://user/repo"),
        ("https://huggingface.co/user/repo/tree/main", "HF://user/repo"),
        ("https://huggingface.co/user/repo/tree/v1.0", "HF://user/repo@v1.0"),
        ("http://www.huggingface.co/models/user/repo?x=1#y", "HF://user/repo"),
        ("hf.co/user/repo", "HF://user/repo"),
        ("hf.co/user/repo:Q4_K_M", "HF://user/repo:Q4_K_M"),
        ("https://huggingface.co/u/r/blob/main/a.gguf", "HF://u/r/a.gguf"),
        ("https://hf.co/u/r/resolve/v1/Q4/a.gguf?download=true", "HF://u/r/Q4/a.gguf@v1"),
        ("huggingface.co/u/r/resolve/main/a%20b.GGUF#x", "HF://u/r/a b.GGUF"),
        ("https://huggingface.co/u/r/blob/refs%2Fpr%2F1/a.gguf", "HF://u/r/a.gguf@refs/pr/1"),
        ("https://huggingface.co/u/r?show_file_info=a.gguf", "HF://u/r/a.gguf"),
        ("https://huggingface.co/u/r/blob/main/README.md", "HF://u/r"),
        ("pypi://pkg==1.0/pkg/a.gguf", "PYPI://pkg==1.0/pkg/a.gguf"),
        ("PyPI:package/a.gguf#sha256=00", "PYPI://package/a.gguf#sha256=00"),
        ("ollama run llama3.2", "llama3.2:latest"),
        ("ollama://me/model:q4", "me/model:q4"),
        ("file:///data/my%20model.gguf", "/data/my model.gguf"),
        (" demo\n", "demo"),
    ],
)
def test_other_ways_of_writing_an_id_are_read(written: str, is_meant: str) -> None:
    assert meant(written) == is_meant
    assert meant(is_meant) == is_meant


@pytest.mark.parametrize(
    "model_id",
    [
        "demo", "user/repo", "user/repo@main", "./hf", "hf", "hf/model.gguf", "pypi", "ollama",
        "HF://user/repo:Q8_0", "llama3.2:1b", "C:\\models\\a.gguf", "https://example.com/a/b.gguf",
        "huggingface.co", "https://huggingface.co/", "HF://", "PYPI://", "hfx:user/repo", "",
    ],
)  # fmt: skip
def test_other_ids_are_left_alone(model_id: str) -> None:
    assert meant(model_id) == model_id


async def test_a_link_to_a_file_is_opened(tmp_path: Path) -> None:
    file = tmp_path / "a b.gguf"
    file.touch()
    link = file.as_uri()
    assert await fetch(link, lambda *args, **counts: None) == file
    assert await fetch(f" {file} ", lambda *args, **counts: None) == file


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["a.gguf"], "a.gguf"),
        (["a-Q8_0.gguf", "a-Q4_K_M.gguf", "README.md"], "a-Q4_K_M.gguf"),
        (["a-00001-of-00002.gguf", "a-00002-of-00002.gguf"], "a-00001-of-00002.gguf"),
        (["a-Q4_0.gguf", "mmproj-a-F16.gguf"], "a-Q4_0.gguf"),
    ],
)
def test_a_folder_with_one_model_s_gguf_files_is_that_model(
    tmp_path: Path, names: list[str], chosen: str
) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"GGUF")
    assert resolve(str(tmp_path)) == tmp_path / chosen


def test_a_folder_with_several_models_lists_them(tmp_path: Path) -> None:
    for name in ("llama-Q4_0.gguf", "qwen-Q4_0.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(ModelFormatError, match=r"llama-Q4_0\.gguf, qwen-Q4_0\.gguf"):
        resolve(str(tmp_path))


def test_a_folder_without_a_model_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").mkdir()
    with pytest.raises(ModelFormatError, match=r"mlc-chat-config\.json is missing"):
        resolve(str(tmp_path))


@pytest.mark.parametrize(
    ("model_id", "why"),
    [
        ("x" * 100_000, "too long|no file|neither a folder"),
        ("./" + "x" * 300 + "/a.gguf", "too long|no file|neither a folder"),
        ("~no-such-user/a.gguf", "home directory"),
        ("./loop/a.gguf", "no file at this path"),
        ("https://example.com/a.gguf", "not downloaded from such an address"),
        ("s3://bucket/model", "not downloaded from such an address"),
    ],
)
async def test_what_is_no_path_is_one_error(
    model_id: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(ModelNotFoundError, match=why) as caught:
        await fetch(model_id, lambda *args, **counts: None)
    assert len(caught.value.message) < 1000


async def test_a_folder_that_may_not_be_read_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Any = ".") -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refused)  # as root may read everything
    with pytest.raises(ModelNotFoundError, match="cannot be read: Permission denied"):
        await fetch(str(tmp_path), lambda *args, **counts: None)


async def test_a_path_to_no_gguf_file_is_no_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "deep").mkdir(parents=True)
    (tmp_path / "models" / "mine.gguf").touch()
    (tmp_path / "other.gguf").touch()
    monkeypatch.chdir(tmp_path)
    for path in ("models/my.gguf", "models/deep/mine.gguf", "mine.GGUF"):
        with pytest.raises(ModelNotFoundError, match="There is no file at this path") as caught:
            await fetch(path, lambda *_, **__: None)
        assert "Hugging Face" not in str(caught.value)
    with pytest.raises(ModelNotFoundError, match=r"There is 'models/mine\.gguf', "):
        resolve("models/my.gguf")
    with pytest.raises(ModelNotFoundError, match=r"There is 'other\.gguf'\."):
        resolve("nowhere/qwen.gguf")
