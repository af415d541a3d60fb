"""Removing downloaded models, and comparing them with their checksums."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mlc_widget.api.errors import BadRequestError
from mlc_widget.engine.store.packed_weights import remove_copies_of
from mlc_widget.engine.store.transfer import content_digest, is_digest
from mlc_widget.models import CONFIG_FILE
from mlc_widget.models.inventory import InventoryEntry, wheel_index


def remove(entry: InventoryEntry) -> None:
    """Remove a model's files and the copies of its packed weights.

    Whoever has one of them open goes on reading it.

    Raises:
        BadRequestError: It is being downloaded, or is another program's.
        OSError: A file cannot be removed.
    """
    packed = {path.resolve() for path in entry.files}
    if entry.kind == "other":
        raise BadRequestError(f"{entry.name} is a model of {entry.program}.", param="model_id")
    if entry.kind == "wheel":
        _remove_of_wheel(entry)
    elif entry.kind == "converted":
        _remove_conversion(entry)
    else:
        _remove_of_hub(entry)
    remove_copies_of(packed)


def checked(entry: InventoryEntry) -> tuple[int, list[str]]:
    """How many files have a checksum, and the names of those that do not have it."""
    digests = list(_digests(entry))
    wrong = [path.name for path, digest in digests if content_digest(path, digest) != digest]
    return len(digests), wrong


def _digests(entry: InventoryEntry) -> Iterator[tuple[Path, str]]:
    """A model's files with the checksum that each must have."""
    if entry.kind != "wheel":
        for path in entry.files:
            name = path.resolve().name.removeprefix("sha256-")  # as Ollama names it
            if is_digest(name):
                yield path, name
        return
    for value in wheel_index(entry.folder).values():
        for path in entry.files:
            for name, facts in value["files"].items():
                if path == entry.folder / value["folder"] / name:
                    yield path, facts["sha256"]


@contextlib.contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BadRequestError(
            f"{name} is being downloaded by another process: end that first.", param="model_id"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _remove_of_hub(entry: InventoryEntry) -> None:
    folder = entry.folder
    for path in entry.files:
        blob = path.resolve()
        lock = folder.parent / ".locks" / folder.name / f"{blob.name.partition('.')[0]}.lock"
        with _locked(lock, entry.name):
            path.unlink(missing_ok=True)
            if blob.parent == (folder / "blobs").resolve() and not _is_linked(folder, blob):
                blob.unlink(missing_ok=True)


def _is_linked(folder: Path, blob: Path) -> bool:
    for at, _, names in os.walk(folder / "snapshots"):
        if any(Path(at, name).resolve() == blob for name in names):
            return True
    return False


def _remove_conversion(entry: InventoryEntry) -> None:
    folder = entry.folder
    with _locked(folder.with_name(f"{folder.name}.lock"), entry.name):
        (folder / CONFIG_FILE).unlink(missing_ok=True)  # what is left is not taken for a model
        shutil.rmtree(folder)


def _remove_of_wheel(entry: InventoryEntry) -> None:
    folder = entry.folder
    with _locked(folder / ".lock", entry.name):
        index = wheel_index(folder)
        gone = {os.fspath(path) for path in entry.files}
        left = {
            key: value
            for key, value in index.items()
            if not gone & {os.fspath(folder / value["folder"] / name) for name in value["files"]}
        }
        # The list first: a file that it names is whole.
        new = folder / f".{os.getpid()}-index.json"
        new.write_text(json.dumps(left, indent=1), "utf-8")
        os.replace(new, folder / "index.json")
        for path in entry.files:
            path.unlink(missing_ok=True)
