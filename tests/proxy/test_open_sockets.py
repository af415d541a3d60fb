"""However a worker ends, its sockets are closed: the garbage collector must never have to do it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import zmq.asyncio

from mlc_widget.api.engine_log import EngineLog
from mlc_widget.api.errors import WorkerStartError
from mlc_widget.api.snapshot_publisher import SnapshotPublisher
from mlc_widget.protocol.worker_settings import WorkerSettings
from mlc_widget.proxy import process as module
from mlc_widget.proxy.kernelspec_process import KernelspecProcess
from mlc_widget.proxy.process import WorkerProcess
from mlc_widget.proxy.supervisor import WorkerSupervisor
from mlc_widget.proxy.worker import Worker

from ..waiting import DEADLINE_S, until


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> list[zmq.asyncio.Context]:
    """All contexts that are made for workers, which are kept from the garbage collector."""
    made: list[zmq.asyncio.Context] = []

    class Context(zmq.asyncio.Context):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(zmq.asyncio, "Context", Context)
    return made


@pytest.fixture
def python(tmp_path: Path) -> str:
    """A Python that starts at once and never says hello."""
    fake = tmp_path / "python"
    fake.write_text("#!/bin/sh\nexec sleep 1000\n")
    fake.chmod(0o755)
    return str(fake)


def new_process(python: str) -> WorkerProcess:
    return WorkerProcess(WorkerSettings(runtime="scripted"), python=python)


def start(process: WorkerProcess, timeout: float) -> Awaitable[Worker]:
    return Worker.start(process, timeout, lambda _: None, SnapshotPublisher(), 30.0)


async def fails_to_start(python: str) -> None:
    with pytest.raises(WorkerStartError):
        await start(new_process("/no/such/python"), DEADLINE_S)


async def cannot_be_watched(python: str) -> None:
    def no_process(*_: object) -> None:
        raise OSError("no more processes")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ParentWatch", no_process)
        with pytest.raises(WorkerStartError, match="no more processes"):
            await start(new_process(python), DEADLINE_S)


async def has_no_kernelspec(python: str) -> None:
    process = KernelspecProcess("no-such-kernel", WorkerSettings())
    with pytest.raises(WorkerStartError, match="no-such-kernel"):
        await start(process, DEADLINE_S)


async def never_answers(python: str) -> None:
    with pytest.raises(WorkerStartError):
        await start(new_process(python), 0.05)


async def is_cancelled_before_it_answers(python: str) -> None:
    process = new_process(python)
    starting = asyncio.ensure_future(start(process, DEADLINE_S))
    await until(lambda: process.pid)
    starting.cancel()
    await asyncio.wait({starting})
    assert starting.cancelled()


async def is_cancelled_at_once(python: str) -> None:
    starting = asyncio.ensure_future(start(new_process(python), DEADLINE_S))
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.wait({starting})


async def dies_at_the_start(python: str) -> None:
    process = new_process(python)
    starting = asyncio.ensure_future(start(process, DEADLINE_S))
    await until(lambda: process.pid)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(WorkerStartError, match="SIGKILL"):
        await starting


async def is_killed_at_the_programs_exit(python: str) -> None:
    process = new_process(python)
    await process.start()
    shell, iopub, _ = process.connect()
    process.kill()
    assert not shell.closed  # whoever uses it may be in the midst of it
    await process.stop()
    assert iopub.closed


async def is_killed_in_the_midst_of_its_start(python: str) -> None:
    process = new_process(python)
    make = process._make_manager

    def kill_meanwhile(*args: Any) -> Any:
        manager = make(*args)
        launch = manager.start_kernel

        async def start_kernel(**options: Any) -> None:
            await launch(**options)
            process.kill()

        manager.start_kernel = start_kernel  # type: ignore[method-assign]
        return manager

    process._make_manager = kill_meanwhile  # type: ignore[method-assign]
    with pytest.raises(WorkerStartError, match="ended while it was started"):
        await start(process, DEADLINE_S)


async def is_terminated_at_its_start(python: str) -> None:
    supervisor = WorkerSupervisor(
        lambda: new_process(python),
        SnapshotPublisher(),
        DEADLINE_S,
        30.0,
        on_start=lambda _: None,
        on_progress=lambda _: None,
        on_death=lambda _: None,
        log=EngineLog(),
    )
    starting = asyncio.ensure_future(supervisor.up())
    await until(lambda: supervisor.pid)
    await supervisor.terminate("over")
    await asyncio.wait({starting})
    starting.exception()


PATHS = [
    fails_to_start,
    cannot_be_watched,
    has_no_kernelspec,
    never_answers,
    is_cancelled_before_it_answers,
    is_cancelled_at_once,
    dies_at_the_start,
    is_killed_at_the_programs_exit,
    is_killed_in_the_midst_of_its_start,
    is_terminated_at_its_start,
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
async def test_a_worker_closes_its_sockets_when_it(
    path: Callable[[str], Awaitable[None]],
    python: str,
    contexts: list[zmq.asyncio.Context],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    monkeypatch.setattr(module.tempfile, "tempdir", str(folder))
    await path(python)
    assert all(context.closed for context in contexts)
    assert not module._open_contexts & set(contexts)
    assert not list(folder.iterdir())


async def test_a_forgotten_worker_does_not_hold_up_the_garbage_collector(python: str) -> None:
    before = set(module._open_contexts)
    gc.collect()
    gc.disable()  # so that it finalises the objects in the order in which they were made
    try:
        process = new_process(python)
        await process.start()
        process.kill()
        exited = process.exited
        await until(exited.done)  # from here on, nothing on the loop refers to the process
        del process, exited
        # In a thread: a context that is collected beside its open sockets waits forever.
        collection = threading.Thread(target=gc.collect, daemon=True)
        with warnings.catch_warnings(action="ignore"):  # raised, it would end the wait
            collection.start()
            await asyncio.to_thread(collection.join, 10.0)
    finally:
        gc.enable()
    assert not collection.is_alive()
    for context in module._open_contexts - before:
        context.destroy(linger=0)
        module._open_contexts.discard(context)
