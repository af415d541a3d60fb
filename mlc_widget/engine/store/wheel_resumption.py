"""Continues the download of a wheel whose process was ended: by a restart of the kernel, say.

pip continues a download that was cut off, but starts again if its own process was ended. What it
had received is kept as ``.partial/NAME.whl`` in the package's folder. The next download asks pip
for the wheel's address and checksum, which it gives without the wheel if the index has its
metadata or the server gives parts of files, and requests the rest from there. Wherever that does
not work (a server that wants credentials, a wrong checksum), pip downloads the whole wheel.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import shutil
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlc_widget.engine.store import pip_cache, pip_download
from mlc_widget.engine.store.wheel_failures import FetchError, need_space
from mlc_widget.engine.system.child_process import send_facts

FOLDER: Final = ".partial"
_LEAST: Final = 1 << 18
"""Fewer bytes are not worth another request."""
_BLOCK: Final = 1 << 18
_TIMEOUT_S: Final = 30.0
_COPIES: Final = 2
"""The copies of a wheel on disk at worst: the wheel and the extracted file."""
_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(\d+)")


@dataclass(frozen=True, slots=True)
class _Place:
    """The address of a wheel, and its SHA-256 in hexadecimal digits."""

    url: str
    sha256: str


def keep(parts: Path, folder: Path) -> None:
    """Keep what pip has received in the folder of a download, if that is more than before.

    Args:
        parts: The folder, in which pip's temporary files are.
        folder: The package's folder.
    """
    with contextlib.suppress(OSError):
        received = [path for path in parts.glob("**/*.whl") if not path.is_symlink()]
        largest = max(received, key=_size, default=None)
        before = max(map(_size, (folder / FOLDER).glob("*.whl")), default=0)
        if largest is not None and _size(largest) >= max(_LEAST, before):
            forget(folder)
            (folder / FOLDER).mkdir(mode=0o700)
            os.replace(largest, folder / FOLDER / largest.name)


def forget(folder: Path) -> None:
    """Remove what was kept."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def resumed(folder: Path, parts: Path, package: str, version: str | None) -> Path | None:
    """Complete a wheel of which a part was kept; None if pip must download all of it.

    Args:
        folder: The package's folder.
        parts: The folder of this download.
        package: The package's normalized name.
        version: Its version; None for the newest.

    Raises:
        NoSpace: The disk is too small.
    """
    kept = [path for path in (folder / FOLDER).glob("*.whl") if _is_of(path, package, version)]
    if not kept:
        return None
    place = _place_of(pip_download.report(parts, package, version))
    if place is None:
        return None
    for path in kept:
        if path.name == Path(urllib.parse.urlsplit(place.url).path).name and _complete(path, place):
            wheel = parts / path.name
            os.replace(path, wheel)
            return wheel
    return None


def _is_of(path: Path, package: str, version: str | None) -> bool:
    name, _, rest = path.name.partition("-")
    return pip_cache.normalized(name) == package and version in (None, rest.partition("-")[0])


def _place_of(report: Any) -> _Place | None:
    """Read pip's installation report."""
    with contextlib.suppress(LookupError, TypeError, AttributeError, ValueError):
        (item,) = report["install"]
        url = item["download_info"]["url"]
        sha256 = item["download_info"]["archive_info"]["hashes"]["sha256"]
        if urllib.parse.urlsplit(url).scheme in ("http", "https"):
            return _Place(url, sha256.lower())
    return None


def _complete(path: Path, place: _Place) -> bool:
    """Request the rest of a wheel, as long as that makes progress."""
    while True:
        before = _size(path)
        try:
            whole = _append(path, place.url)
        except FetchError:
            raise
        except (OSError, ValueError, http.client.HTTPException):
            whole = _digest(path) == place.sha256  # nothing may have been missing
        if not whole and _size(path) == before:
            return False
        if whole:
            if _digest(path) == place.sha256:
                return True
            path.unlink()
            return False


def _append(path: Path, url: str) -> bool:
    """Make one request; return whether the wheel then has its whole length."""
    start = _size(path)
    headers = {"Range": f"bytes={start}-", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:
        place = _RANGE.fullmatch(response.headers.get("Content-Range") or "")
        if response.status != 206 or place is None or int(place[1]) != start:
            raise ValueError("the server does not continue")
        total = int(place[2])
        need_space(path.parent, _COPIES * total - start)
        with path.open("ab") as file:
            done = start
            while done < total and (block := response.read(min(_BLOCK, total - done))):
                file.write(block)
                done += len(block)
                send_facts(bytes_done=done, bytes_total=total)
    return done == total


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size
