"""Where tests keep compiled models from one run to the next.

Compiling takes a large part of a run. What was compiled from the same sources is the same, so it is
kept in the repository's ``build/compiled``, in a folder for these sources.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from .environments import ROOT

_ALL: Final = ROOT / "build" / "compiled"
_KEPT: Final = frozenset({"cuda", "plans", "tvm"})
"""The folders of compiled code. The others are about models that each run makes anew."""


def _folder() -> Path:
    from mlc_widget.engine.runtimes.tvm.cache import sources_digest

    return _ALL / sources_digest()[:16]


def tidy() -> None:
    """Remove what no test of these sources will read; called before any test runs."""
    folder = _folder()
    for path in [*_ALL.glob("*"), *folder.glob("*")]:
        if path != folder and path.name not in _KEPT:
            shutil.rmtree(path, ignore_errors=True)


def folder_of_compiled(otherwise: Path) -> Path:
    """The folder for compiled models; `otherwise` if other users could write to the repository."""
    from mlc_widget.engine.store.user_cache import UserCache

    folder = _folder()
    try:
        UserCache("tvm", folder).secure_folder()
    except OSError:
        return otherwise
    return folder
