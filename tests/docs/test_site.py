"""The reference follows `mlc_widget.__all__`, and names without a docstring are found."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import mlc_widget

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def public_api() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "public_api", DOCS / "_extensions" / "public_api.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch):
    def add(name: str, value: object) -> None:
        monkeypatch.setattr(mlc_widget, name, value, raising=False)
        monkeypatch.setattr(mlc_widget, "__all__", [*mlc_widget.__all__, name])

    return add


def test_every_public_name_has_its_place(public_api: ModuleType) -> None:
    kinds = re.findall(r"public-api:: (\w+)", (DOCS / "reference.rst").read_text())
    listed = [name for kind in kinds for name in public_api.names_of(kind)]
    assert sorted(listed) == sorted(n for n in mlc_widget.__all__ if not n.startswith("_"))


def test_everything_public_is_explained(public_api: ModuleType) -> None:
    assert public_api.undocumented() == []


def silent() -> None: ...


class Silent:
    pass


class Half:
    """It is explained."""

    def explained(self) -> None:
        """And so is this."""

    def silent(self) -> None: ...

    @property
    def unexplained(self) -> int:
        return 0

    def _private(self) -> None: ...


Half.__module__ = Silent.__module__ = "mlc_widget.made_up"


@pytest.mark.parametrize(
    ("value", "missing"),
    [(silent, ["New"]), (Silent, ["New"]), (Half, ["New.silent", "New.unexplained"])],
    ids=["function", "class", "members"],
)
def test_what_is_not_explained_is_named(
    public_api: ModuleType, publish, value: object, missing: list[str]
) -> None:
    publish("New", value)
    assert public_api.undocumented() == missing


def test_a_new_name_is_listed_by_itself(public_api: ModuleType, publish) -> None:
    publish("New", Half)
    assert "New" in public_api.names_of("types")
