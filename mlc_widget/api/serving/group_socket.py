"""The Unix socket on which the members of a group reach a server."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Final

from mlc_widget.api.closing import Closing
from mlc_widget.api.copies import NotCopyable
from mlc_widget.api.errors import BadRequestError, ServerError
from mlc_widget.api.file_lock import try_lock
from mlc_widget.api.group_folder import (
    DIRECTORY_VARIABLE,
    SCHEME,
    check_group,
    check_trusted,
    group_socket,
)
from mlc_widget.api.request_values import bad

_CREDENTIALS: Final = struct.Struct("=iII")  # process, user, group


class GroupSocket(NotCopyable, Closing):
    """A listening socket in a folder that a group's members may enter, and nobody else.

    The folder is locked, so that there is one server of a group; the system drops the lock when
    this process ends. What was made is removed again if there is an error.

    Args:
        group: The name of a group of this system.

    Raises:
        BadRequestError: There is no such group, its folder cannot be used, or another server has
            it.
    """

    _instead = "it is a socket of this process."

    def __init__(self, group: str) -> None:
        if not hasattr(socket, "SO_PEERCRED"):
            raise bad("group", group, "only Linux says which user is at the other end of a socket.")
        self.group = check_group(group)
        gid = _group_id(group)
        self.path = group_socket(group)
        self._undo = contextlib.ExitStack()
        self._made: list[Path] = []
        try:
            self._listen(gid)
        except BaseException:
            self.close()
            for folder in reversed(self._made):
                with contextlib.suppress(OSError):  # another server may have begun to use it
                    folder.rmdir()
            raise

    def _listen(self, gid: int) -> None:
        from tornado.netutil import bind_unix_socket  # where there are such sockets

        try:
            self._undo.callback(os.close, self._opened_folder(gid))
            self.listening = bind_unix_socket(str(self.path), mode=0o600)
            self._undo.callback(self.listening.close)
            self._undo.callback(self.path.unlink, missing_ok=True)
            os.chown(self.path, -1, gid, follow_symlinks=False)
            self.path.chmod(0o660)
            check_trusted(self.path)
        except PermissionError as error:
            raise self._refused(
                f"{error.strerror}. Root can serve any group; other users can serve the groups "
                "that they belong to, in a directory that they can write to"
            ) from None
        except (OSError, ValueError, ServerError) as error:
            raise self._refused(getattr(error, "strerror", None) or str(error)) from None

    @property
    def url(self) -> str:
        """What members give as the address of the server."""
        return f"{SCHEME}{self.group}"

    def _opened_folder(self, gid: int) -> int:
        """The folder, open and locked, with the group's rights."""
        folder = self.path.parent
        if not folder.parent.exists():
            self._make(folder.parent)
            folder.parent.chmod(0o755)  # whatever the umask
        with contextlib.suppress(FileExistsError):
            self._make(folder)
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            if found.st_uid != os.geteuid():
                raise self._refused("it belongs to another user")
            if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise self._refused("others can write to it: `chmod 750` it")
            if not try_lock(fd):
                raise self._refused("another server of this group is running")
            os.fchown(fd, -1, gid)
            os.fchmod(fd, 0o750)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _make(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self._made.append(folder)

    def _refused(self, why: str) -> BadRequestError:
        return bad(
            "group",
            self.group,
            f"cannot listen in {self.path.parent}: {why}. Set {DIRECTORY_VARIABLE} to "
            "choose another directory.",
        )

    def close(self) -> None:
        """Stop listening, and remove the socket. Idempotent."""
        self._undo.close()


def peer_user(connected: socket.socket) -> int:
    """The id of the user at the other end of a Unix socket."""
    size = _CREDENTIALS.size
    found = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    user: int = _CREDENTIALS.unpack(found)[1]
    return user


def _group_id(name: str) -> int:
    import grp

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise bad("group", name, "this system has no such group; `groupadd` makes one.") from None
