"""The environment of Python processes that must not import files beside the notebook."""

from __future__ import annotations

import os


def safe_path() -> dict[str, str]:
    """Variables that keep the working folder off a child's import path.

    The user's files there may have any name, also those of packages. An empty entry of
    ``PYTHONPATH`` is the working folder, too.
    """
    here = os.path.realpath(os.getcwd())
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = [entry for entry in entries if entry and os.path.realpath(entry) != here]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(kept)}
