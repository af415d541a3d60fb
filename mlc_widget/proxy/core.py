"""The proxy's core: an `EngineCore` in a worker kernel, which is started when it is needed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from mlc_widget.api.app_config import AppConfig
from mlc_widget.api.core import DROPPED, TERMINATED, ChatOpts, ChunkSource, RequestKind
from mlc_widget.api.errors import (
    EngineDeadError,
    MLCEngineError,
    ModelNotLoadedError,
    ProtocolError,
)
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.load_request import LoadTarget
from mlc_widget.api.log_level import check_log_level
from mlc_widget.api.metrics import no_metrics
from mlc_widget.api.progress import InitProgressCallback
from mlc_widget.api.published_link import PublishedLink
from mlc_widget.api.requests import JSONDict
from mlc_widget.api.resumable import ResumableSession, ResumeResult
from mlc_widget.api.statistics import EngineStatistics
from mlc_widget.protocol.messages import WHOLE_REQUESTS
from mlc_widget.proxy.in_flight import InFlightRequests, Recovery
from mlc_widget.proxy.remote_models import RemoteModels
from mlc_widget.proxy.resumable_stream import ResumableStream
from mlc_widget.proxy.shared_process import absolute
from mlc_widget.proxy.worker import AnyProcess, Worker

_STATISTICS_PATIENCE_S: Final = 2.0
"""How long a worker may take to say what it is doing; without an answer, this side says it."""


class KernelCore(PublishedLink):
    """An engine in a worker kernel. State lives on the home loop; snapshots go anywhere.

    Args:
        home: The loop that owns it.
        make_process: Makes a worker's process, not yet started.
        start_timeout: Seconds within which a new worker must answer.
        hang_timeout: Seconds without a response after which a hang is reported; see `HangWatch`.
        recovery: What happens to running requests when the worker dies.
        shared: Whether other processes use the worker, too, which may be in other folders.
    """

    def __init__(
        self,
        home: HomeLoop,
        make_process: Callable[[], AnyProcess],
        *,
        start_timeout: float = 60.0,
        hang_timeout: float = 30.0,
        recovery: Recovery = "resume",
        shared: bool = False,
    ) -> None:
        super().__init__(home)
        self._shared = shared
        self._models = RemoteModels(
            make_process, self._publisher, start_timeout, hang_timeout, self._log
        )
        self._supervisor = self._models.supervisor
        self._in_flight_requests = InFlightRequests(self._models, recovery)

    # For widgets: from any thread

    def cancel_load(self) -> None:
        """Cancel the load that is running, if any. On the home loop."""
        self._models.cancel_load()

    @property
    def worker_pid(self) -> int | None:
        """The worker's process id, while there is one on this machine."""
        return self._supervisor.pid

    # EngineCore: models

    def set_init_progress_callback(self, callback: InitProgressCallback | None) -> None:
        """Set the callback for load progress; it is called on the home loop."""
        self._models.on_progress = callback

    async def set_app_config(self, config: Mapping[str, Any] | None) -> None:
        """Set the names that `reload` knows; they are sent to every new worker."""
        await self._models.set_app_config(AppConfig.read(config))

    async def reload(
        self, model_ids: Sequence[str], chat_opts: Sequence[ChatOpts | None] | None = None
    ) -> None:
        """Load these models in the worker and unload all others."""
        await self._models.load(self._target(model_ids, chat_opts))

    def begin_reload(
        self, model_ids: Sequence[str], chat_opts: Sequence[ChatOpts | None] | None = None
    ) -> None:
        """Begin to load these models in the worker; requests wait for it."""
        self._models.begin(self._target(model_ids, chat_opts))

    def _target(
        self, model_ids: Sequence[str], chat_opts: Sequence[ChatOpts | None] | None
    ) -> LoadTarget:
        target = LoadTarget.read(model_ids, chat_opts)
        if not self._shared:
            return target
        return replace(target, model_ids=tuple(map(absolute, target.model_ids)))

    async def reload_last(self) -> None:
        """Repeat the last `reload`, with the same models and `chat_opts`."""
        await self._models.load_again()

    async def unload(self) -> None:
        """Unload all models; the worker keeps running."""
        await self._models.unload()

    async def restart(self) -> None:
        """Kill the worker, even if it hangs, and load the same models in a new one.

        Running requests continue there, as after a crash; with ``recovery="error"`` they fail.
        """
        await self._models.restart()

    async def terminate(self, *, dropped: bool = False) -> None:
        """End the worker for good.

        Args:
            dropped: Whether the reason is that nothing refers to the engine any more.
        """
        await self._supervisor.terminate(DROPPED if dropped else TERMINATED)
        self._log.close()

    # EngineCore: requests

    async def request(self, kind: RequestKind, request: JSONDict) -> JSONDict:
        """Answer one request with the whole response, in a new worker if this one dies."""
        in_flight = self._in_flight_requests.begin(kind, self._named(request))
        try:
            await self._in_flight_requests.room.enter(in_flight)
            while True:
                connection, content = await in_flight.address()
                answer = connection.send(WHOLE_REQUESTS[kind], content)
                in_flight.sent()
                try:
                    response: JSONDict = await answer
                    in_flight.answered()
                    return response
                except EngineDeadError as error:
                    in_flight.outlive(error)
                except ModelNotLoadedError as error:
                    in_flight.readdress(error)
                except asyncio.CancelledError:
                    in_flight.left()
                    raise
        except MLCEngineError as error:
            raise in_flight.failed(error) from error.__cause__
        finally:
            self._in_flight_requests.end(in_flight)

    async def open_stream(self, kind: RequestKind, request: JSONDict) -> ResumableStream:
        """Accept one streaming request; it continues in a new worker if this one dies."""
        return await ResumableStream.open(kind, self._named(request), self._in_flight_requests)

    async def list_resumable_sessions(self) -> list[ResumableSession]:
        """The sessions on the worker's disk; starts the worker if needed."""
        worker = await self._supervisor.up()
        return [
            ResumableSession.from_wire(one) for one in await worker.call("listResumableSessions")
        ]

    async def read_resumable_session(self, session_id: str) -> ResumeResult:
        """What is on disk of an answer; starts the worker if needed."""
        worker = await self._supervisor.up()
        content = {"sessionId": session_id}
        return ResumeResult.from_wire(await worker.call("resumeChatCompletion", content))

    async def resume_stream(
        self, session_id: str, request: JSONDict, *, include_usage: bool = False
    ) -> tuple[ResumeResult, ChunkSource]:
        """Continue such an answer; it goes on in a new worker if this one dies."""
        content = {"sessionId": session_id, "request": request}
        resumed = await self._ask("resumedRequest", content)
        options = {"stream": True, "stream_options": {"include_usage": include_usage}}
        source = await ResumableStream.open(
            "chat", {**resumed["request"], **options}, self._in_flight_requests, resumed["resume"]
        )
        return ResumeResult.from_wire(resumed["before"]), source

    async def delete_resumable_session(self, session_id: str) -> None:
        """Delete a session; starts the worker if needed."""
        worker = await self._supervisor.up()
        await worker.call("deleteResumableSession", {"sessionId": session_id})

    def _named(self, request: JSONDict) -> JSONDict:
        """A request that names its model as it was loaded."""
        model = request.get("model")
        if not self._shared or not isinstance(model, str):
            return request
        return {**request, "model": absolute(model)}

    async def forward_tokens_and_sample(
        self, input_ids: Sequence[int], is_prefill: bool, model_id: str | None
    ) -> int:
        """Append tokens to the model's raw context and sample the next one."""
        content = {"inputIds": list(input_ids), "isPrefill": is_prefill, "modelId": model_id}
        connection = (await self._loaded()).connection  # may take long, as requests may
        return int(await connection.call("forwardTokensAndSample", content))

    async def custom_request(self, name: str, message: Any) -> Any:
        """Send a request to the worker's own handler class; starts the worker if needed."""
        content = {"requestName": name, "requestMessage": message}
        return await (await self._supervisor.up()).connection.call("customRequest", content)

    async def interrupt_generate(self) -> None:
        """End all running requests."""
        self._in_flight_requests.abort()
        await self._call_for_ends("interruptGenerate")

    async def abort(self, request_id: str) -> None:
        """End one request."""
        self._in_flight_requests.abort(request_id)
        await self._call_for_ends("abort", {"requestId": request_id})

    async def _call_for_ends(self, kind: str, content: Any = None) -> None:
        """Have the worker end requests that are already marked as aborted here."""
        worker = self._supervisor.living()
        if worker is None:
            return
        try:
            await worker.call(kind, content)
        except EngineDeadError:
            if not worker.connection.replaced:
                raise  # else they end all the same, since no later worker continues them

    # EngineCore: state and statistics

    async def _loaded(self) -> Worker:
        """The worker, which must be running."""
        await self._models.begun()
        worker = self._supervisor.living()
        if worker is None:
            raise ModelNotLoadedError.none_is_loaded()
        return worker

    async def _ask(self, kind: str, content: Any = None) -> Any:
        return await (await self._loaded()).call(kind, content)

    async def reset_chat(self, keep_stats: bool = False, model_id: str | None = None) -> None:
        """Forget the last message and, unless kept, the statistics."""
        await self._ask("resetChat", {"keepStats": keep_stats, "modelId": model_id})

    async def get_message(self, model_id: str | None = None) -> str:
        """The last generated message."""
        return str(await self._ask("getMessage", {"modelId": model_id}))

    async def runtime_stats_text(self, model_id: str | None = None) -> str:
        """Prefill and decode speed of the last answer."""
        return str(await self._ask("runtimeStatsText", {"modelId": model_id}))

    async def metrics(self) -> JSONDict:
        """Counters since the worker started; none is started for this.

        Raises:
            EngineDeadError: The worker has died, or does not answer.
        """
        worker = self._supervisor.living()
        if worker is None:
            return no_metrics()
        metrics: JSONDict = await worker.call("metrics")
        return metrics

    async def statistics(self) -> EngineStatistics:
        """What the engine is doing; starts no worker, and does without an answer of this one."""
        worker = self._supervisor.living()
        there: JSONDict = {}
        if worker is not None:
            # It may be dead, hang, or be of a version that has no such message.
            with contextlib.suppress(EngineDeadError, ProtocolError, TimeoutError):
                async with asyncio.timeout(_STATISTICS_PATIENCE_S):
                    there = await worker.call("statistics")
        connection = None if worker is None else worker.connection
        running, streams, elsewhere = self._in_flight_requests.counts(connection)
        sent, received = self._supervisor.traffic
        here = {
            "running_requests": running,
            "waiting_requests": min(elsewhere + there.get("waiting_requests", 0), running),
            "open_streams": streams,
            "worker_starts": self._supervisor.starts,
            "worker_restarts": max(self._supervisor.starts - 1, 0),
            "bytes_sent": sent,
            "bytes_received": received,
        }
        return EngineStatistics.read({**there, **here})

    async def set_log_level(self, level: str) -> None:
        """Set how much the worker logs; the level is sent to every new worker."""
        await self._models.set_log_level(check_log_level(level))

    async def list_models(self) -> list[JSONDict]:
        """The loaded models."""
        worker = self._supervisor.living()
        models: list[JSONDict] = [] if worker is None else await worker.call("listModels")
        return models

    async def device_info(self) -> JSONDict:
        """Runtime, device and versions of the worker."""
        info: JSONDict = await (await self._supervisor.up()).call("deviceInfo")
        return info
