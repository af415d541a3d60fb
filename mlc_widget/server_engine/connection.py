"""HTTP to one server: requests, answers and streams of events, within bounds of size and time."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, NoReturn

from mlc_widget._version import __version__
from mlc_widget.api.errors import MLCEngineError, ProtocolError, ServerError
from mlc_widget.api.group_folder import check_trusted
from mlc_widget.api.http_library import http_library
from mlc_widget.api.json_body import JsonBounds, json_excess
from mlc_widget.api.requests import JSONDict
from mlc_widget.api.server_urls import is_loopback
from mlc_widget.server_engine.address import ServerAddress, read_key
from mlc_widget.server_engine.events import EventReader
from mlc_widget.server_engine.failures import RETRIED, error_in, failure, in_stream, retry_after

MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
_MAX_ERROR_BYTES: Final = 64 * 1024
_MAX_VALUES: Final = 8_388_608
_MAX_PARTS: Final = 1_048_576
_CONNECT_S: Final = 15.0
_TRIES: Final = 3
_LONGEST_WAIT_S: Final = 20.0
_FIRST_WAIT_S: Final = 0.5
_DONE: Final = b"[DONE]"
_BOUNDS: Final = JsonBounds(values=_MAX_VALUES, keys=_MAX_PARTS, containers=_MAX_PARTS)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer.

    Attributes:
        content: Its JSON.
        software: Its header ``Server``.
    """

    content: Any
    software: str


class ServerConnection:
    """Sends requests to a server. It belongs to the home loop, but may be made elsewhere.

    Redirects are not followed, nothing is decompressed, and neither cookies nor the user's
    ``.netrc`` are used.

    Args:
        address: The server.
        key_variable: The environment variable with its key, which only this server gets.
        timeout: Seconds without an answer, or between two events of a stream.
    """

    def __init__(self, address: ServerAddress, key_variable: str | None, timeout: float) -> None:
        self.address = address
        self._key_variable = key_variable
        self._timeout = timeout
        self._library = http_library()
        limits = self._library.Limits(max_connections=None, max_keepalive_connections=16)
        self._client = self._library.AsyncClient(
            transport=self._transport(limits),
            follow_redirects=False,
            verify=address.base.startswith("https:"),  # certificates take a moment to load
            trust_env=not is_loopback(address.host_name),  # proxies
            timeout=self._library.Timeout(timeout, connect=min(_CONNECT_S, timeout), pool=None),
            limits=limits,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # takes none
            headers={"Accept-Encoding": "identity", "User-Agent": f"mlc-widget/{__version__}"},
        )

    def _transport(self, limits: Any) -> Any:
        """What carries requests to a group's server; None for the library's own."""
        if (socket := self.address.socket) is None:
            return None
        return self._library.AsyncHTTPTransport(uds=str(socket), limits=limits)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def ask(self, method: str, url: str, body: JSONDict | None = None) -> Answer:
        """Send a request, and read the whole answer as JSON.

        Raises:
            MLCEngineError: There is none: the server's error, or what is wrong with it.
        """
        async with self.within_time():
            response = await self._send(method, url, body, "application/json")
            try:
                content = await _read(response, MAX_ANSWER_BYTES)
                return Answer(_json(content), response.headers.get("server", ""))
            finally:
                await response.aclose()

    async def events(self, url: str, body: JSONDict) -> EventStream:
        """Send a request; returns the events of its answer once it has been accepted.

        Raises:
            MLCEngineError: The request is refused.
        """
        async with self.within_time():
            return EventStream(self, await self._send("POST", url, body, "text/event-stream"))

    async def _send(self, method: str, url: str, body: JSONDict | None, expected: str) -> Any:
        """Send until there is an answer, which is of the expected type."""
        for tried in range(1, _TRIES + 1):
            if self.address.socket is not None:
                check_trusted(self.address.socket)
            try:
                response = await self._client.send(
                    self._client.build_request(method, url, json=body, headers=self._headers()),
                    stream=True,
                )
            except (self._library.ConnectError, self._library.ConnectTimeout) as error:
                if tried == _TRIES:
                    raise self._unreachable(error) from None
                await asyncio.sleep(_FIRST_WAIT_S * 2 ** (tried - 1))
                continue
            try:
                if response.status_code == 200:
                    self._check_type(response.headers, expected)
                    return response
                refused = await self._refused(response)
            except BaseException:
                await response.aclose()
                raise
            await response.aclose()
            asked = retry_after(response.headers)
            wait = _FIRST_WAIT_S * 2 ** (tried - 1) if asked is None else asked
            if response.status_code not in RETRIED or tried == _TRIES or wait > _LONGEST_WAIT_S:
                raise refused
            await asyncio.sleep(wait)
        raise AssertionError  # the last try has returned or raised

    def _headers(self) -> dict[str, str]:
        if self._key_variable is None:
            return {}
        return {"Authorization": f"Bearer {read_key(self._key_variable)}"}

    async def _refused(self, response: Any) -> MLCEngineError:
        error = failure(
            response.status_code,
            response.headers,
            await _read(response, _MAX_ERROR_BYTES, cut=True),
            self.address.host,
            response.request.url.path,
            self.without_key,
        )
        if (wait := retry_after(response.headers)) is not None and wait > _LONGEST_WAIT_S:
            error.message = f"{error.message} It asks to wait for {wait:.0f} s."
            error.args = (error.message,)
        return error

    def without_key(self, text: str) -> str:
        """A server's text without the key, which some servers repeat."""
        if self._key_variable is None:
            return text
        key = read_key(self._key_variable)
        # The text may itself be JSON, or what is left of it.
        for written in (key, key.replace("/", "\\/"), json.dumps(key)[1:-1]):
            text = text.replace(written, "(the key)")
        return text

    def _check_type(self, headers: Mapping[str, str], expected: str) -> None:
        given = headers.get("content-type", "").partition(";")[0].strip()
        if given.lower() != expected:
            shown = self.without_key(given)[:60]
            raise ProtocolError(
                f"The server at {self.address.host} answers with {shown!r} instead of "
                f"{expected!r}: it does not seem to be a server of OpenAI's API."
            )
        if headers.get("content-encoding", "identity") != "identity":
            raise ProtocolError(
                f"The server at {self.address.host} compresses its answers, although it was "
                "asked not to; turn that off."
            )

    @contextlib.asynccontextmanager
    async def within_time(self) -> AsyncIterator[None]:
        """Turn the library's errors, and waits that are too long, into errors of ours."""
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                yield
        except self._library.TimeoutException:
            self._silent()
        except TimeoutError:
            if not limit.expired():
                raise
            self._silent()
        except self._library.HTTPError:
            raise self.lost() from None

    def _silent(self) -> NoReturn:
        raise ServerError(
            f"The server at {self.address.host} has sent nothing for {self._timeout:g} s; timeout= "
            "gives it longer.",
            code="server_timeout",
        ) from None

    def lost(self) -> ServerError:
        """The error of an answer that breaks off."""
        return ServerError(
            f"The server at {self.address.host} closed the connection before the answer's end.",
            code="connection_lost",
        )

    def _unreachable(self, error: Exception) -> ServerError:
        reason = str(error) or "no answer"
        return ServerError(
            f"The server at {self.address.host} cannot be reached: {reason}. Check the address, "
            "and whether the server runs.",
            code="server_unreachable",
        )


class EventStream:
    """The events of one answer. Whoever has it closes it."""

    def __init__(self, connection: ServerConnection, response: Any) -> None:
        self._connection = connection
        self._response = response
        self._pieces = response.aiter_raw()
        self._reader = EventReader()
        self._waiting: deque[bytes] = deque()
        self._nbytes = 0
        self._ended = False
        self.marked_end = False
        """Whether the server has sent ``[DONE]``; transformers' server never does."""

    async def next(self) -> JSONDict | None:
        """The next event; None at the end, also where the server does not mark it.

        Raises:
            ServerError: The connection breaks, or the server sends an error.
            ProtocolError: The stream is too large, or what it sends is not JSON.
        """
        async with self._connection.within_time():  # comments are no events
            while not self._waiting and not self._ended:
                await self._read()
        if not self._waiting:
            return None
        event = self._waiting.popleft()
        if event.strip() == _DONE:
            self.marked_end = True
            return None
        data = _json(event)
        if (error := error_in(data)) is not None:
            raise in_stream(error, self._connection.address.host, self._connection.without_key)
        if data is None:
            raise ProtocolError("The server sent an empty event.")
        return data  # type: ignore[no-any-return]

    async def _read(self) -> None:
        piece = await anext(self._pieces, None)
        if piece is None:
            self._ended = True
            return
        self._nbytes += len(piece)
        if self._nbytes > MAX_ANSWER_BYTES:
            raise _too_large(MAX_ANSWER_BYTES)
        self._waiting.extend(self._reader.feed(piece))

    def lost(self) -> ServerError:
        """The error of a stream that ended before its answer was whole."""
        return self._connection.lost()

    async def aclose(self) -> None:
        """Close the connection, unless everything was read. Idempotent."""
        await self._response.aclose()


async def _read(response: Any, most: int, *, cut: bool = False) -> bytes:
    """A body of at most `most` bytes; with `cut`, only the beginning of a larger one."""
    content = bytearray()
    async for piece in response.aiter_raw():
        content += piece
        if len(content) > most:
            if cut:
                return bytes(content[:most])
            raise _too_large(most)
    return bytes(content)


def _too_large(most: int) -> ProtocolError:
    return ProtocolError(f"The server's answer has more than {most} bytes.")


def _json(content: bytes) -> Any:
    if (excess := json_excess(content, _BOUNDS)) is not None:
        raise ProtocolError(f"The server's answer has {excess}.")
    try:
        return json.loads(content.decode("utf-8-sig"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"The server's answer is not JSON: {error}.") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
