"""`openai.AsyncOpenAI` and `openai.OpenAI` whose transport is an engine: no port, no server.

With it, libraries that use OpenAI's client (LangChain, Instructor …) run on the notebook's engine.
`openai_routes` defines which requests are answered.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

from mlc_widget.api.copies import NotCopyable
from mlc_widget.api.errors import EngineForkedError, MLCEngineError
from mlc_widget.api.home_loop import HomeLoop, WaitTimeoutError
from mlc_widget.api.http_library import http_library
from mlc_widget.api.openai_routes import ApiAnswer, ApiRequest, OpenAIRoutes, error_body, refusal
from mlc_widget.api.requests import JSONDict
from mlc_widget.api.server_sent_events import DONE, event
from mlc_widget.api.streams import StreamBuffer

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

_BASE_URL: Final = "http://mlc-widget.invalid/v1"


def async_openai_client(routes: OpenAIRoutes, home: HomeLoop, options: JSONDict) -> AsyncOpenAI:
    """Make a client that these routes answer; `options` are passed to `openai.AsyncOpenAI`."""
    import openai

    http_client = _http_clients()[0](transport=_transports()[0](routes, home))
    return openai.AsyncOpenAI(**_defaults(options), http_client=http_client)


def openai_client(routes: OpenAIRoutes, home: HomeLoop, options: JSONDict) -> OpenAI:
    """Make a client that these routes answer; `options` are passed to `openai.OpenAI`."""
    import openai

    http_client = _http_clients()[1](transport=_transports()[1](routes, home))
    return openai.OpenAI(**_defaults(options), http_client=http_client)


def _defaults(options: JSONDict) -> Any:
    """No timeout unless one is given: a local model may take as long as it needs."""
    own = {"api_key": "none", "base_url": _BASE_URL, "max_retries": 0, "timeout": None}
    return {**own, **options}


def _read_timeout(request: Any) -> float | None:
    """Seconds that the client waits for the next data; None means without limit."""
    timeout = request.extensions.get("timeout", {}).get("read")
    return None if timeout is None else float(timeout)


class _Shared:
    """Refuses to be pickled; a copy is the object itself, as all copies use the same engine.

    OpenAI's client and its parts can be copied but for their HTTP client, which this is. So copies
    of them, and of whatever holds them, have the same engine.
    """

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            "A client of `engine.openai_client()`, and what belongs to it, cannot be pickled: "
            "its engine consists of threads and memory of this process. Make the engine and its "
            "client where they are needed."
        )


@cache
def _http_clients() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The classes of HTTP clients, awaited and blocking."""
    httpx = http_library()

    class AsyncClient(_Shared, httpx.AsyncClient):  # type: ignore[misc,name-defined]
        pass

    class Client(_Shared, httpx.Client):  # type: ignore[misc,name-defined]
        pass

    return AsyncClient, Client


@cache
def _transports() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The transport classes, awaited and blocking; their bases come from the installed openai."""
    import openai

    httpx = http_library()

    class StreamTimeoutError(openai.APITimeoutError, httpx.ReadTimeout):  # type: ignore[misc,name-defined]
        """A timeout within a stream: OpenAI's class of timeouts, and httpx's as well."""

        def __init__(self, request: Any, seconds: float | None) -> None:
            openai.APITimeoutError.__init__(self, request=request)
            self.message = f"The engine sent nothing for {seconds:g} s, so the answer was aborted."
            self.args = (self.message,)

    def timed_out(request: Any, seconds: float | None) -> NoReturn:
        raise httpx.ReadTimeout(
            f"The engine did not answer within {seconds:g} s.", request=request
        ) from None

    class StreamedResponse(NotCopyable, httpx.Response):  # type: ignore[misc,name-defined]
        """The response of a stream, so that openai's streams refuse to be copied, too."""

        _instead = "it is a stream, which is read once. Collect its chunks in a list."

    def respond(answer: ApiAnswer, stream: Callable[[StreamBuffer], Any]) -> Any:
        if isinstance(answer.body, StreamBuffer):
            headers = {**answer.headers, "content-type": "text/event-stream"}
            body = stream(answer.body)
            return StreamedResponse(answer.status, headers=headers, stream=body)
        return httpx.Response(answer.status, headers=answer.headers, json=answer.body)

    class AsyncBody(httpx.AsyncByteStream):  # type: ignore[misc,name-defined]
        """The events of a stream.

        An iterator rather than a generator: a generator that is left is closed by its loop, later
        and beside the generators of httpx and openai around it.
        """

        def __init__(self, relay: StreamBuffer, request: Any) -> None:
            self._relay = relay
            self._request = request
            self._done = False

        def __aiter__(self) -> AsyncIterator[bytes]:
            return self

        async def __anext__(self) -> bytes:
            if self._done:
                raise StopAsyncIteration
            timeout = _read_timeout(self._request)
            limit = asyncio.timeout(timeout)
            try:
                async with limit:
                    return event(await self._relay.get())
            except EOFError:
                self._done = True
                return DONE
            except MLCEngineError as error:
                self._done = True
                return event(error_body(error))
            except BaseException:
                await self.aclose()
                if limit.expired():
                    raise StreamTimeoutError(self._request, timeout) from None
                raise

        async def aclose(self) -> None:
            self._done = True
            self._relay.leave()

    class AsyncTransport(httpx.AsyncBaseTransport):  # type: ignore[misc,name-defined]
        def __init__(self, routes: OpenAIRoutes, home: HomeLoop) -> None:
            self._routes, self._home = routes, home

        async def handle_async_request(self, request: Any) -> Any:
            wanted = _request(request, await request.aread())
            timeout = _read_timeout(request)
            limit = asyncio.timeout(timeout)
            try:
                async with limit:
                    answer = await self._home.wait(
                        partial(self._routes.answer, wanted), abandoned=_abandon
                    )
            except EngineForkedError as error:
                answer = refusal(error)
            except TimeoutError:
                if limit.expired():
                    timed_out(request, timeout)
                raise
            return respond(answer, partial(AsyncBody, request=request))

    class Body(httpx.SyncByteStream):  # type: ignore[misc,name-defined]
        """As `AsyncBody`, blocking."""

        def __init__(self, relay: StreamBuffer, request: Any) -> None:
            self._relay = relay
            self._request = request
            self._done = False

        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            if self._done:
                raise StopIteration
            timeout = _read_timeout(self._request)
            try:
                return event(self._relay.get_blocking(timeout))
            except EOFError:
                self._done = True
                return DONE
            except MLCEngineError as error:
                self._done = True
                return event(error_body(error))
            except WaitTimeoutError:
                self.close()
                raise StreamTimeoutError(self._request, timeout) from None
            except BaseException:
                self.close()
                raise

        def close(self) -> None:
            self._done = True
            self._relay.leave()

    class Transport(httpx.BaseTransport):  # type: ignore[misc,name-defined]
        def __init__(self, routes: OpenAIRoutes, home: HomeLoop) -> None:
            self._routes, self._home = routes, home

        def handle_request(self, request: Any) -> Any:
            wanted = _request(request, request.read())
            timeout = _read_timeout(request)
            try:
                answer = self._home.wait_blocking(
                    partial(self._routes.answer, wanted), timeout=timeout, abandoned=_abandon
                )
            except EngineForkedError as error:
                answer = refusal(error)
            except WaitTimeoutError:
                timed_out(request, timeout)
            return respond(answer, partial(Body, request=request))

    return AsyncTransport, Transport


def _request(request: Any, content: bytes) -> ApiRequest:
    """Keep the path as it was sent: an escaped slash is part of a name."""
    path, _, query = request.url.raw_path.decode("ascii", "replace").partition("?")
    return ApiRequest(request.method, path, content, query)


def _abandon(answer: ApiAnswer) -> None:
    if isinstance(answer.body, StreamBuffer):
        answer.body.leave()
