"""A worker's start, death, restart and end, with real processes and real signals."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import venv
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from mlc_widget import AsyncKernelMLCEngine, create_kernel_mlc_engine
from mlc_widget.api.errors import (
    EngineDeadError,
    EngineTerminatedError,
    LoadCancelledError,
    ModelNotFoundError,
    ModelNotLoadedError,
    WorkerStartError,
)
from mlc_widget.proxy import worker as worker_module
from mlc_widget.proxy.process import WorkerProcess
from mlc_widget.proxy.supervisor import _kill_workers

from ..waiting import has_ended, until

Make = Callable[..., Awaitable[AsyncKernelMLCEngine]]

HELLO = [{"role": "user", "content": "Hello!"}]


@pytest.fixture
def temp_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory of this test's own, so that what is left behind shows."""
    # A short path: ipc sockets may have about a hundred characters.
    with tempfile.TemporaryDirectory(prefix="t-") as directory:
        monkeypatch.setattr(tempfile, "tempdir", directory)
        monkeypatch.setenv("TMPDIR", directory)
        yield Path(directory)  # type: ignore[misc]


def kill(engine: AsyncKernelMLCEngine) -> None:
    assert engine.worker_pid is not None
    os.kill(engine.worker_pid, signal.SIGKILL)


async def test_death_in_a_stream_is_told_at_once_and_healed_by_the_next_request(
    kernel_engine: Make,
) -> None:
    engine = await kernel_engine(recovery="error", repeat=1000, pace_s=0.005)
    stream = aiter(await engine.chat.completions.create(messages=HELLO, stream=True))
    await anext(stream)
    whole = asyncio.create_task(engine.chat.completions.create(messages=HELLO))
    await asyncio.sleep(0)
    kill(engine)
    with pytest.raises(EngineDeadError, match=r"killed by SIGKILL \(9\)"):
        async for _ in stream:
            pass
    with pytest.raises(EngineDeadError, match="next request starts a new worker"):
        await whole
    assert engine.state == "dead"
    answer = await engine.chat.completions.create(messages=HELLO, max_tokens=2)
    assert answer.choices[0].message.content == "Hello from"
    assert engine.state == "ready"


async def test_a_death_tells_the_workers_last_words(kernel_engine: Make) -> None:
    engine = await kernel_engine(crash_after=2, last_words="out of cheese")
    with pytest.raises(EngineDeadError, match=r"SIGKILL(.|\n)*last output:\n.*out of cheese"):
        await engine.chat.completions.create(messages=HELLO)


async def test_requests_after_a_death_share_one_restart_and_one_load(kernel_engine: Make) -> None:
    engine = await kernel_engine(load_s=0.3)
    states: list[str] = []
    stop = engine._core.observe(lambda s: states.append(s.state))
    kill(engine)
    await until(lambda: engine.state == "dead")
    answers = await asyncio.gather(
        *(engine.chat.completions.create(messages=HELLO) for _ in range(5))
    )
    stop()
    assert {a.choices[0].finish_reason for a in answers} == {"stop"}
    changes = [s for i, s in enumerate(states) if i == 0 or s != states[i - 1]]
    assert changes == ["dead", "starting", "idle", "loading", "ready"]


async def test_death_while_loading_fails_the_load_and_is_not_repeated(
    kernel_engine: Make, tiny_model: Path
) -> None:
    engine = await kernel_engine(load=False, load_crashes=True)
    with pytest.raises(EngineDeadError, match="SIGKILL"):
        await engine.reload(str(tiny_model))
    assert engine.state == "dead"
    with pytest.raises(ModelNotLoadedError):
        await engine.chat.completions.create(messages=HELLO)


async def test_a_worker_that_keeps_dying_is_not_restarted_for_ever(
    kernel_engine: Make, tiny_model: Path
) -> None:
    engine = await kernel_engine(recovery="error", crash_after=0)
    for _ in range(3):
        with pytest.raises(EngineDeadError, match="SIGKILL"):
            await engine.chat.completions.create(messages=HELLO)
    with pytest.raises(EngineDeadError, match="died 3 times in a row"):
        await engine.chat.completions.create(messages=HELLO)
    assert engine.worker_pid is None
    await engine.reload(str(tiny_model))
    assert engine.state == "ready"


async def test_a_restart_that_cannot_load_says_why(
    kernel_engine: Make, tiny_model: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "gone"))
    engine = await kernel_engine(load=False)
    await engine.reload(str(folder))
    kill(engine)
    await until(lambda: engine.state == "dead")
    shutil.rmtree(folder)
    with pytest.raises(ModelNotFoundError, match="gone"):
        await engine.chat.completions.create(messages=HELLO)
    assert engine.state == "idle"


async def test_a_python_that_is_not_there(tiny_model: Path, temp_dir: Path) -> None:
    with pytest.raises(WorkerStartError, match="/no/such/python"):
        await create_kernel_mlc_engine(str(tiny_model), python="/no/such/python")
    assert list(temp_dir.iterdir()) == []


async def test_a_python_without_the_package(tiny_model: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    python = tmp_path / "bare" / "bin" / "python"
    with pytest.raises(WorkerStartError, match=r"exited with code 1(.|\n)*No module named") as e:
        await create_kernel_mlc_engine(str(tiny_model), python=str(python))
    assert "mlc_widget" in e.value.message


async def test_a_process_that_never_answers(tiny_model: Path, tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\necho I only sleep\nexec sleep 1000\n")
    fake.chmod(0o755)
    with pytest.raises(WorkerStartError, match=r"within 0.5 s(.|\n)*I only sleep"):
        await create_kernel_mlc_engine(str(tiny_model), python=str(fake), start_timeout=0.5)


async def test_a_start_whose_sockets_are_removed_says_so(
    tiny_model: Path, temp_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = WorkerProcess.start

    async def start_and_lose(process: WorkerProcess) -> None:
        await start(process)
        await until(lambda: len(list(temp_dir.glob("mlc_widget-*/socket*"))) == 5)
        shutil.rmtree(process.sockets_folder or "")

    monkeypatch.setattr(WorkerProcess, "start", start_and_lose)
    monkeypatch.setattr(worker_module, "_LAST_ANSWER_S", 0.1)
    with pytest.raises(WorkerStartError, match=r"the folder of its sockets, .* was removed"):
        await create_kernel_mlc_engine(str(tiny_model), start_timeout=60)


async def test_terminate_ends_a_start(tiny_model: Path, tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nexec sleep 1000\n")
    fake.chmod(0o755)
    engine = AsyncKernelMLCEngine(python=str(fake))
    load = asyncio.create_task(engine.reload(str(tiny_model)))
    await until(lambda: engine.worker_pid is not None)
    pid = engine.worker_pid
    await engine.terminate()
    with pytest.raises(EngineTerminatedError):
        await load
    assert not psutil.pid_exists(pid)


async def test_unload_during_a_start_ends_the_load(tiny_model: Path, kernel_engine: Make) -> None:
    engine = await kernel_engine(load=False)
    load = asyncio.create_task(engine.reload(str(tiny_model)))
    await until(lambda: engine.state == "starting")
    await engine.unload()
    with pytest.raises(LoadCancelledError):
        await load
    assert engine.state == "idle"
    assert await engine.models.list() == []


async def test_terminate_leaves_no_process_and_no_file(kernel_engine: Make, temp_dir: Path) -> None:
    others = set(psutil.Process().children(recursive=True))
    engine = await kernel_engine()
    pid = engine.worker_pid
    assert pid is not None
    children = set(psutil.Process().children(recursive=True)) - others
    assert children
    (directory,) = temp_dir.glob("mlc_widget-*")
    assert directory.stat().st_mode & 0o777 == 0o700
    await engine.terminate()
    assert not psutil.pid_exists(pid)
    assert not [c for c in children if c.is_running()]
    assert list(temp_dir.iterdir()) == []


async def test_a_long_temporary_path_does_not_matter(
    kernel_engine: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    engine = await kernel_engine()
    assert (await engine.chat.completions.create(messages=HELLO)).choices
    assert list(long.iterdir()) == []


async def test_a_worker_that_floods_its_output_is_not_held_up(
    kernel_engine: Make,
) -> None:
    engine = await kernel_engine(crash_after=0, last_words="x" * 79 + "\n" + "y" * 100_000)
    with pytest.raises(EngineDeadError) as caught:
        await engine.chat.completions.create(messages=HELLO)
    assert len(caught.value.message) < 100_000
    assert caught.value.message.count("y") > 1000


_NOTEBOOK = """
import asyncio, pathlib, signal, sys
from mlc_widget import create_kernel_mlc_engine
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
async def main():
    engine = await create_kernel_mlc_engine(
        sys.argv[1], runtime="scripted", runtime_options={"repeat": 10**6, "pace_s": 0.01})
    stream = await engine.chat.completions.create(
        messages=[{"role": "user", "content": "Hi"}], stream=True)
    print(engine.worker_pid, flush=True)
    async for _ in stream:
        pass
asyncio.run(main())
"""


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGTERM, marks=pytest.mark.soak),
        pytest.param(signal.SIGINT, marks=pytest.mark.soak),  # a normal exit, which is below
    ],
)
async def test_the_worker_ends_with_its_parent(
    number: signal.Signals, tiny_model: Path, temp_dir: Path
) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _NOTEBOOK, str(tiny_model)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(temp_dir)},
    )
    assert parent.stdout is not None
    worker = int(await asyncio.to_thread(parent.stdout.readline))
    assert psutil.pid_exists(worker)
    assert list(temp_dir.glob("mlc_widget-*"))
    parent.send_signal(number)

    async def gone() -> bool:
        dead = has_ended(worker)
        return dead and not list(temp_dir.iterdir())

    await until(gone)
    await asyncio.to_thread(parent.wait)
    parent.stdout.close()


_STUCK = """
import ctypes, pathlib
from mlc_widget.worker.handler import KernelMLCEngineHandler

class Stuck(KernelMLCEngineHandler):
    async def custom_request(self, name, message):
        if name == "hold the lock":
            pathlib.Path(__file__).with_suffix(".held").touch()
            ctypes.PyDLL(None).sleep(1000)  # native code that never gives the interpreter back
"""


@pytest.fixture
def stuck_worker(worker_module: Callable[[str, str], None]) -> str:
    """A handler class that, when asked, holds the worker's interpreter forever."""
    worker_module("stuck_worker", _STUCK)
    return "stuck_worker:Stuck"


async def test_terminate_ends_a_worker_that_hangs(
    kernel_engine: Make, stuck_worker: str, tmp_path: Path
) -> None:
    engine = await kernel_engine(handler=stuck_worker)
    pid = engine.worker_pid
    assert pid is not None
    request = asyncio.create_task(engine.custom_request("hold the lock"))
    probe = asyncio.create_task(engine.custom_request("anything"))
    await until((tmp_path / "stuck_worker.held").exists)
    assert not request.done()
    assert not probe.done()
    await asyncio.wait_for(engine.terminate(), 60)
    assert not psutil.pid_exists(pid)
    for task in (request, probe):
        with pytest.raises(EngineTerminatedError):
            await task


@pytest.mark.soak  # test_forks.py has it while a forked process lives, too
async def test_a_worker_that_hangs_ends_with_its_parent(
    tiny_model: Path, temp_dir: Path, stuck_worker: str, tmp_path: Path
) -> None:
    code = _NOTEBOOK.replace(
        'runtime="scripted",', f'runtime="scripted", handler="{stuck_worker}",'
    )
    code = code.replace(
        "print(engine.worker_pid, flush=True)",
        'asyncio.ensure_future(engine.custom_request("hold the lock"))\n'
        f"    while not pathlib.Path({str(tmp_path / 'stuck_worker.held')!r}).exists():\n"
        "        await asyncio.sleep(0.01)\n    print(engine.worker_pid, flush=True)",
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tiny_model)],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(temp_dir)},
    )
    assert parent.stdout is not None
    worker = int(await asyncio.to_thread(parent.stdout.readline))
    parent.kill()
    await asyncio.to_thread(parent.wait)

    async def gone() -> bool:
        dead = has_ended(worker)
        return dead and not list(temp_dir.iterdir())

    await until(gone)
    parent.stdout.close()


async def test_a_normal_exit_ends_the_worker_too(tiny_model: Path, temp_dir: Path) -> None:
    code = _NOTEBOOK.replace("async for _ in stream:\n        pass", "return")
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code, str(tiny_model)],
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(temp_dir)},
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    worker = int(ended.stdout)

    async def gone() -> bool:
        return not psutil.pid_exists(worker) and not list(temp_dir.iterdir())

    await until(gone)


async def test_nothing_is_started_while_the_interpreter_ends(
    kernel_engine: Make, tiny_model: Path, temp_dir: Path
) -> None:
    """Running requests must not start another worker, nor leave a folder for it."""
    engine = await kernel_engine(repeat=1000, pace_s=0.005)
    stream = await engine.chat.completions.create(messages=HELLO, stream=True)
    await anext(stream)
    whole = asyncio.create_task(engine.chat.completions.create(messages=HELLO))
    await asyncio.sleep(0)
    pid = engine.worker_pid
    await asyncio.to_thread(_kill_workers)
    assert not psutil.pid_exists(pid)
    assert list(temp_dir.iterdir()) == []
    with pytest.raises(EngineTerminatedError):
        async for _ in stream:
            pass
    with pytest.raises(EngineTerminatedError):
        await whole
    with pytest.raises(EngineTerminatedError):
        await engine.reload(str(tiny_model))
    assert engine.worker_pid is None
    assert list(temp_dir.iterdir()) == []


@pytest.mark.parametrize("state", ["starting", "loading"])
async def test_an_exit_during_a_start_leaves_nothing(
    tiny_model: Path, temp_dir: Path, state: str
) -> None:
    code = f"""
import sys, time
from mlc_widget import KernelMLCEngine
engine = KernelMLCEngine(runtime="scripted", runtime_options={{"load_hangs": True}})
engine._core.submit(engine._core.reload([sys.argv[1]]))
while engine.state != {state!r} or not list(__import__("os").scandir({str(temp_dir)!r})):
    time.sleep(0.001)
"""
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code, str(tiny_model)],
        capture_output=True,
        env={**os.environ, "TMPDIR": str(temp_dir)},
        timeout=60,
    )
    assert ended.returncode == 0

    async def gone() -> bool:
        mine = f"{temp_dir}/"
        workers = [p for p in psutil.process_iter(["cmdline"]) if mine in str(p.info["cmdline"])]
        return not workers and not list(temp_dir.iterdir())

    await until(gone)


@pytest.mark.parametrize("share", [None, "removed"])
async def test_a_folder_that_was_removed_is_named_where_no_worker_can_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: str | None
) -> None:
    monkeypatch.setenv("MLC_WIDGET_RUNTIME_DIR", str(tmp_path / "run"))
    folder = tmp_path / "removed"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    async with AsyncKernelMLCEngine(share=share) as engine:
        with pytest.raises(WorkerStartError, match=r"working directory was removed.* `os\.chdir"):
            await engine.reload("demo")
