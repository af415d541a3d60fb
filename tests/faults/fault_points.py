"""Imported by a worker: holds it in a phase, and makes faults that only its own process can make.

``FAULT_FOLDER`` names a folder of links, whose targets are texts. ``hold`` is the phase in which
the worker waits, until it is another; ``held`` is then its process id. ``order`` is a fault: a
thread leaves ``ordered`` and makes it.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
import time
from pathlib import Path
from typing import Any

from mlc_widget.engine.runtimes.tvm.runtime import TVMRuntime
from mlc_widget.worker.app import WorkerKernelApp
from mlc_widget.worker.handler import KernelMLCEngineHandler

FOLDER = Path(os.environ["FAULT_FOLDER"])
MID_STREAM = 12
"""Tokens after which a generation counts as being in the middle of its stream."""
_POLL_S = 0.002


class Handler(KernelMLCEngineHandler):
    """The usual handler; naming it has the worker import this module when it starts."""


class Gate:
    """A logit processor, which sees the end of a prefill and each token."""

    def __init__(self) -> None:
        self.tokens = 0

    def process_logits(self, logits: Any) -> Any:
        if self.tokens == 0:
            hold("in prefill")
        elif self.tokens == MID_STREAM:
            hold("mid-stream")
        return logits

    def process_sampled_token(self, token_id: int) -> None:
        self.tokens += 1


def hold(phase: str) -> None:
    """Wait while this phase is to be held."""
    while _read("hold") == phase:
        _write("held", str(os.getpid()))
        time.sleep(_POLL_S)


def _read(name: str) -> str:
    try:
        return os.readlink(FOLDER / name)
    except OSError:
        return ""


def _write(name: str, text: str) -> None:
    """Leave a text as a link, which a limit on the size of files does not forbid."""
    new = FOLDER / f"{name}.{os.getpid()}"  # its own: a worker may be killed before it is moved
    new.symlink_to(text)
    new.replace(FOLDER / name)


def _follow_orders() -> None:
    """Make the fault that is ordered, once."""
    while True:
        if order := _read("order"):
            (FOLDER / "order").unlink()
            _write("ordered", order)
            _ORDERS[order]()
        time.sleep(_POLL_S)


def _flood() -> None:
    line = b"a line that nobody asked for\n" * 1000
    for _ in range(1000):
        os.write(2, line)


_ORDERS = {
    "SIGSEGV": lambda: ctypes.string_at(0),
    "native abort": ctypes.CDLL(None).abort,
    "GIL held": lambda: ctypes.PyDLL(None).sleep(1000),
    "stderr flooded": _flood,
}


def _hold_the_engine() -> None:
    """Have loads, unloads and the process's end held."""
    load, unload, clean_up = (
        TVMRuntime._load,
        TVMRuntime.unload,
        WorkerKernelApp.cleanup_connection_file,
    )

    def held_load(self: Any, *args: Any) -> Any:
        hold("loading")
        return load(self, *args)

    async def held_unload(self: Any) -> None:
        while _read("hold") == "unloading":
            _write("held", str(os.getpid()))
            await asyncio.sleep(_POLL_S)
        await unload(self)

    def held_clean_up(self: Any) -> None:
        hold("terminating")
        clean_up(self)

    TVMRuntime._load = held_load  # type: ignore[method-assign]
    TVMRuntime.unload = held_unload  # type: ignore[method-assign]
    WorkerKernelApp.cleanup_connection_file = held_clean_up  # type: ignore[method-assign]


_hold_the_engine()
threading.Thread(target=_follow_orders, name="faults", daemon=True).start()
hold("starting")
