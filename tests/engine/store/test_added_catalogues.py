"""Models that other packages add to the catalogue: data alone, and checked."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from mlc_widget.models import catalogue as module
from mlc_widget.models.catalogue import CatalogueModel

GOOD = {
    "family": "llama",
    "nbytes": 10,
    "memory_bytes": 20,
    "licence": "MIT",
    "context": 512,
    "sources": ["HF://a/b/c.gguf@main#sha256=" + "0" * 64],
}


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """What the catalogue has beside our models where a package has a file like this."""
    package = tmp_path / "their_models" / "data"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").write_text("raise RuntimeError('code was run')")
    monkeypatch.syspath_prepend(tmp_path)
    own = set(module.catalogue.__wrapped__())

    def read(content: Any, value: str = "their_models.data") -> dict[str, CatalogueModel]:
        text = content if isinstance(content, str) else json.dumps(content)
        (package / "catalogue.json").write_text(text)
        point = EntryPoint("theirs", value, "mlc_widget.models")
        monkeypatch.setattr(module, "entry_points", lambda group: [point])
        found = module.catalogue.__wrapped__()
        return {name: model for name, model in found.items() if name not in own}

    return read


def test_their_models_stand_beside_ours(added: Callable[..., dict[str, Any]]) -> None:
    sampling = {"temperature": 0.6, "top_k": 20}
    models = added({"theirs-1b": GOOD, "theirs-2b": {**GOOD, "sampling": sampling}})
    assert models["theirs-1b"].licence == "MIT"
    assert models["theirs-1b"].sampling == {}
    assert models["theirs-2b"].sampling == sampling


@pytest.mark.parametrize(
    "change",
    [
        {"nbytes": -1},
        {"nbytes": True},
        {"nbytes": 1e9},
        {"memory_bytes": 10**30},
        {"context": "8192"},
        {"licence": ""},
        {"licence": "a\nb"},
        {"family": "x" * 100},
        {"sources": []},
        {"sources": "HF://a/b"},
        {"sources": ["HF://a/b/c.gguf"]},
        {"sources": ["https://a/b#sha256=" + "0" * 64]},
        {"sources": GOOD["sources"] * 9},  # type: ignore[operator]
        {"sources": [*GOOD["sources"], "PYPI://a/b.gguf#sha256=" + "1" * 64]},  # type: ignore[misc]
        {"more": 1},
        {"sources": None},
        {"sampling": None},
        {"sampling": [["temperature", 0.2]]},
        {"sampling": {"temperature": "0.2"}},
        {"sampling": {"temperature": -1}},
        {"sampling": {"top_p": float("nan")}},
        {"sampling": {"seed": 1}},
        {"sampling": {"conv_template": "chatml"}},
    ],
)
def test_an_entry_that_makes_no_sense_is_left_out(
    added: Callable[..., dict[str, Any]], change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    assert set(added({"bad": {**GOOD, **change}, "good": GOOD})) == {"good"}
    assert "'bad'" in caplog.text


@pytest.mark.parametrize("name", ["demo", "smollm2-135m", "A", "../x", "", "a b", "x" * 65])
def test_names_that_cannot_be_added(added: Callable[..., dict[str, Any]], name: str) -> None:
    assert added({name: GOOD}) == {}


@pytest.mark.parametrize(
    "content", ["", "[]", "[" * 100_000, "{", '{"a": ' + "1" * 5000 + "}", " " * (1 << 20) + "{}"]
)
def test_a_file_that_is_no_catalogue(added: Callable[..., dict[str, Any]], content: str) -> None:
    assert added(content) == {}


@pytest.mark.parametrize("value", ["no_such_package", "their_models", "a/../b", "json", "x:y", ""])
def test_a_package_that_has_none(added: Callable[..., dict[str, Any]], value: str) -> None:
    assert added({"theirs": GOOD}, value) == {}
