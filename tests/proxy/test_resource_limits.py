"""A worker whose limits were lowered is replaced; one that a large request fails in is not."""

from __future__ import annotations

import asyncio
import errno
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mlc_widget import AsyncKernelMLCEngine
from mlc_widget.api.errors import BadRequestError, EngineDeadError, InternalEngineError
from mlc_widget.engine.system import limits
from mlc_widget.worker.resources import ResourceWatch

from ..kinds import but_for_soak
from ..waiting import until

if sys.platform != "linux":
    pytest.skip("only Linux can limit another process", allow_module_level=True)
import resource

Make = Callable[..., Awaitable[AsyncKernelMLCEngine]]
HELLO = [{"role": "user", "content": "Hello!"}]


def lower(engine: AsyncKernelMLCEngine, kind: int, limit: int) -> int:
    pid = engine.worker_pid
    assert pid is not None
    resource.prlimit(pid, kind, (limit, limit))
    return pid


DISABLING = {
    "files": (resource.RLIMIT_NOFILE, 8),
    "address space": (resource.RLIMIT_AS, 2**20),
    "data": (resource.RLIMIT_DATA, 2**20),
}
HARMLESS = {
    "file size": (resource.RLIMIT_FSIZE, 0),
    "stack": (resource.RLIMIT_STACK, 2**16),
    "processes": (resource.RLIMIT_NPROC, 0),  # it does not bind root, whom tests may run as
    "seconds": (resource.RLIMIT_CPU, 10**6),
}


@pytest.mark.parametrize("kind", but_for_soak(DISABLING, "data"))
async def test_a_worker_that_can_do_nothing_more_is_replaced(
    kernel_engine: Make, kind: str
) -> None:
    engine = await kernel_engine(text="one two three")
    pid = lower(engine, *DISABLING[kind])
    # It finds out by itself, with nothing asked of it.
    await until(lambda: engine.worker_pid != pid)
    answer = await engine.chat.completions.create(messages=HELLO)
    assert answer.choices[0].message.content == "one two three"


async def test_what_runs_goes_on_in_the_next_worker(kernel_engine: Make) -> None:
    engine = await kernel_engine(repeat=10**6, pace_s=0.01)
    stream = await engine.chat.completions.create(messages=HELLO, stream=True)
    await anext(stream)
    pid = lower(engine, *DISABLING["files"])
    async for chunk in stream:
        if getattr(chunk, "resumed", None):
            break
    await stream.close()
    assert engine.worker_pid not in (pid, None)


@pytest.mark.parametrize("kind", but_for_soak(HARMLESS, "stack", "processes"))
async def test_reload_replaces_a_worker_with_less_than_before(
    kernel_engine: Make, other_tiny_model: Path, kind: str
) -> None:
    engine = await kernel_engine()
    pid = lower(engine, *HARMLESS[kind])
    assert (await engine.chat.completions.create(messages=HELLO)).choices
    await engine.reload(str(other_tiny_model))
    if kind != "seconds":  # which end the process
        assert engine.worker_pid not in (pid, None)
    answer = await engine.chat.completions.create(messages=HELLO)
    assert answer.model == str(other_tiny_model)


_MODULE = """
import mlc_widget.worker.handler as handler

class Greedy(handler.KernelMLCEngineHandler):
    async def custom_request(self, name, message):
        bytes(2**56)
"""


@pytest.fixture
def greedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "greedy_handler.py").write_text(_MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "greedy_handler:Greedy"


async def test_a_request_that_is_too_large_ends_alone(kernel_engine: Make, greedy: str) -> None:
    engine = await kernel_engine(handler=greedy, repeat=10**6, pace_s=0.01)
    stream = await engine.chat.completions.create(messages=HELLO, stream=True)
    pid = engine.worker_pid
    with pytest.raises(InternalEngineError, match="MemoryError"):
        await engine.custom_request("take it all")
    assert engine.worker_pid == pid
    async for chunk in stream:
        assert not hasattr(chunk, "resumed")
        break
    await stream.close()
    # With less than before, another process may have enough.
    lower(engine, *HARMLESS["file size"])
    with pytest.raises(EngineDeadError, match="RLIMIT_FSIZE was lowered from unlimited to 0"):
        await engine.custom_request("take it all")
    assert (await engine.chat.completions.create(messages=HELLO, max_tokens=1)).choices


# The judgement


@pytest.fixture
def left() -> list[str]:
    return []


@pytest.fixture
def watch(left: list[str], monkeypatch: pytest.MonkeyPatch) -> ResourceWatch:
    monkeypatch.setattr("mlc_widget.worker.resources._TRY_AGAIN_S", 0.001)
    return ResourceWatch(left.append)


def caused(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


ERRORS = {
    "memory": MemoryError(),
    "files": OSError(errno.EMFILE, "Too many open files"),
    "of the system": OSError(errno.ENFILE, "Too many open files in system"),
    "fork": BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
    "thread": RuntimeError("can't start new thread"),
    "mmap": OSError(errno.ENOMEM, "Cannot allocate memory"),
    "native code": RuntimeError("std::bad_alloc: out of memory"),
    "behind another": caused(InternalEngineError("it failed"), MemoryError()),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("lacking", [False, True], ids=["enough", "lacking"])
async def test_an_error_of_too_little_is_checked(
    watch: ResourceWatch,
    left: list[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    lacking: bool,
) -> None:
    if lacking:
        monkeypatch.setattr(limits, "lacking", lambda: "threads")
    await watch.leave_if_lacking(ERRORS[name])
    assert left == (["This worker can get no more threads."] if lacking else [])


async def test_a_moment_without_is_none(
    watch: ResourceWatch, left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter(["memory", "memory", ""])
    monkeypatch.setattr(limits, "lacking", lambda: next(found))
    await watch.leave_if_lacking(MemoryError())
    assert left == []
    assert next(found, None) is None


@pytest.mark.parametrize(
    "error", [BadRequestError("no"), ValueError("no"), OSError(errno.ENOENT, "no file")]
)
async def test_other_errors_are_none(
    watch: ResourceWatch, left: list[str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(limits, "lacking", lambda: "memory")
    await watch.leave_if_lacking(error)
    assert left == []


@pytest.mark.parametrize(
    ("module", "function", "error", "what"),
    [
        ("mmap", "mmap", OSError(errno.ENOMEM, "Cannot allocate memory"), "memory"),
        ("os", "open", OSError(errno.EMFILE, "Too many open files"), "open files"),
        ("_thread", "start_new_thread", RuntimeError("can't start new thread"), "threads"),
        ("_thread", "start_new_thread", MemoryError(), "threads"),
    ],
)
def test_what_is_lacking_is_found_by_trying(
    monkeypatch: pytest.MonkeyPatch, module: str, function: str, error: Exception, what: str
) -> None:
    assert limits.lacking() == ""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(f"{limits.__name__}.{module}.{function}", fail)
        found = limits.lacking()
    assert found.startswith(what)


async def test_what_fails_on_the_loop_is_judged(
    watch: ResourceWatch, left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "lacking", lambda: "memory")
    loop = asyncio.get_running_loop()
    watch.on_loop_error(loop, {"message": "a callback failed", "exception": MemoryError()})
    watch.on_loop_error(loop, {"message": "a callback failed", "exception": KeyError()})
    await until(lambda: left)
    assert left == ["This worker can get no more memory."]
