"""Where downloaded models are kept, and how much of a model this machine has room for."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from pathlib import Path


def hub_cache_root(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder in which `huggingface_hub` keeps repositories."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if value := environ.get(name):
            return Path(os.path.expandvars(value)).expanduser()
    if home := environ.get("HF_HOME"):
        return Path(os.path.expandvars(home)).expanduser() / "hub"
    base = environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base).expanduser() / "huggingface" / "hub"


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


def total_memory() -> int | None:
    """Bytes of this machine's memory, or of its control group's if less; None if unknown."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
    with contextlib.suppress(OSError, ValueError):  # "max", or no control groups
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


def weight_budget() -> int | None:
    """Bytes of weights that leave room for the system and for a KV cache; None if unknown."""
    total = total_memory()
    return None if total is None else int(total * 0.7)
