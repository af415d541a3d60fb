"""Has a worker meet a fault in a phase of its life, and sees what becomes of its notebook."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from mlc_widget import AsyncKernelMLCEngine
from mlc_widget.api.errors import MLCEngineError, ModelNotLoadedError
from mlc_widget.models import builtin_models

from ..engine.store.hub_server import HubServer
from ..waiting import DEADLINE_S, until

PHASES: Final = (
    "starting",
    "loading",
    "downloading",
    "in prefill",
    "mid-stream",
    "between requests",
    "unloading",
    "terminating",
)
FAULTS: Final = (
    "SIGKILL",
    "SIGSEGV",
    "SIGTERM",
    "SIGSTOP",
    "out of memory",
    "disk full",
    "GIL held",
    "stderr flooded",
    "files removed",
    "native abort",
)
FATAL: Final = frozenset({"SIGKILL", "SIGSEGV", "SIGTERM", "native abort"})
HANGING: Final = frozenset({"SIGSTOP", "GIL held"})
_ORDERED: Final = frozenset({"SIGSEGV", "GIL held", "stderr flooded", "native abort"})
_LIMITS: Final = {
    "out of memory": (resource.RLIMIT_AS, 2**20),
    "disk full": (resource.RLIMIT_FSIZE, 0),  # what is written fails as on a full disk
}
_MODEL: Final = "demo"
_REPOSITORY: Final = "someone/Tiny-q4f32_1-MLC"
_REQUEST: Final[dict[str, Any]] = {
    "messages": [{"role": "user", "content": "Hello!"}],
    "seed": 7,
    "temperature": 1,
    "max_tokens": 40,
    "ignore_eos": True,
}
_HANG_TIMEOUT_S: Final = 0.3
_START_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True)
class Outcome:
    """What became of what was in flight when a fault came, and of the next request.

    Attributes:
        end: "goes on", "done", or the error's class.
        message: The error's.
        seconds: From the fault to that end.
        reported: Whether a hang was reported before, upon which the worker was restarted.
        reloaded: Whether the next request said that a model must be loaded first.
        answered: Whether the next request was answered as it should be.
    """

    end: str
    message: str
    seconds: float
    reported: bool
    reloaded: bool
    answered: bool

    def __str__(self) -> str:
        parts = ["reported, restarted" if self.reported else "", self.end]
        parts.append("reload" if self.reloaded else "")
        return ", ".join(filter(None, parts))


class Bench:
    """An engine with the embedded model, and what its worker is told to do.

    One engine meets many faults, one after the other: it always is its worker's successor that
    answers next.
    """

    def __init__(self) -> None:
        # A short path: sockets are in it.
        self._folder = Path(tempfile.mkdtemp(prefix="f-"))
        self._control = self._folder / "control"
        self._temporary = self._folder / "t"
        self._repository = self._folder / "repository"
        for folder in (self._control, self._temporary, self._folder / "modules"):
            folder.mkdir()
        source = Path(__file__).with_name("fault_points.py")
        shutil.copy(source, self._folder / "modules")
        shutil.copytree(builtin_models()[_MODEL], self._repository)
        self._hub = HubServer(self._repository, _REPOSITORY)
        self._restore = self._set_environment()
        self._engine: AsyncKernelMLCEngine | None = None
        self._expected = ""
        self._lacks = False  # whether the worker may have got a limit

    def _set_environment(self) -> Callable[[], None]:
        paths = [str(self._folder / "modules"), *filter(None, [os.environ.get("PYTHONPATH")])]
        wanted = {
            "FAULT_FOLDER": str(self._control),
            "PYTHONPATH": os.pathsep.join(paths),
            "TMPDIR": str(self._temporary),
            "HF_ENDPOINT": self._hub.url,
            "HF_HOME": str(self._folder / "home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        before = {name: os.environ.get(name) for name in wanted}
        own = tempfile.tempdir
        os.environ.update(wanted)
        tempfile.tempdir = str(self._temporary)

        def restore() -> None:
            tempfile.tempdir = own
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

        return restore

    async def close(self) -> list[str]:
        """End the engine; returns the files that workers have left."""
        try:
            if self._engine is not None:
                await self._engine.terminate()
            return sorted(path.name for path in self._temporary.glob("mlc_widget-*"))
        finally:
            self._hub.close()
            self._restore()
            shutil.rmtree(self._folder, ignore_errors=True)

    async def run(self, phase: str, fault: str) -> Outcome:
        """Have the fault come in the phase.

        Raises:
            TimeoutError: something never ended.
        """
        async with asyncio.timeout(3 * DEADLINE_S):
            engine = await self._ready(phase, fault)
            self._tell("hold", phase)
            (self._control / "held").unlink(missing_ok=True)
            task = self._begin(engine, phase)
            process = psutil.Process(await self._until_held(engine, phase))
            family = [process, *process.children(recursive=True)]
            started = time.monotonic()
            await self._make(fault, family)
            self._tell("hold", "nothing")
            self._hub.hold_after = None
            self._hub.release.set()
            if phase == "between requests":
                task = asyncio.create_task(self._read(engine))
            assert task is not None
            reported = fault in HANGING and await self._restarted_if_reported(engine, task)
            end, message = await self._end(task)
            seconds = time.monotonic() - started
            reloaded, answered = await self._next(phase)
            if self._engine is None or self._engine.worker_pid != process.pid:
                await until(lambda: _have_gone(family))
            self._lacks = fault in _LIMITS
            return Outcome(end, message, seconds, reported, reloaded, answered)

    async def _ready(self, phase: str, fault: str) -> AsyncKernelMLCEngine:
        """An engine in the state from which the phase can begin."""
        self._hub.release.clear()
        self._hub.holding.clear()
        engine = self._engine
        if engine is not None and (phase == "starting" or self._lacks):
            await engine.terminate()
            engine = None
        if engine is None:
            engine = self._engine = self._make_engine()
        self._limit_waits(engine, phase, fault)
        if phase != "starting":
            if engine.state != "ready":
                await engine.reload(_MODEL)
            self._expected = await self._read(engine)
        return engine

    def _make_engine(self) -> AsyncKernelMLCEngine:
        return AsyncKernelMLCEngine(
            handler="fault_points:Handler",
            logit_processors={"*": "fault_points:Gate"},
            runtime_options={"threads": 1},
        )

    def _limit_waits(self, engine: AsyncKernelMLCEngine, phase: str, fault: str) -> None:
        """Only wait as long as a user would where the worker hangs: else it is only slow."""
        hangs = fault in HANGING
        supervisor = engine._core._supervisor
        starts = hangs and phase == "starting"
        supervisor._start_timeout = _START_TIMEOUT_S if starts else DEADLINE_S
        supervisor._hang_timeout = _HANG_TIMEOUT_S if hangs else DEADLINE_S
        if supervisor.worker is not None:
            watch = supervisor.worker.hangs
            watch._timeout = supervisor._hang_timeout
            watch._interval = _HANG_TIMEOUT_S / 6

    def _begin(self, engine: AsyncKernelMLCEngine, phase: str) -> asyncio.Task[Any] | None:
        """Ask for what is in flight when the fault comes, if anything is."""
        asked: Awaitable[Any]
        match phase:
            case "starting" | "loading":
                asked = engine.reload(_MODEL)
            case "downloading":
                shutil.rmtree(self._folder / "home", ignore_errors=True)
                self._hub.hold_after = 1_000_000
                asked = engine.reload(f"HF://{_REPOSITORY}")
            case "in prefill" | "mid-stream":
                asked = self._read(engine)
            case "unloading":
                asked = engine.unload()
            case "terminating":
                asked = engine.terminate()
            case _:
                return None
        return asyncio.ensure_future(asked)

    async def _until_held(self, engine: AsyncKernelMLCEngine, phase: str) -> int:
        """Wait until the worker is in the phase; returns its process id."""
        pid = engine.worker_pid
        if phase == "downloading":
            await until(self._hub.holding.is_set)
        elif phase != "between requests":
            return int(await until(lambda: self._told("held")))
        assert pid is not None
        return pid

    async def _make(self, fault: str, family: list[psutil.Process]) -> None:
        process = family[0]
        if fault in _ORDERED:
            (self._control / "ordered").unlink(missing_ok=True)
            self._tell("order", fault)
            await until(lambda: self._told("ordered"))
        elif fault in ("SIGKILL", "SIGTERM", "SIGSTOP"):
            os.kill(process.pid, signal.Signals[fault])
        elif fault == "files removed":
            for folder in self._temporary.glob("mlc_widget-*"):
                shutil.rmtree(folder)
        else:
            kind, limit = _LIMITS[fault]
            for one in family:
                with contextlib.suppress(ProcessLookupError):
                    resource.prlimit(one.pid, kind, (limit, limit))
        if fault in FATAL:
            await until(lambda: _have_gone([process]))

    async def _restarted_if_reported(
        self, engine: AsyncKernelMLCEngine, task: asyncio.Task[Any]
    ) -> bool:
        """Do as the report of a hang says; returns whether there was one."""
        await until(lambda: task.done() or engine.hang is not None)
        if task.done():
            return False
        link = engine.link
        with contextlib.suppress(MLCEngineError):
            await asyncio.wrap_future(link.submit(link.restart()))
        return True

    async def _end(self, task: asyncio.Task[Any]) -> tuple[str, str]:
        try:
            said = await task
        except MLCEngineError as error:
            return type(error).__name__, str(error)
        if said is None:
            return "done", ""
        assert said == self._expected
        return "goes on", ""

    async def _next(self, phase: str) -> tuple[bool, bool]:
        """Ask again, as a user would; returns whether a load was necessary, and an answer came."""
        if phase == "terminating":
            self._engine = self._make_engine()
        engine = self._engine
        assert engine is not None
        self._limit_waits(engine, phase, "")
        reloaded = False
        try:
            text = await self._read(engine)
        except ModelNotLoadedError:
            reloaded = True
            await engine.reload(_MODEL)
            text = await self._read(engine)
        if engine.model_id != _MODEL:
            return reloaded, bool(text)
        self._expected = self._expected or text
        return reloaded, text == self._expected

    async def _read(self, engine: AsyncKernelMLCEngine) -> str:
        stream = await engine.chat.completions.create(**_REQUEST, stream=True)
        return "".join([c.choices[0].delta.content or "" async for c in stream])

    def _tell(self, name: str, text: str) -> None:
        """Leave a text for the worker."""
        (self._control / f"{name}.new").symlink_to(text)
        (self._control / f"{name}.new").replace(self._control / name)

    def _told(self, name: str) -> str:
        """What the worker has left; "" if nothing."""
        try:
            return os.readlink(self._control / name)
        except OSError:
            return ""


def _have_gone(family: list[psutil.Process]) -> bool:
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                return False
    return True
