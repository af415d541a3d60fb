"""What the cache of maps holds, for `%mlc cache` and ``mlc_widget cache``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlc_widget.api.table.reply_cache import ReplyCache, existing_cache, own_file


def listed(file: str | None, model: str | None) -> str:
    """The size of a file of replies, and how many are of which model.

    Args:
        file: The file; None for the user's own.
        model: Only this model.

    Raises:
        BadRequestError: The file is something else.
    """
    with _opened(file) as (path, cache):
        if cache is None:
            return f"{path}: no replies are kept."
        uses = [use for use in cache.usage() if model in (None, use.model)]
    size = sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))
    entries = sum(use.entries for use in uses)
    lines = [f"{path}: {entries:,} replies, {size / 1e6:,.1f} MB on disk"]
    for use in uses:
        when = time.strftime("%Y-%m-%d", time.localtime(use.last_used))
        name = _printable(use.model) or "an unknown model"
        lines.append(
            f"{name}: {use.entries:,} replies, {use.nbytes / 1e6:,.1f} MB, last used {when}"
        )
    return "\n".join(lines)


def cleared(file: str | None, model: str | None) -> str:
    """Remove replies, and say how many they were.

    Args:
        file: The file; None for the user's own.
        model: Only those of this model.

    Raises:
        BadRequestError: The file is something else.
    """
    with _opened(file) as (path, cache):
        if cache is None:
            return f"{path}: no replies are kept."
        removed = cache.clear(model)
        known = ", ".join(sorted(_printable(use.model) for use in cache.usage() if use.model))
    if not removed and model is not None:
        return f"{path} has no replies of {model}" + (
            f"; it has those of {known}." if known else "."
        )
    return f"{path}: {removed:,} replies are removed."


@contextmanager
def _opened(file: str | None) -> Iterator[tuple[Path, ReplyCache | None]]:
    """A file of replies, or the user's own, and the cache in it if there is one."""
    path = own_file() if file is None else Path(file).expanduser()
    cache = existing_cache(path)
    try:
        yield path, cache
    finally:
        if cache is not None:
            cache.close()


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name)[:200]
