"""Downloads in child processes: how a child reports its progress and its result.

A child sends (`send_facts`) ``bytes_done`` and ``bytes_total`` as it advances, ``chosen`` and
``of`` when it has chosen one of several files, ``waiting`` while another process downloads the same
file, ``pause_s`` and ``reason`` before it tries again; finally its result, or ``error`` (a kind)
and ``message``.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mlc_widget.api.progress import LoadReporter
from mlc_widget.engine.system.child_process import run_child

_TAIL_LINES: Final = 10


def space_problem(folder: Path, nbytes: int) -> str:
    """In the child: a message if the bytes do not fit on a folder's disk; "" if they do."""
    free = shutil.disk_usage(folder).free
    if nbytes <= free:
        return ""
    return f"{nbytes / 1e9:.2f} GB are needed, and {folder} has {free / 1e9:.2f} GB free."


def one_line(error: BaseException) -> str:
    """In the child: the text of an exception, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


async def run_download(
    module: str, argument: Mapping[str, Any], report: LoadReporter, name: str
) -> dict[str, Any]:
    """Run a child until it ends, and report its progress.

    Cancelling the task ends the child.

    Args:
        module: The child's module; its `main` calls `end_with_parent` first.
        argument: Its only argument.
        report: Called with the progress, in the phase ``download``.
        name: The name of what is downloaded, for messages.

    Returns:
        The facts that the child sent, where later ones replace earlier ones. If there is no
        ``message`` among them, it is the end of the child's other output.
    """
    outcome: dict[str, Any] = {}
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    fraction = 0.0

    def take(said: dict[str, Any]) -> None:
        nonlocal fraction
        outcome.update(said)
        what = _named(outcome, name)
        if said.get("waiting"):
            report("download", fraction, f"Another process is downloading {what}")
        elif (seconds := said.get("pause_s")) is not None:
            text = f"{said['reason']}; trying again in {seconds:.0f} s"
            report("download", fraction, text)
        elif (done := said.get("bytes_done")) is not None:
            total = said.get("bytes_total") or None
            fraction = max(fraction, min(done / total, 1.0) if total else 0.0)
            report("download", fraction, f"Downloading {what}", bytes_done=done, bytes_total=total)

    await run_child(module, argument, take, tail.append)
    outcome.setdefault("message", "\n".join(f"  {line}" for line in tail))
    return outcome


def _named(outcome: Mapping[str, Any], name: str) -> str:
    chosen = outcome.get("chosen")
    if chosen is None:
        return name
    count = outcome.get("of", 1)
    return f"{chosen}, one of {count} files," if count > 1 else str(chosen)
