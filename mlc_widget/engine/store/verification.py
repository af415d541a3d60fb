"""Compares weight files with their published MD5 sums, each file once.

Files that pass are recorded in the user's cache with their inode, size and times, so that a file is
checked again only after it has changed.
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
from mlc_widget.engine.store.model_files import open_regular
from mlc_widget.engine.store.user_cache import UserCache

logger = logging.getLogger(__name__)

VerifyPolicy: TypeAlias = Literal["once", "always", "never"]

_BLOCK: Final = 1 << 20
_THREADS: Final = 4
_TICK_S: Final = 0.02
"""Seconds; a file that changes twice within this time may keep the same time of change."""
_COARSE_TICK_S: Final = 2.0
"""The same on file systems that count whole seconds."""


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A file in a model's list of weights.

    Attributes:
        path: The file.
        nbytes: Its size in bytes.
        md5: Its MD5 sum in hexadecimal digits, if the list has one.
    """

    path: Path
    nbytes: int
    md5: str | None


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Identifies the state of a file, so that changes can be noticed.

    Attributes:
        inode: Its inode number.
        size: Its size in bytes.
        mtime_ns: The time at which its content was changed, in nanoseconds.
        ctime_ns: The time at which the inode was changed, in nanoseconds.
    """

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, file: Path | int) -> FileIdentity:
        """The identity of a regular file, given its path or descriptor.

        Raises:
            OSError: There is no such file.
        """
        info = os.stat(file)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(f"{file} is not a regular file")
        return cls.from_status(info)

    @classmethod
    def from_status(cls, info: os.stat_result) -> FileIdentity:
        """The identity of a file, given what `os.stat` says of it."""
        return cls(info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)

    def same_content(self, other: FileIdentity) -> bool:
        """Whether the content has not changed in between, as far as this shows."""
        return (self.inode, self.size, self.mtime_ns) == (other.inode, other.size, other.mtime_ns)


class VerifiedFiles:
    """The record of files of one folder that have been verified.

    Args:
        folder: The model's folder.
        root: The cache's folder; None for the user's own.
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
        """Whether the file, in its current state, has been verified."""
        return bool(self._known.get(file.path.name) == self._entry(file, identity))

    def add(self, file: PublishedFile, identity: FileIdentity) -> None:
        """Add a file that has been verified."""
        if not self.has(file, identity):
            self._known[file.path.name] = self._entry(file, identity)
            self._changed = True

    def save(self) -> None:
        """Save the record, if the cache can be written."""
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
        files: The files to compare; those without a sum are skipped.
        published_in: The list that has the sums.
        progress: Called on this thread with the bytes done and the total; an exception from it ends
            the work within a block or two.
        policy: ``once`` reads files that have not been verified before, ``always`` all files,
            ``never`` none.
        cache_root: The folder of the cache that records verified files.

    Returns:
        The identities of the verified files.

    Raises:
        ModelFormatError: A file is not the one that was published.
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
    finally:  # even if a file is damaged or the load is cancelled, save the files verified so far
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
                f"{file.path} is damaged: its MD5 sum is {md5}, but {self._published_in.name} says "
                f"{file.md5}. Download the file again, or the whole model.",
                param=str(file.path),
            )
        self._good[file.path] = identity
        if certain:
            self._remembered.add(file, identity)

    def _read(self, file: PublishedFile) -> tuple[str, FileIdentity, bool]:
        """The sum and identity of a file, and whether the latter would show a change of it."""
        certain = wait_for_tick(_identity(file))
        digest = hashlib.md5(usedforsecurity=False)
        block = memoryview(bytearray(_BLOCK))
        try:
            with open_regular(file.path) as opened:
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


def wait_for_tick(identity: FileIdentity) -> bool:
    """Wait until a change of a file would get a later time; return whether it would."""
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
    """The error for a file to which another program writes."""
    return ModelFormatError(
        f"{path} was changed while it was being loaded. Wait until the program that writes it (a "
        "download or a conversion) has finished, and load the model again.",
        param=str(path),
    )
