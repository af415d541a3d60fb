"""Downloads a repository of the Hub, in a process of its own: such a download cannot be cancelled.

``python -m mlc_widget.engine.store.hub_child JSON`` with ``{"repo", "revision"}`` tells its parent,
as `download_process` says, ``folder``, or ``error`` and ``endpoint``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Final

from mlc_widget.engine.store.download_process import one_line, say
from mlc_widget.engine.system.child_process import end_with_parent
from mlc_widget.models import CONFIG_FILE

PATTERNS: Final = ("*.json", "params_shard_*.bin", "tokenizer.model", "vocab.txt", "merges.txt")
"""What a model in MLC format consists of; repositories also hold pictures, code and more."""
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
        say(folder=_download(wanted["repo"], wanted["revision"]))
    except Exception as error:
        kind = next((k for k in map(_kind, type(error).__mro__) if k), type(error).__name__)
        say(error=kind, message=one_line(error), endpoint=endpoint)
    os._exit(0)  # not through the packages' clean-up, which may wait


def _remove_parts() -> None:
    """Remove files that are half here: nobody would go on with them, or ever remove them."""
    import psutil

    for file in psutil.Process().open_files():
        if file.path.endswith(".incomplete"):
            Path(file.path).unlink(missing_ok=True)


class NotMLC(Exception):
    """The repository has no mlc-chat-config.json."""


class NoSpace(Exception):
    """The disk is too small."""


_KINDS: Final = (
    "GatedRepoError",  # is a RepositoryNotFoundError, too
    "RevisionNotFoundError",
    "RepositoryNotFoundError",
    "NotMLC",
    "NoSpace",
    "ImportError",
)


def _kind(cls: type) -> str | None:
    return cls.__name__ if cls.__name__ in _KINDS else None


def _download(repo: str, revision: str | None) -> str:
    from huggingface_hub import constants, snapshot_download

    patterns = list(PATTERNS)
    missing = _missing(repo, revision, patterns)
    if missing is not None:
        cache = Path(constants.HF_HUB_CACHE)
        cache.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(cache).free
        if missing > free:
            raise NoSpace(f"{missing / 1e9:.1f} GB are needed, and {cache} has {free / 1e9:.1f}.")
    # A slow line is to be seen moving, and to lose little when it breaks.
    constants.DOWNLOAD_CHUNK_SIZE = _PIECE
    bar = _counting_bar(missing)
    folder = snapshot_download(repo, revision=revision, allow_patterns=patterns, tqdm_class=bar)
    if not Path(folder, CONFIG_FILE).is_file():
        raise NotMLC(repo)
    return str(folder)


def _missing(repo: str, revision: str | None, patterns: list[str]) -> int | None:
    """Bytes that the cache lacks, or None where the Hub cannot be asked.

    Raises:
        NotMLC: the repository has no mlc-chat-config.json.
    """
    from huggingface_hub import snapshot_download

    try:
        plan = snapshot_download(repo, revision=revision, allow_patterns=patterns, dry_run=True)
    except Exception:
        return None  # the download itself says what is wrong, or does without the Hub
    if CONFIG_FILE not in {file.filename for file in plan}:
        raise NotMLC(repo)
    return sum(int(file.file_size or 0) for file in plan if file.will_download)


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
