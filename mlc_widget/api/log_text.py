"""Texts for `EngineLog`: what the package logs, without any text of a user or a model.

Arguments of log calls may quote prompts, answers, files and paths. Of those, only numbers, the
classes of errors, and what the caller has marked as `SafeText` is shown.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final

LONGEST: Final = 500
"""Characters of a record's message."""
HIDDEN: Final = "…"
_FRAMES: Final = 4
_CAUSES: Final = 3
_LARGEST_INT: Final = 2**64
_MODULE: Final = re.compile(r"mlc_widget(\.[A-Za-z_]\w{0,60}){1,8}", re.ASCII)
_CLASS: Final = re.compile(r"[A-Za-z_]\w{0,79}", re.ASCII)


class SafeText(str):
    """A text for the log that contains nothing of a prompt, an answer or a file."""

    __slots__ = ()


class _Hidden:
    """Stands for an argument that is not shown."""

    def __str__(self) -> str:
        return HIDDEN

    __repr__ = __str__


def one_line(text: str, longest: int = LONGEST) -> str:
    """A text, cut to a number of characters, with escapes for those that act on a terminal."""
    shown = "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode()
        for one in text[: longest + 1]
    )
    return shown if len(shown) <= longest else shown[: longest - 1] + HIDDEN


def class_name(error: BaseException) -> SafeText:
    """The name of an error's class."""
    name = type(error).__name__
    known = isinstance(name, str) and _CLASS.fullmatch(name)
    return SafeText(name if known else "an exception")


def message_of(record: logging.LogRecord) -> str:
    """What may be shown of a log record's message and its error; never raises."""
    try:
        text = _formatted(record.msg, record.args)
        error = record.exc_info[1] if record.exc_info else None
        return one_line(text if error is None else f"{text} [{describe(error)}]")
    except Exception:
        return HIDDEN


def _formatted(pattern: object, args: object) -> str:
    if type(pattern) is not str:
        return str(_shown(pattern))
    if not args:
        return pattern
    shown: Any = (
        {name: _shown(value) for name, value in args.items()}
        if isinstance(args, Mapping)
        else tuple(map(_shown, args if isinstance(args, tuple) else (args,)))
    )
    try:
        return str(pattern % shown)
    except (TypeError, ValueError, KeyError):  # a text where the pattern wants a number
        return pattern


def _shown(value: object) -> object:
    if value is None or type(value) in (bool, float, SafeText):
        return value
    if type(value) is int:
        return value if abs(value) < _LARGEST_INT else _Hidden()
    if isinstance(value, BaseException):
        return class_name(value)
    return _Hidden()


def describe(error: BaseException) -> SafeText:
    """The classes of an error and its causes, and the lines of this package that it came through.

    For example ``KeyError from ValueError at mlc_widget.engine.core:184``.
    """
    names: list[str]
    names, frames, cause = [class_name(error)], _frames(error.__traceback__), _cause(error)
    while cause is not None and len(names) <= _CAUSES:
        names.append(class_name(cause))
        cause = _cause(cause)
    where = f" at {' < '.join(frames)}" if frames else ""
    return SafeText(" from ".join(names) + where)


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _frames(traceback: TracebackType | None) -> list[str]:
    """The innermost lines of this package."""
    found: list[str] = []
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__")
        if type(module) is str and _MODULE.fullmatch(module):
            found = [f"{module}:{traceback.tb_lineno}", *found[: _FRAMES - 1]]
        traceback = traceback.tb_next
    return found
