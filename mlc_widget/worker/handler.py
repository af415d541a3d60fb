"""The worker's side of the wire: messages in, calls on an engine core, messages out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, Final

from mlc_widget._version import __version__
from mlc_widget.api.core import RequestKind
from mlc_widget.api.errors import MLCEngineError, ProtocolError
from mlc_widget.api.progress import InitProgressReport
from mlc_widget.api.requests import JSONDict
from mlc_widget.engine.core import DirectCore
from mlc_widget.protocol.errors import encode_error
from mlc_widget.protocol.messages import (
    PROTOCOL_VERSION,
    WorkerRequest,
    chunks_message,
    progress_message,
    return_message,
    throw_message,
)
from mlc_widget.worker.push_stream import PushStream

logger = logging.getLogger(__name__)

_NO_ANSWER: Final = object()


class KernelMLCEngineHandler:
    """Serves one client. Several may share an engine core.

    Subclass it to answer ``customRequest`` (`custom_request`).

    Args:
        core: The engine.
        send: Sends one message down.
    """

    def __init__(self, core: DirectCore, send: Callable[[JSONDict], None]) -> None:
        self.core = core
        self._send = send
        self._extended = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._pulled: dict[str, AsyncGenerator[list[JSONDict], None]] = {}
        self._leftover: dict[str, list[JSONDict]] = {}
        self._pushed: dict[str, PushStream] = {}
        self._calls: dict[str, Callable[[WorkerRequest], Awaitable[Any]]] = {
            "hello": self._hello,
            "reload": self._reload,
            "unload": lambda _: self.core.unload(),
            "chatCompletionNonStreaming": lambda r: self._whole("chat", r),
            "completionNonStreaming": lambda r: self._whole("completion", r),
            "embedding": lambda r: self._whole("embedding", r),
            "chatCompletionStreamInit": lambda r: self._init_stream("chat", r),
            "completionStreamInit": lambda r: self._init_stream("completion", r),
            "completionStreamNextChunk": self._next_chunk,
            "completionStreamReturn": self._return_stream,
            "streamCredit": self._credit,
            "interruptGenerate": lambda _: self.core.interrupt_generate(),
            "abort": lambda r: self.core.abort(str(_content(r)["requestId"])),
            "resetChat": lambda r: self.core.reset_chat(
                bool(_content(r).get("keepStats", False)), _content(r).get("modelId")
            ),
            "getMessage": lambda r: self.core.get_message(_content(r).get("modelId")),
            "runtimeStatsText": lambda r: self.core.runtime_stats_text(_content(r).get("modelId")),
            "metrics": lambda _: self.core.metrics(),
            "listModels": lambda _: self.core.list_models(),
            "deviceInfo": lambda _: self.core.device_info(),
            "setLogLevel": self._set_log_level,
            "setAppConfig": self._ignored,
            "customRequest": self._custom,
        }

    def on_message(self, data: Any) -> None:
        """Take one message; never raises, and answers from a task."""
        try:
            request = WorkerRequest.decode(data)
        except ProtocolError as error:
            uuid = data.get("uuid") if isinstance(data, Mapping) else None
            self._throw(str(uuid or ""), error)
            return
        task = asyncio.get_running_loop().create_task(self._answer(request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, request: WorkerRequest) -> None:
        try:
            call = self._calls.get(request.kind)
            if call is None:
                raise ProtocolError(
                    f"unknown message kind {request.kind!r}; known: {', '.join(self._calls)}"
                )
            content = await call(request)
        except asyncio.CancelledError:
            raise
        except MLCEngineError as error:
            self._throw(request.uuid, error)
        except Exception as error:
            logger.exception("%s failed", request.kind)
            self._throw(request.uuid, error)
        else:
            if content is not _NO_ANSWER:
                self._send(return_message(request.uuid, content))

    def _throw(self, uuid: str, error: BaseException) -> None:
        encoded = encode_error(error)
        self._send(throw_message(uuid, encoded["message"], encoded if self._extended else None))

    def report_progress(self, report: InitProgressReport) -> None:
        """Tell the client how a load advances."""
        self._send(progress_message(report, extended=self._extended))

    async def close(self) -> None:
        """The client is gone: stop all that it asked for."""
        for task in self._tasks:
            task.cancel()
        for pulled in list(self._pulled.values()):
            with contextlib.suppress(Exception):
                await pulled.aclose()
        for pushed in list(self._pushed.values()):
            await pushed.close()

    # Kinds

    async def _hello(self, request: WorkerRequest) -> JSONDict:
        version = _content(request).get("protocol")
        if version != PROTOCOL_VERSION:
            raise ProtocolError(
                f"The notebook speaks protocol {version}, the worker {PROTOCOL_VERSION}: install "
                f"the same version of mlc-widget on both sides (the worker has {__version__}).",
                code="version_mismatch",
            )
        self._extended = True
        return {
            "protocol": PROTOCOL_VERSION,
            "version": __version__,
            **await self.core.device_info(),
        }

    async def _reload(self, request: WorkerRequest) -> None:
        content = _content(request)
        await self.core.reload(_model_ids(content), content.get("chatOpts"))

    async def _match(self, content: Mapping[str, Any]) -> None:
        """Reload what the client expects, if something else is loaded."""
        if not content.get("modelId"):
            return
        ids = _model_ids(content)
        opts = [dict(o or {}) for o in content.get("chatOpts") or [None] * len(ids)]
        loaded = self.core.loaded
        if list(loaded) != ids or [dict(o) for o in loaded.values()] != opts:
            await self.core.reload(ids, opts)

    async def _whole(self, kind: RequestKind, request: WorkerRequest) -> JSONDict:
        content = _content(request)
        await self._match(content)
        return await self.core.request(kind, content["request"])

    async def _init_stream(self, kind: RequestKind, request: WorkerRequest) -> Any:
        content = _content(request)
        await self._match(content)
        # Clients before 0.2.84 of web-llm key their streams by model.
        stream_id = str(content.get("streamId") or content.get("selectedModelId") or "")
        if stream_id in self._pulled or stream_id in self._pushed:
            raise ProtocolError(f"stream {stream_id!r} exists already")
        wanted = {**content["request"]}
        if not wanted.get("model") and content.get("selectedModelId"):
            wanted["model"] = content["selectedModelId"]
        source = await self.core.open_stream(kind, wanted)
        credit = content.get("credit")
        if credit is None or not self._extended:
            self._pulled[stream_id] = source
            return None
        self._send(chunks_message(request.uuid, 0, []))
        pushed = self._pushed[stream_id] = PushStream(request.uuid, source, int(credit), self._send)
        try:
            await pushed.run()
        finally:
            del self._pushed[stream_id]
        return None

    async def _next_chunk(self, request: WorkerRequest) -> JSONDict | None:
        stream_id = _stream_id(request)
        source = self._pulled.get(stream_id)
        if source is None:
            raise ProtocolError(f"no stream {stream_id!r}")
        ready = self._leftover.get(stream_id) or []
        if not ready:
            try:
                ready = list(await anext(source))
            except BaseException as error:
                self._pulled.pop(stream_id, None)
                if isinstance(error, StopAsyncIteration):
                    return None
                raise
        self._leftover[stream_id] = ready[1:]
        return ready[0]

    async def _return_stream(self, request: WorkerRequest) -> None:
        stream_id = _stream_id(request)
        self._leftover.pop(stream_id, None)
        pulled = self._pulled.pop(stream_id, None)
        if pulled is not None:
            await pulled.aclose()
        pushed = self._pushed.get(stream_id)
        if pushed is not None:
            await pushed.close()

    async def _credit(self, request: WorkerRequest) -> Any:
        pushed = self._pushed.get(_stream_id(request))
        if pushed is not None:  # credit for a stream that has just ended is no error
            pushed.grant(int(_content(request)["credit"]))
        return _NO_ANSWER

    async def _set_log_level(self, request: WorkerRequest) -> Any:
        level = str(request.content).upper()
        if level in logging.getLevelNamesMapping():
            logging.getLogger("mlc_widget").setLevel(level)
        return _NO_ANSWER  # WebLLM's client takes no answer to this

    async def _ignored(self, request: WorkerRequest) -> Any:
        return _NO_ANSWER

    async def _custom(self, request: WorkerRequest) -> Any:
        content = _content(request)
        return await self.custom_request(
            str(content.get("requestName")), content.get("requestMessage")
        )

    async def custom_request(self, name: str, message: Any) -> Any:
        """Answer a subclass's own request.

        Raises:
            ProtocolError: there is no such request.
        """
        raise ProtocolError(f"unknown custom request {name!r}")


def _content(request: WorkerRequest) -> Mapping[str, Any]:
    if request.content is None:
        return {}
    if not isinstance(request.content, Mapping):
        raise ProtocolError(f"{request.kind}: content must be an object")
    return request.content


def _stream_id(request: WorkerRequest) -> str:
    content = _content(request)
    return str(content.get("streamId") or content.get("selectedModelId") or "")


def _model_ids(content: Mapping[str, Any]) -> list[str]:
    ids = content.get("modelId")
    if isinstance(ids, str):
        return [ids]
    if not isinstance(ids, list):
        raise ProtocolError(f"modelId must be a list of strings, not {ids!r}")
    return [str(i) for i in ids]
