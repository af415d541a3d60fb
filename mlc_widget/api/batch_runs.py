"""Batch runs (papermill, nbclient, `jupyter execute`, `jupyter nbconvert --execute`).

A batch run saves what a cell shows until the cell ends, and ends the kernel after the last one.
What an engine is still doing then would be lost, or saved unfinished. So in a batch run a cell ends
only when nobody waits for an engine any more: no reply of a chat is being made, and no task of the
cell's event loop waits for an answer. The value of the cell's last expression is shown after that.
What nobody reads, such as a stream that a later cell goes on with, is not waited for. A task that
never stops asking keeps its cell from ending, until the run's own timeout.
"""

from __future__ import annotations

import ast
import asyncio
import concurrent.futures
import contextlib
import sys
import weakref
from collections.abc import Sequence
from typing import Any, Final, TypeVar

from mlc_widget.api.clients import client_of
from mlc_widget.api.home_loop import is_waiting

_T = TypeVar("_T")
_LOOK_S: Final = 0.1
_LOOKS: Final = 3
"""Looks in a row at which nobody waits: before, between and after its requests, a task may wait
for something else."""
_SETTLED: Final = f"await __import__({__name__!r}).api.batch_runs.settled("

_pending: set[concurrent.futures.Future[Any]] = set()
_watches: weakref.WeakKeyDictionary[Any, _CellWatch] = weakref.WeakKeyDictionary()


def expect(future: concurrent.futures.Future[Any]) -> None:
    """Have the cells of a batch run wait for this."""
    _pending.add(future)
    future.add_done_callback(_pending.discard)


def watch_cells() -> None:
    """From the next cell on, have cells wait if this is a batch run. Idempotent."""
    shell = _shell()
    if shell is not None and getattr(shell, "kernel", None) is not None and shell not in _watches:
        _watches[shell] = _CellWatch(shell)


async def settled(value: _T | None = None) -> _T | None:
    """Wait until nobody waits for an engine; returns `value`."""
    shell = _shell()
    watch = _watches.get(shell) if shell is not None else None
    left = watch is not None and watch.has_new_tasks()
    looks = 0 if left or _busy() else _LOOKS
    while looks < _LOOKS:
        await asyncio.sleep(_LOOK_S)
        looks = 0 if _busy() else looks + 1
    if watch is not None:
        watch.has_waited = True
    return value


def _shell() -> Any:
    """IPython's shell; None, without importing IPython, if there is none that runs cells."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    # Solara puts an object in its place that only displays.
    return shell if hasattr(shell, "input_transformers_post") else None


def _busy() -> bool:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    return bool(_pending) or any(map(is_waiting, tasks))


class _CellWatch:
    """Prepares the cells of one notebook, and looks after those that were not prepared.

    Args:
        shell: IPython's.
    """

    def __init__(self, shell: Any) -> None:
        self._shell = weakref.ref(shell)
        self.has_waited = False
        """Whether the running cell has waited."""
        self.running = True
        """Whether a cell runs: one does when the first engine is made."""
        self._tasks: weakref.WeakSet[asyncio.Task[Any]] = weakref.WeakSet()  # before the cell
        shell.input_transformers_post.append(self.transform)
        shell.events.register("pre_run_cell", self._before_cell)
        shell.events.register("post_run_cell", self._after_cell)

    def transform(self, lines: Sequence[str]) -> list[str]:
        """The lines of a cell, as they are to run."""
        shell = self._shell()
        if self.running or shell is None:  # magics such as %time transform what they run
            return list(lines)
        if not shell.autoawait or client_of(shell) != "batch":
            return list(lines)
        return waiting_cell(lines)

    def has_new_tasks(self) -> bool:
        """Whether the running cell leaves tasks on the loop; called by itself."""
        return bool(asyncio.all_tasks() - {asyncio.current_task(), *self._tasks})

    def _before_cell(self, *_: object) -> None:
        self.running = True
        if (shell := self._shell()) is not None:
            # ipykernel 7.4 does this for cells that do not await, and fails to answer others that
            # end with an error before any traceback was shown, such as that of a mistyped magic.
            shell._last_traceback = None
            shell._last_traceback_during_displayhook = False
        with contextlib.suppress(RuntimeError):  # no loop runs
            self._tasks = weakref.WeakSet(asyncio.all_tasks())

    def _after_cell(self, *_: object) -> None:
        """Wait in a cell that made the first engine, or failed: for replies only.

        A task cannot go on meanwhile, as this blocks its loop.
        """
        self.running = False
        waited, self.has_waited = self.has_waited, False
        if not waited and _pending and client_of(self._shell()) == "batch":
            concurrent.futures.wait(tuple(_pending))


def waiting_cell(lines: Sequence[str]) -> list[str]:
    """A cell that waits at its end, before the value of its last expression is shown."""
    source = "".join(lines)
    try:
        body = compile(
            source, "<cell>", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        ).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # IPython says what is wrong
        return list(lines)
    last = body[-1] if body else None
    if not isinstance(last, ast.Expr):
        return [f"{source.rstrip()}\n{_SETTLED})\n"] if body else list(lines)
    value = last.value
    assert value.end_lineno is not None
    assert value.end_col_offset is not None
    text = source.encode()
    rows = text.splitlines(keepends=True)
    start = sum(map(len, rows[: value.lineno - 1])) + value.col_offset
    end = sum(map(len, rows[: value.end_lineno - 1])) + value.end_col_offset
    # Two brackets, so that a tuple stays one value.
    wrapped = b"(%s(%s)))" % (_SETTLED.encode(), text[start:end])
    return (text[:start] + wrapped + text[end:]).decode().splitlines(keepends=True)
