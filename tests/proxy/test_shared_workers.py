"""Workers that several processes share: joined, left, listed, stopped and killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlc_widget import AsyncKernelMLCEngine, __version__
from mlc_widget.api.errors import (
    BadRequestError,
    EngineTerminatedError,
    ProtocolError,
)
from mlc_widget.cli.main import main as command
from mlc_widget.protocol.worker_record import (
    DIRECTORY_VARIABLE,
    OpenRecord,
    WorkerRecord,
    WorkerRecords,
)
from mlc_widget.protocol.worker_settings import WorkerSettings
from mlc_widget.proxy.shared_process import Share, SharedWorkerProcess
from mlc_widget.proxy.shared_workers import listing, running_workers, stop_worker

from ..kinds import but_for_soak
from ..waiting import until, until_running

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no shared workers there")

HELLO = [{"role": "user", "content": "hello"}]
SCRIPT = {"text": "one two", "repeat": 10**6, "pace_s": 0.001}
Join = Callable[..., Awaitable[AsyncKernelMLCEngine]]

OTHER_PROCESS = """
import sys
from mlc_widget import kernel_mlc_engine
script = {"text": "one two", "repeat": 10**6, "pace_s": 0.001}
engine = kernel_mlc_engine(
    sys.argv[2], share=sys.argv[1], runtime="scripted", runtime_options=script, show_progress=False
)
print(engine.worker_pid, flush=True)
stream = engine.chat.completions.create(
    messages=[{"role": "user", "content": "hello"}], stream=True
)
chunks = iter(stream)
next(chunks)
print("streaming", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def runtime_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Records of this module's workers, which are ended after its tests."""
    directory = tmp_path_factory.mktemp("runtime") / "workers"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DIRECTORY_VARIABLE, str(directory))
        yield directory
        for name in WorkerRecords().names():
            with contextlib.suppress(BadRequestError):
                stop_worker(name)


@pytest.fixture
async def join(runtime_dir: Path, tiny_model: Path) -> AsyncIterator[Join]:
    """Makes engines that share the worker ``class``, which stays for the module's tests."""
    engines = []

    async def make(*, load: bool = True, **options: Any) -> AsyncKernelMLCEngine:
        given = {"share": "class", "runtime": "scripted", "runtime_options": SCRIPT, **options}
        engine = AsyncKernelMLCEngine(**given)
        engines.append(engine)
        if load:
            await engine.reload(str(tiny_model))
        return engine

    async with asyncio.timeout(60):
        yield make
        for engine in engines:
            await engine.terminate()


async def info(name: str = "class") -> dict[str, Any]:
    [worker] = [w for w in await running_workers() if w.record.name == name]
    assert worker.info is not None, worker.problem
    return worker.info


async def finish(engine: AsyncKernelMLCEngine, **more: Any) -> str | None:
    response = await engine.chat.completions.create(messages=HELLO, **more)
    return response.choices[0].finish_reason


async def test_engines_that_start_at_once_share_one_worker(join: Join) -> None:
    engines = await asyncio.gather(*(join() for _ in range(3)))
    assert len({engine.worker_pid for engine in engines}) == 1
    there = await info()
    assert [model["clients"] for model in there["models"]] == [3]
    assert [client["pid"] for client in there["clients"]] == [os.getpid()] * 3
    assert [await finish(engine, max_tokens=2) for engine in engines] == ["length"] * 3


async def test_a_search_that_is_cancelled_closes_what_it_finds(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    await join(load=False)
    found: list[OpenRecord] = []
    go_on = threading.Event()
    find = SharedWorkerProcess._find

    def slow(process: SharedWorkerProcess, records: WorkerRecords) -> OpenRecord | None:
        assert go_on.wait(30)
        record = find(process, records)
        assert record is not None
        found.append(record)
        return record

    monkeypatch.setattr(SharedWorkerProcess, "_find", slow)
    process = SharedWorkerProcess(Share("class"), WorkerSettings())
    search = asyncio.create_task(process.start())
    await asyncio.sleep(0)
    search.cancel()
    with pytest.raises(asyncio.CancelledError):
        await search
    await process.stop()
    assert not found
    go_on.set()
    await until(lambda: found and not found[0].alive)
    assert WorkerRecords().read("class") is not None


async def test_a_client_ends_its_own_requests_only(join: Join, tmp_path: Path) -> None:
    one, other = await join(), await join(runtime="auto", runtime_options=None)
    both = [asyncio.create_task(finish(engine, request_id="same")) for engine in (one, other)]
    await asyncio.gather(until_running(one), until_running(other))
    await one.interrupt_generate()
    assert await both[0] == "abort"
    await one.unload()
    await one.terminate()
    assert (await other.metrics())["running_requests"] == 1
    await until(lambda: _clients_are(1))
    await other.abort("same")
    assert await both[1] == "abort"


async def _clients_are(count: int) -> bool:
    return len((await info())["clients"]) == count


async def test_relative_paths_mean_the_client_s_folder(
    join: Join, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await join(load=False)
    monkeypatch.chdir(tiny_model.parent)
    await engine.reload(tiny_model.name)
    assert engine.model_id == str(tiny_model)
    assert await finish(engine, model=tiny_model.name, max_tokens=1) == "length"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime_options": {"text": "else"}}, "started with runtime_options = .*'one two'"),
        ({"runtime": "tvm", "runtime_options": None}, "started with runtime = 'scripted'"),
        ({"handler": "a:B"}, "started with handler = None"),
        ({"device": "cuda"}, "started with device = None, not 'cuda'"),
        ({"python": "/bin/python"}, "started with python = '/"),
        ({"idle_timeout": 5}, r"started with idle_timeout = 900\.0"),
    ],
)
async def test_a_worker_with_other_options_is_not_joined(
    join: Join, tiny_model: Path, options: dict[str, Any], message: str
) -> None:
    await join()
    engine = await join(load=False, **options)
    with pytest.raises(BadRequestError, match=message) as caught:
        await engine.reload(str(tiny_model))
    assert caught.value.param == next(iter(options))
    assert "mlc_widget workers stop class" in caught.value.message


@pytest.mark.parametrize(
    "options",
    [
        {"share": "../x"},
        {"share": ""},
        {"share": "x", "kernel_name": "python3"},
        {"idle_timeout": 5},
        {"unload_after": -1, "share": "x"},
        {"idle_timeout": "5", "share": "x"},
        {"cache_salt": "user"},
        {"cache_salt": "", "share": "x"},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError, match=next(iter(options))):
        AsyncKernelMLCEngine(**options)


async def test_a_worker_of_another_version_is_an_error_that_says_what_to_do(
    join: Join, tiny_model: Path
) -> None:
    await join()
    records = WorkerRecords()
    record = records.read("class")
    assert record is not None
    with _rewritten(records, replace(record, version="0.0.9")):
        engine = await join(load=False)
        with pytest.raises(ProtocolError, match=r"mlc_widget 0\.0\.9, and .* has ") as caught:
            await engine.reload(str(tiny_model))
        assert caught.value.code == "version_mismatch"
        assert __version__ in caught.value.message
        assert "`mlc_widget workers stop class`" in caught.value.message
        assert "`pip install mlc-widget==0.0.9`" in caught.value.message
        assert "it has mlc_widget 0.0.9" in listing(await running_workers())


@contextlib.contextmanager
def _rewritten(records: WorkerRecords, record: WorkerRecord) -> Iterator[None]:
    """Change a record in place, so that its worker keeps its lock."""
    import json
    from dataclasses import asdict

    path = records.path(record.name)
    before = path.read_text()
    path.write_text(json.dumps(asdict(record)))
    yield
    path.write_text(before)


async def test_processes_that_start_at_once_share_one_worker_and_die_alone(
    runtime_dir: Path, tiny_model: Path, join: Join
) -> None:
    arguments = [sys.executable, "-c", OTHER_PROCESS, "race", str(tiny_model)]
    processes = [
        subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        said = [await asyncio.to_thread(_lines, process) for process in processes]
        assert said[0] == said[1]
        assert said[0][1] == "streaming"
        there = await info("race")
        assert sorted(c["pid"] for c in there["clients"]) == sorted(p.pid for p in processes)
        assert [client["requests"] for client in there["clients"]] == [1, 1]
        mine = await join(share="race")  # it stays when those that started it have gone
        processes[0].kill()
        await until(lambda: _pids_are("race", processes[1].pid, os.getpid()))
        assert (await info("race"))["clients"][0]["requests"] == 1
        processes[1].kill()
        await until(lambda: _pids_are("race", os.getpid()))
        assert await finish(mine, max_tokens=2) == "length"
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _lines(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(2)]


async def _pids_are(name: str, *pids: int) -> bool:
    return sorted(c["pid"] for c in (await info(name))["clients"]) == sorted(pids)


async def test_all_clients_go_on_when_their_worker_is_killed_replaced_or_stopped(
    join: Join,
) -> None:
    engines = [await join(share="killed", hang_timeout=seconds) for seconds in (0.5, 30)]

    async def asked(**more: Any) -> list[asyncio.Task[str | None]]:
        tasks = [asyncio.create_task(finish(engine, **more)) for engine in engines]
        await asyncio.gather(*map(until_running, engines))
        return tasks

    def worker() -> int:
        [pid] = {engine.worker_pid for engine in engines}
        assert pid is not None
        return pid

    requests, first = await asked(max_tokens=300), worker()
    os.kill(first, signal.SIGKILL)
    assert await asyncio.gather(*requests) == ["length", "length"]

    # One that hangs is replaced, for both, when one asks for that.
    requests, second = await asked(max_tokens=300), worker()
    os.kill(second, signal.SIGSTOP)
    await until(lambda: engines[0].hang)
    link = engines[0].link
    await asyncio.wrap_future(link.submit(link.restart()))
    assert await asyncio.gather(*requests) == ["length", "length"]
    assert len({first, second, worker()}) == 3

    # One that does not hang is only left, and joined again.
    await until(lambda: not engines[0].hang)
    third = worker()
    await asyncio.wrap_future(link.submit(link.restart()))
    assert worker() == third

    # The command lists it, and ends it together with what it answers.
    requests = await asked()
    text = listing(await running_workers())
    assert f"killed: process {third}, mlc_widget {__version__}" in text
    assert "ready, 2 clients" in text
    assert text.count(f"client process {os.getpid()}: joined") >= 2
    assert await asyncio.to_thread(command, ["workers", "stop", "killed"]) == 0
    for request in requests:
        with pytest.raises(EngineTerminatedError, match="was stopped"):
            await request
    assert WorkerRecords().names().count("killed") == 0


ENDS = {
    "its last line": "",
    "sys.exit on a thread": """
import threading
thread = threading.Thread(target=sys.exit)
thread.start()
thread.join()
""",
    "an error": "raise ValueError('of the user')",
    "kill -9": "os.kill(os.getpid(), signal.SIGKILL)",
    "forks": """
import multiprocessing
def refused():
    try:
        engine.unload()
    except EngineForkedError:
        os._exit(0)
    os._exit(1)
forked = multiprocessing.get_context("fork").Process(target=refused)
forked.start()
forked.join()
assert forked.exitcode == 0
assert next(chunks)
""",
}
ENDING_PROCESS = """
import os, signal, sys
from mlc_widget import kernel_mlc_engine
from mlc_widget.api.errors import EngineForkedError
engine = kernel_mlc_engine(sys.argv[1], share="class", show_progress=False)
hello = [{"role": "user", "content": "hello"}]
chunks = iter(engine.chat.completions.create(messages=hello, stream=True))
next(chunks)
"""


@pytest.mark.parametrize(
    "end", but_for_soak(ENDS, "sys.exit on a thread", "an error", "its last line", "forks")
)
async def test_a_client_s_end_takes_its_requests_and_files_and_nothing_else(
    join: Join, tiny_model: Path, tmp_path: Path, end: str
) -> None:
    stays = await join()
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", ENDING_PROCESS + ENDS[end], str(tiny_model)),
        env=environment,
        stderr=subprocess.PIPE,
    )
    _, said = await process.communicate()
    code = {"an error": 1, "kill -9": -signal.SIGKILL}.get(end, 0)
    assert process.returncode == code, said.decode()
    await until(lambda: _clients_are(1))
    assert (await info())["clients"][0]["pid"] == os.getpid()
    assert await finish(stays, max_tokens=2) == "length"
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_is_not_there_cannot_be_stopped(
    runtime_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["workers", "stop", "nobody"]) == 2
    assert "'nobody': no shared worker of this name is running" in capsys.readouterr().err


async def test_unused_models_come_back_with_progress_and_an_unused_worker_ends(
    join: Join,
) -> None:
    engine = await join(share="brief", idle_timeout=0.001, unload_after=0.001)
    await until(lambda: _models_are("brief", "unloaded"))
    seen: list[tuple[str, float | None]] = []
    stop = engine.link.observe(
        lambda snapshot: seen.append(
            (snapshot.state, snapshot.progress and snapshot.progress.progress)
        )
    )
    assert engine.state == "ready"
    assert await finish(engine, max_tokens=1) == "length"
    assert ("loading", 0.0) in seen
    assert seen[-1][0] == engine.state == "ready"
    stop()
    record = WorkerRecords().read("brief")
    assert record is not None
    await engine.terminate()
    await until(lambda: not Path(record.directory).exists())
    assert WorkerRecords().read("brief") is None


async def _models_are(name: str, state: str) -> bool:
    return [model["state"] for model in (await info(name))["models"]] == [state]
