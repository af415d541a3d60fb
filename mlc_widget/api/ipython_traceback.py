"""How IPython shows our errors: the notebook's own frames and the message, not the way there.

What `api.tracebacks` leaves of the frames, and the remote traceback, stay with the error
(`__traceback__`, `__cause__`), and ``%xmode Verbose`` shows them.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final

_OURS: Final = __name__.partition(".")[0]
_BETWEEN: Final = frozenset({"asyncio", "concurrent", "contextlib", "threading", "traitlets"})
"""Packages whose frames are left out together with ours if they are adjacent to them."""


def render_traceback(error: Any) -> list[str]:
    """The lines that IPython prints of an error.

    Args:
        error: A `MLCEngineError`, whose module imports this one.
    """
    from IPython import get_ipython

    formatter: Any = get_ipython().InteractiveTB
    if error.is_bug or formatter.mode == "Verbose":
        lines = formatter.structured_traceback(type(error), error, error.__traceback__)
    else:
        shown = error.copy()
        shown.__context__ = error.__context__
        if getattr(shown.__cause__, "is_remote_traceback", False):  # the message says what it is
            shown.__cause__ = None
            shown.__suppress_context__ = True
        own = own_frames(error.__traceback__)
        lines = formatter.structured_traceback(type(shown), shown, own)
    return list(lines)


def own_frames(traceback: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames of this package, and of packages that it called."""
    kept: list[TracebackType] = []
    between: list[TracebackType] = []
    after_ours = False
    at = traceback
    while at is not None:
        package = str(at.tb_frame.f_globals.get("__name__")).partition(".")[0]
        if package in _BETWEEN:
            between.append(at)
        else:
            ours = package == _OURS
            if not (ours or after_ours):
                kept += between
            between = []
            if not ours:
                kept.append(at)
            after_ours = ours
        at = at.tb_next
    if not after_ours:
        kept += between
    found: TracebackType | None = None
    for one in reversed(kept):
        found = TracebackType(found, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return found
