"""The variables of the notebook that a chat is shown in, for its user to name in messages."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Final

from mlc_widget.api.requests import JSONDict
from mlc_widget.widget.describe import frame_shape
from mlc_widget.widget.transcript_output import in_notebook

LAST_ERROR: Final = "last_error"
"""The name under which messages have the last error, unless a variable is called so."""
_MOST: Final = 300
_SHELL_NAMES: Final = frozenset({"In", "Out", "exit", "quit", "open", "get_ipython", "display"})


def last_error() -> BaseException | None:
    """The error of the last cell that failed."""
    error: BaseException | None = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    return error


def namespace() -> Mapping[str, Any]:
    """The notebook's variables as they are now, and its `LAST_ERROR`; empty outside of notebooks.

    Whoever writes in a chat can read them, so this is empty in Voilà, whose visitors can run no
    code, and in web frameworks.
    """
    if not in_notebook() or os.environ.get("SERVER_SOFTWARE", "").startswith("voila/"):
        return {}
    from IPython import get_ipython

    variables = getattr(get_ipython(), "user_ns", None)
    if not isinstance(variables, dict):
        return {}
    error = last_error()
    return dict(variables) if error is None else {LAST_ERROR: error, **variables}


def names() -> list[JSONDict]:
    """What messages may name, as ``{"name", "kind", "type", "shape"}``, the newest first.

    `kind` is ``frame``, ``error`` or empty, `type` the name of the type, and `shape` the rows and
    columns of a frame or None.
    """
    found = [
        _described(name, value)
        for name, value in reversed(list(namespace().items()))
        if name.isidentifier()
        and not name.startswith("_")
        and name not in _SHELL_NAMES
        and not issubclass(type(value), ModuleType)
    ]
    return found[:_MOST]


def _described(name: str, value: Any) -> JSONDict:
    shape = frame_shape(value)
    kind = "frame" if shape else "error" if issubclass(type(value), BaseException) else ""
    return {"name": name, "kind": kind, "type": type(value).__name__, "shape": shape}
