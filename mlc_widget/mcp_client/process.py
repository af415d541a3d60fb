"""The process of a server that communicates over its standard input and output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from mlc_widget.api.parent_watch import ParentWatch

MAX_LINE: Final = 4 * 1024 * 1024
"""The largest message of a server, in bytes."""
MAX_UNASKED: Final = 32 * 1024 * 1024
"""The most bytes of a server's output after a message to it."""
_LOG: Final = 64 * 1024
_SHOWN_LINES: Final = 8
_EXIT_S: Final = 2.0
_POLL_S: Final = 0.05


class ServerLog:
    """The end of what a server wrote to its standard error."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._new = 0
        """The bytes since the last start."""

    def begin(self) -> None:
        """The server is started again: `last_lines` are of this start only."""
        self._new = 0

    def add(self, data: bytes) -> None:
        """Keep more output."""
        self._kept += data
        self._new += len(data)
        del self._kept[:-_LOG]

    @property
    def text(self) -> str:
        """What is kept: the last 64 KiB."""
        return self._kept.decode("utf-8", "replace")

    @property
    def last_lines(self) -> str:
        """The last lines, as an addition to an error's message."""
        kept = self._kept[max(0, len(self._kept) - self._new) :]
        lines = kept.decode("utf-8", "replace").rstrip().splitlines()[-_SHOWN_LINES:]
        if not lines:
            return ""
        return "\nIts last output:\n" + "\n".join(f"  {line[:500]}" for line in lines)


class ServerProcess:
    """A running server. Its methods belong to the loop on which it was started.

    Attributes:
        fault: Why it was ended, if it broke a bound.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: ServerLog) -> None:
        self._process, self._log = process, log
        self._watch = ParentWatch(-process.pid)
        self._unasked = 0
        self.fault = ""

    @classmethod
    async def start(
        cls, command: Sequence[str], env: Mapping[str, str], cwd: str | None, log: ServerLog
    ) -> ServerProcess:
        """Start it, as the leader of a process group.

        Raises:
            OSError: it cannot be started.
        """
        log.begin()
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=MAX_LINE,
            env=env,
            cwd=cwd,
            start_new_session=True,
        )
        return cls(process, log)

    @property
    def returncode(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        return self._process.returncode

    @contextlib.asynccontextmanager
    async def transport(self) -> AsyncIterator[Any]:
        """The streams of messages that a client of the package mcp needs."""
        import anyio

        to_client, from_server = anyio.create_memory_object_stream[Any](0)
        to_server, from_client = anyio.create_memory_object_stream[Any](0)
        async with from_server, to_server, anyio.create_task_group() as tasks:
            tasks.start_soon(self._read, to_client)
            tasks.start_soon(self._write, from_client)
            tasks.start_soon(self._read_log)
            try:
                yield from_server, to_server
            finally:
                tasks.cancel_scope.cancel()

    async def ended(self) -> None:
        """Return once the process has ended."""
        while not await self.ends_within(_EXIT_S):
            pass

    async def end(self) -> None:
        """Close its input, and kill it with all that it started if it does not end by itself."""
        stdin = self._process.stdin
        assert stdin is not None, "it is a pipe"
        with contextlib.suppress(OSError, RuntimeError):
            stdin.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if await self.ends_within(_EXIT_S):
                break
            self.kill(number)
        self.kill(signal.SIGKILL)  # what it started and left behind
        await self.ends_within(_EXIT_S)
        with contextlib.suppress(OSError):
            self._watch.dismiss()
        # Without this, asyncio holds the pipes until what the server started closes them.
        self._process._transport.close()  # type: ignore[attr-defined]

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the process and all of its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    async def ends_within(self, seconds: float) -> bool:
        """Wait for its end, for at most some seconds; returns whether it has ended."""
        # `Process.wait` waits for its pipes, too, which other processes may hold.
        for _ in range(int(seconds / _POLL_S)):
            if self.returncode is not None:
                return True
            await asyncio.sleep(_POLL_S)
        return False

    async def _read(self, to_client: Any) -> None:
        from mcp.shared.message import SessionMessage
        from mcp_types import jsonrpc_message_adapter

        stdout = self._process.stdout
        assert stdout is not None, "it is a pipe"
        async with to_client:
            while line := await self._line(stdout):
                try:
                    message = jsonrpc_message_adapter.validate_json(line, by_name=False)
                except (ValueError, RecursionError):
                    self._log.add(line[:1000] + b"\n")  # not a message: something was printed
                    continue
                await to_client.send(SessionMessage(message))

    async def _line(self, stdout: asyncio.StreamReader) -> bytes:
        try:
            line = await stdout.readuntil(b"\n")
        except asyncio.IncompleteReadError:
            return b""
        except asyncio.LimitOverrunError:
            return self._refuse(f"it sent a message of more than {MAX_LINE:,} bytes")
        except OSError:
            return b""
        self._unasked += len(line)
        if self._unasked > MAX_UNASKED:
            return self._refuse(f"it sent more than {MAX_UNASKED:,} bytes in answer to one message")
        return line

    def _refuse(self, fault: str) -> bytes:
        self.fault = fault
        self.kill()
        return b""

    async def _write(self, from_client: Any) -> None:
        stdin = self._process.stdin
        assert stdin is not None, "it is a pipe"
        async with from_client:
            async for sent in from_client:
                self._unasked = 0
                text = sent.message.model_dump_json(by_alias=True, exclude_unset=True)
                with contextlib.suppress(OSError, RuntimeError):  # it has ended; `_read` sees that
                    stdin.write(text.encode() + b"\n")
                    await stdin.drain()

    async def _read_log(self) -> None:
        stderr = self._process.stderr
        assert stderr is not None, "it is a pipe"
        with contextlib.suppress(OSError):
            while data := await stderr.read(65536):
                self._log.add(data)
