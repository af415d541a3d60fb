"""The worker's process: a Jupyter kernel, started, watched and ended through jupyter_client."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import zmq.asyncio
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

from mlc_widget.api.errors import MLCEngineError, WorkerStartError
from mlc_widget.api.parent_watch import ParentWatch
from mlc_widget.api.requests import JSONDict
from mlc_widget.api.safe_path import safe_path, working_folder
from mlc_widget.protocol.worker_settings import WorkerSettings
from mlc_widget.proxy.connection import WorkerConnection
from mlc_widget.proxy.link_watch import LinkWatch
from mlc_widget.proxy.off_loop import off_loop
from mlc_widget.proxy.output_tail import OutputTail

_SHUTDOWN_S: Final = 2.0
_KILL_S: Final = 1.0
_LAST_WORDS_S: Final = 0.5
_LONGEST_SOCKET: Final = 100
"""The longest path of an ipc socket, in bytes, that all systems accept."""
_open_contexts: Final[set[zmq.asyncio.Context]] = set()
"""Keeps each context alive until it is closed. If the garbage collector finds a context together
with its sockets, the context waits forever, on any thread: weak references are cleared first, so it
no longer knows the sockets that it should close."""


class _WorkerSpecs(KernelSpecManager):
    """A kernelspec that need not be installed: our worker module in a given Python."""

    def __init__(self, python: str) -> None:
        super().__init__()
        self._python = python

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        argv = [self._python, "-m", "mlc_widget.worker", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="mlc_widget worker", language="python")


class WorkerProcess:
    """One worker kernel on this machine; used on the home loop only.

    Args:
        settings: The worker's settings.
        python: The Python interpreter to run it in; this one by default.
    """

    _poll_s = 0.05

    def __init__(self, settings: WorkerSettings, *, python: str | None = None) -> None:
        self._settings = settings
        self._python = python or sys.executable
        self._context: zmq.asyncio.Context | None = None
        self._manager: AsyncKernelManager | None = None
        self._directory: Path | None = None
        self._output: OutputTail | None = None
        self._pid_fd: int | None = None
        self._parent_watch: ParentWatch | None = None
        self._killed = False
        self._poll: asyncio.Task[None] | None = None
        self.exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int | None:
        """The process's id, where it runs on this machine."""
        process = self._local_process
        return None if process is None else int(process.pid)

    @property
    def _local_process(self) -> Any:
        return getattr(self._manager and self._manager.provisioner, "process", None)

    @property
    def sockets_folder(self) -> Path | None:
        """Where its sockets are, if they are files."""
        return None if sys.platform == "win32" else self._directory

    when_lost = " Try again: another worker will be started."
    """What to do when that folder was removed, as an addition to an error message."""

    @property
    def when_silent(self) -> str:
        """Why it may not have answered, as an addition to an error message."""
        return ""

    async def start(self) -> None:
        """Start the process; it is not ready yet.

        Raises:
            WorkerStartError: it could not be started.
        """
        try:
            await self._start()
        except WorkerStartError:
            await self.stop(now=True)
            raise
        except Exception as error:
            await self.stop(now=True)
            check_working_folder()
            raise WorkerStartError(
                f"The worker could not be started with {self._started_with}: {error}"
            ) from error

    @property
    def _started_with(self) -> str:
        return self._python

    async def _start(self) -> None:
        # Absolute and 0700: with transport="ipc" whoever can open the socket can connect.
        directory = self._directory = private_directory()
        context = self._context = new_context()
        manager = self._manager = self._make_manager(directory, context)
        await self._launch(manager, directory)
        if self._killed:  # as the interpreter is ending
            raise WorkerStartError("The worker was ended while it was started.")
        self._watch()
        if os.name == "posix" and self.pid is not None:
            self._parent_watch = ParentWatch(self.pid, directory)

    async def _launch(self, manager: AsyncKernelManager, directory: Path) -> None:
        settings = replace(self._settings, dies_with_parent=True, runtime_dir=str(directory))
        output = self._output = OutputTail()
        try:
            await manager.start_kernel(
                env=worker_environment(settings, directory),
                stdout=output.write_fd,
                stderr=output.write_fd,
            )
        finally:
            output.close_writer()

    def _make_manager(self, directory: Path, context: zmq.asyncio.Context) -> AsyncKernelManager:
        options = manager_options(directory, context)
        if sys.platform != "win32":
            options |= {"transport": "ipc", "ip": str(directory / "socket")}
        specs = _WorkerSpecs(self._python)
        return AsyncKernelManager(
            kernel_name="mlc_widget_worker", kernel_spec_manager=specs, **options
        )

    def _watch(self) -> None:
        """Resolve `exited` when the process ends, by a pid descriptor or else by polling."""
        loop = asyncio.get_running_loop()
        if self.pid is not None and hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self._pid_fd = os.pidfd_open(self.pid)
                loop.add_reader(self._pid_fd, self._set_died)
                return
        self._poll = loop.create_task(self._poll_alive())

    async def _poll_alive(self) -> None:
        while await self._is_alive():  # noqa: ASYNC110 - a process has no event
            await asyncio.sleep(self._poll_s)
        self._set_died()

    async def _is_alive(self) -> bool:
        assert self._manager is not None
        return bool(await self._manager.is_alive())

    def _set_died(self) -> None:
        if self._pid_fd is not None:
            asyncio.get_running_loop().remove_reader(self._pid_fd)
            os.close(self._pid_fd)
            self._pid_fd = None
        if self._poll is not None and self._poll is not asyncio.current_task():
            self._poll.cancel()
        if not self.exited.done():
            self.exited.set_result(None)

    def connect(self) -> tuple[Any, Any, Any]:
        """Make sockets for the kernel's shell and iopub channels, and a session to sign messages.

        The iopub socket has no subscriptions yet.
        """
        manager = self._manager
        assert manager is not None
        shell = manager.connect_shell()
        iopub = manager.connect_iopub()
        iopub.setsockopt(zmq.UNSUBSCRIBE, b"")
        return shell, iopub, manager.session

    async def describe_death(self) -> str:
        """How the process ended, with the last lines of its output."""
        manager = self._manager
        code = None if manager is None else await self._exit_code(manager)
        if self._output is not None:
            await off_loop(self._output.wait, _LAST_WORDS_S)
        if code is None:
            how = "ended"
        elif code < 0:
            how = f"was killed by {_signal_name(-code)}"
        else:
            how = f"exited with code {code}"
        return f"{how}.{self.output_tail()}"

    async def _exit_code(self, manager: AsyncKernelManager) -> int | None:
        return None if manager.provisioner is None else await manager.provisioner.poll()

    def output_tail(self) -> str:
        """The last lines that the worker printed, as an addition to an error message."""
        return "" if self._output is None else self._output.text()

    async def stop(self, *, now: bool = False) -> None:
        """End the process, gracefully if it answers, and remove its files. Idempotent.

        Args:
            now: Kill it without asking it to end first.
        """
        manager = self._manager
        try:
            if manager is not None and manager.has_kernel:
                await self._shut_down(manager, now=now or self._killed or self.exited.done())
        finally:
            self._set_died()
            self._remove_files()
            self._close_sockets()

    async def _shut_down(self, manager: AsyncKernelManager, *, now: bool) -> None:
        await manager.shutdown_kernel(now=now)

    @property
    def greeting(self) -> JSONDict:
        """What the first messages tell the worker about this client: it has only one."""
        return {}

    def watch_link(self, connection: WorkerConnection, iopub: Any) -> LinkWatch | None:
        """Watch the way to the worker; None where it cannot fail by itself."""
        return None

    def was_ending(self, error: MLCEngineError) -> bool:
        """Whether starting again helps; see `SharedWorkerProcess`."""
        return False

    async def replace(self) -> None:
        """Nothing: `stop` ends the process."""

    def tell_end(self) -> concurrent.futures.Future[None] | None:
        """Begin to end a worker that `kill` cannot end; done once it was told, None if it can."""
        return None

    def kill(self) -> None:
        """End the process and remove its files at once, for the interpreter's exit.

        Its sockets stay open, for whoever may still use them, until `stop`.
        """
        self._killed = True
        process = self._local_process
        if process is not None and not self.exited.done():
            with contextlib.suppress(OSError):
                process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # it may write until it is gone
                process.wait(_KILL_S)
        self._remove_files()

    def _remove_files(self) -> None:
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None
        parent_watch, self._parent_watch = self._parent_watch, None
        if parent_watch is not None:
            parent_watch.dismiss()

    def _close_sockets(self) -> None:
        self._manager = None
        context, self._context = self._context, None
        if context is not None:
            close_context(context)


def manager_options(directory: Path, context: zmq.asyncio.Context) -> dict[str, Any]:
    """The options that the kernel managers of all workers have."""
    return {
        "context": context,
        "connection_file": str(directory / "connection.json"),
        "shutdown_wait_time": _SHUTDOWN_S,
    }


def new_context() -> zmq.asyncio.Context:
    """A context for sockets, to be closed by `close_context`."""
    context = zmq.asyncio.Context()
    _open_contexts.add(context)
    # By default a socket that is closed waits forever for a peer that is gone.
    context.linger = 200
    return context


def close_context(context: zmq.asyncio.Context, *, linger: int = 0) -> None:
    """Close a context and its sockets, waiting at most `linger` ms for their last messages."""
    context.destroy(linger=linger)
    _open_contexts.discard(context)


def worker_environment(settings: WorkerSettings, directory: Path | None = None) -> dict[str, str]:
    """The variables of a worker's process: those of this one, and its settings.

    Args:
        settings: The settings.
        directory: Where it may keep files; None if it may be on another machine.
    """
    return {
        **os.environ,
        **settings.to_environment(),
        **({} if directory is None else {"IPYTHONDIR": str(directory)}),
        **safe_path(),
        # ipykernel 6 imports debugpy, whose chatter would hide last words.
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


def check_working_folder() -> None:
    """Say it if there is no folder for a process to start in, which errors of the system do not.

    Raises:
        WorkerStartError: this process's working directory was removed or replaced.
    """
    if working_folder() is None:
        raise WorkerStartError(
            "A worker cannot be started, because this process's working directory was removed or "
            "replaced: change to one that exists with `os.chdir(…)`, and try again."
        )


def private_directory() -> Path:
    """A fresh directory that only this user can enter, short enough for sockets in it."""
    directory = Path(tempfile.mkdtemp(prefix="mlc_widget-"))
    if os.name == "posix" and len(os.fsencode(directory / "socket-00000")) > _LONGEST_SOCKET:
        directory.rmdir()
        directory = Path(tempfile.mkdtemp(prefix="mlc_widget-", dir="/tmp"))
    return directory


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} ({number})"
    except ValueError:
        return f"signal {number}"
