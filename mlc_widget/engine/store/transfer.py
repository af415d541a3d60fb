"""Downloads one file over HTTP, resuming interrupted downloads and checking the result.

Received data is in a file next to the result, which is named by the content's checksum, so that a
download is resumed only with the same content. It becomes the result once its size and checksum are
right.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urljoin, urlsplit

from mlc_widget.engine.store.retrying import TEMPORARY, Backoff, TemporaryError, wanted_pause

_BLOCK: Final = 1 << 20
_MOST_REDIRECTS: Final = 10
_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_PORTS: Final = {"http": 80, "https": 443}


class Client(Protocol):
    """The interface of `httpx.Client` that is used here."""

    def stream(
        self, method: str, url: str, *, headers: Mapping[str, str], follow_redirects: bool
    ) -> AbstractContextManager[Any]:
        """Send a request; the response's body is read later."""


class DamagedError(Exception):
    """A server sent wrong data. The text is for the user."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on a server.

    Attributes:
        name: The name for messages.
        url: The file's URL.
        size: Its size in bytes.
        digest: Its SHA-256, or git's SHA-1 of its content, in hexadecimal digits.
    """

    name: str
    url: str
    size: int
    digest: str


def is_digest(text: str) -> bool:
    """Whether a text is a checksum that `content_digest` can compute."""
    return re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", text) is not None


def content_digest(path: Path, like: str) -> str:
    """The checksum of a file's content, of the same kind as the checksum `like`."""
    with path.open("rb") as file:
        if len(like) == 64:
            return hashlib.file_digest(file, "sha256").hexdigest()
        sha1 = hashlib.sha1(usedforsecurity=False)
        sha1.update(b"blob %d\0" % os.fstat(file.fileno()).st_size)
        while block := file.read(_BLOCK):
            sha1.update(block)
        return sha1.hexdigest()


class Transfer:
    """Downloads files with one client.

    Args:
        client: Sends the requests.
        headers: The headers to send; those that identify the user go only to the file's server.
        check_status: Raises an exception for an error status with which trying again is useless.
        network_errors: The exceptions that the client raises when a connection fails.
        backoff: Makes a `Backoff`, which waits between attempts.
    """

    def __init__(
        self,
        client: Client,
        headers: Mapping[str, str],
        *,
        check_status: Callable[[Any], object],
        network_errors: tuple[type[BaseException], ...],
        backoff: Callable[[], Backoff] = Backoff,
    ) -> None:
        self._client = client
        self._headers = {**headers, "accept-encoding": "identity"}
        self._check_status, self._network_errors = check_status, network_errors
        self._backoff = backoff

    def fetch(self, file: RemoteFile, partial: Path, on_bytes: Callable[[int], object]) -> None:
        """Download a file to `partial`, which then has exactly its content.

        Args:
            file: The file to download.
            partial: The data received so far; after a failure it is kept for the next attempt,
                unless its content is wrong.
            on_bytes: Called with the number of received bytes; with a negative number if some are
                discarded.

        Raises:
            GaveUp: The server or the connection fails repeatedly.
            DamagedError: The server sends wrong data.
            OSError: The disk is full or cannot be written.
        """
        backoff = self._backoff()
        had = _size(partial)
        if had > file.size:
            on_bytes(-had)
            partial.unlink()
            had = 0
        begun_here = had == 0
        if file.size == 0:
            partial.touch()
        while True:
            before = _size(partial)
            try:
                if before < file.size:
                    self._receive(file, partial, before, on_bytes)
            except TemporaryError as error:
                if _size(partial) > before:
                    backoff.succeeded()
                backoff.wait(error)
                continue
            found = content_digest(partial, file.digest)
            if found == file.digest:
                return
            on_bytes(-_size(partial))
            partial.unlink()
            if begun_here:
                raise DamagedError(
                    f"{file.name} has the checksum {found}, but {file.digest} was expected: it "
                    "was damaged in transit, or the server has another file. Try again."
                )
            begun_here = True  # the data of an earlier attempt may have been wrong

    def _receive(
        self, file: RemoteFile, partial: Path, start: int, on_bytes: Callable[[int], object]
    ) -> None:
        """Make one attempt, appending the received data."""
        url, headers = file.url, dict(self._headers)
        if start:
            headers["range"] = f"bytes={start}-"
        for _ in range(_MOST_REDIRECTS):
            try:
                with self._client.stream(
                    "GET", url, headers=headers, follow_redirects=False
                ) as response:
                    target = response.headers.get("location")
                    if target is None or not 300 <= response.status_code < 400:
                        self._take(file, partial, start, response, url, on_bytes)
                        return
            except self._network_errors as error:
                raise TemporaryError(f"{file.name}: {_said(error, url)}") from error
            target = urljoin(url, target)
            if _origin(target) != _origin(url):
                # Do not tell another server who the user is.
                for name in ("authorization", "cookie"):
                    headers.pop(name, None)
            if urlsplit(target).scheme not in _PORTS:
                raise DamagedError(f"{file.name}: {_host(url)} redirects to {target[:200]!r}.")
            url = target
        raise DamagedError(
            f"{file.name}: {_host(file.url)} redirects more than {_MOST_REDIRECTS} times. Check "
            "HF_ENDPOINT and the proxy."
        )

    def _take(
        self,
        file: RemoteFile,
        partial: Path,
        start: int,
        response: Any,
        url: str,
        on_bytes: Callable[[int], object],
    ) -> None:
        status, headers = response.status_code, response.headers
        if status in TEMPORARY:
            raise TemporaryError(
                f"{file.name}: {_host(url)} answers {status} {response.reason_phrase}".rstrip(),
                wanted_pause(headers),
            )
        if status == 416:  # the server has less data than we have
            on_bytes(-start)
            partial.unlink(missing_ok=True)
            raise TemporaryError(f"{file.name}: {_host(url)} cannot resume at byte {start}")
        if status in (401, 403) and _origin(url) != _origin(file.url):
            raise TemporaryError(f"{file.name}: {_host(url)} answers {status}; its link may be old")
        if not 200 <= status < 300:
            self._check_status(response)
            raise DamagedError(f"{file.name}: {_host(url)} answers {status}.")
        total: int | None = None
        encoded = headers.get("content-encoding") not in (None, "identity")
        if status == 206 and encoded:  # a range of the compressed data, not of the file
            on_bytes(-start)
            partial.unlink(missing_ok=True)
            raise TemporaryError(
                f"{file.name}: {_host(url)} sends compressed data, which was not requested"
            )
        if status == 206:
            place = _RANGE.fullmatch(headers.get("content-range") or "")
            if place is None or int(place[1]) != start:
                raise DamagedError(
                    f"{file.name}: {_host(url)} sends a different part from the one requested."
                )
            total = None if place[3] == "*" else int(place[3])
        else:
            length = headers.get("content-length") or ""
            if length.isdecimal() and not encoded:
                total = int(length)
        if total not in (None, file.size):
            raise DamagedError(
                f"{file.name} has {file.size} bytes according to the list of files, but {total} "
                f"according to {_host(url)}."
            )
        if status != 206 and start:  # the server sends the whole file again
            on_bytes(-start)
            start = 0
        self._append(file, partial, start, response, on_bytes)

    def _append(
        self,
        file: RemoteFile,
        partial: Path,
        start: int,
        response: Any,
        on_bytes: Callable[[int], object],
    ) -> None:
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(partial, flags, 0o666)
        with open(descriptor, "wb", buffering=0) as target:
            os.ftruncate(descriptor, start)
            target.seek(start)
            left = file.size - start
            for piece in self._pieces(file, response):
                left -= len(piece)
                if left < 0:
                    raise DamagedError(
                        f"{file.name} has {file.size} bytes according to the list of files, but "
                        "more were sent."
                    )
                view = memoryview(piece)
                while view:
                    view = view[target.write(view) :]
                on_bytes(len(piece))
            if left:
                raise TemporaryError(f"{file.name}: the connection ended {left} bytes too early")
            os.fsync(descriptor)

    def _pieces(self, file: RemoteFile, response: Any) -> Any:
        """Iterate over received data, with errors of the connection as `TemporaryError`."""
        pieces = response.iter_bytes()  # of no fixed size, so as not to wait for more data
        while True:
            try:
                piece = next(pieces)
            except StopIteration:
                return
            except self._network_errors as error:
                text = f"{file.name}: {_said(error, str(response.url))}"
                raise TemporaryError(text) from error
            yield piece


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.lstat().st_size
    return 0


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _said(error: BaseException, url: str) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return f"{_host(url)} cannot be reached, or the connection broke ({text})"
