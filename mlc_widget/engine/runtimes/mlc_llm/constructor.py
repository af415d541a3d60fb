"""Constructs mlc_llm's engine on a thread of its own, and notices if the constructor hangs."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mlc_widget.api.errors import (
    BadRequestError,
    EngineDeadError,
    InsufficientMemoryError,
    InternalEngineError,
    MLCEngineError,
    ModelFormatError,
    RuntimeUnavailableError,
)
from mlc_widget.engine.runtimes.mlc_llm import devices
from mlc_widget.engine.runtimes.mlc_llm.options import MLCLLMOptions
from mlc_widget.engine.runtimes.mlc_llm.phases import LoadPhases, bytes_read, engine_log
from mlc_widget.engine.runtimes.mlc_llm.threads import ThreadDeaths
from mlc_widget.engine.system.daemon import call_in_daemon
from mlc_widget.engine.system.imports import import_error

_POLL_S: Final = 0.1
_GRACE_S: Final = 1.0
_BUSY: Final = 0.05
_NO_MEMORY: Final = re.compile(r"(?i)insufficient gpu memory|out of memory|alloc.*fail|fail.*alloc")
THREADS: Final = ("_background_loop_thread", "_background_stream_back_loop_thread")


def resolve_device(options: MLCLLMOptions) -> str:
    """Return the device to use, such as ``cuda:0``. This imports mlc_llm and its TVM.

    Raises:
        RuntimeUnavailableError: mlc_llm cannot be imported, or there is no such device.
    """
    try:
        import mlc_llm  # noqa: F401
        import tvm
    except ImportError as error:
        raise import_error(
            error,
            purpose=f"This runtime needs mlc_llm in {sys.executable}",
            install=devices.INSTALL,
            package="mlc_llm",
        ) from error
    wanted = options.device
    if wanted == "auto":
        wanted = "cpu" if options.is_mock else devices.find_gpu() or ""
        if not wanted:
            raise RuntimeUnavailableError(
                "mlc_llm finds no GPU that it supports. Use runtime='tvm' on a CPU; with "
                "device='cpu', mlc_llm runs there too, but slowly."
            )
    kind, _, index = wanted.partition(":")
    try:
        there = kind == "cpu" or bool(tvm.device(kind, int(index or 0)).exist)
    except Exception:  # a TVM built without this kind of device may raise anything
        there = False
    if not there:
        raise RuntimeUnavailableError(
            f"device = {options.device!r}: mlc_llm finds no such device here. Is its driver "
            "installed, and do MLC's wheels match it?",
            param="runtime_options.device",
        )
    return f"{kind}:{index or 0}"


def tvm_device(name: str) -> Any:
    """TVM's object for a name such as ``cuda:0``. mlc_llm takes seconds to look up a name."""
    import tvm

    kind, _, index = name.partition(":")
    return tvm.device(kind, int(index))


def _engine_config(fields: Mapping[str, Any]) -> Any:
    from mlc_llm.serve.config import EngineConfig

    known = {f.name for f in dataclasses.fields(EngineConfig)}
    for name, value in fields.items():
        if name not in known:
            raise BadRequestError(
                f"runtime_options.engine_config.{name} = {value!r}: the installed mlc_llm has no "
                "such field.",
                param=f"runtime_options.engine_config.{name}",
            )
    return EngineConfig(**fields)


class Construction:
    """One run of `AsyncMLCEngine`'s constructor.

    Attributes:
        deaths: The exceptions that ended mlc_llm's threads, during the construction and after it.
    """

    def __init__(
        self,
        folder: Path,
        library: str,
        device: str,
        options: MLCLLMOptions,
        engine_config: Mapping[str, Any],
    ) -> None:
        self._folder = folder
        self._library = library
        self._device = device
        self._options = options
        self._engine_config = engine_config
        self._engine: Any = None
        self._abandoned = False
        self.deaths = ThreadDeaths()

    def _construct(self) -> Any:
        from mlc_llm.serve import AsyncMLCEngine

        # In two steps, so that the engine's threads can be inspected while the second one hangs.
        engine = self._engine = AsyncMLCEngine.__new__(AsyncMLCEngine)
        engine.__init__(
            str(self._folder),
            tvm_device(self._device),
            model_lib=self._library,
            mode=self._options.mode,
            engine_config=_engine_config(self._engine_config),
        )
        if self._abandoned:
            engine.terminate()
        return engine

    async def run(self, phases: LoadPhases) -> Any:
        """Construct and return the engine.

        Cancelling the task leaves the constructor running on its thread. If it still returns an
        engine, that is terminated, but the process should be replaced.

        Raises:
            ModelFormatError: A file of the model is missing or malformed.
            InsufficientMemoryError: The model does not fit.
            InternalEngineError: mlc_llm failed in another way.
            EngineDeadError: The engine's thread died, or the load makes no progress any more.
        """
        started = time.monotonic()
        read_before = bytes_read()
        with engine_log(phases.engine_line):
            done = call_in_daemon(self._construct, "mlc_llm-constructor")
            watch = _LoadActivity(phases, started)
            try:
                while not done.done():
                    read = bytes_read()
                    known = read is not None and read_before is not None
                    phases.read_bytes(read - read_before if known else None)  # type: ignore[operator]
                    self._check(watch, read)
                    await asyncio.wait({done}, timeout=_POLL_S)
                return done.result()
            except BaseException as error:
                self._abandoned = True
                self.deaths.close()
                done.cancel()
                if isinstance(error, MLCEngineError) or not isinstance(error, Exception):
                    raise
                raise load_error(error) from error

    def _check(self, watch: _LoadActivity, read: int | None) -> None:
        """Raise the error if the constructor will never return."""
        now = time.monotonic()
        died = self.deaths.first()
        dead = any(t.ident and not t.is_alive() for t in background_threads(self._engine))
        # The constructor cannot return once an engine's own thread died; others may not matter.
        grace = _POLL_S if dead else _GRACE_S
        if watch.dead_for(dead or died is not None, now) > grace:
            raise load_error(died or EngineDeadError("mlc_llm's thread ended while it loaded."))
        if now - watch.started > self._options.load_timeout:
            raise EngineDeadError(
                f"mlc_llm has not loaded the model within {self._options.load_timeout:g} s "
                "(runtime_options.load_timeout)."
            )
        if watch.still_for(read, now) > self._options.stall_timeout:
            raise EngineDeadError(
                f"mlc_llm hangs: the load has made no progress for {self._options.stall_timeout:g} "
                "s (runtime_options.stall_timeout)."
            )


class _LoadActivity:
    """Measures how long a load has logged nothing, read nothing and used no processor time."""

    def __init__(self, phases: LoadPhases, started: float) -> None:
        self.started = started
        self._phases = phases
        self._last = started
        self._seen: tuple[int, int] = (-1, -1)
        self._cpu, self._at = time.process_time(), started
        self._died: float | None = None

    def dead_for(self, dead: bool, now: float) -> float:
        if not dead:
            self._died = None
        elif self._died is None:
            self._died = now
        return 0.0 if self._died is None else now - self._died

    def still_for(self, read: int | None, now: float) -> float:
        # Reading /proc counts as reading, so only whole MiB are compared.
        seen = (self._phases.lines, (read or 0) >> 20)
        cpu = time.process_time()
        busy = cpu - self._cpu > _BUSY * max(now - self._at, 1e-9)
        self._cpu, self._at = cpu, now
        if busy or seen != self._seen:
            self._last, self._seen = now, seen
        return now - self._last


def background_threads(engine: Any) -> list[threading.Thread]:
    """The engine's background threads; those that it has started so far."""
    found = [getattr(engine, name, None) for name in THREADS]
    return [t for t in found if isinstance(t, threading.Thread)]


def load_error(error: BaseException) -> MLCEngineError:
    """The `MLCEngineError` for an exception that ended a load."""
    if isinstance(error, MLCEngineError):
        return error
    text = f"{type(error).__name__}: {error}"
    made: MLCEngineError
    if isinstance(error, FileNotFoundError):
        made = ModelFormatError(f"mlc_llm cannot find a file: {error}")
    elif _NO_MEMORY.search(text):
        made = InsufficientMemoryError(f"The model does not fit, mlc_llm says: {error}")
    elif type(error).__name__ == "ValidationError":
        made = ModelFormatError(f"mlc_llm refuses mlc-chat-config.json: {error}")
    else:
        made = InternalEngineError(f"mlc_llm failed while loading: {text}")
    made.__cause__ = error
    return made
