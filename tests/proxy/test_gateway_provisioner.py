"""Workers on another host that gateway-provisioners' launcher hosts; see `remote_host`.

`make soak` runs it. It needs root, Debian's openssh-server and iproute2, and PyPI's
gateway-provisioners.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from mlc_widget import AsyncKernelMLCEngine

from ..waiting import until, until_blocking
from .remote_host import HERE, THERE, RemoteHost, missing, remote_host
from .test_remote_host import HELLO, SCRIPT, WHOLE, Make, end_notebook, read

pytestmark = pytest.mark.soak
OPTIONS: Final[dict[str, Any]] = {
    "kernel_name": "gateway",
    "runtime": "scripted",
    "runtime_options": SCRIPT,
    "transport_encryption": "required",
}


@pytest.fixture(scope="module")
def host() -> Iterator[RemoteHost]:
    """A host with the launcher; this machine has a kernelspec that starts a worker in it there."""
    why = missing()
    if why is None and importlib.util.find_spec("gateway_provisioners") is None:
        why = "gateway-provisioners is not installed (PyPI)"
    if why is not None:
        pytest.skip(why)
    with (
        tempfile.TemporaryDirectory(prefix="mlcw-", dir="/tmp") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        kept, home = Path(folder), Path(folder) / "home"
        program = Path(sys.executable).with_name("jupyter-ssh-spec")
        install = [program, "install", f"--prefix={home}", "--kernel-name=gateway"]
        subprocess.run(install, check=True, capture_output=True)
        here = home / "share" / "jupyter" / "kernels" / "gateway"
        there = "/home/worker/jupyter/kernels/gateway"
        shutil.copytree(here, kept / "jupyter" / "kernels" / "gateway")
        spec = json.loads((here / "kernel.json").read_text())
        assert spec["argv"][0] == "python"
        assert spec["argv"][-2] == "--kernel-class-name"
        spec["argv"][0] = sys.executable
        spec["argv"][1] = f"{there}/scripts/launch_ipykernel.py"
        spec["argv"][-1] = "mlc_widget.worker.kernel.WorkerKernel"
        (here / "kernel.json").write_text(json.dumps(spec))
        with remote_host(kept, {}) as host:
            keys = home / ".ssh"
            keys.mkdir()
            shutil.copy(kept / "id", keys / "id_ed25519")
            shutil.copy(kept / "known_hosts", keys)
            variables = {
                "HOME": str(home),
                "JUPYTER_PATH": str(home / "share" / "jupyter"),
                "GP_REMOTE_HOSTS": THERE,
                "GP_REMOTE_USER": "worker",
                "GP_RESPONSE_IP": HERE,
                "KERNEL_USERNAME": "worker",  # it refuses root
                "KERNEL_LAUNCH_TIMEOUT": "120",
            }
            for name, value in variables.items():
                patch.setenv(name, value)
            yield host


def worker(host: RemoteHost) -> int:
    """The worker's process id, as it is there; the launcher's listener is a younger one."""
    return int(host.run("pgrep -o -f '[l]aunch_ipykernel'"))


async def ends(host: RemoteHost, engine: AsyncKernelMLCEngine) -> None:
    await engine.terminate()
    await until(lambda: not host.processes)


async def test_it_loads_answers_and_leaves_nothing(host: RemoteHost, kernel_engine: Make) -> None:
    reports: list[float] = []
    engine = await kernel_engine(
        load=False, init_progress_callback=lambda report: reports.append(report.progress), **OPTIONS
    )
    await engine.reload("demo")
    assert reports == sorted(reports)
    assert reports[-1] == 1.0
    assert engine.worker_pid is None  # its number means nothing here
    answer = await engine.chat.completions.create(messages=HELLO)
    assert answer.choices[0].message.content == WHOLE
    stream = await engine.chat.completions.create(messages=HELLO, stream=True)
    times = [time.monotonic() async for _ in stream]
    assert times[-1] - times[0] > 1.0
    await ends(host, engine)
    assert not host.run("find /tmp -name 'kernel-*.json'")


async def test_many_long_streams_at_once_lose_nothing(
    host: RemoteHost, kernel_engine: Make
) -> None:
    options = {**OPTIONS, "runtime_options": {"text": "word", "repeat": 1500}}
    engine = await kernel_engine(load=False, **options)
    await engine.reload("demo")
    texts: list[list[str]] = [[] for _ in range(40)]
    await asyncio.gather(*(read(engine, got) for got in texts))
    assert {"".join(got) for got in texts} == {" ".join(["word"] * 1500)}
    await ends(host, engine)


async def test_its_death_is_noticed_and_its_answer_continued(
    host: RemoteHost, kernel_engine: Make
) -> None:
    engine = await kernel_engine(load=False, **OPTIONS)
    await engine.reload("demo")
    got: list[str] = []
    reading = asyncio.create_task(read(engine, got))
    await until(lambda: len(got) > 10)
    pid = worker(host)
    host.run(f"kill -KILL {pid}")
    since = time.monotonic()
    await until(lambda: engine.link.snapshot.state != "ready")
    assert time.monotonic() - since < 5.0
    await reading
    assert "".join(got) == WHOLE
    assert worker(host) != pid
    await ends(host, engine)


@pytest.mark.parametrize("how", ["exit", "SIGKILL"])
def test_nothing_is_left_when_the_notebook_ends(host: RemoteHost, how: str) -> None:
    end_notebook({**OPTIONS, "link_timeout": 5}, how, lambda: host.processes)
    until_blocking(lambda: not host.processes)
