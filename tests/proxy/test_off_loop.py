"""Blocking work is done even when no thread takes it any more."""

from __future__ import annotations

import asyncio
import threading

from mlc_widget.proxy.off_loop import off_loop


def test_work_is_done_on_a_thread_and_once_these_have_ended_on_the_loop() -> None:
    async def run() -> None:
        assert await off_loop(threading.get_ident) != threading.get_ident()
        await asyncio.get_running_loop().shutdown_default_executor()
        assert await off_loop(threading.get_ident) == threading.get_ident()
        assert await off_loop(int, "11", base=2) == 3

    asyncio.run(run())
