"""The folder of a user's sessions: who may use it, how much it holds, and who writes to a file.

Each session is a file that only the user can read. Whoever writes to it holds a lock on it, so that
two processes never continue the same answer. The oldest sessions are removed when there are too
many.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.file_lock import is_at, try_lock
from mlc_widget.api.places import user_state_root
from mlc_widget.api.resumable import ResumableSession
from mlc_widget.api.resumable_field import session_id
from mlc_widget.engine.sessions.session_file import (
    MAX_SESSION_BYTES,
    Header,
    SessionState,
    encode_continuation,
    read_session,
)
from mlc_widget.engine.sessions.session_journal import SessionJournal

_SUFFIX: Final = ".jsonl"
_MAX_SESSIONS: Final = 64
"""More sessions than these are removed, the oldest first."""
_MAX_BYTES: Final = 256 * 1024 * 1024
"""The size of all sessions together."""
_MAX_AGE_S: Final = 30 * 24 * 3600.0
"""A session that was not written to for this time is removed."""
_LOCK_S: Final = 2.0
"""How long a new session waits for another process that has its file locked."""
_SAFE: Final = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_FLAGS: Final = _SAFE | os.O_APPEND | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class SessionStore:
    """The sessions in a folder; all methods block.

    Args:
        folder: The folder; the user's own by default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._given = folder

    def _folder(self) -> Path:
        """The folder, which may be missing.

        Raises:
            BadRequestError: Others may enter it, or the user has no home folder.
        """
        try:
            folder = self._given or user_state_root() / "sessions"
            found = folder.lstat()
        except FileNotFoundError as error:
            if error.filename is None:
                raise _unusable(f"{error.strerror}; set MLC_WIDGET_HOME to a folder") from error
            return folder
        except OSError as error:
            raise _unusable(f"{error.filename}: {error.strerror}") from error
        if not stat.S_ISDIR(found.st_mode) or not _is_own(found):
            raise _unusable(
                f"{folder} must be a folder that belongs to you and that nobody else can enter"
            )
        return folder

    def begin(self, header: Header) -> SessionJournal:
        """Make a session, and remove old ones.

        Raises:
            BadRequestError: There is one of this name, or the folder cannot be used.
            OSError: The file cannot be written.
        """
        name = session_id("resumable.session_id", header.session_id)
        folder = self._folder()
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / f"{name}{_SUFFIX}"
        fd = _create(name, path)
        journal = SessionJournal(fd)
        try:
            journal.append(header.encode())
        except BaseException:
            path.unlink(missing_ok=True)
            journal.close()
            raise
        _remove_old(folder, path)
        return journal

    def reopen(self, name: str, known: int, header: Header) -> SessionJournal:
        """Go on writing to a session.

        Args:
            name: The session.
            known: How many tokens (or characters) of the answer its reader has.
            header: What a new session of this request would begin with, with this session's salt.

        Raises:
            BadRequestError: There is no such session, it was begun for another request, another
                request writes to it, or its model has changed.
            OSError: The file cannot be written.
        """
        fd = self._open_locked(name)
        journal = SessionJournal(fd)
        try:
            state = read_session(name, _content(fd))
            begun = state.header
            # Only an exact runtime computes the very answer again that would be overwritten.
            lost = state.finished and not known and not begun.exact
            if lost or not begun.same_request(header):
                raise _exists(name)
            if (begun.fingerprint, begun.exact) != (header.fingerprint, header.exact):
                raise BadRequestError(
                    f"session_id = {name!r}: the files of {begun.model_id}, its chat_opts or its "
                    "runtime have changed since this answer began. Send the request anew.",
                    param="session_id",
                )
            os.ftruncate(fd, state.nbytes)  # without what a crash left of the last line
            journal = SessionJournal(fd, state.nbytes, state.nlines)
            if known <= state.known:  # otherwise some of it could not be written
                journal.append(encode_continuation(known))
                return journal
        except BaseException:
            journal.close()
            raise
        journal.close()
        raise OSError("the journal lacks a part of the answer")

    def _open_locked(self, name: str) -> int:
        while True:
            fd = self._open(name, os.O_RDWR)
            try:
                if not try_lock(fd):
                    raise BadRequestError(
                        f"session_id = {name!r}: another request is writing this answer. Wait "
                        "until it has ended, or end it.",
                        param="session_id",
                    )
                if is_at(self._path(name), fd):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # it was deleted meanwhile

    def salt(self, name: str) -> str | None:
        """What the digests of a session are keyed with; None if there is none that can be read."""
        try:
            return self.read(name).header.salt
        except BadRequestError:
            return None

    def read(self, name: str) -> SessionState:
        """Read a session.

        Raises:
            BadRequestError: There is no such session, or its file is malformed.
        """
        fd = self._open(name, os.O_RDONLY)
        try:
            return read_session(name, _content(fd))
        finally:
            os.close(fd)

    def list(self) -> list[ResumableSession]:
        """All sessions by their names, those with malformed files among them."""
        return [self._probe(path.stem) for path in sorted(_files(self._folder()))]

    def _probe(self, name: str) -> ResumableSession:
        try:
            found = self.read(name).probe()
        except BadRequestError as error:
            return ResumableSession(name, False, error.message, "", 0, 0, "none", False)
        return found

    def delete(self, name: str) -> None:
        """Delete a session; an unknown one is ignored.

        Raises:
            BadRequestError: The name is not one, a request is writing the session, or its file
                cannot be removed.
        """
        path = self._path(name)
        try:
            _remove(path)
        except BlockingIOError:
            raise BadRequestError(
                f"session_id = {name!r}: a request is writing this answer. End it first.",
                param="session_id",
            ) from None
        except OSError as error:
            raise BadRequestError(
                f"session_id = {name!r}: {path} cannot be removed: {error.strerror}.",
                param="session_id",
            ) from error

    def _path(self, name: str) -> Path:
        return self._folder() / f"{session_id('session_id', name)}{_SUFFIX}"

    def _open(self, name: str, mode: int) -> int:
        path = self._path(name)
        try:
            fd = os.open(path, _FLAGS | mode)
        except FileNotFoundError:
            raise BadRequestError(
                f"session_id = {name!r}: there is no such session.", param="session_id"
            ) from None
        except OSError as error:
            raise _unusable(f"{path}: {error.strerror}") from error
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or not _is_own(found):
            os.close(fd)
            raise _unusable(
                f"{path} must be a file that belongs to you and that nobody else can read"
            )
        return fd


def _is_own(found: os.stat_result) -> bool:
    if sys.platform == "win32":
        return True
    return found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o077


def _create(name: str, path: Path) -> int:
    """Make the empty file of a session, locked.

    Raises:
        BadRequestError: There is one.
        OSError: It cannot be made or locked.
    """
    while True:
        try:
            fd = os.open(path, _FLAGS | os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise _exists(name) from None
        try:
            _wait_for_lock(fd)
            if is_at(path, fd):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # it was deleted before it was locked


def _exists(name: str) -> BadRequestError:
    return BadRequestError(
        f"resumable.session_id = {name!r}: there is a session of this name. Resume it, or delete "
        "it first.",
        param="resumable.session_id",
    )


def _unusable(why: str) -> BadRequestError:
    return BadRequestError(f"resumable: sessions cannot be kept: {why}.", param="resumable")


def _content(fd: int) -> bytes:
    os.lseek(fd, 0, os.SEEK_SET)
    with open(fd, "rb", closefd=False) as file:
        return file.read(MAX_SESSION_BYTES + 1)


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.glob(f"*{_SUFFIX}"):
        with contextlib.suppress(BadRequestError):
            session_id("session_id", path.stem)
            yield path


def _remove_old(folder: Path, new: Path) -> None:
    """Remove the sessions that are too old, and the oldest of too many; never the new one."""
    found = []
    for path in _files(folder):
        with contextlib.suppress(OSError):
            info = path.lstat()
            found.append((info.st_mtime, info.st_size, path))
    count, size, now = len(found), sum(one[1] for one in found), time.time()
    for changed, nbytes, path in sorted(found):
        many = count > _MAX_SESSIONS or size > _MAX_BYTES
        if path != new and (many or now - changed > _MAX_AGE_S):
            with contextlib.suppress(OSError):
                _remove(path)
                count, size = count - 1, size - nbytes


def _remove(path: Path) -> None:
    """Remove a session's file, if there is one.

    Raises:
        BlockingIOError: It is being written.
        OSError: It cannot be removed.
    """
    try:
        fd = os.open(path, os.O_RDWR | _SAFE)
    except OSError:
        path.unlink(missing_ok=True)  # a link, or nobody can write to it
        return
    try:
        if not try_lock(fd):
            raise BlockingIOError(errno.EAGAIN, "it is being written")
        if is_at(path, fd):  # otherwise it is another session, which has begun since
            path.unlink()
    finally:
        os.close(fd)


def _wait_for_lock(fd: int) -> None:
    """Lock a new file, which another process can hold only while it looks at it.

    Raises:
        OSError: It stays locked.
    """
    deadline = time.monotonic() + _LOCK_S
    while not try_lock(fd):
        if time.monotonic() > deadline:
            raise OSError("another process has locked the new file")
        time.sleep(0.01)
