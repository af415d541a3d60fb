"""A small Hugging Face Hub on this machine: one repository, its revisions, and faults."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from .local_server import Handler, LocalServer

COMMIT = "c0ffee" + "0" * 34


@dataclass(frozen=True)
class Fault:
    """How one request for a file's content, or for the list of files, goes wrong.

    Attributes:
        status: The answer, in place of the file.
        headers: Of that answer.
        cut_after: Bytes of the file that come before the connection ends.
        reset: Whether it ends by a reset.
        claims: The length that the answer says the file has.
        extra: Bytes too many, with no length given.
        flipped: A byte that is another than in the file.
        ignores_range: All of it comes, whatever part was asked for.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    reset: bool = False
    claims: int | None = None
    extra: int = 0
    flipped: int | None = None
    ignores_range: bool = False


class HubServer(LocalServer):
    """Serves the files of a folder as the repository `repo`, whole or held after some bytes.

    Args:
        folder: Its files.
        repo: ``user/name``.
    """

    def __init__(self, folder: Path, repo: str) -> None:
        self.folder, self.repo = folder, repo
        self.gated = False
        self.hold_after: int | None = None
        """Bytes of each shard to give before waiting for `release`."""
        self.faults: deque[Fault] = deque()
        """Of the next requests for contents."""
        self.api_faults: deque[Fault] = deque()
        """Of the next requests for anything else."""
        self.contents_at: str | None = None
        """Another server that requests for contents are sent to."""
        self.found: Any = []
        """The answer to a search."""
        self.queries: list[dict[str, list[str]]] = []
        """What each search asked for."""
        self.extra_entries: list[dict[str, Any]] = []
        self.shut = False
        self.holding = threading.Event()
        self.requests: list[tuple[str, str, str | None]] = []
        """Method, path and Range of all that came."""
        self.tokens: list[str | None] = []
        """What each request had in ``Authorization``."""
        super().__init__(_Handler)

    def contents(self) -> list[tuple[str, str | None]]:
        """Name and Range of the requests for contents."""
        return [(p.rpartition("/")[2], r) for m, p, r in self.requests if "/resolve/" in p]

    def close(self) -> None:
        self.shut = True
        super().close()


class _Handler(Handler):
    local: HubServer
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        hub = self.local
        path = self.path.partition("?")[0]
        if hub.shut:  # a connection that was kept alive
            self.close_connection = True
            return
        hub.requests.append((self.command, path, self.headers.get("Range")))
        hub.tokens.append(self.headers.get("Authorization"))
        content = re.fullmatch(rf"/{hub.repo}/resolve/{COMMIT}/([^/]+)", path)
        if not content and hub.api_faults:
            self._fail(hub.api_faults.popleft())
        elif path == "/api/models":
            hub.queries.append(parse_qs(self.path.partition("?")[2]))
            self._json(hub.found)
        elif not re.match(rf"(/api/models)?/{hub.repo}(/|$)", path):
            self._refuse(401, "RepoNotFound")
        elif match := re.fullmatch(rf"/api/models/{hub.repo}(?:/revision/(.+))?", path):
            if match[1] not in (None, "main", COMMIT):
                self._refuse(404, "RevisionNotFound")
            else:
                self._json({"id": hub.repo, "sha": COMMIT, "siblings": [], "tags": []})
        elif path.startswith(f"/api/models/{hub.repo}/tree/"):
            self._json([*map(_entry, sorted(hub.folder.iterdir())), *hub.extra_entries])
        elif hub.gated:
            self._refuse(403, "GatedRepo")
        elif content and hub.contents_at:
            self._fail(Fault(302, {"Location": hub.contents_at + self.path}))
        elif content and (hub.folder / content[1]).is_file():
            self._file(hub.folder / content[1])
        else:
            self._refuse(404, "EntryNotFound")

    def _json(self, value: object) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self._fail(Fault(status, {"X-Error-Code": code, "X-Error-Message": "no"}))

    def _fail(self, fault: Fault) -> None:
        self.send_response(fault.status or 500)
        for name, value in fault.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _file(self, path: Path) -> None:
        hub = self.local
        fault = hub.faults.popleft() if hub.faults else Fault()
        if fault.status is not None:
            self._fail(fault)
            return
        data = bytearray(path.read_bytes())
        size = len(data)
        if fault.flipped is not None:
            data[fault.flipped] ^= 255
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if fault.ignores_range:
            match = None
        start = int(match[1]) if match else 0
        if start >= size and match:
            self._fail(Fault(416))
            return
        self.send_response(206 if match else 200)
        self.send_header("ETag", f'"{_oid(path)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        claims = size if fault.claims is None else fault.claims
        if match:
            self.send_header("Content-Range", f"bytes {start}-{claims - 1}/{claims}")
        if fault.extra:
            data += bytes(fault.extra)
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(claims - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        hold = hub.hold_after
        if hold is not None and path.suffix in (".bin", ".gguf") and hold > start:
            self.wfile.write(data[start:hold])
            self.wfile.flush()
            start = hold
            hub.holding.set()
            self.hold()
        end = len(data) if fault.cut_after is None else start + fault.cut_after
        try:
            self.wfile.write(data[start:end])
            self.wfile.flush()
        except OSError:
            self.close_connection = True
        if fault.cut_after is not None or fault.extra or fault.claims is not None:
            self.close_connection = True
        if fault.reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.shutdown(socket.SHUT_RD)


def _entry(path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    entry = {"type": "file", "path": path.name, "size": size, "oid": _oid(path)}
    if path.suffix in (".bin", ".gguf"):
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        entry["lfs"] = {"oid": sha256, "size": size, "pointerSize": 134}
    return entry


def _oid(path: Path) -> str:
    """The name that git gives to a content."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
