"""Where the members of a group find the server that was started for them, and what they trust.

`api.serving.group_socket` makes the socket. Who may join is for the file system to say: whoever may
connect to the socket.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any, Final

from mlc_widget.api.errors import ServerError
from mlc_widget.api.request_values import bad

DIRECTORY_VARIABLE: Final = "MLC_WIDGET_GROUP_DIR"
SCHEME: Final = "group://"
_DIRECTORY: Final = "/run/mlc_widget"
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,31}", re.ASCII)
_SOCKET: Final = "socket"
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def check_group(name: Any) -> str:
    """Read the name of a group.

    Raises:
        BadRequestError: It is not such a name.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise bad("group", name, "give a group's name: up to 32 letters, digits, '.', '_' and '-'.")
    return name


def group_socket(name: str) -> Path:
    """The socket of a group's server, whether or not it is there.

    Links on the way to its directory are followed now: the path that `check_trusted` checks is the
    one that is connected to, wherever a link points to by then.
    """
    directory = Path(os.environ.get(DIRECTORY_VARIABLE) or _DIRECTORY)
    return directory.resolve() / check_group(name) / _SOCKET


def check_trusted(socket: Path) -> None:
    """Check that only root and the user who runs a group's server could have made its socket.

    Raises:
        ServerError: There is no socket, this user may not reach it, or others could have put
            another one in its place.
    """
    folder = socket.parent
    try:
        owner = _own_folder(folder)
        directory = folder.parent
        for above in (directory, *directory.parents):
            _check_above(above, owner, sticky_is_enough=above != directory)
        found = socket.lstat()
    except FileNotFoundError:
        raise _unreachable(
            f"No server runs for the group {folder.name!r}: there is no {socket}. Its "
            f"administrator starts one with `mlc_widget serve MODEL --group {folder.name}`."
        ) from None
    except OSError as error:
        raise _unreachable(
            f"You may not use the server of the group {folder.name!r}: {socket}: {error.strerror}. "
            "Only members of the group may. If you have just been added to it, log in again."
        ) from None
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != owner:
        raise _not_trusted(socket, "it is not a socket of its folder's owner")


def _own_folder(folder: Path) -> int:
    """The owner of a folder that nobody else can write to."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise _not_trusted(folder, "it is a link or a file")
    if found.st_mode & _OTHERS_WRITE:
        raise _not_trusted(folder, "users other than its owner can write to it")
    return found.st_uid


def _check_above(folder: Path, owner: int, *, sticky_is_enough: bool) -> None:
    """Check that nobody but root, the owner and this user could replace what is in a folder."""
    found = folder.stat()
    if found.st_uid not in (0, owner, os.geteuid()):
        raise _not_trusted(folder, "it belongs to a third user")
    sticky = sticky_is_enough and found.st_mode & stat.S_ISVTX
    if found.st_mode & _OTHERS_WRITE and not sticky:
        raise _not_trusted(folder, "users other than its owner can write to it")


def _unreachable(message: str) -> ServerError:
    return ServerError(message, code="server_unreachable")


def _not_trusted(path: Path, why: str) -> ServerError:
    return ServerError(
        f"{path} is not used: {why}, so anybody could run a server there. Ask its administrator to "
        f"correct that, or set {DIRECTORY_VARIABLE} to another directory.",
        code="server_not_trusted",
    )
