"""Wheels in pip's cache of HTTP responses.

pip uses it only after it has asked the index, and so not without a network. A wheel that was
downloaded earlier is there all the same: as ``http-v2/…/SUM.body``, or, before pip 23.3, behind a
header in ``http/…/SUM``, which `zipfile` skips. The caller compares its files with its record.
"""

from __future__ import annotations

import contextlib
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_FOLDERS: Final = ("http-v2", "http")
_LEAST: Final = 1000
"""Bytes that a wheel has at least; most responses are smaller."""
_MOST_FILES: Final = 100_000
_MOST_MEMBERS: Final = 10_000
_INFO: Final = re.compile(r"([^/-]+)-([^/-]+)\.dist-info/RECORD")


def normalized(package: str) -> str:
    """Normalize a package's name as package indexes do."""
    return re.sub(r"[-_.]+", "-", package).lower()


def find(
    folder: Path | None, package: str, version: str | None, member: str
) -> tuple[Path, str] | None:
    """A wheel with a file, and the wheel's name; the one downloaded last if there are several.

    Args:
        folder: The cache's folder; None if there is none.
        package: The package's name, normalized.
        version: Its version; None for any.
        member: The file's path in the wheel.
    """
    for _, path in sorted(_large_files(folder), reverse=True) if folder else ():
        with contextlib.suppress(OSError, zipfile.BadZipFile, UnicodeError, NotImplementedError):
            if not zipfile.is_zipfile(path):
                continue
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if member not in names or len(names) > _MOST_MEMBERS:
                continue
            for info in filter(None, map(_INFO.fullmatch, names)):
                if normalized(info[1]) == package and version in (None, info[2]):
                    return path, f"{info[1]}-{info[2]}-py3-none-any.whl"
    return None


def _large_files(folder: Path) -> Iterator[tuple[float, Path]]:
    """Files that may be wheels, with the time of their download."""
    seen = 0
    for name in _FOLDERS:
        for at, _, names in os.walk(folder / name):
            for file in names:
                seen += 1
                if seen > _MOST_FILES:
                    return
                with contextlib.suppress(OSError):
                    path = Path(at, file)
                    status = path.stat()
                    if status.st_size >= _LEAST:
                        yield status.st_mtime, path
