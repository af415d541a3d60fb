"""OpenAI's HTTP API over an engine core: what is answered, and how errors look.

Nothing here is HTTP itself: `openai_client` carries the answers to OpenAI's own client in this
process, and `serving` to any client.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias
from urllib.parse import quote, unquote

from mlc_widget.api.core import EngineCore, RequestKind
from mlc_widget.api.errors import (
    BadRequestError,
    EngineDeadError,
    EngineForkedError,
    EngineTerminatedError,
    MLCEngineError,
    ModelError,
    ModelNotLoadedError,
    ServerError,
    UnsupportedFieldError,
)
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.json_body import read_json_body
from mlc_widget.api.log_text import one_line
from mlc_widget.api.refusals import checked
from mlc_widget.api.request_ids import new_request_id
from mlc_widget.api.request_values import shortened
from mlc_widget.api.requests import JSONDict, check_chat, check_completion, check_embedding
from mlc_widget.api.responses_api.routes import ResponsesApi
from mlc_widget.api.responses_api.store import ResponseNotFoundError, ResponseStore
from mlc_widget.api.streams import StreamBuffer
from mlc_widget.api.unicode_text import well_formed

Body: TypeAlias = JSONDict | StreamBuffer

_IN_HEADERS: Final = "".join(map(chr, range(33, 127))).replace("%", "")
_SHOWN: Final = 200
"""Characters of a path in an error."""
_CHECKS: Final[dict[RequestKind, Callable[[JSONDict], JSONDict]]] = {
    "chat": check_chat,
    "completion": check_completion,
    "embedding": check_embedding,
}


def _new_id() -> str:
    """The id of a request that is not for an answer of the model."""
    return f"req_{uuid.uuid4().hex}"


@dataclass(slots=True)
class ApiRequest:
    """The parts of an HTTP request that count; path and query are as they were sent.

    Attributes:
        request_id: What the answer's header, the engine's errors and its log call it. A request
            for an answer of the model is called as that is.
    """

    method: str
    path: str
    content: bytes
    query: str = ""
    request_id: str = field(default_factory=_new_id)

    def body(self) -> JSONDict:
        """The content as a JSON object.

        Raises:
            BadRequestError: it is not a JSON object.
        """
        body = read_json_body(self.content)
        if not isinstance(body, dict):
            raise BadRequestError("the request's body is not an object.")
        return body


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """An answer: JSON, or a stream of events."""

    status: int
    body: Body
    headers: dict[str, str] = field(default_factory=dict)


class NoSuchRouteError(MLCEngineError):
    """Nothing is served at this path."""

    default_code = "unknown_url"


class WrongMethodError(MLCEngineError):
    """The path is served, but not by this HTTP method."""

    default_code = "method_not_supported"

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


_Handler: TypeAlias = Callable[[ApiRequest, tuple[str, ...]], Awaitable[Body]]


class OpenAIRoutes:
    """Answers requests to OpenAI's API from an engine. On the home loop.

    Args:
        core: The engine.
        home: Its loop.
        keeps_sessions: Whether requests may have their answers kept on disk (``resumable``).
    """

    def __init__(self, core: EngineCore, home: HomeLoop, *, keeps_sessions: bool = True) -> None:
        self._core = core
        self._home = home
        self._keeps_sessions = keeps_sessions
        self._responses = ResponsesApi(core, ResponseStore())
        # A path's parts after /v1. "*" stands for one part and "**" for all that follow, which
        # handlers get: a model's name may be a path.
        self._routes: dict[tuple[str, ...], dict[str, _Handler]] = {
            ("chat", "completions"): {"POST": self._requests("chat")},
            ("completions",): {"POST": self._requests("completion")},
            ("embeddings",): {"POST": self._requests("embedding")},
            ("models",): {"GET": self._list_models},
            ("models", "**"): {"GET": self._retrieve_model},
            **self._response_routes(),
        }

    def _response_routes(self) -> dict[tuple[str, ...], dict[str, _Handler]]:
        api = self._responses

        async def create(request: ApiRequest, _: tuple[str, ...]) -> Body:
            made = await api.create(request.body())
            return made if isinstance(made, dict) else StreamBuffer(self._home, made)

        return {
            ("responses",): {"POST": create},
            ("responses", "*"): {
                "GET": lambda request, path: api.retrieve(path[0], request.query),
                "DELETE": lambda _, path: api.delete(path[0]),
            },
            ("responses", "*", "cancel"): {"POST": lambda _, path: api.cancel(path[0])},
            ("responses", "*", "input_items"): {
                "GET": lambda request, path: api.input_items(path[0], request.query)
            },
        }

    async def answer(self, request: ApiRequest) -> ApiAnswer:
        """Answer a request. Never raises: an error is an answer, too."""
        try:
            body = await self._body(request)
        except MLCEngineError as error:
            return refusal(error, request.request_id)
        return ApiAnswer(200, body, _headers(request.request_id))

    async def _body(self, request: ApiRequest) -> Body:
        shown = one_line(request.path, _SHOWN)
        version, *parts = request.path.removeprefix("/").split("/")
        for pattern, methods in self._routes.items() if version == "v1" else ():
            named = _match(pattern, parts)
            if named is None:
                continue
            if request.method not in methods:
                raise WrongMethodError(
                    f"Not allowed to {request.method} on {shown}: use {' or '.join(methods)}.",
                    ", ".join(methods),
                )
            return await methods[request.method](request, named)
        served = ", ".join("/v1/" + "/".join(p) for p in self._routes if "*" not in "".join(p))
        raise NoSuchRouteError(
            f"Invalid URL ({request.method} {shown}): the engine answers {served}."
        )

    def _requests(self, kind: RequestKind) -> _Handler:
        async def answer(request: ApiRequest, _: tuple[str, ...]) -> Body:
            body = checked(self._core, _CHECKS[kind], request.body())
            if not self._keeps_sessions and body.get("resumable", {}).get("enabled"):
                raise UnsupportedFieldError(
                    "resumable: this server keeps no answers on disk; leave it out.",
                    param="resumable",
                )
            request.request_id = body.setdefault("request_id", new_request_id(kind))
            if kind != "embedding" and body.get("stream"):
                return StreamBuffer(self._home, await self._core.open_stream(kind, body))
            return await self._core.request(kind, body)

        return answer

    async def _list_models(self, _: ApiRequest, __: tuple[str, ...]) -> Body:
        return {"object": "list", "data": await self._core.list_models()}

    async def _retrieve_model(self, _: ApiRequest, path: tuple[str, ...]) -> Body:
        (wanted,) = path
        for model in await self._core.list_models():
            if model["id"] == wanted:
                return model
        raise ModelNotLoadedError(f"model {shortened(wanted)} is not loaded.", param="model")


def _match(pattern: tuple[str, ...], parts: list[str]) -> tuple[str, ...] | None:
    """The parts of a path that match the pattern's stars, or None if it does not match."""
    if pattern[-1] == "**" and len(parts) >= len(pattern):
        parts = [*parts[: len(pattern) - 1], "/".join(parts[len(pattern) - 1 :])]
    if len(pattern) != len(parts):
        return None
    pairs = list(zip(pattern, map(unquote, parts), strict=True))
    if not all(want in ("*", "**", part) for want, part in pairs):
        return None
    return tuple(part for want, part in pairs if want in ("*", "**"))


def _headers(request_id: str) -> dict[str, str]:
    """The header that OpenAI's client shows as ``_request_id``."""
    # A caller's own id may be any text, but headers are ASCII.
    return {"x-request-id": quote(request_id, safe=_IN_HEADERS)}


def refusal(error: MLCEngineError, request_id: str | None = None) -> ApiAnswer:
    """An error as OpenAI answers it, of a request that may have got no id yet."""
    headers = _headers(request_id or error.request_id or _new_id())
    if isinstance(error, WrongMethodError):
        headers["allow"] = error.allowed
    if isinstance(error, EngineDeadError | EngineTerminatedError | EngineForkedError):
        # OpenAI's client would send it twice more, and a request that kills workers would go on.
        headers["x-should-retry"] = "false"
    return ApiAnswer(_status(error), error_body(error), headers)


def _status(error: MLCEngineError) -> int:
    if isinstance(error, NoSuchRouteError | ModelNotLoadedError | ResponseNotFoundError):
        return 404
    if isinstance(error, WrongMethodError):
        return 405
    if isinstance(error, BadRequestError | ModelError):
        return 400
    if isinstance(error, ServerError):
        return 502
    return 503 if isinstance(error, EngineDeadError | EngineTerminatedError) else 500


def error_body(error: MLCEngineError) -> JSONDict:
    """An error's JSON in OpenAI's shape; its type is the name of our class."""
    routing = isinstance(error, NoSuchRouteError | WrongMethodError)
    return {
        "error": {
            "message": well_formed(error.message),
            "type": "invalid_request_error" if routing else type(error).__name__,
            "code": error.code,
            "param": None if error.param is None else well_formed(error.param),
        }
    }
