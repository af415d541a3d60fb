"""The proxy's core: `EngineCore` that computes in a worker kernel, started when it is needed."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import uuid
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, TypeVar

from mlc_widget.api.core import ChatOpts, RequestKind
from mlc_widget.api.errors import (
    BadRequestError,
    EngineDeadError,
    EngineTerminatedError,
    MLCEngineError,
    ModelNotLoadedError,
    WorkerStartError,
)
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.progress import InitProgressCallback, InitProgressReport
from mlc_widget.api.requests import JSONDict
from mlc_widget.protocol.messages import STREAM_INITS, WHOLE_REQUESTS
from mlc_widget.proxy.connection import WorkerConnection
from mlc_widget.proxy.process import WorkerProcess
from mlc_widget.proxy.state import EngineSnapshot
from mlc_widget.worker.settings import WorkerSettings

_T = TypeVar("_T")

Observer = Callable[[EngineSnapshot], None]


class KernelCore:
    """`EngineCore` over a worker kernel. State lives on the home loop; snapshots go anywhere.

    Args:
        home: The loop that owns it.
        settings: What the worker is to run.
        python: The Python that the worker runs in; this one by default.
        kernel_name: An installed kernelspec to run the worker in instead.
        start_timeout: Seconds that the worker may take to answer.
    """

    def __init__(
        self,
        home: HomeLoop,
        settings: WorkerSettings,
        *,
        python: str | None = None,
        kernel_name: str | None = None,
        start_timeout: float = 60.0,
    ) -> None:
        self._home = home
        self._settings = settings
        self._python = python
        self._kernel_name = kernel_name
        self._start_timeout = start_timeout
        self._snapshot = EngineSnapshot()
        self._observers: list[Observer] = []
        self._on_progress: InitProgressCallback | None = None
        self._process: WorkerProcess | None = None
        self._connection: WorkerConnection | None = None
        self._start_lock = asyncio.Lock()
        self._loads = 0
        self._model_ids: list[str] = []
        self._chat_opts: list[ChatOpts | None] = []
        self._watcher: asyncio.Task[None] | None = None
        self._terminated = False
        _live.add(self)

    # For widgets: from any thread

    @property
    def snapshot(self) -> EngineSnapshot:
        """What is known now; safe from any thread."""
        return self._snapshot

    def submit(self, coroutine: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Run a coroutine on the home loop, from any thread."""
        return self._home.submit(coroutine)

    def call_soon(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function on the home loop, from any thread."""
        self._home.call_soon(function, *args)

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Have `observer` called with each new snapshot, on the home loop; returns the undo."""
        self._observers.append(observer)

        def stop() -> None:
            with contextlib.suppress(ValueError):
                self._observers.remove(observer)

        return stop

    def cancel_load(self) -> None:
        """End a load that runs; whoever awaits it gets `LoadCancelledError`. On the home loop."""
        if self._snapshot.state == "loading" and self._connection is not None:
            self._connection.post("unload")

    def _update(self, **changes: Any) -> None:
        self._snapshot = replace(self._snapshot, **changes)
        for observer in list(self._observers):
            observer(self._snapshot)

    def set_init_progress_callback(self, callback: InitProgressCallback | None) -> None:
        """Set who hears of load progress, on the home loop."""
        self._on_progress = callback

    def _progress(self, report: InitProgressReport) -> None:
        # A worker that restarted reloads by itself on the next request: that is a load, too.
        self._update(progress=report, state="loading" if report.progress < 1 else "ready")
        if self._on_progress is not None:
            self._on_progress(report)

    # The worker's life

    async def _connected(self) -> WorkerConnection:
        """The connection to a living worker, which is started if there is none."""
        async with self._start_lock:
            if self._terminated:
                raise EngineTerminatedError("This engine was terminated; make a new one.")
            if self._connection is None:
                await self._start()
            assert self._connection is not None
            return self._connection

    async def _start(self) -> None:
        self._update(state="starting", error=None, progress=None)
        process = WorkerProcess(self._settings, python=self._python, kernel_name=self._kernel_name)
        connection: WorkerConnection | None = None
        try:
            await process.start()
            self._process = process
            connection = WorkerConnection(*process.connect(), self._progress)
            hello = await self._hello(process, connection)
        except BaseException as error:
            self._process = None
            if connection is not None:
                await connection.close()
            await process.stop()
            known = error if isinstance(error, MLCEngineError) else None
            self._update(state="dead", error=known)
            raise
        self._connection = connection
        self._update(state="idle", device=hello.get("device"))
        self._watcher = asyncio.create_task(self._watch(process, connection))

    async def _hello(self, process: WorkerProcess, connection: WorkerConnection) -> JSONDict:
        hello = asyncio.ensure_future(connection.open(self._start_timeout))
        try:
            either: set[asyncio.Future[Any]] = {hello, process.died}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not hello.done():
                how = await process.describe_death()
                raise WorkerStartError(f"The worker {how}")
            try:
                return await hello
            except WorkerStartError as error:
                raise WorkerStartError(error.message + process.output_tail()) from None
        finally:
            hello.cancel()

    async def _watch(self, process: WorkerProcess, connection: WorkerConnection) -> None:
        await process.died
        loading = self._snapshot.state == "loading"
        how = await process.describe_death()
        error = EngineDeadError(
            f"The worker {how}\nThe notebook is unharmed; the next request starts a new worker."
        )
        self._connection = self._process = None
        if loading:  # whatever killed it may do so again: do not load it unasked
            self._model_ids = []
        connection.fail(error)
        await connection.close()
        await process.stop()
        self._update(state="dead", error=error)

    async def terminate(self) -> None:
        """End the worker for good."""
        self._terminated = True
        async with self._start_lock:
            connection, process = self._connection, self._process
            self._connection = self._process = None
            if self._watcher is not None:
                self._watcher.cancel()
                await asyncio.wait({self._watcher})
            if connection is not None:
                connection.fail(EngineTerminatedError("This engine was terminated."))
                await connection.close()
            if process is not None:
                await process.stop()
        _live.discard(self)
        self._update(state="terminated", model_id=None)

    def kill(self) -> None:
        """End the worker at once: for the interpreter's exit."""
        if self._process is not None:
            self._process.kill()

    # EngineCore

    async def reload(
        self, model_ids: Sequence[str], chat_opts: Sequence[ChatOpts | None] | None = None
    ) -> None:
        """Make exactly these models loaded in the worker."""
        ids = list(model_ids)
        if not ids:
            raise BadRequestError("model_id = []: give at least one model id.", param="model_id")
        connection = await self._connected()
        self._loads += 1
        load = self._loads
        self._model_ids = []
        self._update(state="loading", model_id=", ".join(ids), progress=None, error=None)
        opts = None if chat_opts is None else list(chat_opts)
        try:
            await connection.call("reload", {"modelId": ids, "chatOpts": opts})
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError):
                connection.post("unload")
            if load == self._loads and self._connection is connection:
                known = error if isinstance(error, MLCEngineError) else None
                self._update(state="idle", model_id=None, error=known)
            raise
        if load == self._loads:
            self._model_ids, self._chat_opts = ids, opts or [None] * len(ids)
            device = (await connection.call("deviceInfo")).get("device")
            self._update(state="ready", error=None, device=device)

    async def unload(self) -> None:
        """Unload all models; the worker stays."""
        self._loads += 1
        self._model_ids = []
        if self._connection is not None:
            await self._connection.call("unload")
            self._update(state="idle", model_id=None, progress=None, error=None)

    def _addressed(self, request: Mapping[str, Any]) -> JSONDict:
        """A request as the wire wants it: with what this side believes to be loaded."""
        if self._terminated:
            raise EngineTerminatedError("This engine was terminated; make a new one.")
        if not self._model_ids and self._snapshot.state != "loading":
            raise ModelNotLoadedError("No model is loaded: call reload(model_id) first.")
        return {
            "request": dict(request),
            "modelId": self._model_ids or None,
            "chatOpts": self._chat_opts if self._model_ids else None,
            "selectedModelId": request.get("model"),
        }

    async def request(self, kind: RequestKind, request: JSONDict) -> JSONDict:
        """Answer one request with the whole response."""
        prefix = "chatcmpl" if kind == "chat" else kind
        request = {"request_id": f"{prefix}-{uuid.uuid4().hex}", **request}
        content = self._addressed(request)
        connection = await self._connected()
        try:
            response: JSONDict = await connection.call(WHOLE_REQUESTS[kind], content)
        except asyncio.CancelledError:
            connection.post("abort", {"requestId": request["request_id"]})
            raise
        return response

    async def open_stream(
        self, kind: RequestKind, request: JSONDict
    ) -> AsyncGenerator[list[JSONDict], None]:
        """Accept one streaming request."""
        if kind not in STREAM_INITS:
            raise BadRequestError("stream = True: embeddings do not stream.", param="stream")
        content = self._addressed(request)
        connection = await self._connected()
        return await connection.open_stream(STREAM_INITS[kind], content)

    async def stream(self, kind: RequestKind, request: JSONDict) -> AsyncGenerator[JSONDict, None]:
        """Chunks of one answer, singly; closing it stops the engine's work. On the home loop."""
        async with contextlib.aclosing(await self.open_stream(kind, request)) as batches:
            async for batch in batches:
                for chunk in batch:
                    yield chunk

    async def _tell(self, kind: str, content: Any = None) -> Any:
        """Ask the worker, if there is one: it has nothing to say before the first load."""
        if self._terminated:
            raise EngineTerminatedError("This engine was terminated; make a new one.")
        if self._connection is None:
            raise ModelNotLoadedError("No model is loaded: call reload(model_id) first.")
        return await self._connection.call(kind, content)

    async def interrupt_generate(self) -> None:
        """End everything that generates now."""
        if self._connection is not None:
            await self._connection.call("interruptGenerate")

    async def abort(self, request_id: str) -> None:
        """End one request."""
        if self._connection is not None:
            await self._connection.call("abort", {"requestId": request_id})

    async def reset_chat(self, keep_stats: bool = False, model_id: str | None = None) -> None:
        """Forget the last message and, unless kept, the statistics."""
        await self._tell("resetChat", {"keepStats": keep_stats, "modelId": model_id})

    async def get_message(self, model_id: str | None = None) -> str:
        """The last generated message."""
        return str(await self._tell("getMessage", {"modelId": model_id}))

    async def runtime_stats_text(self, model_id: str | None = None) -> str:
        """Prefill and decode speed of the last answer."""
        return str(await self._tell("runtimeStatsText", {"modelId": model_id}))

    async def metrics(self) -> JSONDict:
        """Counters since the worker started."""
        metrics: JSONDict = await self._tell("metrics")
        return metrics

    async def list_models(self) -> list[JSONDict]:
        """The loaded models."""
        if self._connection is None:
            return []
        models: list[JSONDict] = await self._connection.call("listModels")
        return models

    async def device_info(self) -> JSONDict:
        """Runtime, device and versions, of the worker."""
        info: JSONDict = await (await self._connected()).call("deviceInfo")
        return info


_live: weakref.WeakSet[KernelCore] = weakref.WeakSet()


@atexit.register
def _kill_workers() -> None:
    for core in list(_live):
        core.kill()
