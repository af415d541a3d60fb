"""The user's cache of trusted files, which no other user may have written.

On POSIX systems, every folder from the root of the file system down to the cache must belong to
this user or to root, and must not be writable by others (above the cache, a folder with the sticky
bit may be). Each is opened relative to its parent, and a file is checked and read through one
descriptor, so that nothing can be replaced between the check and the use. If a folder is unsafe or
cannot be written, nothing is cached, and one warning says why.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import shutil
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from mlc_widget.models.places import user_cache_root as default_root

logger = logging.getLogger(__name__)

LARGEST: Final = 1 << 28
"""The maximum size in bytes of a file that is read."""

UNFINISHED: Final = ".new"
"""How the names of files end that are being written, or were when their writer died."""

_POSIX: Final = os.name == "posix"
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_LINKS: Final = 40
_FOLDER: Final = (
    getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
)
_PASS: Final = _FOLDER | getattr(os, "O_PATH", os.O_RDONLY)  # for folders that we cannot list
_FILE: Final = (
    getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
)
_REMEDY: Final = "MLC_WIDGET_HOME to a folder that only you can write to."

_warned: set[str] = set()


class UnsafeFolderError(OSError):
    """Another user could change files in a folder; the text names it and says what to do."""


class UserCache:
    """One folder of the cache.

    Args:
        name: The folder's name in the cache's root.
        root: The cache's root; None for `default_root`.
    """

    def __init__(self, name: str, root: Path | None = None) -> None:
        self._name, self._root = name, root

    @property
    def folder(self) -> Path:
        """The path of the folder.

        Raises:
            OSError: This user has no home folder.
        """
        return (self._root or default_root()).absolute() / self._name

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if there is none, or if others could have written it."""
        try:
            with _opened(self.folder, create=False) as descriptor:
                return _read(_At(self.folder, descriptor), name)
        except FileNotFoundError:
            return None
        except OSError as e:
            self.warn(e)
            return None

    def write(self, name: str, content: bytes) -> bool:
        """Write a file atomically; return whether that was possible."""
        try:
            with _opened(self.folder, create=True) as descriptor:
                _write(_At(self.folder, descriptor), name, content)
        except OSError as e:
            self.warn(e)
            return False
        return True

    def open_file(self, name: str) -> BinaryIO | None:
        """Open a file of any size; None if there is none, or if others could have written it."""
        try:
            with _opened(self.folder, create=False) as descriptor:
                return _open(_At(self.folder, descriptor), name)
        except FileNotFoundError:
            return None
        except OSError as e:
            self.warn(e)
            return None

    @contextlib.contextmanager
    def new_file(self, name: str) -> Iterator[BinaryIO]:
        """Open a file for writing, unbuffered. At the end of ``with``, it takes the name's place.

        Whoever has the file open that was there before goes on reading that one.

        Raises:
            OSError: The folder is unsafe, or the file cannot be written.
        """
        with (
            _opened(self.folder, create=True) as descriptor,
            _aside(_At(self.folder, descriptor), name) as file,
        ):
            yield file

    def files(self) -> dict[str, os.stat_result]:
        """The regular files of the folder by name; empty if it cannot be read."""
        found: dict[str, os.stat_result] = {}
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    if entry.is_file(follow_symlinks=False):
                        found[entry.name] = entry.stat(follow_symlinks=False)
        return found

    def remove(self, name: str) -> None:
        """Remove a file, if that is possible. Whoever has it open goes on reading it."""
        with contextlib.suppress(OSError), _opened(self.folder, create=False) as descriptor:
            os.unlink(_At(self.folder, descriptor)(name), dir_fd=descriptor)

    def secure_folder(self) -> Path:
        """The folder, made if it is missing, for files that are too large for `write`.

        Raises:
            UnsafeFolderError: Others could change files in it.
            OSError: It cannot be made.
        """
        with _opened(self.folder, create=True):
            return self.folder

    def warn(self, error: OSError) -> None:
        """Log why nothing is cached, once for all folders of the cache."""
        if isinstance(error, UnsafeFolderError):
            text = str(error)
        else:
            text = (
                f"{self._where()} cannot be used as a cache: {error.strerror or error}. Make room "
                f"there or correct its permissions, or set {_REMEDY}"
            )
        if text not in _warned:
            _warned.add(text)
            logger.warning(
                "%s Until then, models are compiled and their weights checked at each load.", text
            )

    def _where(self) -> str:
        try:
            return str(self._root or default_root())
        except OSError:
            return "~/.cache"


class _At:
    """Names in an opened folder, as arguments for functions of `os`."""

    def __init__(self, folder: Path, descriptor: int | None) -> None:
        self._folder, self.descriptor = folder, descriptor

    def __call__(self, name: str) -> str:
        return name if self.descriptor is not None else str(self._folder / name)


@contextlib.contextmanager
def _opened(folder: Path, *, create: bool) -> Iterator[int | None]:
    """Open a folder that only we can change; None on systems without descriptors of folders.

    Raises:
        UnsafeFolderError: Others could change it.
        OSError: It does not exist, or cannot be made.
    """
    if not _POSIX:
        if create:
            folder.mkdir(parents=True, exist_ok=True)
        yield None
        return
    descriptor = _walk(folder, create=create)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _walk(folder: Path, *, create: bool) -> int:
    """Open a folder by opening all folders above it, one after the other."""
    left = deque(folder.parts[1:])
    path, links = Path("/"), 0
    at = os.open("/", _PASS)
    try:
        _check(os.fstat(at), path)
        while left:
            name = left.popleft()
            try:
                info = os.stat(name, dir_fd=at, follow_symlinks=False)
            except FileNotFoundError:
                if not create:
                    raise
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=at)
                info = os.stat(name, dir_fd=at, follow_symlinks=False)
            if stat.S_ISLNK(info.st_mode):
                links += 1
                if links > _LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path / name))
                _check_owner(info, path / name)
                target = Path(os.readlink(name, dir_fd=at))
                if target.is_absolute():
                    path, above = Path("/"), os.open("/", _PASS)
                    os.close(at)
                    at = above
                left.extendleft(reversed(target.parts[target.is_absolute() :]))
                continue
            flags = _PASS if left else _FOLDER | os.O_RDONLY
            try:
                below = os.open(name, flags, dir_fd=at)
            except OSError as e:
                e.filename = str(path / name)
                raise
            os.close(at)
            at = below
            path = path.parent if name == ".." else path / name
            _check(os.fstat(at), path, last=not left)
        return at
    except BaseException:
        os.close(at)
        raise


def _check(info: os.stat_result, path: Path, *, last: bool = False) -> None:
    _check_owner(info, path)
    sticky = info.st_mode & stat.S_ISVTX and not last
    if info.st_mode & _OTHERS_WRITE and not sticky:
        raise UnsafeFolderError(
            f"Other users can write to {path} (its mode is {stat.S_IMODE(info.st_mode):03o}), so "
            "they could change what is cached below it, and nothing is cached. Run `chmod go-w "
            f"{path}`, or set {_REMEDY}"
        )


def _check_owner(info: os.stat_result, path: Path) -> None:
    if info.st_uid not in (0, os.geteuid()):
        raise UnsafeFolderError(
            f"{path} belongs to another user (with the id {info.st_uid}; yours is "
            f"{os.geteuid()}), who could change what is cached below it, so nothing is cached. Set "
            f"{_REMEDY}"
        )


def _open(at: _At, name: str) -> BinaryIO | None:
    """Open a regular file that only we can have written."""
    flags = os.O_RDONLY | _FILE | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(at(name), flags, dir_fd=at.descriptor)
    except OSError:  # a link, a socket or a file without access: it will be replaced
        return None
    info = os.fstat(descriptor)
    ours = not _POSIX or (info.st_uid in (0, os.geteuid()) and not info.st_mode & _OTHERS_WRITE)
    if stat.S_ISREG(info.st_mode) and ours:
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    return None


def _read(at: _At, name: str) -> bytes | None:
    file = _open(at, name)
    if file is None:
        return None
    with file:
        size = os.fstat(file.fileno()).st_size
        return None if size > LARGEST else file.read(size)


def _write(at: _At, name: str, content: bytes) -> None:
    with _aside(at, name) as file:
        left = memoryview(content)
        while left:
            left = left[file.write(left) :]
        os.fsync(file.fileno())


@contextlib.contextmanager
def _aside(at: _At, name: str) -> Iterator[BinaryIO]:
    """Open a new file, which takes the place of `name` at the end, unless an exception ends it."""
    aside = f".{secrets.token_hex(8)}{UNFINISHED}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FILE
    descriptor = os.open(at(aside), flags, 0o600, dir_fd=at.descriptor)
    try:
        with open(descriptor, "wb", buffering=0) as file:
            yield file
        try:
            _replace(at, aside, name)
        except (IsADirectoryError, PermissionError):
            _clear_away(at, name)
            _replace(at, aside, name)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(at(aside), dir_fd=at.descriptor)
        raise


def _replace(at: _At, old: str, new: str) -> None:
    os.replace(at(old), at(new), src_dir_fd=at.descriptor, dst_dir_fd=at.descriptor)


def _clear_away(at: _At, name: str) -> None:
    """Remove a folder that is in the place of a file."""
    aside = f".{secrets.token_hex(8)}.old"
    _replace(at, name, aside)
    shutil.rmtree(at(aside), ignore_errors=True, dir_fd=at.descriptor)
