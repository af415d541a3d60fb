"""A process that answers each line on its standard input with a line of JSON."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


class Process:
    """Runs one of the scripts in this folder, such as `_kernel_worker`.

    Args:
        python: The interpreter to run it with.
        script: The script's file name.
        args: The script's arguments.
        environ: Further variables of its environment.

    Attributes:
        started: The first line of its output.
    """

    def __init__(self, python: str, script: str, *args: str, **environ: str) -> None:
        env = {**os.environ, "PYTHONPATH": str(HERE.parent), **environ}
        env.pop("PYTHONDONTWRITEBYTECODE", None)  # modules would be compiled while a load is timed
        self._process = subprocess.Popen(
            [python, str(HERE / script), *args],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE.parent, env=env,
        )  # fmt: skip
        self.started = self._read()

    def ask(self, command: str) -> dict[str, Any]:
        """Send a line, and wait for its answer.

        Raises:
            RuntimeError: It ended instead.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(300)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise RuntimeError(f"{self._process.args} ended with exit status {status}")
        answer: dict[str, Any] = json.loads(line)
        return answer
