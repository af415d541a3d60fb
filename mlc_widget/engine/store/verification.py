"""Weight files compared with their published MD5 sums, each once.

What was found good is remembered in the user's cache by the file's inode, size and times, so that
a changed file is checked again and an unchanged one is not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from mlc_widget.api.errors import ModelFormatError
from mlc_widget.engine.store.user_cache import UserCache

logger = logging.getLogger(__name__)

VerifyPolicy: TypeAlias = Literal["once", "always", "never"]

_BLOCK: Final = 1 << 20
_THREADS: Final = 4
_TICK_S: Final = 0.02
"""A file that changes again within this time may keep its time of change."""
_COARSE_TICK_S: Final = 2.0
"""The same on file systems that count whole seconds."""


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A file as a model's list of weights has it.

    Attributes:
        path: The file.
        nbytes: Its size.
        md5: Its MD5 sum in hexadecimal digits, where the list has one.
    """

    path: Path
    nbytes: int
    md5: str | None


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What tells a file from what it was before it changed.

    Attributes:
        inode: Its number in its file system.
        size: Its bytes.
        mtime_ns: When its content was changed, in nanoseconds.
        ctime_ns: When anything of it was changed.
    """

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, file: Path | int) -> FileIdentity:
        """That of a regular file, or of an open one.

        Raises:
            OSError: There is no such file.
        """
        info = os.stat(file)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(f"{file} is not a regular file")
        return cls(info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)

    def same_content(self, other: FileIdentity) -> bool:
        """Whether nothing says that the content was changed in between."""
        return (self.inode, self.size, self.mtime_ns) == (other.inode, other.size, other.mtime_ns)


class VerifiedFiles:
    """Files of one folder that were found good before.

    Args:
        folder: The model's.
        root: The cache's; None for the user's own.
    """

    def __init__(self, folder: Path, root: Path | None = None) -> None:
        key = hashlib.sha256(os.fsencode(os.path.realpath(folder))).hexdigest()[:32]
        self._cache, self._name = UserCache("verified", root), f"{key}.json"
        self._known: dict[str, Any] = {}
        self._changed = False
        content = self._cache.read(self._name)
        try:
            known = {} if content is None else json.loads(content)
        except (ValueError, RecursionError):
            return
        if isinstance(known, dict):
            self._known = known

    def has(self, file: PublishedFile, identity: FileIdentity) -> bool:
        """Whether the file, as it is now, had this sum."""
        return bool(self._known.get(file.path.name) == self._entry(file, identity))

    def add(self, file: PublishedFile, identity: FileIdentity) -> None:
        """Remember a file that was found good."""
        if not self.has(file, identity):
            self._known[file.path.name] = self._entry(file, identity)
            self._changed = True

    def save(self) -> None:
        """Keep what was added, where that is possible."""
        if self._changed:
            self._changed = False
            self._cache.write(self._name, json.dumps(self._known).encode())

    @staticmethod
    def _entry(file: PublishedFile, identity: FileIdentity) -> list[int | str | None]:
        return [identity.inode, identity.size, identity.mtime_ns, identity.ctime_ns, file.md5]


def verify_files(
    files: Sequence[PublishedFile],
    published_in: Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    policy: VerifyPolicy = "always",
    cache_root: Path | None = None,
) -> Mapping[Path, FileIdentity]:
    """Compare files with their MD5 sums.

    Args:
        files: What is to be compared; a file without a sum is not.
        published_in: The list that has the sums.
        progress: Called on this thread with bytes done and bytes in all; what it raises ends the
            work within a block or two.
        policy: ``once`` reads only what was not found good before, ``always`` everything,
            ``never`` nothing.
        cache_root: Where the cache is that remembers what was found good.

    Returns:
        What identifies the files that are good.

    Raises:
        ModelFormatError: A file's bytes are not those that were published.
    """
    if policy == "never":
        return {}
    without = [f.path.name for f in files if f.md5 is None]
    if without:
        logger.warning(
            "%s has no md5sum of %d of %d weight files (%s, …), which are used as they are.",
            published_in, len(without), len(files), without[0],
        )  # fmt: skip
    remembered = VerifiedFiles(published_in.parent, cache_root)
    good: dict[Path, FileIdentity] = {}
    to_read: list[PublishedFile] = []
    for file in files:
        if file.md5 is None:
            continue
        identity = _identity(file)
        if policy == "once" and remembered.has(file, identity):
            good[file.path] = identity
        else:
            to_read.append(file)
    try:
        _Check(published_in, remembered, good, progress).run(to_read)
    finally:  # also what was found good before a damaged file, or before the load was cancelled
        remembered.save()
    return good


class _Check:
    """Reads files and compares their sums, several at a time."""

    def __init__(
        self,
        published_in: Path,
        remembered: VerifiedFiles,
        good: dict[Path, FileIdentity],
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self._published_in, self._remembered, self._good = published_in, remembered, good
        self._progress = progress
        self._done = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def run(self, files: Sequence[PublishedFile]) -> None:
        total = sum(f.nbytes for f in files)
        if not files:
            return
        pool = ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), "mlc_widget-verify")
        try:
            running = {pool.submit(self._read, file): file for file in files}
            pending: set[Future[tuple[str, FileIdentity, bool]]] = set(running)
            while pending:
                finished, pending = wait(pending, timeout=0.1, return_when=FIRST_COMPLETED)
                for task in finished:
                    self._take(running[task], *task.result())
                if self._progress is not None:
                    self._progress(self._done, total)
        finally:
            self._stop.set()
            pool.shutdown(cancel_futures=True)

    def _take(self, file: PublishedFile, md5: str, identity: FileIdentity, certain: bool) -> None:
        if md5 != file.md5:
            raise ModelFormatError(
                f"{file.path} is damaged: its MD5 sum is {md5}, and {self._published_in.name} says "
                f"{file.md5}. Download the file again, or the whole model.",
                param=str(file.path),
            )
        self._good[file.path] = identity
        if certain:
            self._remembered.add(file, identity)

    def _read(self, file: PublishedFile) -> tuple[str, FileIdentity, bool]:
        """Sum and identity of a file, and whether a change of it would show in the latter."""
        certain = _wait_for_tick(_identity(file))
        digest = hashlib.md5(usedforsecurity=False)
        block = memoryview(bytearray(_BLOCK))
        try:
            with file.path.open("rb", buffering=0) as opened:
                identity = FileIdentity.of(opened.fileno())
                left = identity.size
                while left > 0 and not self._stop.is_set():
                    count = opened.readinto(block[: min(left, _BLOCK)])
                    if not count:
                        break
                    digest.update(block[:count])
                    left -= count
                    with self._lock:
                        self._done += count
                changed = not FileIdentity.of(opened.fileno()).same_content(identity)
        except OSError as e:
            raise _unreadable(file.path, e) from e
        if changed:
            raise changed_meanwhile(file.path)
        return digest.hexdigest(), identity, certain


def _wait_for_tick(identity: FileIdentity) -> bool:
    """Wait until another change of a file would get a later time; whether it will."""
    latest = max(identity.mtime_ns, identity.ctime_ns)
    age = time.time() - latest / 1e9
    if latest % 1_000_000_000 == 0 or age < 0:
        return age >= _COARSE_TICK_S
    if age < _TICK_S:
        time.sleep(_TICK_S - age)
    return True


def _identity(file: PublishedFile) -> FileIdentity:
    try:
        return FileIdentity.of(file.path)
    except OSError as e:
        raise _unreadable(file.path, e) from e


def _unreadable(path: Path, error: OSError) -> ModelFormatError:
    return ModelFormatError(
        f"{path} cannot be read: {error.strerror or error}.",
        param=str(path),
    )


def changed_meanwhile(path: Path) -> ModelFormatError:
    """The error for a file that another program writes to."""
    return ModelFormatError(
        f"{path} was changed while it was being loaded. Wait until what writes it (a download, a "
        "conversion) is done, and load the model again.",
        param=str(path),
    )
