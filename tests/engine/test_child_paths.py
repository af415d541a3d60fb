"""Files beside the notebook stand in no package's place in the engine's child processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mlc_widget.api.safe_path import safe_path
from mlc_widget.engine.grammar_check import GrammarChecker
from mlc_widget.engine.system.child_process import run_child
from mlc_widget.engine.text.tokenizer_loading import load_tokenizer

NAMES = ("tokenizers", "llguidance", "json", "random", "resource", "psutil", "sitecustomize")


@pytest.fixture(params=[None, "", ".", "{cwd}", "{cwd}/.", "{cwd}{sep}{cwd}/../{name}", "{link}"])
def traps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text("raise RuntimeError('the trap fell')")
    link = tmp_path / "link"
    link.symlink_to(folder)
    monkeypatch.chdir(folder)
    if request.param is None:
        monkeypatch.delenv("PYTHONPATH", raising=False)
    else:
        path = request.param.format(cwd=folder, name=folder.name, sep=os.pathsep, link=link)
        monkeypatch.setenv("PYTHONPATH", path)


@pytest.mark.usefixtures("traps")
async def test_children_import_packages(tiny_model: Path) -> None:
    lines: list[str] = []
    await run_child("this", {}, lambda facts: None, lines.append)
    assert lines[0].startswith("The Zen of Python")
    assert (await load_tokenizer(tiny_model)).encode("hello")


@pytest.mark.usefixtures("traps")
def test_the_grammar_check_imports_packages() -> None:
    pytest.importorskip("llguidance")
    checker = GrammarChecker()
    try:
        assert checker.lark('root ::= "a"')[1] == ""
    finally:
        checker.close()


def test_other_folders_stay_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = ["/one", "", str(tmp_path), "/two", "."]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    assert safe_path() == {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(["/one", "/two"])}


@pytest.fixture
def removed_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "removed"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()


@pytest.mark.usefixtures("removed_folder")
def test_children_run_where_the_folder_was_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llguidance")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "relative", "/one"]))
    assert safe_path() == {"PYTHONSAFEPATH": "1", "PYTHONPATH": "/one"}
    checker = GrammarChecker()
    try:
        assert checker.lark('root ::= "a"')[1] == ""
    finally:
        checker.close()
