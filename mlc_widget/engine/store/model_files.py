"""Reading the files of a model folder, which may hold anything: bounded, and never waiting.

A path may lead to a pipe or a device, from which endless data comes, or none; so files are opened
without waiting, and only regular ones of a plausible size are read.
"""

from __future__ import annotations

import io
import json
import os
import stat
from pathlib import Path
from typing import Any, Final

from mlc_widget.api.errors import ModelFormatError

MAX_DEPTH: Final = 64
"""Levels of a JSON file."""

_OPEN: Final = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY")
)
_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_file(path: Path, largest: int, missing: str) -> bytes:
    """A whole regular file.

    Args:
        path: The file; it may be a link to one.
        largest: Bytes that it may have.
        missing: What to do where there is none, as a sentence.

    Raises:
        ModelFormatError: It is missing, no regular file, too large or unreadable.
    """
    try:
        descriptor = os.open(path, _OPEN)
    except FileNotFoundError:
        raise _wrong(path, f"is missing. {missing}") from None
    except (OSError, ValueError) as error:
        raise _wrong(path, f"cannot be read: {error}.") from error
    try:
        info = os.fstat(descriptor)
        check_regular(path, info)
        if info.st_size > largest:
            raise _wrong(
                path,
                f"has {info.st_size} bytes, but such a file may have at most {largest}.",
            )
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(info.st_size + 1)  # memory is taken for all that is asked for
    except OSError as error:
        raise _wrong(path, f"cannot be read: {error}.") from error
    finally:
        os.close(descriptor)
    if len(content) > info.st_size:
        raise _wrong(path, "grew while it was read. Try again.")
    return content


def open_regular(path: Path) -> io.FileIO:
    """Open a regular file to read it, unbuffered; it may be a link to one.

    What is checked is what was opened, and a pipe that has taken the file's place is not waited
    for.

    Raises:
        OSError: It cannot be opened.
        ModelFormatError: It is not a regular file.
    """
    descriptor = os.open(path, _OPEN)
    try:
        check_regular(path, os.fstat(descriptor))
        return io.FileIO(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def check_regular(path: Path, info: os.stat_result) -> None:
    """Raise ModelFormatError unless a file is a regular one: others may give no end of data."""
    if not stat.S_ISREG(info.st_mode):
        kind = next((name for test, name in _KINDS if test(info.st_mode)), "no file")
        raise _wrong(path, f"is {kind}, not a regular file. Put the model's file there.")


def read_json_object(path: Path, largest: int, missing: str, remedy: str) -> dict[str, Any]:
    """A JSON file that holds an object.

    Args:
        path: The file.
        largest: Bytes that it may have.
        missing: What to do where there is none, as a sentence.
        remedy: What to do where it is malformed, such as ``restore it``.

    Raises:
        ModelFormatError: As `read_file`, or it is not JSON, not an object, or nested too deep.
    """
    content = read_file(path, largest, missing)
    try:
        value = json.loads(content.decode())
    except ValueError as error:
        raise _wrong(path, f"is not valid JSON ({error}): {remedy}.") from None
    except (RecursionError, MemoryError):
        raise _wrong(path, f"is nested too deep: {remedy}.") from None
    if not isinstance(value, dict):
        raise _wrong(path, f"holds {type(value).__name__}, not an object: {remedy}.")
    if _is_deeper(value, MAX_DEPTH):
        raise _wrong(path, f"is nested deeper than {MAX_DEPTH} levels: {remedy}.")
    return value


def _is_deeper(value: Any, levels: int) -> bool:
    level = [value]
    for _ in range(levels):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _wrong(path: Path, text: str) -> ModelFormatError:
    return ModelFormatError(f"{path} {text}", param=str(path))
