"""``mlc_widget models search`` on a Hub that works, and on one that does not."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from mlc_widget.cli import main as cli
from mlc_widget.engine.store import hub_api
from mlc_widget.engine.store.hub_api import Hub
from mlc_widget.engine.store.retrying import GaveUp

from .hub_server import Fault, HubServer


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    made = HubServer(tmp_path, "user/repo")
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in ("MLC_WIDGET_HOME", "HF_HUB_CACHE", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    yield made
    made.close()


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses before other attempts, which take no time."""
    pauses: list[float] = []
    real = Hub.__init__

    def quick(self: Hub, *args: Any, **options: Any) -> None:
        real(self, *args, **{"sleep": pauses.append, **options})

    monkeypatch.setattr(hub_api.Hub, "__init__", quick)
    return pauses


def search(capsys: pytest.CaptureFixture[str], text: str) -> tuple[list[str], str]:
    """The names that are found, and what is said beside them."""
    assert cli.main(["models", "search", text]) == 0
    printed = capsys.readouterr()
    return printed.out.splitlines(), printed.err


def test_the_hub_is_asked_for_gguf_files(
    server: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.found = [{"id": f"user/SmolLM2-{n}-GGUF"} for n in range(20)]
    names, said = search(capsys, "smol lm&2")
    assert names == [f"HF://user/SmolLM2-{n}-GGUF" for n in range(10)]
    assert said == ""
    (query,) = server.queries
    assert query["search"] == ["smol lm&2"]
    assert query["filter"] == ["gguf"]
    assert query["limit"] == ["10"]


def test_models_on_this_disk_come_first(
    server: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.found = [{"id": "user/smollm2"}]
    names, _ = search(capsys, "SMOLLM2")
    assert names == ["smollm2-135m", "HF://user/smollm2"]


def test_nothing_is_found(server: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    names, _ = search(capsys, "no-such-thing")
    assert names == ["No model on this disk or on the Hub has 'no-such-thing' in its name."]


@pytest.mark.parametrize(
    "found",
    [
        [{"id": "../../etc"}, {"id": "user/\x1b[2Jx"}, {"id": "a/b/c"}, {"id": "user/a b"}],
        [{"id": "x" * 10_000}, {"id": None}, {"id": 5.5}, {"name": "user/x"}, "user/x", None],
        [{"id": "user/‮x"}, {"id": "user/"}, {"id": "/x"}, {"id": "user/x\nHF://y"}],
    ],
)
def test_names_that_are_none_are_not_shown(
    server: HubServer, capsys: pytest.CaptureFixture[str], found: list[Any]
) -> None:
    server.found = [*found, {"id": "user/good"}]
    names, _ = search(capsys, "zz")
    assert names == ["HF://user/good"]


@pytest.mark.parametrize("found", [{"id": "user/x"}, "user/x", 5, b"<html>", b"", b"[" * 100_000])
def test_an_answer_that_is_no_list(
    server: HubServer, capsys: pytest.CaptureFixture[str], found: Any
) -> None:
    server.found = found
    names, said = search(capsys, "smollm2")
    assert names == ["smollm2-135m"], "what is here is shown all the same"
    assert said.startswith(f"The Hub was not searched: {server.url} ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "entries", [[{}], [5], [{"type": "file", "path": 5}], [{"type": "file", "path": "x", "lfs": 5}]]
)
def test_a_list_of_files_that_is_none(
    server: HubServer, capsys: pytest.CaptureFixture[str], entries: list[Any]
) -> None:
    server.extra_entries = entries
    assert cli.main(["models", "info", "user/repo"]) == 1
    said = capsys.readouterr().err
    assert f"was not found on the Hub: {server.url} did not answer as a Hub does." in said
    assert said.count("\n") == 1


def test_a_busy_hub_is_asked_again(
    server: HubServer, slept: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    server.found = [{"id": "user/x"}]
    server.api_faults.extend([Fault(429, {"Retry-After": "3"}), Fault(500)])
    assert search(capsys, "zz") == (["HF://user/x"], "")
    assert 3 <= slept[0] < 4
    assert len(slept) == 2


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(401), "401"),
        (Fault(403), "403"),
        (Fault(404), "404"),
        (Fault(500), "500, 4 times in a row"),
        (Fault(429, {"Retry-After": "9999"}), "it asks to wait 9999 s"),
        (Fault(302, {"Location": "/api/models"}), "redirects in a circle"),
    ],
)
def test_a_hub_that_refuses_is_one_line(
    server: HubServer,
    slept: list[float],
    capsys: pytest.CaptureFixture[str],
    fault: Fault,
    reason: str,
) -> None:
    server.api_faults.extend([fault] * 40)
    names, said = search(capsys, "smollm2")
    assert names == ["smollm2-135m"]
    assert said.startswith("The Hub was not searched: ")
    assert reason in said
    assert said.count("\n") == 1


def test_no_hub_and_offline(
    server: HubServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        names, said = search(capsys, "smollm2")
    assert names == ["smollm2-135m"]
    assert "cannot be reached" in said
    with pytest.raises(GaveUp):
        Hub(endpoint="http://127.0.0.1:1").search("x")
