"""The Hub's cache on this disk, in the layout that `huggingface_hub` documents.

``models--USER--REPO/blobs/SUM`` are the contents, ``snapshots/COMMIT/NAME`` are links to them, and
``refs/BRANCH`` has a branch's commit. Reading it needs neither a network nor that package.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlc_widget.api.errors import ModelFormatError
from mlc_widget.engine.store import transformers_files
from mlc_widget.engine.store.model_files import read_json_object
from mlc_widget.engine.store.split_files import choose, parts_of, whole_files
from mlc_widget.models import CONFIG_FILE

PARTIAL: Final = ".incomplete"
"""The suffix of the names of incomplete files."""
WEIGHT_LISTS: Final = ("tensor-cache.json", "ndarray-cache.json")
"""The names of the file that lists the shards of a folder in MLC format."""
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_LARGEST_LIST: Final = 1 << 26
_MOST_FILES: Final = 10_000


@dataclass(frozen=True, slots=True)
class HubModel:
    """A repository, or one GGUF file of it.

    Attributes:
        repo: ``user/repo``.
        revision: A branch, tag or commit; None is the default branch.
        file: The path of a GGUF file in it; None for a repository in MLC format, or if the file is
            to be chosen.
        sha256: The required SHA-256 of the file as 64 hexadecimal digits; None for any.
        quantization: The quantization, such as ``Q4_K_M``, of the file to choose if `file` is None.
    """

    repo: str
    revision: str | None = None
    file: str | None = None
    sha256: str | None = None
    quantization: str | None = None


def is_commit(revision: str | None) -> bool:
    """Whether a revision is a commit, and so always names the same state of a repository."""
    return revision is not None and _COMMIT.fullmatch(revision) is not None


class CachedRepository:
    """The files of one repository in the cache.

    Args:
        root: The cache's folder.
        repo: ``user/repo``.
    """

    def __init__(self, root: Path, repo: str) -> None:
        self.root, self.repo = root, repo
        self.folder = root / ("models--" + repo.replace("/", "--"))

    @property
    def blobs(self) -> Path:
        """The contents."""
        return self.folder / "blobs"

    @property
    def locks(self) -> Path:
        """The folder of locks, held by processes that download contents."""
        return self.root / ".locks" / self.folder.name

    def snapshot(self, commit: str) -> Path:
        """The folder with the files of one commit."""
        return self.folder / "snapshots" / commit

    def commit(self, revision: str | None) -> str | None:
        """The commit of a branch or tag when it was last looked up."""
        if revision is not None and is_commit(revision):
            return revision
        with contextlib.suppress(OSError, ValueError):
            text = (self.folder / "refs" / (revision or "main")).read_text("ascii").strip()
            return text if is_commit(text) else None
        return None

    def remember(self, revision: str | None, commit: str) -> None:
        """Record a branch's commit."""
        if not is_commit(revision):
            ref = self.folder / "refs" / (revision or "main")
            ref.parent.mkdir(parents=True, exist_ok=True)
            new = ref.with_name(f".{ref.name}.{os.getpid()}")
            new.write_text(commit)
            os.replace(new, ref)

    def link(self, commit: str, name: str, digest: str) -> None:
        """Link a snapshot's file to a complete content."""
        path, blob = self.snapshot(commit) / name, self.blobs / digest
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.{os.getpid()}")
        new.unlink(missing_ok=True)
        try:
            new.symlink_to(os.path.relpath(blob, path.parent))
        except OSError:  # a file system without links
            shutil.copyfile(blob, new)
        os.replace(new, path)

    def find(self, wanted: HubModel) -> Path | None:
        """Find a complete folder or file.

        Args:
            wanted: The model; `has_sum` compares its checksum.
        """
        commit = self.commit(wanted.revision)
        if commit is None:
            return None
        folder = self.snapshot(commit)
        if wanted.file is None and wanted.quantization is None and is_whole_folder(folder):
            return folder
        file = wanted.file or self._chosen(folder, wanted.quantization)
        if file is None or not all((folder / name).is_file() for name in {file, *parts_of(file)}):
            return None
        return folder / file

    def _chosen(self, folder: Path, quantization: str | None) -> str | None:
        sizes: dict[str, int] = {}
        for path in _files_below(folder):
            with contextlib.suppress(OSError):  # a dangling link
                sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
        return choose(whole_files(sizes), quantization=quantization).name


def has_sum(path: Path, sha256: str | None) -> bool:
    """Whether a file has this checksum; for a cached file, its content's name is compared."""
    if sha256 is None:
        return True
    blob = path.resolve()
    if _SHA256.fullmatch(blob.name):
        return blob.name == sha256
    from mlc_widget.engine.store.transfer import content_digest

    return content_digest(blob, sha256) == sha256


def is_whole_folder(folder: Path) -> bool:
    """Whether a folder in MLC format or of safetensors has all files in its list of weights."""
    if not (folder / CONFIG_FILE).is_file():
        return transformers_files.is_complete(folder)
    listed = next((folder / n for n in WEIGHT_LISTS if (folder / n).is_file()), None)
    if listed is None:
        return False
    try:
        records = read_json_object(listed, _LARGEST_LIST, "", "download it again")["records"]
        return all(
            (folder / record["dataPath"]).stat().st_size == record["nbytes"] for record in records
        )
    except (ModelFormatError, OSError, LookupError, TypeError, ValueError):
        return False


def _files_below(folder: Path) -> Iterator[Path]:
    count = 0
    for at, _, names in os.walk(folder):
        for name in names:
            count += 1
            if count > _MOST_FILES:
                return
            yield Path(at, name)
