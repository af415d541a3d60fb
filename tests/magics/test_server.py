"""`%mlc load http://…` makes an engine on a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from mlc_widget import EngineServer, KernelMLCEngine, MLCEngine, ServerMLCEngine
from mlc_widget.server_engine.engines import AsyncServerMLCEngine

KEY = "MLC_WIDGET_TEST_SERVER_KEY"


@pytest.fixture
def server(tiny_model, monkeypatch) -> Iterator[EngineServer]:
    with MLCEngine(runtime="scripted") as engine:
        engine.reload(str(tiny_model))
        with engine.serve() as server:
            monkeypatch.setenv(KEY, server.token)
            yield server


def test_a_chat_with_a_server(
    shell: InteractiveShell, said: Callable[[str], str], server: EngineServer, tiny_model
) -> None:
    said(f"%mlc load {server.url} --api-key-env {KEY}")
    engine = shell.user_ns["_engine"]
    assert isinstance(engine, AsyncServerMLCEngine)
    assert "Hello from the script." in said("%%chat\nHello")
    assert "server 127.0.0.1" in said("%mlc stats")
    said(f"%mlc load {server.url} {tiny_model} --api-key-env {KEY}")
    assert shell.user_ns["_engine"] is engine
    assert f"{server.url}" in said("%%chat --model " + server.url + "\nHello")


def test_an_engine_of_another_kind_is_replaced_if_a_magic_made_it(
    shell: InteractiveShell, said: Callable[[str], str], server: EngineServer
) -> None:
    magics = shell.magics_manager.registry["MLCMagics"]
    before = magics.registry.make(None, runtime="scripted")
    assert "replaces _engine" in said(f"%mlc load {server.url} --api-key-env {KEY}")
    assert isinstance(shell.user_ns["_engine"], AsyncServerMLCEngine)
    before.link.submit(before.link.terminate()).result(60)
    shell.user_ns["mine"] = KernelMLCEngine()
    with pytest.raises(UsageError, match="mine is running already"):
        magics.mlc(f"load {server.url} --to mine")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("http://127.0.0.1:1/v1 --device cpu", "--device: only for a worker"),
        ("http://127.0.0.1:1/v1 --python p --kernel k", "--kernel --python"),
        ("demo --api-key-env KEY", "--api-key-env"),
        ("http://127.0.0.1:1/v1 --api-key-env NO_SUCH_VARIABLE", "not set"),
        ("http://user:word@127.0.0.1", "api_key_env"),
    ],
)
def test_flags_that_do_not_fit_are_refused(shell: InteractiveShell, line: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        shell.magics_manager.registry["MLCMagics"].mlc(f"load {line}")


def test_a_servers_engine_of_the_users_own_is_used(
    shell: InteractiveShell, said: Callable[[str], str], server: EngineServer
) -> None:
    shell.user_ns["mine"] = engine = ServerMLCEngine(server.url, api_key_env=KEY)
    engine.reload()
    assert "Hello from the script." in said("%%chat\nHello")
