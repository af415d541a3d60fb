"""A worker that several processes of a user share: who uses it, and when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import stat
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from mlc_widget._version import __version__
from mlc_widget.api.errors import EngineDeadError, ProtocolError
from mlc_widget.api.request_values import identifier
from mlc_widget.api.requests import JSONDict
from mlc_widget.engine.core import DirectCore
from mlc_widget.engine.device import resident_bytes
from mlc_widget.engine.shared_models import SharedModels
from mlc_widget.protocol.messages import WORKER_ENDING
from mlc_widget.protocol.worker_record import is_own_record, remove_own
from mlc_widget.protocol.worker_settings import Sharing, WorkerSettings
from mlc_widget.worker.handler import KernelMLCEngineHandler

logger = logging.getLogger(__name__)

_TICK_S: Final = 0.5
_INTRODUCTION_S: Final = 60.0
_FAREWELL_S: Final = 0.3
_MAX_LOG_BYTES: Final = 4 * 1024 * 1024


class _Client:
    """A client, from its first message until it leaves or its process ends.

    Args:
        worker: The worker that it uses.
        core: Its engine.
        handler: Answers its messages.
    """

    def __init__(
        self, worker: SharedWorker, core: DirectCore, handler: KernelMLCEngineHandler
    ) -> None:
        self.core, self.handler = core, handler
        self.since = self.last_request = time.monotonic()
        self.pid: int | None = None
        self.observer = False
        self._worker = worker
        self._pid_fd: int | None = None

    def introduce(self, client: Any) -> None:
        """See `SharedClient.introduce`."""
        if self._worker.ending:
            raise EngineDeadError(
                f"The shared worker {self._worker.name!r} is about to end.", code=WORKER_ENDING
            )
        said = client if isinstance(client, Mapping) else {}
        self.observer = said.get("observer") is True
        if self.observer or self.pid is not None:
            return
        pid = said.get("pid")
        if type(pid) is not int or not 1 < pid < 2**31:
            raise ProtocolError(
                f"hello: client.pid must be the id of the client's process, not {pid!r}: this "
                "worker is shared, and must know when a client has ended.",
                param="client",
            )
        if not _is_alive(pid):
            raise ProtocolError(
                f"hello: there is no process {pid} here. A shared worker serves the processes of "
                "its own machine and container.",
                param="client",
            )
        if (salt := said.get("cache_salt")) is not None:
            self.core.set_cache_salt(identifier("client.cache_salt", salt))
        self.pid = pid
        if hasattr(os, "pidfd_open"):
            with contextlib.suppress(OSError):
                self._pid_fd = os.pidfd_open(pid)
                asyncio.get_running_loop().add_reader(self._pid_fd, self._worker.leave, self)

    @property
    def gone(self) -> bool:
        """Whether it has died, or never said who it is."""
        if self.pid is not None:
            return self._pid_fd is None and not _is_alive(self.pid)
        return time.monotonic() - self.since > _INTRODUCTION_S

    async def worker_info(self) -> JSONDict:
        """See `SharedClient.worker_info`."""
        return self._worker.info()

    def others_statistics(self) -> JSONDict:
        """See `SharedClient.others_statistics`."""
        return self._worker.statistics_without(self)

    def unwatch(self) -> None:
        """Stop watching its process. Idempotent."""
        fd, self._pid_fd = self._pid_fd, None
        if fd is not None:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)


class SharedWorker:
    """Gives each client a core of its own, and ends the process when nobody needs it any more.

    Args:
        settings: The worker's settings.
        sharing: Those of a shared worker.
        logit_processors: Factories by model id.
    """

    def __init__(
        self, settings: WorkerSettings, sharing: Sharing, logit_processors: Mapping[str, Any]
    ) -> None:
        self._settings, self._sharing = settings, sharing
        os.set_inheritable(sharing.lock_fd, False)
        self._record = Path(sharing.record)
        self._models = SharedModels(settings.runtime, settings.runtime_options, logit_processors)
        self._clients: set[_Client] = set()
        self._started = self._used = time.monotonic()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.ending = False
        """Whether no more clients are taken."""

    @property
    def name(self) -> str:
        """The name that its clients know."""
        return self._sharing.name

    def start(self) -> None:
        """Look after clients and models from now on, and end on SIGTERM."""
        signal.signal(signal.SIGTERM, self._on_signal)
        threading.Thread(target=self._tick, name="shared-worker", daemon=True).start()

    def new_core(self) -> DirectCore:
        """An engine for one client, which shares the models of the others."""
        return DirectCore(runtime=self._settings.runtime, shared=self._models)

    def join(self, core: DirectCore, handler: KernelMLCEngineHandler) -> Callable[[], None]:
        """Take a client; returns what ends its stay."""
        self._loop = asyncio.get_running_loop()
        client = _Client(self, core, handler)
        handler.shared_client = client
        self._clients.add(client)
        return lambda: self.leave(client)

    def leave(self, client: _Client) -> None:
        """A client has left, or has died: end its requests, and release its models."""
        client.unwatch()
        if client not in self._clients:
            return
        self._clients.discard(client)
        if not client.observer:
            self._used = time.monotonic()
        self._begin(self._close(client))

    async def _close(self, client: _Client) -> None:
        await client.handler.close()
        await client.core.terminate()

    def _begin(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def info(self) -> JSONDict:
        """The worker's models and clients; times in seconds, memory in bytes."""
        now = time.monotonic()
        users = [client for client in self._clients if client.pid is not None]
        return {
            "name": self.name,
            "pid": os.getpid(),
            "version": __version__,
            "age_s": now - self._started,
            "idle_s": 0.0 if users else now - self._used,
            "idle_timeout": self._sharing.idle_timeout,
            "unload_after": self._sharing.unload_after,
            "memory_bytes": resident_bytes(),
            "models": self._models.describe(),
            "clients": [
                {
                    "pid": client.pid,
                    "age_s": now - client.since,
                    "requests": client.core.running_requests,
                    "idle_s": 0.0 if client.core.running_requests else now - client.last_request,
                }
                for client in sorted(users, key=lambda client: client.since)
            ],
        }

    def statistics_without(self, client: _Client) -> JSONDict:
        """Sums over all clients but this one, by names of `EngineStatistics`."""
        others = [one for one in self._clients if one is not client and one.pid is not None]
        each = [one.core.read_statistics() for one in others]
        return {
            "other_clients": len(others),
            "other_clients_requests": sum(one.running_requests for one in each),
            "other_clients_streams": sum(one.open_streams or 0 for one in each),
        }

    # Looking after it

    def _tick(self) -> None:
        """On a thread, as the loop may not run yet; what needs the loop is done there."""
        pause = threading.Event()
        while True:
            pause.wait(_TICK_S)
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._look)
            elif self._is_over():  # nobody ever came
                self._end()

    def _look(self) -> None:
        now = time.monotonic()
        for client in list(self._clients):
            if client.core.running_requests:
                client.last_request = now
            if client.gone:
                self.leave(client)
        self._begin(self._models.unload_idle(self._sharing.unload_after))
        _bound_log(_MAX_LOG_BYTES)
        if not self._reachable():  # the next client is to start another worker
            with contextlib.suppress(Exception):
                remove_own(self._sharing.lock_fd, self._record)
        if not self.ending and self._is_over():
            self._leave_soon()

    def _reachable(self) -> bool:
        """Whether the sockets are still there: a folder for temporary files may be cleaned up."""
        directory = self._settings.runtime_dir
        return directory is None or Path(directory).is_dir()

    def _is_over(self) -> bool:
        """Whether nobody uses it, for so long that it is to end, and nobody can join any more."""
        if any(not client.observer for client in self._clients):
            return False
        fd, limit = self._sharing.lock_fd, self._sharing.idle_timeout
        if is_own_record(fd, self._record) and time.monotonic() - self._used < limit:
            return False
        with contextlib.suppress(Exception):  # the directory is gone: nobody can find it
            return remove_own(fd, self._record)
        return True

    def _on_signal(self, *_: Any) -> None:
        if self._loop is None:
            self._end()
        self._loop.call_soon_threadsafe(self._stop)  # type: ignore[union-attr]

    def _stop(self) -> None:
        """End all requests, tell their clients, and end."""
        if not self.ending:
            self._begin(self._end_requests())
            self._leave_soon()

    async def _end_requests(self) -> None:
        message = f"The shared worker {self.name!r} was stopped (`mlc_widget workers stop`)."
        for client in list(self._clients):
            self._begin(client.core.terminate(message=message))

    def _leave_soon(self) -> None:
        self.ending = True
        with contextlib.suppress(Exception):
            remove_own(self._sharing.lock_fd, self._record)
        asyncio.get_running_loop().call_later(_FAREWELL_S, self._end)  # what was said arrives first

    def _end(self) -> None:
        with contextlib.suppress(Exception):
            remove_own(self._sharing.lock_fd, self._record)
        if self._settings.runtime_dir is not None:
            shutil.rmtree(self._settings.runtime_dir, ignore_errors=True)
        logging.shutdown()
        os._exit(0)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


def _bound_log(limit: int) -> None:
    """Begin the log again where it has become too long: nobody else does."""
    for fd in (1, 2):
        with contextlib.suppress(OSError):
            found = os.fstat(fd)
            if stat.S_ISREG(found.st_mode) and found.st_size > limit:
                os.ftruncate(fd, 0)
