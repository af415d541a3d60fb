"""`openai.AsyncOpenAI` and `openai.OpenAI` whose transport is an engine: no port, no server.

What speaks to OpenAI's API through their client (LangChain, instructor …) then speaks to the
notebook's engine. Answered: chat completions, completions, embeddings and models.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from mlc_widget.api.core import EngineCore, RequestKind
from mlc_widget.api.errors import (
    BadRequestError,
    EngineDeadError,
    EngineTerminatedError,
    MLCEngineError,
    ModelError,
    ModelNotLoadedError,
)
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.requests import JSONDict, check_chat, check_completion, check_embedding
from mlc_widget.api.streams import StreamBuffer

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

_BASE_URL: Final = "http://mlc-widget.invalid/v1"
_KINDS: Final[dict[str, RequestKind]] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
    "/v1/embeddings": "embedding",
}
_CHECKS: Final[dict[RequestKind, Callable[[JSONDict], JSONDict]]] = {
    "chat": check_chat,
    "completion": check_completion,
    "embedding": check_embedding,
}
_MODELS: Final = "/v1/models"


def async_openai_client(core: EngineCore, home: HomeLoop, options: JSONDict) -> AsyncOpenAI:
    """A client for this engine; `options` are `openai.AsyncOpenAI`'s."""
    import openai

    httpx = _httpx()
    http_client = httpx.AsyncClient(transport=_transports()[0](core, home))
    return openai.AsyncOpenAI(**_defaults(options), http_client=http_client)


def openai_client(core: EngineCore, home: HomeLoop, options: JSONDict) -> OpenAI:
    """A client for this engine; `options` are `openai.OpenAI`'s."""
    import openai

    http_client = _httpx().Client(transport=_transports()[1](core, home))
    return openai.OpenAI(**_defaults(options), http_client=http_client)


def _defaults(options: JSONDict) -> Any:
    return {"api_key": "none", "base_url": _BASE_URL, "max_retries": 0, **options}


@cache
def _httpx() -> Any:
    """The HTTP library that the installed openai is built on."""
    import openai

    return import_module("httpx" if int(openai.__version__.split(".")[0]) < 3 else "httpx2")


async def _answer(core: EngineCore, home: HomeLoop, request: _Request) -> JSONDict | StreamBuffer:
    """The response's body, or the relay of a stream. On the home loop."""
    if request.path == _MODELS:
        return {"object": "list", "data": await core.list_models()}
    if request.path.startswith(f"{_MODELS}/"):
        wanted = request.path.removeprefix(f"{_MODELS}/")
        for model in await core.list_models():
            if model["id"] == wanted:
                return model
        raise ModelNotLoadedError(f"model {wanted!r} is not loaded.", param="model")
    kind = _KINDS.get(request.path)
    if kind is None:
        raise _NoSuchRoute(f"{request.path}: the engine answers {', '.join([*_KINDS, _MODELS])}.")
    body = _CHECKS[kind](request.body())
    if kind != "embedding" and body.get("stream"):
        return StreamBuffer(home, await core.open_stream(kind, body))
    return await core.request(kind, body)


class _NoSuchRoute(MLCEngineError):
    default_code = "not_found"


class _Request:
    """What of an HTTP request matters."""

    def __init__(self, path: str, content: bytes) -> None:
        self.path = path
        self._content = content

    def body(self) -> JSONDict:
        try:
            body = json.loads(self._content)
        except (ValueError, RecursionError) as error:
            raise BadRequestError(f"the request's body is not JSON: {error}") from None
        if not isinstance(body, dict):
            raise BadRequestError("the request's body is not an object.")
        return body


def _status(error: MLCEngineError) -> int:
    if isinstance(error, BadRequestError):
        return 400
    if isinstance(error, ModelNotLoadedError | _NoSuchRoute):
        return 404
    if isinstance(error, ModelError):
        return 400
    return 503 if isinstance(error, EngineDeadError | EngineTerminatedError) else 500


def _error_body(error: MLCEngineError) -> JSONDict:
    return {
        "error": {
            "message": error.message,
            "type": type(error).__name__,
            "code": error.code,
            "param": error.param,
        }
    }


def _event(data: JSONDict) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


_DONE: Final = b"data: [DONE]\n\n"


@cache
def _transports() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The transport classes, awaited and blocking: their bases are known once openai is there."""
    httpx = _httpx()

    def respond(body: JSONDict | Any) -> Any:
        if isinstance(body, dict):
            return httpx.Response(200, json=body)
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, stream=body)

    def refuse(error: MLCEngineError) -> Any:
        return httpx.Response(_status(error), json=_error_body(error))

    class AsyncBody(httpx.AsyncByteStream):  # type: ignore[misc,name-defined]
        def __init__(self, relay: StreamBuffer) -> None:
            self._relay = relay

        async def __aiter__(self) -> AsyncIterator[bytes]:
            try:
                while True:
                    yield _event(await self._relay.get())
            except EOFError:
                yield _DONE
            except MLCEngineError as error:
                yield _event(_error_body(error))
            finally:
                self._relay.close()

        async def aclose(self) -> None:
            self._relay.close()

    class AsyncTransport(httpx.AsyncBaseTransport):  # type: ignore[misc,name-defined]
        def __init__(self, core: EngineCore, home: HomeLoop) -> None:
            self._core, self._home = core, home

        async def handle_async_request(self, request: Any) -> Any:
            wanted = _Request(request.url.path, await request.aread())
            try:
                body = await self._home.wait(
                    _answer(self._core, self._home, wanted), abandoned=_abandon
                )
            except MLCEngineError as error:
                return refuse(error)
            return respond(AsyncBody(body) if isinstance(body, StreamBuffer) else body)

    class Body(httpx.SyncByteStream):  # type: ignore[misc,name-defined]
        def __init__(self, relay: StreamBuffer) -> None:
            self._relay = relay

        def __iter__(self) -> Iterator[bytes]:
            try:
                while True:
                    yield _event(self._relay.get_blocking())
            except EOFError:
                yield _DONE
            except MLCEngineError as error:
                yield _event(_error_body(error))
            finally:
                self._relay.close()

        def close(self) -> None:
            self._relay.close()

    class Transport(httpx.BaseTransport):  # type: ignore[misc,name-defined]
        def __init__(self, core: EngineCore, home: HomeLoop) -> None:
            self._core, self._home = core, home

        def handle_request(self, request: Any) -> Any:
            wanted = _Request(request.url.path, request.read())
            try:
                body = self._home.wait_blocking(
                    partial(_answer, self._core, self._home, wanted), abandoned=_abandon
                )
            except MLCEngineError as error:
                return refuse(error)
            return respond(Body(body) if isinstance(body, StreamBuffer) else body)

    return AsyncTransport, Transport


def _abandon(body: JSONDict | StreamBuffer) -> None:
    if isinstance(body, StreamBuffer):
        body.close()
