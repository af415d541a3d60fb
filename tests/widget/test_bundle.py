"""The front end's code: one model for all widgets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import ipywidgets
import pytest

from mlc_widget.proxy.engines import KernelMLCEngine
from mlc_widget.widget import ChatWidget, LoadProgress, bundle

MakeEngine = Callable[..., KernelMLCEngine]
SMALL = 20_000


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a Jupyter kernel."""
    monkeypatch.setattr(bundle, "in_notebook", lambda: True)


@pytest.fixture
def static(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the built front end that may be changed."""
    folder = tmp_path / "static"
    shutil.copytree(bundle.STATIC, folder)
    monkeypatch.setattr(bundle, "STATIC", folder)
    monkeypatch.setattr(bundle, "_current", None)
    yield folder
    if bundle._current is not None:
        bundle._current.close()


def test_every_widget_s_state_is_small_and_refers_to_the_one_bundle(
    make_engine: MakeEngine,
) -> None:
    engine = make_engine()
    widgets = [ChatWidget(engine), ChatWidget(engine), LoadProgress(engine)]
    states = [widget.get_state() for widget in widgets]
    references = {state["_bundle"] for state in states}
    assert references == {f"IPY_MODEL_{bundle.current_bundle().model_id}"}
    assert all(len(json.dumps(state)) < SMALL for state in states)
    assert not any("_css" in state for state in states)
    code = bundle.current_bundle().get_state()
    assert len(code["js"]) > SMALL
    assert code["css"]
    assert (code["_model_module"], code["_model_name"]) == ("@jupyter-widgets/base", "WidgetModel")
    for widget in widgets:
        widget.close()


def test_its_id_is_that_of_its_content(static: Path) -> None:
    first = bundle.current_bundle()
    assert bundle.current_bundle() is first
    first.close()  # as `Widget.close_all()` does
    again = bundle.current_bundle()
    assert again is not first
    assert again.comm is not None
    digest = again.model_id
    (static / "widget.css").write_text("a { color: red }")  # `npm run watch`
    rebuilt = bundle.current_bundle()
    assert rebuilt.model_id != digest
    assert rebuilt.css == "a { color: red }"
    assert again.model_id == digest
    ipywidgets.Widget.close(again)


@pytest.mark.parametrize("name", ["widget.js", "widget.css", "loader.js"])
def test_without_a_build_it_says_how_to_make_one(static: Path, name: str) -> None:
    (static / name).unlink()
    with pytest.raises(RuntimeError, match="npm run build"):
        bundle.current_bundle()


def test_a_process_that_serves_many_pages_has_one_for_each_widget(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "in_notebook", lambda: False)
    widgets = [ChatWidget(make_engine()), ChatWidget(make_engine())]
    first, other = (widget._bundle for widget in widgets)
    assert first.model_id != other.model_id
    for widget in widgets:
        widget.close()
