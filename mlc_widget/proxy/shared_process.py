"""A worker that several processes of this user share: joined if it is there, else started."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from jupyter_client.connect import write_connection_file

from mlc_widget._version import __version__
from mlc_widget.api.errors import BadRequestError, MLCEngineError, ProtocolError, WorkerStartError
from mlc_widget.api.requests import JSONDict
from mlc_widget.models import builtin_models
from mlc_widget.models.catalogue import catalogue
from mlc_widget.protocol.messages import WORKER_ENDING
from mlc_widget.protocol.worker_record import NewRecord, OpenRecord, WorkerRecord, WorkerRecords
from mlc_widget.protocol.worker_settings import Sharing, WorkerSettings
from mlc_widget.proxy.connection import WorkerConnection
from mlc_widget.proxy.off_loop import off_loop
from mlc_widget.proxy.output_tail import last_lines, last_output
from mlc_widget.proxy.process import check_working_folder, private_directory, worker_environment
from mlc_widget.proxy.shared_workers import end
from mlc_widget.proxy.worker_link import WorkerLink

logger = logging.getLogger(__name__)

_LOCK_POLL_S: Final = 0.02
_ALIVE_POLL_S: Final = 0.1
_IDLE_TIMEOUT_S: Final = 900.0
_UNLOAD_AFTER_S: Final = 1800.0
# In a shell, so that the worker is no child of this process: nobody need wait for its end.
_LAUNCH: Final = 'log=$1; shift; "$@" </dev/null >>"$log" 2>&1 & echo $!'

_logged: Final[deque[str]] = deque(maxlen=16)
"""The directories of the workers whose last output was logged."""


@dataclass(frozen=True, slots=True)
class Share:
    """Which shared worker an engine uses; see `WorkerOptions`.

    Attributes:
        name: The worker's name.
        idle_timeout: Seconds without clients after which it ends; None for what it has.
        unload_after: Seconds after which unused models are unloaded; None for what it has.
        cache_salt: Clients with different ones share nothing in the prefix cache.
        hides_output: Whether errors lack the worker's last output, which may be about other
            clients, since somebody else than the worker's user will read them.
    """

    name: str
    idle_timeout: float | None = None
    unload_after: float | None = None
    cache_salt: str | None = None
    hides_output: bool = False


class SharedWorkerProcess:
    """One client's hold on a shared worker; used on the home loop only.

    Args:
        share: Which worker.
        settings: The settings to start it with.
        python: The interpreter to start it with; this one by default.
        timeout: Seconds to wait for another process that is just looking for the same worker.
    """

    def __init__(
        self,
        share: Share,
        settings: WorkerSettings,
        *,
        python: str | None = None,
        timeout: float = 60.0,
    ) -> None:
        self._share = share
        self._settings = settings
        self._python = python
        self._timeout = timeout
        self._found: OpenRecord | None = None
        self._joined = self._started = self._ended = False
        self._link: WorkerLink | None = None
        self._pid_fd: int | None = None
        self._poll: asyncio.Task[None] | None = None
        self.exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def pid(self) -> int | None:
        """The worker's process id, once it was found."""
        return None if self._found is None else self._found.record.pid

    @property
    def sockets_folder(self) -> Path | None:
        """Where its sockets are, once it was found."""
        return None if self._found is None else Path(self._found.record.directory)

    when_silent = ""

    @property
    def when_lost(self) -> str:
        """What to do when that folder was removed, as an addition to an error message."""
        return f" `mlc_widget workers stop {self._share.name}` ends it."

    @property
    def greeting(self) -> JSONDict:
        """What the first messages tell the worker about this client."""
        salt = self._share.cache_salt
        return {
            "client": {"pid": os.getpid(), **({} if salt is None else {"cache_salt": salt})},
        }

    def watch_link(self, connection: WorkerConnection, iopub: Any) -> None:
        """Nothing: the way to a worker on this machine cannot fail by itself."""

    async def start(self) -> None:
        """Find the worker, or start it; one that was started is not ready yet.

        Raises:
            WorkerStartError: it could not be started.
            BadRequestError: it is there, with other settings than these.
            ProtocolError: it is there, and of another version of mlc_widget.
        """
        records = WorkerRecords()
        deadline = time.monotonic() + self._timeout
        while (found := await self._search(records)) is None:
            if time.monotonic() > deadline:
                raise WorkerStartError(
                    f"share = {self._share.name!r}: another process has been starting this worker "
                    f"for {self._timeout:g} s."
                )
            await asyncio.sleep(_LOCK_POLL_S)
        self._found = found
        if self._joined:
            self._check(found.record)
        self._watch(found)

    async def _search(self, records: WorkerRecords) -> OpenRecord | None:
        """As `_find`; a search that is cancelled is ended first, and then forgotten."""
        # On a thread, and not to be cancelled halfway: the lock is held there.
        search = asyncio.ensure_future(asyncio.to_thread(self._find, records))
        try:
            return await asyncio.shield(search)
        except asyncio.CancelledError:
            search.add_done_callback(_close_found)
            raise

    def _find(self, records: WorkerRecords) -> OpenRecord | None:
        """The worker's record, of a new one if need be; None while another process looks."""
        name = self._share.name
        with records.locked(name) as held:
            if not held:
                return None
            found = records.find(name)
            self._joined = found is not None
            if found is None:
                records.remove_dead(name)
                found = self._launch(records)
                self._started = True
            return found

    def _wanted(self) -> dict[str, Any]:
        """What the worker must have been started with."""
        settings = self._settings
        wanted = {
            "python": self._python,
            "runtime": settings.runtime,
            "runtime_options": dict(settings.runtime_options),
            "handler": settings.handler,
            "logit_processors": dict(settings.logit_processors),
            "idle_timeout": self._share.idle_timeout,
            "unload_after": self._share.unload_after,
        }
        plain: dict[str, Any] = json.loads(json.dumps(wanted))
        return plain

    def _check(self, record: WorkerRecord) -> None:
        stop = f"`mlc_widget workers stop {record.name}`"
        if record.version != __version__:
            raise ProtocolError(
                f"The shared worker {record.name!r} has mlc_widget {record.version}, and this "
                f"process has {__version__}. End the worker with {stop} so that it is started "
                f"anew, or install its version with `pip install mlc-widget=={record.version}`.",
                code="version_mismatch",
            )
        there = _by_name(
            {
                **record.settings,
                "idle_timeout": record.idle_timeout,
                "unload_after": record.unload_after,
            }
        )
        for option, value in _by_name(self._wanted()).items():
            asked = value not in (None, {}, "auto")
            if asked and value != there.get(option):
                raise BadRequestError(
                    f"share = {record.name!r}: this worker was started with {option} = "
                    f"{there.get(option)!r}, not {value!r}. Leave {option} out, choose another "
                    f"name, or end the worker with {stop}.",
                    param=option,
                )

    def _launch(self, records: WorkerRecords) -> OpenRecord:
        """Start the worker, and publish its record; leaves nothing behind if that fails."""
        check_working_folder()
        directory = private_directory()
        try:
            with records.new(self._share.name) as new:
                return self._launch_in(directory, new)
        except BaseException as error:
            shutil.rmtree(directory, ignore_errors=True)
            if isinstance(error, OSError):  # such as a full disk
                raise WorkerStartError(f"The worker could not be started: {error}") from error
            raise

    def _launch_in(self, directory: Path, new: NewRecord) -> OpenRecord:
        python = self._python or sys.executable
        file = str(directory / "connection.json")
        key = secrets.token_hex(32).encode()
        _, connection = write_connection_file(
            file, ip=str(directory / "socket"), transport="ipc", key=key
        )
        sharing = Sharing(
            name=self._share.name,
            record=str(new.final),
            lock_fd=new.fd,
            idle_timeout=self._share.idle_timeout or _IDLE_TIMEOUT_S,
            unload_after=self._share.unload_after or _UNLOAD_AFTER_S,
        )
        settings = replace(self._settings, runtime_dir=str(directory), sharing=sharing)
        record = WorkerRecord(
            name=sharing.name,
            pid=0,
            version=__version__,
            started=time.time(),
            settings={**self._wanted(), "python": python},
            connection=dict(connection),
            directory=str(directory),
            idle_timeout=sharing.idle_timeout,
            unload_after=sharing.unload_after,
        )
        os.close(os.open(record.log, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        command = [python, "-m", "mlc_widget.worker", "-f", file]
        environment = worker_environment(settings, directory)
        # This process's parent, with which ipykernel would end.
        environment.pop("JPY_PARENT_PID", None)
        try:
            started = subprocess.run(
                ["/bin/sh", "-c", _LAUNCH, "sh", str(record.log), *command],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=True,
                pass_fds=(new.fd,),
                start_new_session=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise WorkerStartError(
                f"The worker could not be started with {python}: {error}"
            ) from error
        pid = int(started.stdout)
        try:
            return new.publish(replace(record, pid=pid))
        except BaseException:  # nobody would ever find it
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            raise

    def _watch(self, found: OpenRecord) -> None:
        """Resolve `exited` when the process ends."""
        loop = asyncio.get_running_loop()
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self._pid_fd = os.pidfd_open(found.record.pid)
                loop.add_reader(self._pid_fd, self._set_exited)
        if self._pid_fd is None:
            self._poll = loop.create_task(self._poll_alive(found))
        if not found.alive:  # it had ended before it was watched, and the id may be another's
            self._set_exited()

    async def _poll_alive(self, found: OpenRecord) -> None:
        while found.alive:  # noqa: ASYNC110 - another's process has no event
            await asyncio.sleep(_ALIVE_POLL_S)
        self._set_exited()

    def _set_exited(self) -> None:
        self._ended = True
        self._unwatch()
        if not self.exited.done():
            self.exited.set_result(None)

    def _unwatch(self) -> None:
        if self._pid_fd is not None:
            asyncio.get_running_loop().remove_reader(self._pid_fd)
            os.close(self._pid_fd)
            self._pid_fd = None
        if self._poll is not None and self._poll is not asyncio.current_task():
            self._poll.cancel()

    def connect(self) -> tuple[Any, Any, Any]:
        """As `WorkerProcess.connect`."""
        assert self._found is not None
        self._link = WorkerLink(self._found.record.connection)
        return self._link.sockets()

    async def describe_death(self) -> str:
        """How the process ended, with the last lines of its output."""
        return f"that is shared as {self._share.name!r} ended.{self.output_tail()}"

    def output_tail(self) -> str:
        """The last lines that the worker printed, as an addition to an error message.

        If they are hidden there, they go to this process's own log.
        """
        if self._found is None:
            return ""
        record = self._found.record
        output = last_output(last_lines(record.log))
        if not self._share.hides_output:
            return output
        if output and record.directory not in _logged:  # once, and not for each of many clients
            _logged.append(record.directory)
            logger.warning("The shared worker %s ended or was given up.%s", record.name, output)
        return ""

    def was_ending(self, error: MLCEngineError) -> bool:
        """Whether joining failed since the worker was about to end, so that another is needed."""
        return self._joined and (error.code == WORKER_ENDING or self._ended)

    async def stop(self, *, now: bool = False) -> None:
        """Leave the worker, which others may use. Idempotent."""
        self._unwatch()
        if not self.exited.done():
            self.exited.set_result(None)
        link, self._link = self._link, None
        if link is not None:
            await link.close()
        found = self._found
        if found is None:
            return
        try:
            if self._started and not found.alive:  # else the next to start it does this
                with contextlib.suppress(OSError, WorkerStartError):
                    await off_loop(self._remove_dead)
        finally:
            found.close()

    def _remove_dead(self) -> None:
        """Remove the record and directory of a worker that has ended, unless others are at it."""
        records = WorkerRecords()
        with records.locked(self._share.name) as held:
            if held:
                records.remove_dead(self._share.name)

    async def replace(self) -> None:
        """End the worker for all its clients, as it hangs; the first to ask starts another."""
        if self._found is not None:
            await off_loop(end, self._found, patience=0.0)

    def tell_end(self) -> None:
        """Nothing, either."""

    def kill(self) -> None:
        """Nothing: the worker stays for others, and sees that this process ends."""


def _close_found(search: asyncio.Future[OpenRecord | None]) -> None:
    """Close what an abandoned search found; a worker that it started stays for others."""
    if not search.cancelled() and search.exception() is None and (found := search.result()):
        found.close()


def _by_name(options: dict[str, Any]) -> dict[str, Any]:
    """Options by the names that users give them: the device is kept among the runtime's."""
    found = dict(options)
    if isinstance(of_runtime := found.get("runtime_options"), dict):
        found["runtime_options"] = {k: v for k, v in of_runtime.items() if k != "device"}
        found["device"] = of_runtime.get("device")
    return found


def absolute(model_id: str) -> str:
    """A model's id that means the same in every folder: a relative path is made absolute."""
    if model_id in builtin_models() or model_id in catalogue():
        return model_id
    path = Path(model_id)
    return str(path.absolute()) if path.exists() else model_id
