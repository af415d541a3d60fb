"""Downloads a repository of the Hub, in a process of its own: such a download cannot be cancelled.

``python -m mlc_widget.engine.store.hub_child JSON`` with ``{"repo", "revision", "file",
"sha256"}``, and ``"local": true`` to look into the cache alone, tells its parent, as
`download_process` says, ``path`` (a folder in MLC format, or the file that was asked for), or
``error``, ``endpoint`` and ``files`` (bytes by name).
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Final

from mlc_widget.engine.store.download_process import one_line, say
from mlc_widget.engine.store.split_files import parts_of, whole_files
from mlc_widget.engine.system.child_process import end_with_parent
from mlc_widget.models import CONFIG_FILE

PATTERNS: Final = ("*.json", "params_shard_*.bin", "tokenizer.model", "vocab.txt", "merges.txt")
"""What a model in MLC format consists of; repositories also hold pictures, code and more."""
_MOST_FILES: Final = 10_000
_INTERVAL_S: Final = 0.05
_PIECE: Final = 256 * 1024


def main() -> None:
    """Download, and say how it ended."""
    wanted: dict[str, Any] = json.loads(sys.argv[1])
    end_with_parent(_remove_parts)
    endpoint = "the Hub"
    try:
        from huggingface_hub import constants

        endpoint = constants.ENDPOINT
        say(path=str(_download(**wanted)))
    except Exception as error:
        kind = next((k for k in map(_kind, type(error).__mro__) if k), type(error).__name__)
        files = getattr(error, "files", {})
        say(error=kind, message=one_line(error), endpoint=endpoint, files=files)
    os._exit(0)  # not through the packages' clean-up, which may wait


def _remove_parts() -> None:
    """Remove files that are half here: nobody would go on with them, or ever remove them."""
    import psutil

    for file in psutil.Process().open_files():
        if file.path.endswith(".incomplete"):
            Path(file.path).unlink(missing_ok=True)


class _NotThere(Exception):
    """What was asked for is not in the repository.

    Attributes:
        files: Its GGUF files, with their bytes.
    """

    def __init__(self, files: dict[str, int]) -> None:
        super().__init__("")
        self.files = files


class NotMLC(_NotThere):
    """The repository has no mlc-chat-config.json."""


class NoFile(_NotThere):
    """The repository has no such file."""


class NotCached(Exception):
    """The Hub cannot be reached, and the cache lacks these files."""


class Damaged(Exception):
    """The file is not what was expected."""


class NoSpace(Exception):
    """The disk is too small."""


_KINDS: Final = (
    "GatedRepoError",  # is a RepositoryNotFoundError, too
    "RevisionNotFoundError",
    "RepositoryNotFoundError",
    "NotMLC",
    "NoFile",
    "NotCached",
    "Damaged",
    "NoSpace",
    "ImportError",
)


def _kind(cls: type) -> str | None:
    return cls.__name__ if cls.__name__ in _KINDS else None


def _download(
    repo: str, revision: str | None, file: str | None, sha256: str | None, local: bool = False
) -> Path:
    from huggingface_hub import constants, snapshot_download

    names = [CONFIG_FILE] if file is None else parts_of(file)
    patterns = list(PATTERNS) if file is None else names
    plan = None if local else _plan(repo, revision, patterns)
    missing = None
    if plan is not None:
        if names[0] not in plan or (file is not None and file not in plan):
            raise _not_there(repo, revision, file)
        missing = sum(plan.values())
        cache = Path(constants.HF_HUB_CACHE)
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free
        if missing > free:
            raise NoSpace(f"{missing / 1e9:.1f} GB are needed, and {cache} has {free / 1e9:.1f}.")
    # A slow line is to be seen moving, and to lose little when it breaks.
    constants.DOWNLOAD_CHUNK_SIZE = _PIECE
    bar = _counting_bar(missing)
    folder = Path(
        snapshot_download(
            repo,
            revision=revision,
            allow_patterns=patterns,
            tqdm_class=bar,
            local_files_only=local,
        )
    )
    lacking = [name for name in names if not (folder / name).is_file()]
    if lacking and plan is None:
        raise NotCached(", ".join(lacking))
    if lacking:
        raise _not_there(repo, revision, file)
    if file is None:
        return folder
    if sha256 is not None:
        _check_sum(folder / file, sha256, read=missing != 0 and not local, keep=local)
    return folder / file


def _plan(repo: str, revision: str | None, patterns: list[str]) -> dict[str, int] | None:
    """Bytes to be fetched of each file, 0 where the cache has it; None if the Hub is out of reach.

    It is also None where something else is wrong, which the download itself then says.
    """
    from huggingface_hub import snapshot_download

    try:
        plan = snapshot_download(repo, revision=revision, allow_patterns=patterns, dry_run=True)
    except Exception:
        return None
    return {
        str(file.filename): int(file.file_size or 0) if file.will_download else 0 for file in plan
    }


def _not_there(repo: str, revision: str | None, file: str | None) -> _NotThere:
    """What there is instead."""
    from huggingface_hub import HfApi

    sizes: dict[str, int] = {}
    with contextlib.suppress(Exception):  # then the error says less
        tree = HfApi().list_repo_tree(repo, recursive=True, revision=revision)
        for entry in itertools.islice(tree, _MOST_FILES):
            sizes[entry.path] = int(getattr(entry, "size", 0) or 0)
    return (NotMLC if file is None else NoFile)(whole_files(sizes))


def _check_sum(path: Path, sha256: str, *, read: bool, keep: bool) -> None:
    """Compare a file with what it has to be.

    Args:
        path: In the cache, where large files are links to files that are named by their sum; one
            that is not named so is read each time.
        sha256: What its sum has to be.
        read: Whether it came just now, and so is read.
        keep: Whether to leave a file that was read and is another where it is.

    Raises:
        Damaged: It is another.
    """
    blob = path.resolve()
    named = re.fullmatch("[0-9a-f]{64}", blob.name)
    found = blob.name if named else sha256
    if found == sha256 and (read or not named):
        with blob.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256 and not keep:  # it is to be downloaded again
            path.unlink(missing_ok=True)
            blob.unlink(missing_ok=True)
    if found != sha256:
        raise Damaged(f"{path.name} has the sha256 {found}, and {sha256} is expected.")


def _counting_bar(total: int | None) -> type:
    """A class of progress bars that shows nothing and tells the parent of bytes."""
    from tqdm import tqdm

    told = 0.0

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Of two bars for bytes, one counts what came and the other what was written.
            name = str(kwargs.pop("name", ""))
            self._counts_bytes = kwargs.get("unit") == "B" and not name.endswith("transfer")
            self._bytes = int(kwargs.get("initial") or 0)
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            nonlocal told
            if self._counts_bytes:
                self._bytes += int(n or 0)
                now = time.monotonic()
                if now - told >= _INTERVAL_S or self._bytes == total:
                    told = now
                    say(bytes_done=self._bytes, bytes_total=total)
            return None

    return Bar


if __name__ == "__main__":
    main()
