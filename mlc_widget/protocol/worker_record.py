"""The records of a user's shared workers, by which clients find them.

A record is a file in a directory that only the user can enter. Its worker holds a lock on it from
the moment that it is started. The system drops the lock when the process ends, however that
happens, so a record without a lock is a dead worker's, even if another process has its id by now.
Another lock, on a file beside it, makes looking for a worker and starting one a single step.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError, WorkerStartError
from mlc_widget.api.file_lock import try_lock

DIRECTORY_VARIABLE: Final = "MLC_WIDGET_RUNTIME_DIR"
MAX_RECORD_BYTES: Final = 256 * 1024
"""The largest record that is read."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_SUFFIX: Final = ".json"


def check_share(name: Any) -> str:
    """Read the name of a shared worker.

    Raises:
        BadRequestError: it is not such a name, or this system has no shared workers.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadRequestError(
            f"share = {name!r}: must be a name of up to 64 letters, digits, '.', '_' and '-' that "
            "begins with a letter or digit.",
            param="share",
        )
    if sys.platform == "win32":
        raise BadRequestError(
            f"share = {name!r}: there are no shared workers on Windows; leave it out.",
            param="share",
        )
    return name


def check_seconds(name: str, value: Any) -> float:
    """Read a time in seconds, which may be infinite.

    Raises:
        BadRequestError: it is not a positive number.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or math.isnan(value) or value <= 0:
        raise BadRequestError(
            f"{name} = {value!r}: must be a positive number of seconds; math.inf turns it off.",
            param=name,
        )
    return float(value)


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """What a shared worker's clients need to know to join it.

    Attributes:
        name: The worker's name.
        pid: Its process id.
        version: The version of mlc_widget that started it.
        started: When, in seconds since the epoch.
        settings: What it was started with; clients that want something else do not join it.
        connection: Jupyter's connection information, with the key that signs messages.
        directory: Its sockets and its log.
        idle_timeout: Seconds without clients after which it ends.
        unload_after: Seconds after which models that nobody asked for are unloaded.
    """

    name: str
    pid: int
    version: str
    started: float
    settings: Mapping[str, Any]
    connection: Mapping[str, Any]
    directory: str
    idle_timeout: float
    unload_after: float

    @property
    def log(self) -> Path:
        """The file of its output."""
        return Path(self.directory) / "output.log"


class WorkerRecords:
    """The records in a directory.

    Args:
        directory: The directory; the user's by default.

    Raises:
        WorkerStartError: others could write to the directory.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = _own_directory() if directory is None else directory
        _make_private(self.directory)

    def path(self, name: str) -> Path:
        """The file of a worker's record."""
        return self.directory / f"{name}{_SUFFIX}"

    def names(self) -> list[str]:
        """The workers that have a record, dead ones among them."""
        found = (path.stem for path in self.directory.glob(f"*{_SUFFIX}"))
        return sorted(name for name in found if _NAME.fullmatch(name))

    @contextlib.contextmanager
    def locked(self, name: str) -> Iterator[bool]:
        """Hold the lock on a name, if it can be had at once: gives whether it is held."""
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self.directory / f"{name}.lock", flags, 0o600)
        try:
            yield try_lock(fd)
        finally:
            os.close(fd)

    def find(self, name: str) -> OpenRecord | None:
        """The record of a living worker, to be closed; None if there is no such worker.

        Raises:
            WorkerStartError: the file is not the user's own, or is not a record.
        """
        try:
            fd = self._open(name)
        except FileNotFoundError:
            return None
        try:
            if _is_locked(fd):
                return OpenRecord(fd, _decode(self.path(name), _content(fd)))
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        return None

    def read(self, name: str) -> WorkerRecord | None:
        """As `find`, but nothing needs to be closed."""
        found = self.find(name)
        if found is None:
            return None
        found.close()
        return found.record

    def remove_dead(self, name: str) -> None:
        """Remove the record of a dead worker, and the files that it left; hold the name's lock."""
        try:
            fd = self._open(name)
        except FileNotFoundError:
            return
        try:
            if _is_locked(fd):
                return
            with contextlib.suppress(WorkerStartError):
                record = _decode(self.path(name), _content(fd))
                _remove_directory(Path(record.directory))
            self.path(name).unlink(missing_ok=True)
        finally:
            os.close(fd)

    def _open(self, name: str) -> int:
        path = self.path(name)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise _not_own(path, error.strerror or str(error)) from error
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            os.close(fd)
            raise _not_own(path, "it is not a file that belongs to you")
        return fd

    @contextlib.contextmanager
    def new(self, name: str) -> Iterator[NewRecord]:
        """A record for a worker that is about to be started; hold the name's lock.

        The file takes its place when it is published. Whoever has inherited its descriptor keeps
        it locked.
        """
        path = self.directory / f"{name}.new"
        path.unlink(missing_ok=True)  # of a client that was killed meanwhile
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            try_lock(fd)
            yield NewRecord(fd, path, self.path(name))
        finally:
            os.close(fd)
            path.unlink(missing_ok=True)


class NewRecord:
    """A record that is not published yet; made by `WorkerRecords.new`."""

    def __init__(self, fd: int, path: Path, final: Path) -> None:
        self.fd, self.final = fd, final
        self._path = path

    def publish(self, record: WorkerRecord) -> OpenRecord:
        """Write it, and have others find it; returns it without the lock, to be closed."""
        with open(self.fd, "w", encoding="utf-8", closefd=False) as file:
            json.dump(asdict(record), file)
        opened = OpenRecord(os.open(self._path, os.O_RDONLY), record)
        self._path.rename(self.final)
        return opened


class OpenRecord:
    """A record that is open, so that it can be told whether its worker lives.

    Args:
        fd: Its file; it stays the same when another worker takes the name.
        record: What is in it.
    """

    def __init__(self, fd: int, record: WorkerRecord) -> None:
        self.record = record
        self._fd: int | None = fd

    @property
    def alive(self) -> bool:
        """Whether the worker's process lives."""
        return self._fd is not None and _is_locked(self._fd)

    def close(self) -> None:
        """Close the file. Idempotent."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def is_own_record(fd: int, path: Path) -> bool:
    """Whether a file that is open is still the one at this path."""
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(fd), path.lstat())
    return False


def remove_own(fd: int, path: Path) -> bool:
    """Remove the record of this very worker, unless a client is just looking for it.

    Returns:
        Whether it is gone, so that nobody can join any more.
    """
    if not is_own_record(fd, path):
        return True
    with WorkerRecords(path.parent).locked(path.stem) as held:
        if held and is_own_record(fd, path):
            path.unlink(missing_ok=True)
        return held


def _own_directory() -> Path:
    """The user's directory for what lives as long as its processes."""
    named = os.environ.get(DIRECTORY_VARIABLE)
    if named:
        return Path(named)
    session = os.environ.get("XDG_RUNTIME_DIR")
    if session:
        with contextlib.suppress(OSError):
            if os.stat(session).st_uid == os.geteuid():  # it may be that of the caller of sudo
                return Path(session) / "mlc_widget"
    return Path(tempfile.gettempdir()) / f"mlc_widget-{os.geteuid()}"


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise _not_own(directory, error.strerror or str(error)) from error
    if not stat.S_ISDIR(found.st_mode):
        raise _not_own(directory, "it is a link or a file")
    if found.st_uid != os.geteuid():
        raise _not_own(directory, "it belongs to another user")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise _not_own(directory, "others may enter it: `chmod 700` it")


def _not_own(path: Path, why: str) -> WorkerStartError:
    return WorkerStartError(
        f"{path} cannot be used for shared workers: {why}. Remove it, or set {DIRECTORY_VARIABLE} "
        "to a directory of your own."
    )


def _is_locked(fd: int) -> bool:
    """Whether another process, which is the record's worker, has locked a file."""
    import fcntl

    if not try_lock(fd, shared=True):
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False


def _content(fd: int) -> bytes:
    return os.pread(fd, MAX_RECORD_BYTES + 1, 0)


def _decode(path: Path, data: bytes) -> WorkerRecord:
    try:
        content = json.loads(data)
        record = WorkerRecord(**{field.name: content[field.name] for field in fields(WorkerRecord)})
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _not_own(path, f"it is not the record of a worker ({error!r:.200})") from error
    numbers = record.started, record.idle_timeout, record.unload_after
    fits = (
        type(record.pid) is int
        and record.pid > 1
        and all(isinstance(number, int | float) for number in numbers)
        and all(isinstance(text, str) for text in (record.name, record.version, record.directory))
        and all(isinstance(value, Mapping) for value in (record.settings, record.connection))
    )
    if not fits:
        raise _not_own(path, "it is not the record of a worker")
    return record


def _remove_directory(directory: Path) -> None:
    """Remove what a dead worker has left, if it is what workers make."""
    with contextlib.suppress(OSError):
        found = directory.lstat()
        own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
        if own and directory.name.startswith("mlc_widget-"):
            shutil.rmtree(directory, ignore_errors=True)
