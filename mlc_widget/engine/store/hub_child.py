"""Downloads files of a repository on the Hub, in a process that can be killed at any time.

``python -m mlc_widget.engine.store.hub_child JSON`` with the fields of a `HubModel` sends its
parent, as in `download_process`, ``path`` (a folder in MLC format, or a GGUF file), or ``error``,
``endpoint`` and ``files`` (the sizes of the GGUF files in bytes, by name).

`hub_api` lists the files. `transfer` downloads their contents, since `huggingface_hub` cannot
resume a download, does not compare checksums, and does not try again after a reset or a response
such as 503.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Final

from mlc_widget.engine.store import transformers_files
from mlc_widget.engine.store.download_process import one_line, space_problem
from mlc_widget.engine.store.hub_api import Hub, ListedFile
from mlc_widget.engine.store.hub_cache import (
    PARTIAL,
    WEIGHT_LISTS,
    CachedRepository,
    HubModel,
    has_sum,
)
from mlc_widget.engine.store.retrying import (
    GaveUp,
)
from mlc_widget.engine.store.split_files import Choice, choose, parts_of, whole_files
from mlc_widget.engine.store.transfer import DamagedError, RemoteFile
from mlc_widget.engine.system.child_process import end_with_parent, send_facts
from mlc_widget.models import CONFIG_FILE
from mlc_widget.models.places import hub_cache_root as cache_root
from mlc_widget.models.places import weight_budget

_AT_ONCE: Final = 4
_INTERVAL_S: Final = 0.05
_POLL_S: Final = 0.1
_WAITING_S: Final = 1.0
_NEEDED: Final = (CONFIG_FILE, *WEIGHT_LISTS, "tokenizer.model", "vocab.txt", "merges.txt")


def main() -> None:
    """Download, and send the result to the parent."""
    wanted = HubModel(**json.loads(sys.argv[1]))
    end_with_parent()
    endpoint = "the Hub"
    try:
        hub = Hub(on_wait=_say_pause)
        endpoint = hub.endpoint
        send_facts(path=str(Download(hub, wanted).run()))
    except Exception as error:
        kind = next((k for k in map(_kind, type(error).__mro__) if k), type(error).__name__)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            kind = "NoSpace"
        files = getattr(error, "files", {})
        why = getattr(error, "why", "")
        send_facts(error=kind, message=one_line(error), endpoint=endpoint, files=files, why=why)
    os._exit(0)  # skip the packages' clean-up at exit, which may hang


class _NotThere(Exception):
    """The requested model is not in the repository.

    Attributes:
        files: The sizes of its GGUF files in bytes, by name.
        why: The reason, as in `Choice`.
    """

    def __init__(self, files: dict[str, int], why: str = "") -> None:
        super().__init__("")
        self.files, self.why = files, why


class NotMLC(_NotThere):
    """The repository has no mlc-chat-config.json, no GGUF file to take, and no safetensors."""


class NoFile(_NotThere):
    """The repository has no such file."""


class NotCached(Exception):
    """The Hub cannot be reached, and files are missing in the cache."""


class NoSpace(Exception):
    """The disk is too small."""


class _StoppedError(Exception):
    """Another file has failed."""


_KINDS: Final = (
    "GatedRepoError",  # is a RepositoryNotFoundError, too
    "RevisionNotFoundError",
    "RepositoryNotFoundError",
    "NotMLC",
    "NoFile",
    "NotCached",
    "DamagedError",
    "GaveUp",
    "NoSpace",
    "ImportError",
)


def _kind(cls: type) -> str | None:
    return cls.__name__ if cls.__name__ in _KINDS else None


def _say_pause(seconds: float, reason: str) -> None:
    send_facts(pause_s=round(seconds, 1), reason=reason)


class Download:
    """Downloads the files of one repository that the cache lacks.

    Args:
        hub: The Hub.
        wanted: The model to download.
        root: The cache's folder; None for the user's.
        memory: The maximum size in bytes of a GGUF file that is chosen because none is named.
    """

    def __init__(
        self, hub: Hub, wanted: HubModel, root: Path | None = None, memory: int | None = None
    ) -> None:
        self._hub, self._wanted = hub, wanted
        self._cache = CachedRepository(root or cache_root(), wanted.repo)
        self._memory = weight_budget() if memory is None else memory
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._done = self._total = 0
        self._reported_at = 0.0

    def run(self) -> Path:
        """Download; return the folder in MLC format, or the GGUF file.

        Raises:
            NotMLC, NoFile, NotCached, NoSpace, DamagedError, GaveUp: See there.
            HfHubHTTPError: There is no such repository or revision, or no access to it.
        """
        wanted = self._wanted
        try:
            commit = self._hub.commit(wanted.repo, wanted.revision)
            files = self._hub.files(wanted.repo, commit)
        except (GaveUp, OSError) as error:  # refused or unreachable, or HF_HUB_OFFLINE is set
            found = self._cache.find(wanted)
            if found is not None and has_sum(found, wanted.sha256):
                return found
            if isinstance(error, GaveUp | ConnectionError):
                raise NotCached(one_line(error)) from error
            raise
        names, result = self._names(files)
        self._check_pinned(result, files)
        self._fetch(commit, {name: files[name] for name in names})
        for name in names:
            self._cache.link(commit, name, files[name].digest)
        self._cache.remember(wanted.revision, commit)
        folder = self._cache.snapshot(commit)
        return folder if result is None else folder / result

    def _names(self, files: Mapping[str, ListedFile]) -> tuple[list[str], str | None]:
        """The required files, and the GGUF file that is the result."""
        wanted = self._wanted
        ggufs = whole_files({name: listed.size for name, listed in files.items()})
        if wanted.file is not None:
            parts = parts_of(wanted.file)
            if wanted.file not in files or not all(part in files for part in parts):
                raise NoFile(ggufs)
            return parts, wanted.file
        if CONFIG_FILE in files and wanted.quantization is None:
            return [name for name in files if _is_needed(name)], None
        safetensors = transformers_files.needed(files)
        if not ggufs and safetensors is not None and wanted.quantization is None:
            return safetensors, None
        choice: Choice = choose(ggufs, quantization=wanted.quantization, memory=self._memory)
        if choice.name is None:
            raise (NotMLC if wanted.quantization is None else NoFile)(ggufs, choice.why)
        parts = parts_of(choice.name)
        if not all(part in files for part in parts):
            raise NoFile(ggufs)
        send_facts(chosen=choice.name, of=len(ggufs))
        return parts, choice.name

    def _check_pinned(self, result: str | None, files: Mapping[str, ListedFile]) -> None:
        sha256 = self._wanted.sha256
        if result is not None and sha256 not in (None, files[result].digest):
            raise DamagedError(
                f"{result} has the sha256 {files[result].digest}, but {sha256} was expected."
            )

    def _fetch(self, commit: str, files: Mapping[str, ListedFile]) -> None:
        blobs = self._cache.blobs
        snapshot = self._cache.snapshot(commit)
        lacking = {
            listed.digest: (name, listed)
            for name, listed in files.items()
            if not (blobs / listed.digest).exists() and not (snapshot / name).exists()
        }
        blobs.mkdir(parents=True, exist_ok=True)
        self._total = sum(listed.size for listed in files.values())
        here = {digest: _size(self._partial(digest)) for digest in lacking}
        missing = sum(listed.size for _, listed in lacking.values())
        self._done = self._total - missing + sum(here.values())
        _check_space(blobs, missing - sum(here.values()))
        self._tell(force=True)
        self._cache.locks.mkdir(parents=True, exist_ok=True)
        # The largest first, as it takes longest; the others are downloaded meanwhile.
        order = sorted(lacking.values(), key=lambda item: -item[1].size)
        pool = ThreadPoolExecutor(_AT_ONCE)
        try:
            tasks = [pool.submit(self._fetch_one, commit, name, one) for name, one in order]
            for task in as_completed(tasks):
                task.result()
        finally:
            self._stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
        self._tell(force=True)

    def _partial(self, digest: str) -> Path:
        return self._cache.blobs / f"{digest}{PARTIAL}"

    def _fetch_one(self, commit: str, name: str, listed: ListedFile) -> None:
        from filelock import FileLock, Timeout

        partial, blob = self._partial(listed.digest), self._cache.blobs / listed.digest
        # The same lock as huggingface_hub's, so that each waits for the other's downloads.
        lock = FileLock(self._cache.locks / f"{listed.digest}.lock")
        reported_at, counted = 0.0, _size(partial)
        while True:
            try:
                lock.acquire(timeout=0)
                break
            except Timeout:
                if time.monotonic() - reported_at >= _WAITING_S:
                    reported_at = time.monotonic()
                    send_facts(waiting=True)
                now = _size(partial)
                if now > counted:
                    self._count(now - counted)
                    counted = now
                if self._stop.wait(_POLL_S):
                    raise _StoppedError from None
        try:
            if blob.exists():
                self._count(listed.size - counted)
                return
            self._count(_size(partial) - counted)
            url = self._hub.url(self._wanted.repo, name, commit)
            remote = RemoteFile(name, url, listed.size, listed.digest)
            self._hub.transfer.fetch(remote, partial, self._count)
            os.replace(partial, blob)
        finally:
            lock.release()

    def _count(self, nbytes: int) -> None:
        if self._stop.is_set():
            raise _StoppedError
        with self._lock:
            self._done += nbytes
            self._tell()

    def _tell(self, *, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - self._reported_at >= _INTERVAL_S or self._done == self._total:
            self._reported_at = now
            send_facts(bytes_done=self._done, bytes_total=self._total)


def _is_needed(name: str) -> bool:
    """Whether a model in MLC format needs a file; repositories also have images and code."""
    if "/" in name:
        return False
    return (
        name in _NEEDED
        or name.endswith(".json")
        or (name.startswith("params_shard_") and name.endswith(".bin"))
    )


def _check_space(folder: Path, nbytes: int) -> None:
    if problem := space_problem(folder, nbytes):
        raise NoSpace(problem)


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.lstat().st_size
    return 0


if __name__ == "__main__":
    main()
