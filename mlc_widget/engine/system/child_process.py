"""Work in a child Python process, which can be killed at any time and ends with its parent.

A child sends facts as JSON objects, each on a line of its own among what else it prints.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

from mlc_widget.api.safe_path import safe_path

_MARK: Final = "mlc_widget-facts:"
_SENDING: Final = threading.Lock()
_CLEAN_UP_S: Final = 0.5
"""How long a child may clean up; its connections are closed at the latest after it."""


async def run_child(
    module: str,
    argument: Mapping[str, Any],
    on_facts: Callable[[dict[str, Any]], object],
    on_output: Callable[[str], object],
) -> None:
    """Run ``python -P -m module JSON`` until it ends.

    Cancelling the task kills the process and all processes that it started. The working folder is
    not on its path, since the user's files there may have any name.

    Args:
        module: The module to run; its `main` calls `end_with_parent` first.
        argument: Its only argument, as JSON.
        on_facts: Called with what each `send_facts` of the child sent, on this loop.
        on_output: Called with each other line of its stdout and stderr that is not empty, on this
            loop.
    """
    # Not asyncio's subprocess, which needs a loop that can watch children; a thread reads output.
    process = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-P", "-m", module, json.dumps(argument)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        env={
            **os.environ,
            **safe_path(),
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": tempfile.gettempdir(),
        },
    )
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | None] = asyncio.Queue()
    reader = threading.Thread(target=_read, args=(process, loop, lines), daemon=True)
    reader.start()
    try:
        while (line := await lines.get()) is not None:
            if (facts := _facts_in(line)) is not None:
                on_facts(facts)
            elif line:
                on_output(line)
    finally:
        _end(process)


def send_facts(**facts: Any) -> None:
    """In the child: send facts to the parent, from any thread.

    They are written at once, with the ends of the lines before and after: `print` writes a text and
    its line's end separately, so that two threads can write into one line.
    """
    with _SENDING:
        sys.stdout.write(f"\n{_MARK}{json.dumps(facts)}\n")
        sys.stdout.flush()


def _facts_in(line: str) -> dict[str, Any] | None:
    """What `send_facts` sent; None for other output, also if the child ended in mid-line."""
    if not line.startswith(_MARK):
        return None
    try:
        facts = json.loads(line.removeprefix(_MARK))
    except ValueError:
        return None
    return facts if isinstance(facts, dict) else None


def end_with_parent(clean_up: Callable[[], object] = lambda: None) -> None:
    """In the child: end, with all processes that it started, when the parent ends or asks for it.

    Args:
        clean_up: Called before; it is killed if it takes half a second.
    """
    threading.Thread(target=_wait_for_the_end, args=(clean_up,), daemon=True).start()


def _wait_for_the_end(clean_up: Callable[[], object]) -> None:
    while os.read(0, 4096):
        pass
    try:
        clean_up()
    finally:
        if hasattr(os, "killpg"):
            os.killpg(0, signal.SIGKILL)
        os._exit(1)


def _read(
    process: subprocess.Popen[str],
    loop: asyncio.AbstractEventLoop,
    lines: asyncio.Queue[str | None],
) -> None:
    assert process.stdout is not None
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is waiting any more
        for line in process.stdout:
            loop.call_soon_threadsafe(lines.put_nowait, line.rstrip())
        loop.call_soon_threadsafe(lines.put_nowait, None)


def _end(process: subprocess.Popen[str]) -> None:
    """End the process and all processes that it started."""
    if process.stdin is not None:
        process.stdin.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_CLEAN_UP_S)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()
