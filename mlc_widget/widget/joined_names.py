"""The models of an engine, whose snapshots join their names."""

from __future__ import annotations

import os


def names_in(joined: str) -> list[str]:
    """The models that a snapshot's `model_id` names; a path on this machine may have commas."""
    names: list[str] = []
    parts = joined.split(", ") if joined else []
    while parts:
        lengths = range(len(parts), 1, -1)
        here = (n for n in lengths if os.path.exists(os.path.expanduser(", ".join(parts[:n]))))
        taken = next(here, 1)
        names.append(", ".join(parts[:taken]))
        del parts[:taken]
    return names
