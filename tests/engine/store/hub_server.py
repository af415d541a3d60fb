"""A small Hugging Face Hub on this machine: one repository, its revisions, and what goes wrong."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "c0ffee" + "0" * 34


class HubServer:
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
        self.release = threading.Event()
        self.holding = threading.Event()
        self.requests: list[tuple[str, str, str | None]] = []
        """Method, path and Range of all that came."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("H", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.hub
        path = self.path.partition("?")[0]
        hub.requests.append((self.command, path, self.headers.get("Range")))
        if not re.match(rf"(/api/models)?/{hub.repo}(/|$)", path):
            self._refuse(401, "RepoNotFound")
        elif match := re.fullmatch(rf"/api/models/{hub.repo}(?:/revision/(.+))?", path):
            if match[1] not in (None, "main", COMMIT):
                self._refuse(404, "RevisionNotFound")
            else:
                self._json({"id": hub.repo, "sha": COMMIT, "siblings": [], "tags": []})
        elif path.startswith(f"/api/models/{hub.repo}/tree/"):
            self._json([self._entry(p) for p in sorted(hub.folder.iterdir())])
        elif hub.gated:
            self._refuse(403, "GatedRepo")
        elif match := re.fullmatch(rf"/{hub.repo}/resolve/{COMMIT}/([^/]+)", path):
            self._file(hub.folder / match[1])
        else:
            self._refuse(404, "EntryNotFound")

    def _entry(self, path: Path) -> dict[str, Any]:
        return {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": _oid(path)}

    def _json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", "no")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _file(self, path: Path) -> None:
        data = path.read_bytes()
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(match[1]) if match else 0
        self.send_response(206 if match else 200)
        self.send_header("ETag", f'"{_oid(path)}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        if match:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        hold = self.hub.hold_after
        if hold is not None and path.suffix == ".bin" and hold > start:
            self.wfile.write(data[start:hold])
            self.wfile.flush()
            start = hold
            self.hub.holding.set()
            self.hub.release.wait(60)
        try:
            self.wfile.write(data[start:])
        except OSError:
            self.close_connection = True


def _oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
