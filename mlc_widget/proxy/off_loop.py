"""Blocking work that an event loop's task waits for, also while the interpreter ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

_T = TypeVar("_T")


async def off_loop(work: Callable[..., _T], *args: Any, **options: Any) -> _T:
    """Run brief blocking work on a thread.

    The interpreter's end begins with that of the threads' pool. From then on, the work is done on
    the loop itself, so that a worker that dies just then is cleaned up as at any time.
    """
    call = partial(work, *args, **options)
    try:
        waiting = asyncio.get_running_loop().run_in_executor(None, call)
    except RuntimeError:
        return call()
    return await waiting
