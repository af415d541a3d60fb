"""Runs the recipe under one heading of a page, and fails if it dials anywhere.

A program of its own, for the environments that have the frameworks: the notebook's side runs there,
the worker in the interpreter that ``RECIPE_WORKER_PYTHON`` names.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

_LOCAL = {"127.0.0.1", "::1", "localhost", "", None}
_WATCHED = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")

dialled: list[str] = []


def guard(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook that refuses what would leave the machine, and keeps a note of it."""
    if event not in _WATCHED:
        return
    if event in ("socket.connect", "socket.sendto"):
        if arguments[0].family == getattr(socket, "AF_UNIX", None):
            return
        host = arguments[1][0] if isinstance(arguments[1], tuple) else arguments[1]
    else:
        host = arguments[0]
    host = host.decode() if isinstance(host, bytes) else host
    if host not in _LOCAL:
        dialled.append(f"{event} {host}\n" + "".join(traceback.format_stack(limit=12)))
        raise ConnectionRefusedError(f"the recipe dials {host}")


def blocks(page: Path, heading: str) -> list[str]:
    """The Python blocks of a section."""
    for section in re.split(r"^## ", page.read_text(), flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        if title == heading:
            return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    raise LookupError(heading)


async def main(page: Path, heading: str) -> None:
    from mlc_widget import AsyncKernelMLCEngine

    async with AsyncKernelMLCEngine(python=os.environ.get("RECIPE_WORKER_PYTHON")) as engine:
        await engine.reload("demo")
        names = {"engine": engine, "__name__": "__main__"}
        (code,) = blocks(page, heading)
        compiled = compile(code, heading, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(compiled, names)
        if inspect.isawaitable(result):
            await result
        generated = (await engine.metrics())["completion_tokens_sum"]
        assert generated > 0, "the engine was not asked"


if __name__ == "__main__":
    sys.addaudithook(guard)
    try:
        asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
    finally:
        print(*dialled, sep="\n", file=sys.stderr)
    assert not dialled, "\n".join(dialled)
