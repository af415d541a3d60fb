"""A worker from an installed kernelspec, as a kernel provisioner would place it."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlc_widget import AsyncKernelMLCEngine
from mlc_widget.api.errors import BadRequestError, MLCEngineError, WorkerStartError

from .conftest import DEADLINE_S

Make = Callable[..., Awaitable[AsyncKernelMLCEngine]]

HELLO = [{"role": "user", "content": "Hello!"}]
_OTHER_LAUNCHER = """
# As gateway-provisioners' launcher, which starts this application whatever the kernelspec says.
import functools, sys
from ipykernel.kernelapp import IPKernelApp
from tornado.ioloop import IOLoop
from mlc_widget.worker.kernel import WorkerKernel

app = IPKernelApp.instance(kernel_class=WorkerKernel, user_ns={}, connection_file=sys.argv[1])
app.initialize([])
IOLoop.current().call_later(0, functools.partial(print, "printed", flush=True))
app.start()
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Installs a kernelspec of the worker, for this test."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))

    def make(metadata: dict[str, Any], argv: list[str] | None = None) -> str:
        folder = tmp_path / "kernels" / "remote"
        folder.mkdir(parents=True)
        own = [sys.executable, "-m", "mlc_widget.worker", "-f", "{connection_file}"]
        spec = {"argv": argv or own, "display_name": "remote", "language": "python"}
        (folder / "kernel.json").write_text(json.dumps({**spec, "metadata": metadata}))
        return "remote"

    return make


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"kernel_provisioner": {"provisioner_name": "local-provisioner"}},
        {"supported_encryption": ["curve"]},
    ],
    ids=["plain", "provisioner", "encrypted"],
)
async def test_a_worker_from_a_kernelspec(
    kernel_engine: Make, install: Callable[..., str], metadata: dict[str, Any]
) -> None:
    engine = await kernel_engine(kernel_name=install(metadata))
    process = engine._core._supervisor._process
    assert process is not None
    connection = json.loads(Path(process._manager.connection_file).read_text())  # type: ignore[union-attr]
    assert connection["transport"] == "tcp"
    assert ("curve_publickey" in connection) == ("supported_encryption" in metadata)
    answer = await engine.chat.completions.create(messages=HELLO)
    assert answer.choices[0].message.content == "Hello from the script."
    client = process._manager.client()  # type: ignore[union-attr]
    client.start_channels(stdin=False, hb=False)
    refused = await client.execute("1 + 1", reply=True, timeout=DEADLINE_S)
    assert refused["content"]["status"] == "error"
    assert "runs no code" in refused["content"]["evalue"]
    client.stop_channels()
    assert process._parent_watch is not None  # type: ignore[union-attr]
    pid = engine.worker_pid
    assert pid is not None
    await engine.terminate()
    assert not psutil.pid_exists(pid)


async def test_settings_reach_a_worker_that_gets_no_variables_of_ours(
    kernel_engine: Make, install: Callable[..., str], worker_module: Callable[[str, str], None]
) -> None:
    argv = ["/usr/bin/env", "-u", "MLC_WIDGET_WORKER", sys.executable, "-m", "mlc_widget.worker"]
    name = install({}, [*argv, "-f", "{connection_file}"])
    engine = await kernel_engine(kernel_name=name, text="As it was set.")
    answer = await engine.chat.completions.create(messages=HELLO)
    assert answer.choices[0].message.content == "As it was set."
    worker_module("breaks_at_import", "1 / 0")
    other = await kernel_engine(load=False, kernel_name=name, handler="breaks_at_import:Handler")
    with pytest.raises(MLCEngineError, match="division by zero"):
        await other.reload("demo")


async def test_a_worker_that_another_launcher_hosts(
    kernel_engine: Make, install: Callable[..., str], tmp_path: Path
) -> None:
    log, launcher = tmp_path / "log", tmp_path / "launcher.py"
    launcher.write_text(_OTHER_LAUNCHER)
    launch = f"unset MLC_WIDGET_WORKER; exec {sys.executable} {launcher} $1 > {log} 2>&1"
    name = install({}, ["/bin/sh", "-c", launch, "sh", "{connection_file}"])
    engine = await kernel_engine(kernel_name=name, text="As it was set.")
    answer = await engine.chat.completions.create(messages=HELLO)
    assert answer.choices[0].message.content == "As it was set."
    assert "printed" in log.read_text()
    pid = engine.worker_pid
    assert pid is not None
    await engine.terminate()
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("value", [0, -1, True, "60", float("nan")])
def test_a_link_timeout_that_is_none(value: Any) -> None:
    with pytest.raises(BadRequestError, match="link_timeout = "):
        AsyncKernelMLCEngine(kernel_name="remote", link_timeout=value)


def test_a_link_timeout_without_a_link() -> None:
    with pytest.raises(BadRequestError, match="give `kernel_name`"):
        AsyncKernelMLCEngine(link_timeout=5)


async def test_required_encryption_that_the_kernel_does_not_have(
    kernel_engine: Make, install: Callable[..., str], tiny_model: Path
) -> None:
    engine = await kernel_engine(
        load=False, kernel_name=install({}), transport_encryption="required"
    )
    with pytest.raises(WorkerStartError, match="encryption"):
        await engine.reload(str(tiny_model))


async def test_a_kernelspec_that_is_not_there(kernel_engine: Make, tiny_model: Path) -> None:
    engine = await kernel_engine(load=False, kernel_name="no such kernel")
    with pytest.raises(WorkerStartError, match="no such kernel"):
        await engine.reload(str(tiny_model))


async def test_a_kernel_that_is_no_worker(
    kernel_engine: Make, install: Callable[..., str], tiny_model: Path
) -> None:
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    engine = await kernel_engine(load=False, kernel_name=install({}, argv), start_timeout=4)
    # It refuses the comm; where that comes before our subscription, it stays silent.
    with pytest.raises(WorkerStartError, match=r"must run `python -m mlc_widget\.worker"):
        await engine.reload(str(tiny_model))
