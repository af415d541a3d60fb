"""The environment of Python processes that must not import files beside the notebook."""

from __future__ import annotations

import os


def working_folder() -> str | None:
    """The folder in which this process runs; None if it has been removed or replaced."""
    try:
        return os.path.realpath(os.getcwd())
    except OSError:
        return None


def safe_path() -> dict[str, str]:
    """Variables that keep the working folder off a child's import path.

    The user's files there may have any name, also those of packages. An empty entry of
    ``PYTHONPATH`` is the working folder, too.
    """
    here = working_folder()
    entries = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if here is None:  # what is relative leads nowhere
        kept = [entry for entry in entries if os.path.isabs(entry)]
    else:
        kept = [entry for entry in entries if os.path.realpath(entry) != here]
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(kept)}
