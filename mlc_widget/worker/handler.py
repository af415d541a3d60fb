"""The worker's side of the wire: messages in, calls on an engine core, messages out."""

from __future__ import annotations

import asyncio
import logging
import re
import shlex
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Protocol

from mlc_widget._version import __version__
from mlc_widget.api.app_config import AppConfig
from mlc_widget.api.copies import NotCopyable
from mlc_widget.api.core import ChunkSource, RequestKind
from mlc_widget.api.errors import EngineDeadError, MLCEngineError, ProtocolError
from mlc_widget.api.json_size import TooLargeError, check_json_size
from mlc_widget.api.load_request import LoadTarget, RequiredModels
from mlc_widget.api.log_text import SafeText, class_name
from mlc_widget.api.progress import InitProgressReport
from mlc_widget.api.requests import JSONDict
from mlc_widget.api.resume import Resume
from mlc_widget.engine.core import DirectCore
from mlc_widget.engine.loaded_models import replaced_error
from mlc_widget.engine.resumption import Resumption
from mlc_widget.protocol.errors import encode_error
from mlc_widget.protocol.messages import (
    MAX_MESSAGE_BYTES,
    MAX_WHOLE_REQUESTS,
    PROTOCOL_VERSION,
    WorkerRequest,
    answerable_uuid,
    end_message,
    lost_message,
    return_message,
    throw_message,
)
from mlc_widget.worker.client_streams import ClientStreams
from mlc_widget.worker.contents import content_of, integer, model_ids, optional_text, text
from mlc_widget.worker.log_feed import LogFeed
from mlc_widget.worker.progress_feed import ProgressFeed
from mlc_widget.worker.reorder_buffer import ReorderBuffer
from mlc_widget.worker.resources import ResourceWatch

logger = logging.getLogger(__name__)

_NO_ANSWER: Final = object()
_VERSION: Final = re.compile(r"[0-9][0-9A-Za-z.!+-]{0,60}")
_GATHER_S: Final = 0.03
"""Seconds between two messages of a pushed stream, after its first: about as often as a page can
be updated. A message costs the worker as much time as a token of a small model."""
_MOST_CONFIGS: Final = 16
"""The newest app configs of a client that its messages may name, beside that of its models."""
_Call = Callable[[WorkerRequest], Awaitable[Any]]


class SharedClient(Protocol):
    """What a shared worker knows of one of its clients."""

    def introduce(self, client: Any) -> None:
        """The client has said who it is.

        Raises:
            ProtocolError: it says nothing about itself that the worker can check.
            BadRequestError: its `cache_salt` is no such text.
            EngineDeadError: the worker is about to end.
        """

    async def worker_info(self) -> JSONDict:
        """The worker's models and clients."""

    def others_statistics(self) -> JSONDict:
        """Sums over the worker's other clients, by names of `EngineStatistics`."""


class KernelMLCEngineHandler(NotCopyable):
    """Serves one client. Several may share an engine core.

    Subclass it to answer ``customRequest`` (`custom_request`), and name the subclass in the
    engine's ``handler`` argument.

    Args:
        core: The engine.
        send: Sends one message down.
    """

    _instead = "it serves one client of an engine. Make another one with the same engine core."
    resources: ResourceWatch | None = None
    """Judges failures in a worker's own process."""
    shared_client: SharedClient | None = None
    """What a worker that several clients share knows of this one."""

    def __init__(self, core: DirectCore, send: Callable[[JSONDict], None]) -> None:
        self.core = core
        self._send = send
        self._extended = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams = ClientStreams(send)
        self._whole_requests = 0
        self._progress = ProgressFeed(send)
        self._logs = LogFeed(core.log, send)
        self._app_config = self._reloaded_with = AppConfig()
        self._replaced: tuple[LoadTarget, str] | None = None
        self._app_configs: dict[str, AppConfig] = {}  # as they came
        self._calls = self._table()
        self._in_order = ReorderBuffer(self._begin, self._tell_lost)

    def _table(self) -> dict[str, _Call]:
        """The method that answers each kind of message."""
        core = self.core
        return {
            "hello": self._hello,
            "keepAlive": self._keep_alive,
            "reload": self._reload,
            "unload": lambda _: core.unload(),
            "cancelLoad": lambda _: core.cancel_load(),
            "chatCompletionNonStreaming": lambda r: self._whole("chat", r),
            "completionNonStreaming": lambda r: self._whole("completion", r),
            "embedding": lambda r: self._whole("embedding", r),
            "chatCompletionStreamInit": lambda r: self._init_stream("chat", r),
            "completionStreamInit": lambda r: self._init_stream("completion", r),
            "completionStreamNextChunk": self._next_chunk,
            "completionStreamReturn": lambda r: self._streams.end(_stream_id(r)),
            "streamCredit": self._credit,
            "progressTaken": self._progress_taken,
            "logTaken": self._log_taken,
            "interruptGenerate": lambda _: core.interrupt_generate(),
            "abort": lambda r: core.abort(text(r, "requestId")),
            "resetChat": self._reset_chat,
            "getMessage": lambda r: core.get_message(optional_text(r, "modelId")),
            "runtimeStatsText": lambda r: core.runtime_stats_text(optional_text(r, "modelId")),
            "forwardTokensAndSample": self._forward,
            "metrics": lambda _: core.metrics(),
            "statistics": self._statistics,
            "health": lambda _: core.running_steps(),
            "workerInfo": self._worker_info,
            "listModels": lambda _: core.list_models(),
            "deviceInfo": lambda _: core.device_info(),
            "getGPUVendor": self._gpu_vendor,
            "getMaxStorageBufferBindingSize": self._max_buffer,
            "listResumableSessions": self._list_sessions,
            "resumeChatCompletion": self._resume_whole,
            "resumeChatCompletionStreamInit": self._resume_stream,
            "resumedRequest": self._resumed_request,
            "deleteResumableSession": lambda r: core.delete_resumable_session(text(r, "sessionId")),
            "setLogLevel": self._set_log_level,
            "setAppConfig": self._set_app_config,
            "customRequest": self._custom,
        }

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self._tasks)} messages being answered>"

    def on_message(self, data: Any) -> None:
        """Take one message. Never raises; the answer comes from a task."""
        number = data.get("n") if isinstance(data, Mapping) else None
        if type(number) is int and number >= 0:
            try:
                self._in_order.take(number, data)
            except ProtocolError as error:
                self._throw(answerable_uuid(data), error)
        else:
            self._begin(data)

    def _tell_lost(self, first: int, last: int) -> None:
        logger.error("messages %d to %d of a client were lost", first, last)
        self._send(lost_message(first, last))

    def _begin(self, data: Any) -> None:
        try:
            check_json_size(data, MAX_MESSAGE_BYTES)
            request = WorkerRequest.decode(data)
        except TooLargeError as error:
            refused = ProtocolError(f"This message is too large: {error}.")
            self._throw(answerable_uuid(data), refused)
            return
        except ProtocolError as error:
            self._throw(answerable_uuid(data), error)
            return
        task = asyncio.get_running_loop().create_task(self._answer(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, request: WorkerRequest) -> None:
        self.core.log.use()
        try:
            call = self._calls.get(request.kind)
            if call is None:
                raise ProtocolError(
                    f"unknown message kind {request.kind!r:.200}; known: {', '.join(self._calls)}"
                )
            content = await call(request)
            if content is not _NO_ANSWER:
                self._send(return_message(request.uuid, content))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # native code's panics are no Exceptions
            if isinstance(error, asyncio.CancelledError) and _cancelled():
                raise  # the client has gone
            if not isinstance(error, MLCEngineError):
                request_id = _request_id(request)
                about = SafeText("" if request_id is None else f" (request {request_id!r})")
                logger.exception(
                    "%s failed%s",
                    SafeText(request.kind),
                    about,
                    extra={"request_id": request_id},
                )
            if self.resources is not None:
                # What fails for lack of them goes on in the worker that takes this one's place.
                await self.resources.leave_if_lacking(error)
            self._throw(request.uuid, error)

    def _throw(self, uuid: str, error: BaseException) -> None:
        encoded = encode_error(error)
        self._send(throw_message(uuid, encoded["message"], encoded if self._extended else None))

    def report_progress(self, report: InitProgressReport) -> None:
        """Send a load's report to the client, if it waits for a load."""
        self._progress.report(report)

    async def close(self) -> None:
        """Stop everything that the client asked for: it is gone."""
        self._in_order.close()
        self._logs.close()
        await self._streams.close()
        for task in self._tasks:
            task.cancel()

    # Kinds: the engine

    async def _hello(self, request: WorkerRequest) -> JSONDict:
        self._extended = self._progress.extended = True
        content = content_of(request)
        if content.get("protocol") != PROTOCOL_VERSION:
            raise _version_error(content.get("protocol"), content.get("version"))
        if self.shared_client is not None:
            self.shared_client.introduce(content.get("client"))
        self._logs.start()
        info = await self.core.device_info()
        return {"protocol": PROTOCOL_VERSION, "version": __version__, **info}

    async def _worker_info(self, request: WorkerRequest) -> JSONDict:
        if self.shared_client is None:
            raise ProtocolError("workerInfo: this worker is not shared.")
        return await self.shared_client.worker_info()

    async def _statistics(self, request: WorkerRequest) -> JSONDict:
        others = {} if self.shared_client is None else self.shared_client.others_statistics()
        return {**(await self.core.statistics()).known(), **others}

    async def _keep_alive(self, request: WorkerRequest) -> Any:
        self._send({"kind": "heartbeat", "uuid": request.uuid})
        return _NO_ANSWER

    async def _reload(self, request: WorkerRequest) -> None:
        content = content_of(request)
        ids = model_ids(request)
        config = self._named_config(content, self._app_config)
        if self.resources is not None and (lowered := self.resources.lowered()):
            with self._progress.waiting():  # what can be refused is refused here
                await self.core.check_reload(ids, content.get("chatOpts"), config)
            raise EngineDeadError(
                f"This worker may lack what a model needs: {lowered}.", code="fresh_process_needed"
            )
        self._reloaded_with = config
        before = self.core.target
        with self._progress.waiting():
            await self.core.reload(ids, content.get("chatOpts"), config)
        self._replaced = before if before != self.core.target else None

    def _required(self, request: WorkerRequest) -> RequiredModels | None:
        """The models that the client names for its request."""
        content = content_of(request)
        if not content.get("modelId"):
            return None
        config = self._named_config(content, self._reloaded_with)
        target = LoadTarget.read(model_ids(request), content.get("chatOpts"))
        if self._extended and (target, config.digest) == self._replaced:
            # Sent before the client knew that its reload has ended; it must not undo that.
            raise replaced_error()
        self._replaced = None
        return RequiredModels(target, config, resends=self._extended)

    def _named_config(self, content: Mapping[str, Any], default: AppConfig) -> AppConfig:
        digest = content.get("appConfigHash")
        if digest is None:  # WebLLM's client: what it had set at its last reload
            return default
        for config in (AppConfig(), self._reloaded_with, *self._app_configs.values()):
            if config.digest == digest:
                return config
        raise ProtocolError(f"appConfigHash {digest!r:.200}: send setAppConfig first.")

    async def _set_app_config(self, request: WorkerRequest) -> Any:
        try:
            self._app_config = AppConfig.read(request.content)
        except MLCEngineError as error:  # nobody waits for an answer
            logger.error("a setAppConfig is ignored: %s", class_name(error))
        else:
            self._app_configs.pop(self._app_config.digest, None)
            self._app_configs[self._app_config.digest] = self._app_config
            if len(self._app_configs) > _MOST_CONFIGS:
                del self._app_configs[next(iter(self._app_configs))]
        return _NO_ANSWER

    async def _set_log_level(self, request: WorkerRequest) -> Any:
        try:
            await self.core.set_log_level(request.content)
        except MLCEngineError as error:  # nobody waits for an answer
            logger.error("a setLogLevel is ignored: %s", class_name(error))
        return _NO_ANSWER

    async def _gpu_vendor(self, request: WorkerRequest) -> str:
        info = await self.core.device_info()
        return str(info["device"] or info["machine"])

    async def _max_buffer(self, request: WorkerRequest) -> int:
        return int((await self.core.device_info())["memory_bytes"] or 0)

    # Kinds: requests

    async def _whole(self, kind: RequestKind, request: WorkerRequest) -> JSONDict:
        wanted = _request(request)
        with self._counted(), self._progress.waiting():
            return await self.core.request(kind, wanted, self._required(request))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a request that is answered whole, while that lasts.

        Raises:
            ProtocolError: there are too many; each takes memory that other clients may need.
        """
        if self._whole_requests >= MAX_WHOLE_REQUESTS:
            raise ProtocolError(
                f"at most {MAX_WHOLE_REQUESTS} requests without stream are answered for a client "
                "at once: wait until some of them have been."
            )
        self._whole_requests += 1
        try:
            yield
        finally:
            self._whole_requests -= 1

    async def _init_stream(self, kind: RequestKind, request: WorkerRequest) -> None:
        content = content_of(request)
        wanted = _request(request)
        if not wanted.get("model") and isinstance(content.get("selectedModelId"), str):
            wanted["model"] = content["selectedModelId"]
        credit = resumption = None
        if self._extended and content.get("credit") is not None:
            credit = integer(request, "credit", 1)
        if credit is not None and content.get("resume") is not None:
            resumption = Resumption.read(content["resume"])
        required = self._required(request)

        async def opening() -> ChunkSource:
            with self._progress.waiting():
                return await self.core.open_stream(
                    kind,
                    wanted,
                    required,
                    gather_s=0.0 if credit is None else _GATHER_S,
                    journal=credit is not None and content.get("journal") is True,
                    resumption=resumption,
                )

        await self._streams.open(_stream_id(request), request.uuid, opening, credit)

    async def _next_chunk(self, request: WorkerRequest) -> Any:
        chunk = await self._streams.next_chunk(_stream_id(request))
        if chunk is None:
            self._send(end_message(request.uuid))
            return _NO_ANSWER
        return chunk

    async def _credit(self, request: WorkerRequest) -> Any:
        self._streams.grant(_stream_id(request), integer(request, "credit", 0))
        return _NO_ANSWER

    async def _progress_taken(self, request: WorkerRequest) -> Any:
        self._progress.taken()
        return _NO_ANSWER

    async def _log_taken(self, request: WorkerRequest) -> Any:
        self._logs.taken()
        return _NO_ANSWER

    async def _reset_chat(self, request: WorkerRequest) -> None:
        keep_stats = bool(content_of(request).get("keepStats", False))
        await self.core.reset_chat(keep_stats, optional_text(request, "modelId"))

    async def _forward(self, request: WorkerRequest) -> int:
        content = content_of(request)
        return await self.core.forward_tokens_and_sample(
            content.get("inputIds") or [],
            bool(content.get("isPrefill", False)),
            optional_text(request, "modelId"),
        )

    # Kinds: sessions

    async def _list_sessions(self, request: WorkerRequest) -> list[JSONDict]:
        return [session.to_wire() for session in await self.core.list_resumable_sessions()]

    async def _resume_whole(self, request: WorkerRequest) -> JSONDict:
        with self._counted():
            return (await _resume(request, streams=False).result(self.core)).to_wire()

    async def _resume_stream(self, request: WorkerRequest) -> None:
        resume = _resume(request, streams=True)

        async def opening() -> ChunkSource:
            return await resume.stream(self.core)

        await self._streams.open(_stream_id(request), request.uuid, opening, None)

    async def _resumed_request(self, request: WorkerRequest) -> JSONDict:
        given = content_of(request).get("request")
        if not isinstance(given, Mapping):
            raise ProtocolError(f"resumedRequest: request = {given!r:.100}: must be an object")
        return await self.core.resumed_request(text(request, "sessionId"), dict(given))

    async def _custom(self, request: WorkerRequest) -> Any:
        message = content_of(request).get("requestMessage")
        return await self.custom_request(text(request, "requestName"), message)

    async def custom_request(self, name: str, message: Any) -> Any:
        """Answer a request of a subclass, with any value that JSON can represent.

        Raises:
            ProtocolError: there is no such request.
        """
        raise ProtocolError(f"unknown custom request {name!r}")


def _request_id(request: WorkerRequest) -> str | None:
    """Which request of the user's a message is about, for the log."""
    content = request.content
    asked = content.get("request") if isinstance(content, Mapping) else None
    name = asked.get("request_id") if isinstance(asked, Mapping) else None
    return name[:512] if isinstance(name, str) else None


def _cancelled() -> bool:
    """Whether it is the task that was cancelled, and not only what it waited for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _request(request: WorkerRequest) -> JSONDict:
    wanted = content_of(request).get("request")
    if not isinstance(wanted, Mapping):
        raise ProtocolError(f"{request.kind}: content.request must be an object, not {wanted!r}")
    return dict(wanted)


def _resume(request: WorkerRequest, *, streams: bool) -> Resume:
    """The arguments of WebLLM's `resumeChatCompletion`.

    Ours is ``options.request``, the request as it was at first, for sessions without messages.
    """
    options = content_of(request).get("options") or {}
    given = options.get("request") if isinstance(options, Mapping) else options
    if not isinstance(options, Mapping) or not isinstance(given or {}, Mapping):
        raise ProtocolError(f"{request.kind}: options and options.request must be objects")
    continues = options.get("continueGeneration") or False
    return Resume.read(content_of(request).get("sessionId"), continues, streams, given or {})


def _stream_id(request: WorkerRequest) -> str:
    """The stream's id. Before 0.2.84, web-llm's client identified its streams by model."""
    content = content_of(request)
    return str(content.get("streamId") or content.get("selectedModelId") or "")


def _version_error(protocol: Any, version: Any) -> ProtocolError:
    """Names both sides, and the command after which they understand each other."""
    there = f"The worker has mlc-widget {__version__} (protocol {PROTOCOL_VERSION}), the notebook"
    if isinstance(version, str) and _VERSION.fullmatch(version):
        remedy = (
            f"{there} {version} (protocol {protocol!r:.200}). Where the worker runs: "
            f"`{shlex.quote(sys.executable)} -m pip install mlc-widget=={version}`."
        )
    else:
        remedy = (
            f"{there} speaks protocol {protocol!r:.200}. In the notebook's environment: "
            f"`pip install mlc-widget=={__version__}`; then restart its kernel."
        )
    return ProtocolError(remedy, code="version_mismatch")
