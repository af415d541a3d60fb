"""Workers on another host, over ssh, by the kernel provisioner sshpyk; see `remote_host`.

`make soak` runs it. It needs root, Debian's openssh-server and iproute2, and PyPI's sshpyk.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from mlc_widget import AsyncKernelMLCEngine
from mlc_widget.api.errors import EngineDeadError, MLCEngineError

from ..waiting import until, until_blocking
from .remote_host import ALIAS, RemoteHost, missing, remote_host

pytestmark = pytest.mark.soak
Make = Callable[..., Awaitable[AsyncKernelMLCEngine]]

HELLO: Final = [{"role": "user", "content": "Hello!"}]
TEXT: Final = "one two three four"
WHOLE: Final = " ".join([TEXT] * 60)
SCRIPT: Final = {"text": TEXT, "repeat": 60, "pace_s": 0.03}
_LEAVE: Final = """
import asyncio, json, sys
from mlc_widget import AsyncKernelMLCEngine

async def main():
    engine = AsyncKernelMLCEngine(**json.loads(sys.argv[1]))
    await engine.reload("demo")
    print("ready", flush=True)
    sys.stdin.readline()
    return engine

engine = asyncio.run(main())
"""


@pytest.fixture(scope="module")
def host() -> Iterator[RemoteHost]:
    """A host with the worker's kernelspec; this machine has one that starts it there, by sshpyk."""
    why = missing()
    if why is None and importlib.util.find_spec("sshpyk") is None:
        why = "sshpyk is not installed (PyPI)"
    if why is not None:
        pytest.skip(why)
    argv = [sys.executable, "-m", "mlc_widget.worker", "-f", "{connection_file}"]
    there = {"argv": argv, "display_name": "worker", "language": "python"}
    with (
        tempfile.TemporaryDirectory(prefix="mlcw-", dir="/tmp") as folder,  # sockets: a short path
        remote_host(Path(folder), {"mlc-worker": json.dumps(there)}) as host,
        pytest.MonkeyPatch.context() as patch,
    ):
        config = {
            "ssh_host_alias": ALIAS,
            "ssh_config": str(host.ssh_config),
            "remote_python": sys.executable,
            "remote_kernel_name": "mlc-worker",
        }
        provisioner = {"provisioner_name": "sshpyk-provisioner", "config": config}
        here = Path(folder) / "here" / "kernels" / "gpu"
        here.mkdir(parents=True)
        spec = {**there, "argv": [], "metadata": {"kernel_provisioner": provisioner}}
        (here / "kernel.json").write_text(json.dumps(spec))
        patch.setenv("JUPYTER_PATH", str(here.parents[1]))
        yield host


@pytest.fixture
def remote(host: RemoteHost, kernel_engine: Make) -> Iterator[Make]:
    """Makes engines there; afterwards nothing is left of them."""

    async def make(**options: Any) -> AsyncKernelMLCEngine:
        given = {"runtime": "scripted", "runtime_options": SCRIPT, **options}
        engine = await kernel_engine(load=False, kernel_name="gpu", **given)
        await engine.reload("demo")
        return engine

    yield make
    host.link("up")


async def ends(host: RemoteHost, engine: AsyncKernelMLCEngine) -> None:
    await engine.terminate()
    await until(lambda: not host.processes)


async def read(engine: AsyncKernelMLCEngine, got: list[str]) -> None:
    async for chunk in await engine.chat.completions.create(messages=HELLO, stream=True):
        got.extend(choice.delta.content or "" for choice in chunk.choices)


async def test_progress_and_tokens_come_as_they_are_made(host: RemoteHost, remote: Make) -> None:
    reports: list[float] = []
    engine = await remote(init_progress_callback=lambda report: reports.append(report.progress))
    assert reports == sorted(reports)
    assert reports[-1] == 1.0
    assert engine.worker_pid is None  # its number means nothing here
    assert len(host.workers) == 1
    stream = await engine.chat.completions.create(messages=HELLO, stream=True)
    times = [time.monotonic() async for _ in stream]
    assert times[-1] - times[0] > 1.0
    assert max(b - a for a, b in itertools.pairwise(times)) < 1.0
    await ends(host, engine)
    assert not host.run("find /home/worker /tmp -name '*connection*' -o -name 'kernel-*.json'")


async def test_a_model_of_the_tvm_runtime(host: RemoteHost, remote: Make) -> None:
    engine = await remote(runtime="tvm", runtime_options={"threads": 1}, start_timeout=120)
    assert (await engine.chat.completions.create(messages=HELLO)).choices[0].message.content
    await ends(host, engine)


async def test_its_death_is_noticed_within_seconds_and_its_answer_continued(
    host: RemoteHost, remote: Make
) -> None:
    engine = await remote()
    got: list[str] = []
    reading = asyncio.create_task(read(engine, got))
    await until(lambda: len(got) > 10)
    (pid,) = host.workers
    assert engine.link.snapshot.state == "ready"
    host.run(f"kill -KILL {pid}")
    since = time.monotonic()
    await until(lambda: engine.link.snapshot.state != "ready")
    assert time.monotonic() - since < 5.0
    await reading
    assert "".join(got) == WHOLE
    assert pid not in host.workers
    await ends(host, engine)


async def test_a_short_cut_of_the_link_loses_nothing(host: RemoteHost, remote: Make) -> None:
    engine = await remote()
    (pid,) = host.workers
    got: list[str] = []
    reading = asyncio.create_task(read(engine, got))
    await until(lambda: len(got) > 10)
    host.link("down")
    await asyncio.sleep(4)  # as a cable is out for a while
    host.link("up")
    await reading
    assert "".join(got) == WHOLE
    assert host.workers == [pid]
    await ends(host, engine)


async def test_a_long_cut_gives_each_side_up(host: RemoteHost, remote: Make) -> None:
    engine = await remote(link_timeout=4)
    before: list[str] = []
    reading = asyncio.create_task(read(engine, before))
    await until(lambda: len(before) > 10)
    host.link("down")
    since = time.monotonic()
    with pytest.raises(MLCEngineError):  # no other can be started
        await reading
    assert time.monotonic() - since < 40
    await until(lambda: not host.workers)
    host.link("up")
    got: list[str] = []
    await read(engine, got)
    assert "".join(got) == WHOLE
    await ends(host, engine)


async def test_tunnels_that_break_are_noticed(host: RemoteHost, remote: Make) -> None:
    """As when ssh has given the host up: what was on the way is lost."""
    engine = await remote()
    got: list[str] = []
    reading = asyncio.create_task(read(engine, got))
    await until(lambda: len(got) > 10)
    (pid,) = host.workers
    leave = ["ssh", "-F", str(host.ssh_config), "-O", "exit", ALIAS]
    await asyncio.to_thread(subprocess.run, leave, check=True)
    await reading
    assert "".join(got) == WHOLE
    await until(lambda: pid not in host.workers)
    await ends(host, engine)


def end_notebook(options: dict[str, Any], how: str, there: Callable[[], Any]) -> None:
    """Have a notebook load a model on another host, see that something is there, and end it."""
    notebook = subprocess.Popen(
        [sys.executable, "-c", _LEAVE, json.dumps(options)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    assert notebook.stdin is not None
    assert notebook.stdout is not None
    assert notebook.stdout.readline() == "ready\n"
    assert there()
    if how == "exit":
        notebook.stdin.write("\n")
        notebook.stdin.close()
    else:
        notebook.send_signal(signal.SIGKILL)
    notebook.wait(30)
    notebook.stdout.close()


@pytest.mark.parametrize("how", ["exit", "SIGKILL"])
def test_nothing_is_left_when_the_notebook_ends(host: RemoteHost, how: str) -> None:
    options = {"kernel_name": "gpu", "runtime": "scripted", "link_timeout": 5}
    end_notebook(options, how, lambda: host.workers)
    until_blocking(lambda: not host.processes)


async def test_a_setting_that_cannot_be_followed_there_is_one_clear_error(
    host: RemoteHost, remote: Make
) -> None:
    with pytest.raises(MLCEngineError, match="no_such_module") as caught:
        await remote(handler="no_such_module:Handler")
    assert not isinstance(caught.value, EngineDeadError)
    await until(lambda: not host.processes)
