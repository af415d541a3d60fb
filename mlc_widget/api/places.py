"""The folders in which this package keeps files of this user."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def user_cache_root() -> Path:
    """``$MLC_WIDGET_HOME``, else ``$XDG_CACHE_HOME/mlc_widget``, else ``~/.cache/mlc_widget``.

    Raises:
        OSError: This user has no home folder.
    """
    return _root("XDG_CACHE_HOME", ".cache")


def user_state_root() -> Path:
    """``$MLC_WIDGET_HOME``, ``$XDG_STATE_HOME/mlc_widget`` or ``~/.local/state/mlc_widget``.

    Raises:
        OSError: This user has no home folder.
    """
    return _root("XDG_STATE_HOME", ".local/state")


def _root(variable: str, usual: str) -> Path:
    try:
        if home := os.environ.get("MLC_WIDGET_HOME"):
            return Path(home).expanduser()
        base = os.environ.get(variable, "")
        return (Path(base) if os.path.isabs(base) else Path.home() / usual) / "mlc_widget"
    except RuntimeError as e:
        raise FileNotFoundError(errno.ENOENT, str(e)) from e
