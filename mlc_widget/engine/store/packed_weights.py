"""Copies of models' weights in the order of the kernels, to be mapped by later loads.

Such a copy is a file ``<root>/weights/<name>.packed``: the weights as they are in memory, then a
footer, which says what they were made from. It is mapped, not read, so that processes share its
memory, and the system may take that back. A file is never changed, only replaced or removed, and
whoever has mapped it keeps what it has mapped.

A copy is used only if its footer is, to the last byte, the one that it would be given now, and its
length is right, and if no other user can have written it (see `UserCache`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import mmap
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

from mlc_widget.api.errors import BadRequestError
from mlc_widget.engine.store.user_cache import UNFINISHED, UserCache
from mlc_widget.engine.store.verification import FileIdentity

logger = logging.getLogger(__name__)

LIMIT_VARIABLE: Final = "MLC_WIDGET_WEIGHT_CACHE_BYTES"
FOLDER: Final = "weights"
SUFFIX: Final = ".packed"
_SMALLEST: Final = 16 << 20
"""The size in bytes from which a copy saves time worth its space."""
_DEFAULT_LIMIT: Final = 32 << 30
_SHARE: Final = 4
"""All copies together take at most this fraction (1 / 4) of the disk space that would be free
without them."""
_PIECE: Final = 4 << 20
"""Bytes written at a time: at least a huge page, so that file systems that can will map those."""
_SYNCED: Final = 64 << 20
"""Bytes after which the disk may catch up. Otherwise its queue would grow, which slows others."""
_DEAD_S: Final = 600.0
"""Seconds after which an unfinished file that nobody has written to is left over."""
_LONGEST_FOOTER: Final = 1 << 20
_MAGIC: Final = b"mlc_widget packed weights 1\n"


class Stopped(Exception):
    """Raised by the caller of `PackedWeights.write` to end it."""


class PackedWeights:
    """The copy of one model's weights.

    Args:
        made_from: The files with the weights, and their state.
        layout: What else determines where each byte is, as JSON values, without versions.
        versions: The versions of all code that does, as JSON values.
        nbytes: The size of the weights in bytes.
        root: The cache's folder; None for the user's own.
    """

    def __init__(
        self,
        made_from: Mapping[Path, FileIdentity],
        layout: Mapping[str, Any],
        versions: Mapping[str, Any],
        nbytes: int,
        root: Path | None = None,
    ) -> None:
        self._made_from, self.nbytes = made_from, nbytes
        self._cache = UserCache(FOLDER, root)
        states = {
            os.path.realpath(path): [i.inode, i.size, i.mtime_ns, i.ctime_ns]
            for path, i in made_from.items()
        }
        # A changed model or a new version replaces the copy, as they are not in its name.
        self.name = _digest([sorted(states), layout])[:32] + SUFFIX
        text = json.dumps(
            {
                "files": states,
                "layout": _digest(layout),
                "versions": _digest(versions),
                "nbytes": nbytes,
            },
            sort_keys=True,
        ).encode()
        self._footer = text + len(text).to_bytes(8, "little") + _MAGIC

    def open(self) -> mmap.mmap | None:
        """Map the copy; None if there is no good one.

        The map is private to this process: what is written to it does not reach the file.
        """
        file = self._cache.open_file(self.name)
        if file is None:
            return None
        with file:
            try:
                size = os.fstat(file.fileno()).st_size
                if size != self.nbytes + len(self._footer):
                    return None
                file.seek(self.nbytes)
                if file.read(len(self._footer)) != self._footer:
                    return None
                mapped = mmap.mmap(file.fileno(), self.nbytes, access=mmap.ACCESS_COPY)
                with contextlib.suppress(OSError):  # remember when it was last used
                    os.utime(file.fileno() if os.utime in os.supports_fd else file.name)
            except (OSError, ValueError) as error:  # a file system that cannot map files
                logger.info("%s cannot be used: %s", file.name, error)
                return None
        return mapped

    def write(self, memory: memoryview, pause: Callable[[], None]) -> bool:
        """Write the copy, if there is room for it.

        Args:
            memory: The weights, `nbytes` bytes.
            pause: Called before every few megabytes. It may wait, or raise `Stopped`.

        Returns:
            Whether it was written.
        """
        try:
            if not self._make_room():
                return False
            with self._cache.new_file(self.name) as file:
                for at in range(0, self.nbytes, _PIECE):
                    pause()
                    _write_all(file, memory[at : at + _PIECE])
                    if at % _SYNCED == _SYNCED - _PIECE:
                        _sync(file)
                _write_all(file, memoryview(self._footer))
                _sync(file)
                pause()
                if any(FileIdentity.of(path) != was for path, was in self._made_from.items()):
                    raise Stopped
        except (Stopped, OSError) as error:
            if isinstance(error, OSError):
                logger.info("The packed weights were not kept: %s", error)
            return False
        return True

    def _make_room(self) -> bool:
        """Remove copies that are of no use, or have not been used for longest."""
        folder = self._cache.secure_folder()
        _remove_useless(self._cache)
        kept = {
            name: info
            for name, info in self._cache.files().items()
            if name.endswith(SUFFIX) and name != self.name
        }
        taken = sum(info.st_size for info in kept.values())
        most = min(size_limit(), (shutil.disk_usage(folder).free + taken) // _SHARE)
        if self.nbytes > most:
            return False
        for name, info in sorted(kept.items(), key=lambda item: item[1].st_mtime_ns):
            if taken + self.nbytes <= most:
                break
            self._cache.remove(name)
            taken -= info.st_size
        return True


class CopyTask:
    """Writes a copy on a thread of its own, while there is nothing else to do.

    Args:
        copy: The copy.
        memory: The weights, which are kept alive meanwhile.
        busy: Whether to wait.
    """

    def __init__(self, copy: PackedWeights, memory: memoryview, busy: Callable[[], bool]) -> None:
        self._copy, self._busy = copy, busy
        self._memory: memoryview | None = memory
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._run, name="mlc_widget-weight-copy", daemon=True)

    def _run(self) -> None:
        memory, self._memory = self._memory, None
        assert memory is not None
        self._copy.write(memory, self._pause)

    def _pause(self) -> None:
        while not self.stopped.is_set():
            if not self._busy():
                return
            self.stopped.wait(0.02)
        raise Stopped

    def stop(self) -> None:
        """Have the thread end soon. What it has written is removed, unless it is whole."""
        self.stopped.set()

    def join(self, seconds: float | None = None) -> None:
        """Wait until the thread has ended, if it was started."""
        if self.thread.ident is not None:
            self.thread.join(seconds)


def is_worthwhile(nbytes: int) -> bool:
    """Whether to keep a copy of this size in bytes."""
    return _SMALLEST <= nbytes <= size_limit()


def size_limit() -> int:
    """The number of bytes that all copies may take together.

    Raises:
        BadRequestError: ``$MLC_WIDGET_WEIGHT_CACHE_BYTES`` is not a number of bytes.
    """
    value = os.environ.get(LIMIT_VARIABLE, "").strip()
    if not value:
        return _DEFAULT_LIMIT
    if not (value.isascii() and value.isdigit() and len(value) < 20):
        raise BadRequestError(
            f"{LIMIT_VARIABLE} is {value[:40]!r}; it must be a number of bytes, such as "
            "8000000000, or 0 to keep no packed weights.",
            param=LIMIT_VARIABLE,
        )
    return int(value)


def copies(root: Path | None = None) -> Iterator[tuple[Path, int, tuple[Path, ...]]]:
    """The copies in the cache: each file, its size in bytes, and the files it was made from."""
    cache = UserCache(FOLDER, root)
    for name, info in cache.files().items():
        if name.endswith(SUFFIX):
            files = tuple(Path(path) for path in _made_from(cache, name))
            yield cache.folder / name, info.st_size, files


def remove_copies_of(files: set[Path], root: Path | None = None) -> int:
    """Remove the copies that were made from any of some files; return how many bytes they had."""
    real = {os.path.realpath(path) for path in files}
    cache, freed = UserCache(FOLDER, root), 0
    for path, nbytes, sources in list(copies(root)):
        if real & {os.fspath(source) for source in sources}:
            cache.remove(path.name)
            freed += nbytes
    return freed


def _remove_useless(cache: UserCache) -> None:
    """Remove what dead processes have left, and copies of models that have changed or are gone."""
    for name, info in cache.files().items():
        dead = name.endswith(UNFINISHED) and time.time() - info.st_mtime > _DEAD_S
        stale = name.endswith(SUFFIX) and not _is_current(_made_from(cache, name))
        if dead or stale:
            cache.remove(name)


def _is_current(made_from: Mapping[str, Any]) -> bool:
    try:
        for path, state in made_from.items():
            now = FileIdentity.of(Path(path))
            if state != [now.inode, now.size, now.mtime_ns, now.ctime_ns]:
                return False
    except (OSError, ValueError):
        return False
    return bool(made_from)


def _made_from(cache: UserCache, name: str) -> Mapping[str, Any]:
    """The files from which a copy was made, and their states then; empty if it is damaged."""
    file = cache.open_file(name)
    if file is None:
        return {}
    with file, contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        end = file.seek(0, os.SEEK_END)
        tail = len(_MAGIC) + 8
        file.seek(max(0, end - tail))
        last = file.read(tail)
        length = int.from_bytes(last[:8], "little")
        if last[8:] == _MAGIC and length <= min(_LONGEST_FOOTER, end - tail):
            file.seek(end - tail - length)
            found = json.loads(file.read(length))["files"]
            return found if isinstance(found, dict) else {}
    return {}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _write_all(file: BinaryIO, data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


def _sync(file: BinaryIO) -> None:
    getattr(os, "fdatasync", os.fsync)(file.fileno())
