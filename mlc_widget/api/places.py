"""The folder in which this package keeps files of this user."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def user_cache_root() -> Path:
    """``$MLC_WIDGET_HOME``, else ``$XDG_CACHE_HOME/mlc_widget``, else ``~/.cache/mlc_widget``.

    Raises:
        OSError: This user has no home folder.
    """
    try:
        if home := os.environ.get("MLC_WIDGET_HOME"):
            return Path(home).expanduser()
        base = os.environ.get("XDG_CACHE_HOME", "")
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "mlc_widget"
    except RuntimeError as e:
        raise FileNotFoundError(errno.ENOENT, str(e)) from e
