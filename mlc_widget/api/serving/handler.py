"""One HTTP request to a served engine: read within bounds, answered by `OpenAIRoutes`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final

from tornado.httputil import HTTPServerRequest
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler, stream_request_body

from mlc_widget.api.core import EngineCore
from mlc_widget.api.errors import BadRequestError, InternalEngineError, MLCEngineError
from mlc_widget.api.limits import LIMITS
from mlc_widget.api.metrics import EngineMetrics
from mlc_widget.api.openai_routes import (
    ApiAnswer,
    ApiRequest,
    OpenAIRoutes,
    WrongMethodError,
    error_body,
    refusal,
)
from mlc_widget.api.server_sent_events import DONE, event
from mlc_widget.api.serving.access import Access, ForbiddenHostError, UnauthorizedError
from mlc_widget.api.serving.body_budget import MAX_BODIES, BodyBudget, TooManyRequestsError
from mlc_widget.api.streams import StreamBuffer

_log = logging.getLogger(__name__)
MAX_REQUESTS: Final = 256
_UNREAD_S: Final = 600.0
_DIGITS: Final = 18
"""The digits of a length that are read: more than any length has that is not refused."""


class TooLargeError(BadRequestError):
    """The request's body is larger than any request may be."""

    default_code = "request_too_large"


class TooManyUsersError(MLCEngineError):
    """As many users as a group's server takes have engines.

    Attributes:
        retry_after: Seconds after which one of them may have gone.
    """

    default_code = "too_many_users"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ServerClosingError(MLCEngineError):
    """The server is being closed."""

    default_code = "server_closing"

    def __init__(self) -> None:
        super().__init__("The server is being closed; ask again once there is another one.")


_STATUSES: Final[dict[type[MLCEngineError], int]] = {
    UnauthorizedError: 401,
    ForbiddenHostError: 403,
    TooLargeError: 413,
    TooManyRequestsError: 429,
    ServerClosingError: 503,
    TooManyUsersError: 503,
}


@dataclass(slots=True)
class ServedEngine:
    """What all requests to one engine share.

    Attributes:
        core: The engine.
        routes: Answers requests to OpenAI's API.
        ready: Waits until the engine can answer; raises an `MLCEngineError` if it cannot.
        accepted: The requests whose headers were accepted and which have no whole answer yet.
        bodies: Their bodies.
        answering: Those of them that are being answered.
    """

    core: EngineCore
    routes: OpenAIRoutes
    ready: Callable[[], Awaitable[None]] | None = None
    accepted: set[EngineRequestHandler] = field(default_factory=set)
    bodies: BodyBudget = field(default_factory=lambda: BodyBudget(MAX_BODIES))
    answering: set[asyncio.Task[None]] = field(default_factory=set)


@stream_request_body
class EngineRequestHandler(RequestHandler):
    """Answers every path and method. On the home loop.

    Headers are checked before the body is read: who has no token cannot make the server keep it.
    Without one there is only ``/health``, which says that the server is there, and nothing else.
    """

    def initialize(
        self,
        served_to: Callable[[HTTPServerRequest], ServedEngine],
        access: Access | None,
        bodies: BodyBudget,
        is_closing: Callable[[], bool],
    ) -> None:
        """Called by tornado in place of a constructor."""
        self._served_to = served_to
        self._access = access
        self._served: ServedEngine
        self._is_accepted = False
        self._is_closing = is_closing
        self._all_bodies = bodies
        self._held = 0
        self._content = bytearray()
        self._task: asyncio.Task[None] | None = None

    def set_default_headers(self) -> None:
        """The headers of all answers; called by tornado."""
        self.set_header("Server", "mlc_widget")
        self.set_header("Cache-Control", "no-store")
        self.set_header("X-Content-Type-Options", "nosniff")

    def prepare(self) -> None:
        """Find the engine, and check the headers; called by tornado before it reads the body."""
        headers = self.request.headers
        try:
            if self._access is not None:
                self._access.check_host(headers.get("Host", ""))
            if self.request.path == "/health" and self.request.method in ("GET", "HEAD"):
                if self._is_closing():
                    raise ServerClosingError
                self._reply(ApiAnswer(200, {"status": "ok"}))
                return
            if self._access is not None:
                self._access.check_token(headers.get("Authorization", ""))
            self._served = self._served_to(self.request)
            if self._is_closing():
                raise ServerClosingError
            if (announced := headers.get("Content-Length", "")).isdecimal():
                # tornado refuses what is no number; int() refuses thousands of digits.
                self._check_size(int(announced[:_DIGITS]))
            if len(self._served.accepted) >= MAX_REQUESTS:
                raise TooManyRequestsError(
                    f"The server is answering {MAX_REQUESTS} requests already; try again later."
                )
            self._served.accepted.add(self)
            self._is_accepted = True
        except MLCEngineError as error:
            self._refuse(error)

    @staticmethod
    def _check_size(nbytes: int) -> None:
        if nbytes > LIMITS.input_bytes:
            raise TooLargeError(
                f"The request's body has {nbytes} bytes or more; it may have {LIMITS.input_bytes}."
            )

    def data_received(self, chunk: bytes) -> None:
        """Keep a part of the body; called by tornado."""
        if not self._finished:
            try:
                # Its length may not have been announced.
                self._check_size(len(self._content) + len(chunk))
                self._hold(len(chunk))
            except MLCEngineError as error:
                self._content.clear()
                self._refuse(error)
            else:
                self._content += chunk

    def _hold(self, nbytes: int) -> None:
        own = self._served.bodies
        own.take(nbytes)
        try:
            self._all_bodies.take(nbytes)
        except TooManyRequestsError:
            own.give_back(nbytes)
            raise
        self._held += nbytes

    def _leave(self) -> None:
        """Count this request, and its body, no longer. Idempotent."""
        if self._is_accepted:
            self._is_accepted = False
            self._served.accepted.discard(self)
            for budget in (self._served.bodies, self._all_bodies):
                budget.give_back(self._held)
            self._held = 0

    def on_finish(self) -> None:
        """The answer was given; called by tornado."""
        self._leave()

    async def _respond(self) -> None:
        if self._finished:  # refused while the body was being read
            return
        self._task = asyncio.ensure_future(self._answer())
        self._served.answering.add(self._task)
        self._task.add_done_callback(self._served.answering.discard)
        await asyncio.wait({self._task})
        if not self._task.cancelled():
            self._task.result()

    get = post = put = patch = delete = options = head = _respond

    def on_connection_close(self) -> None:
        """Stop the engine's work for a client that has left; called by tornado."""
        self._leave()
        if self._task is not None:
            self._task.cancel()

    async def give_up(self) -> None:
        """End the answer with an error, as the server closes; return once it was sent."""
        self._auto_finish = False  # what ends it is here
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._finished:
            return
        error = ServerClosingError()
        with contextlib.suppress(StreamClosedError):
            if self._headers_written:
                await self.finish(event(error_body(error)))
            else:
                await self._refuse(error)

    async def _answer(self) -> None:
        try:
            if self._served.ready is not None:
                await self._served.ready()
        except MLCEngineError as error:
            self._refuse(error)
            return
        asked = _api_request(self.request, bytes(self._content))
        if asked.path == "/metrics" and asked.method == "GET":
            await self._send(self._metrics())
            return
        self._content.clear()
        answer = await self._served.routes.answer(asked)
        if isinstance(answer.body, StreamBuffer):
            await self._stream(answer, answer.body)
        else:
            self._reply(answer)

    async def _send(self, text: Coroutine[Any, Any, str]) -> None:
        try:
            written = await text
        except MLCEngineError as error:
            self._refuse(error)
            return
        self.set_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.finish(written)

    async def _metrics(self) -> str:
        core = self._served.core
        metrics, statistics = await core.metrics(), await core.statistics()
        return EngineMetrics(metrics).prometheus_text() + statistics.prometheus_text()

    def _refuse(self, error: MLCEngineError) -> asyncio.Future[None]:
        answer = refusal(error)
        if isinstance(error, TooManyUsersError):
            answer.headers["Retry-After"] = str(error.retry_after)
        return self._reply(
            ApiAnswer(_STATUSES.get(type(error), answer.status), answer.body, answer.headers)
        )

    def _reply(self, answer: ApiAnswer) -> asyncio.Future[None]:
        self.set_status(answer.status)
        self._set_headers(answer)
        if answer.status == 401:
            self.set_header("WWW-Authenticate", "Bearer")
        if answer.status == 429:
            self.set_header("Retry-After", "1")
        self.set_header("Content-Type", "application/json")
        if self._is_closing():
            self.set_header("Connection", "close")
        return self.finish(json.dumps(answer.body, ensure_ascii=False))

    async def _stream(self, answer: ApiAnswer, chunks: StreamBuffer) -> None:
        self._set_headers(answer)
        self.set_header("Content-Type", "text/event-stream; charset=utf-8")
        try:
            while True:
                try:
                    await self._write_event(event(await chunks.get()))
                except EOFError:
                    await self._write_event(DONE)
                    break
                except MLCEngineError as error:
                    await self._write_event(event(error_body(error)))
                    break
            self.finish()
        except (StreamClosedError, TimeoutError):  # the client has left, or does not read
            self._auto_finish = False  # there is nothing left on which tornado could finish it
            self.request.connection.detach().close()  # type: ignore[union-attr]
            self._leave()
        finally:
            chunks.leave()

    async def _write_event(self, written: bytes) -> None:
        """Write an event, and wait until the client has taken most of what was written."""
        self.write(written)
        async with asyncio.timeout(_UNREAD_S):
            await self.flush()

    def _set_headers(self, answer: ApiAnswer) -> None:
        for name, value in answer.headers.items():
            self.set_header(name, value)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Describe an error that is none of the engine's, in OpenAI's shape; called by tornado."""
        self.set_header("Content-Type", "application/json")
        error: MLCEngineError = InternalEngineError("The server failed.")
        if status_code == 405:
            error = WrongMethodError("There is no such method.", ", ".join(self.SUPPORTED_METHODS))
            self.set_header("Allow", error.allowed)
        self.finish(json.dumps(error_body(error)))

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log an unexpected error without the request, whose text is nobody else's."""
        if isinstance(value, HTTPError):  # tornado's refusal of a method: anybody can ask for that
            return
        _log.error("a request to %s failed", self.request.path, exc_info=value)


def _api_request(request: HTTPServerRequest, content: bytes) -> ApiRequest:
    # The headers of GET are what HEAD asks for; tornado leaves out the body.
    method = "GET" if request.method == "HEAD" else request.method or ""
    return ApiRequest(method, request.path, content, request.query)
