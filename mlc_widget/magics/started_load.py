"""A load that `%mlc load` has begun."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TYPE_CHECKING

from mlc_widget.api.home_loop import to_raise, wait_ticking
from mlc_widget.widget.reply_queue import is_loading

if TYPE_CHECKING:
    from mlc_widget.api.engine_link import EngineLink


class StartedLoad:
    """``await`` it where nothing can be shown after a cell has ended: it raises why a load failed.

    Args:
        link: The engine, whose load was begun.
    """

    def __init__(self, link: EngineLink) -> None:
        self._link = link

    def __await__(self) -> Generator[object, None, None]:
        future = self._link.submit(_end_of_load(self._link))
        return wait_ticking(asyncio.wrap_future(future)).__await__()

    def _last_text(self) -> str:
        return f"{self._link.snapshot.model_id} is loaded."


async def _end_of_load(link: EngineLink) -> None:
    """Wait until no load runs. On the engine's loop.

    Raises:
        MLCEngineError: The load failed.
    """
    ended = asyncio.Event()
    stop = link.observe(lambda snapshot: None if is_loading(snapshot) else ended.set())
    try:
        if is_loading(link.snapshot):
            await ended.wait()
    finally:
        stop()
    snapshot = link.snapshot
    error = snapshot.error if snapshot.failed is None else snapshot.failed.error
    if error is not None:
        raise to_raise(error)
