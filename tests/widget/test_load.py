"""`LoadProgress` and the engine's mirror, on a real worker that follows a script."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from mlc_widget import kernel_mlc_engine
from mlc_widget.api.engine_link import EngineSnapshot
from mlc_widget.api.errors import (
    LoadCancelledError,
    ModelFormatError,
    ModelNotFoundError,
    ModelNotLoadedError,
)
from mlc_widget.api.progress import InitProgressReport
from mlc_widget.proxy.engines import KernelMLCEngine
from mlc_widget.widget import ChatWidget, LoadProgress, display_load_progress
from mlc_widget.widget.base import EngineMirror
from mlc_widget.widget.load import _RaisedLoadProgress

MakeEngine = Callable[..., KernelMLCEngine]


class Recorded(LoadProgress):
    """A widget that records what it sends to the page."""

    def __init__(self, engine: object) -> None:
        self.engines: list[dict[str, Any]] = []
        self.came = threading.Condition()
        super().__init__(engine)

    def _send(self, msg: Any, buffers: Any = None) -> None:
        if "_engine" in msg.get("state", {}):
            with self.came:
                self.engines.append(msg["state"]["_engine"])
                self.came.notify_all()

    def wait_for(self, matches: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        with self.came:
            assert self.came.wait_for(lambda: any(map(matches, self.engines)), 30), self.engines
            return next(filter(matches, self.engines))


def test_a_load_is_followed_from_the_worker_s_start_to_the_end(
    model_folder: Path, make_engine: MakeEngine
) -> None:
    engine = make_engine(load=False, load_s=0.5)
    widget = Recorded(engine)
    engine.reload(str(model_folder))
    ready = widget.wait_for(lambda e: e["state"] == "ready")
    states = list(dict.fromkeys(e["state"] for e in widget.engines))
    assert [s for s in states if s != "idle"] == ["starting", "loading", "ready"]
    shares = [e["progress"]["progress"] for e in widget.engines if e["progress"]]
    assert shares == sorted(shares)
    assert len(set(shares)) >= 3
    assert max(shares) == 1
    assert ready["model"] == str(model_folder)
    revs = [e["rev"] for e in widget.engines]
    assert revs == sorted(revs)
    widget.close()


def test_a_failed_load_shows_the_error_and_whose_it_is(
    model_folder: Path, make_engine: MakeEngine
) -> None:
    engine = make_engine(load=False, load_fails="params_shard_0.bin is truncated: get it again.")
    widget = Recorded(engine)
    with pytest.raises(ModelFormatError):
        engine.reload(str(model_folder))
    failed = widget.wait_for(lambda e: e["error"] is not None)
    assert failed["error"] == {
        "type": "ModelFormatError",
        "message": "params_shard_0.bin is truncated: get it again.",
    }
    assert failed["model"] == str(model_folder)
    widget.close()


def test_a_bar_stays_as_it_ended_when_a_later_load_changes_nothing(
    model_folder: Path, make_engine: MakeEngine, tmp_path: Path
) -> None:
    engine = make_engine(load=False)
    earlier = Recorded(engine)
    engine.reload(str(model_folder))
    earlier.wait_for(lambda e: e["state"] == "ready")
    later, chat = Recorded(engine), ChatWidget(engine)
    with pytest.raises(ModelNotFoundError):
        engine.reload(str(tmp_path / "typo"))
    failed = later.wait_for(lambda e: e["failed"] is not None)
    assert (failed["state"], failed["model"]) == ("ready", str(model_folder))
    assert failed["failed"]["model"] == str(tmp_path / "typo")
    assert failed["failed"]["error"]["type"] == "ModelNotFoundError"
    assert chat.get_state("_engine")["_engine"]["failed"] == failed["failed"]
    assert not any(e["failed"] for e in earlier.engines)
    assert earlier.engines[-1]["state"] == "ready"
    later.engines.clear()
    engine.reload(str(model_folder))
    assert later.wait_for(lambda e: e["state"] == "ready")["failed"] is None
    assert chat.get_state("_engine")["_engine"]["failed"] is None
    for widget in (earlier, later, chat):
        widget.close()


def test_the_page_cancels_a_load(model_folder: Path, make_engine: MakeEngine) -> None:
    engine = make_engine(load=False, load_hangs=True)
    widget = Recorded(engine)
    errors: list[BaseException] = []

    def load() -> None:
        try:
            engine.reload(str(model_folder))
        except LoadCancelledError as error:
            errors.append(error)

    loading = threading.Thread(target=load)
    loading.start()
    widget.wait_for(lambda e: e["state"] == "loading" and e["progress"] is not None)
    content = {"type": "intent", "id": "a", "intent": {"kind": "cancel_load"}}
    widget._handle_custom_msg(content, [])
    loading.join(30)
    assert len(errors) == 1
    widget.wait_for(lambda e: bool(e["error"]) and e["error"]["type"] == "LoadCancelledError")
    widget.close()


def test_trying_again_keeps_how_the_model_was_loaded(
    model_folder: Path, make_engine: MakeEngine
) -> None:
    engine = make_engine(load=False, text="Tried again.")
    engine.reload(str(model_folder), chat_opts={"context_window_size": 1234})
    widget = Recorded(engine)
    widget.wait_for(lambda e: e["window"] == 1234 and e["memory_used_bytes"] > 1_000_000)
    assert engine.worker_pid is not None
    os.kill(engine.worker_pid, signal.SIGKILL)
    widget.wait_for(lambda e: e["state"] == "dead")
    widget.engines.clear()
    content = {"type": "intent", "id": "a", "intent": {"kind": "load", "model": None}}
    widget._handle_custom_msg(content, [])
    widget.wait_for(lambda e: e["state"] == "ready")
    assert engine.models.list()[0].model_dump()["context_window_size"] == 1234
    widget.close()


def test_a_hang_is_shown_and_the_page_restarts_the_worker(model_folder: Path) -> None:
    with KernelMLCEngine(runtime="scripted", hang_timeout=0.3) as engine:
        engine.reload(str(model_folder))
        widget = Recorded(engine)
        chat = ChatWidget(engine)
        assert engine.worker_pid is not None
        os.kill(engine.worker_pid, signal.SIGSTOP)
        reply = chat.send("Hi")
        hung = widget.wait_for(lambda e: e["hang"] is not None)
        assert hung["hang"]["part"] == "worker"
        assert hung["hang"]["seconds"] >= 0.3
        assert hung["state"] == "ready"
        assert widget._view_of.to_json()["hang"]["seconds"] > hung["hang"]["seconds"]
        widget.engines.clear()
        content = {"type": "intent", "id": "a", "intent": {"kind": "restart"}}
        widget._handle_custom_msg(content, [])
        ready = widget.wait_for(lambda e: e["state"] == "ready" and e["hang"] is None)
        assert ready["error"] is None
        assert reply.result(30)["content"] == "Hello from the script."
        chat.close()
        widget.close()


def test_a_chat_without_its_model_says_what_to_press(
    model_folder: Path, make_engine: MakeEngine
) -> None:
    engine = make_engine()
    chat = ChatWidget(engine)
    panel = Recorded(engine)
    engine.unload()
    assert panel.wait_for(lambda e: e["unloaded"])["model"] == str(model_folder)
    with pytest.raises(ModelNotLoadedError, match="at the top of the chat"):
        chat.send("Hi").result(30)
    with pytest.raises(ModelNotFoundError):
        engine.reload("no_such_model")
    with pytest.raises(ModelNotLoadedError, match="no_such_model"):
        engine.completions.create(prompt="Hi")
    engine.reload(str(model_folder))
    for widget in (panel, chat):
        widget.close()


def test_a_base_model_s_warning_is_shown_unless_python_warns(make_engine: MakeEngine) -> None:
    progress = InitProgressReport(1, 1, "ready", warning="It has no chats.")
    snapshot = EngineSnapshot("ready", ("base",), progress)
    assert EngineMirror(snapshot).to_json()["progress"]["warning"] == "It has no chats."
    engine = make_engine()
    panel = _RaisedLoadProgress(engine)

    async def follow() -> None:
        panel._on_engine(snapshot)

    engine.link.submit(follow()).result(30)
    assert panel.get_state("_engine")["_engine"]["progress"]["warning"] == ""
    panel.close()


def test_nothing_is_displayed_outside_a_kernel(
    make_engine: MakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    display_load_progress(make_engine(load=False))
    assert capsys.readouterr() == ("", "")


def test_a_gpu_and_its_memory_reach_the_page() -> None:
    info = {
        "device": "cuda:1",
        "device_name": "NVIDIA H200",
        "device_memory_bytes": 150,
        "device_memory_free_bytes": 140,
        "model_memory_bytes": 5,
    }
    mirror = EngineMirror(EngineSnapshot(state="ready", models=("demo",), device="cuda:1"))
    assert mirror.to_json()["gpu"] is None
    mirror.describe([], info)
    assert mirror.to_json()["gpu"] == {
        "name": "NVIDIA H200",
        "memory_bytes": 150,
        "free_bytes": 140,
        "model_bytes": 5,
    }
    mirror.describe([], {**info, "device_name": None})
    assert mirror.to_json()["gpu"] is None


def test_in_a_cell_of_marimo_it_is_appended_to_the_output(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    marimo = ModuleType("marimo")
    marimo.running_in_notebook = lambda: True  # type: ignore[attr-defined]
    marimo.output = SimpleNamespace(append=shown.append)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "marimo", marimo)
    display_load_progress(make_engine())
    assert len(shown) == 1
    assert isinstance(shown[0], LoadProgress)
    shown[0].close()
    marimo.running_in_notebook = lambda: False  # type: ignore[attr-defined]
    display_load_progress(make_engine())
    assert len(shown) == 1


def test_the_panel_of_a_failed_load_leaves_the_message_to_the_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr("mlc_widget.widget.load.in_marimo", lambda: True)
    monkeypatch.setattr("mlc_widget.widget.load.show_in_marimo", shown.append)
    with pytest.raises(ModelNotFoundError, match="typo"):
        kernel_mlc_engine(str(tmp_path / "typo"), runtime="scripted")
    (panel,) = shown
    error = panel.get_state("_engine")["_engine"]["error"]
    assert error == {"type": "ModelNotFoundError", "message": "ModelNotFoundError"}
    panel.close()
