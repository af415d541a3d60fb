"""A worker from an installed kernelspec, which a kernel provisioner may start on any machine."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import math
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import zmq.asyncio
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.paths import jupyter_runtime_dir
from jupyter_core.utils import ensure_dir_exists

from mlc_widget.api.errors import WorkerStartError
from mlc_widget.api.requests import JSONDict
from mlc_widget.protocol.worker_settings import WorkerSettings
from mlc_widget.proxy.connection import WorkerConnection
from mlc_widget.proxy.link_watch import LinkWatch
from mlc_widget.proxy.process import WorkerProcess, manager_options, worker_environment
from mlc_widget.proxy.provisioner_thread import ProvisionerThread

TransportEncryption: TypeAlias = Literal["auto", "required", "disabled"]

_WORKER_COMMAND: Final = "`python -m mlc_widget.worker -f {connection_file}`"
_LONGEST_END_S: Final = 10.0
"""How long `stop` waits for the provisioner, which may be unable to reach the worker's machine."""


class KernelspecProcess(WorkerProcess):
    """A worker that may be on another machine: its files, process ids and environment are not ours.

    Whatever becomes of this side or of the way to it, the worker ends after `link_timeout`.

    Args:
        kernel_name: The kernelspec's name.
        settings: The worker's settings; sent to it, as its environment may not come from here.
        link_timeout: Seconds of silence after which the two sides give each other up.
        transport_encryption: CurveZMQ between here and that kernel: ``auto`` where its kernelspec
            declares it, ``required``, or ``disabled``. Other workers need none: their sockets are
            in a directory that only this user can enter.
    """

    _poll_s = 1.0  # a provisioner may start processes to find out

    def __init__(
        self,
        kernel_name: str,
        settings: WorkerSettings,
        *,
        link_timeout: float = 60.0,
        transport_encryption: TransportEncryption = "auto",
    ) -> None:
        super().__init__(settings)
        self._kernel_name = kernel_name
        self._link_timeout = link_timeout
        self._transport_encryption = transport_encryption
        self._thread = ProvisionerThread()
        self._ending: concurrent.futures.Future[None] | None = None

    @property
    def _started_with(self) -> str:
        return f"the kernelspec {self._kernel_name}"

    @property
    def sockets_folder(self) -> Path | None:
        """None: its sockets may be another machine's."""
        return None

    @property
    def when_silent(self) -> str:
        """Why it may not have answered, as an addition to an error message."""
        return f" The kernelspec {self._kernel_name!r} must run {_WORKER_COMMAND}."

    @property
    def greeting(self) -> JSONDict:
        """What the first messages tell the worker: how to set itself up, and when to end."""
        timeout = None if math.isinf(self._link_timeout) else self._link_timeout
        return {"settings": self._settings.to_wire(), "linkTimeout": timeout}

    def watch_link(self, connection: WorkerConnection, iopub: Any) -> LinkWatch | None:
        """Watch the way to the worker."""
        assert self._manager is not None
        heartbeat = self._manager.connect_hb()
        return LinkWatch(connection, iopub, heartbeat, self._link_timeout)

    def _make_manager(self, directory: Path, context: zmq.asyncio.Context) -> AsyncKernelManager:
        options = manager_options(directory, context)
        if AsyncKernelManager.class_traits().get("transport_encryption") is not None:
            options["transport_encryption"] = self._transport_encryption
        elif self._transport_encryption == "required":
            raise WorkerStartError(
                "transport_encryption = 'required' needs jupyter_client 8.10 or newer."
            )
        return AsyncKernelManager(kernel_name=self._kernel_name, **options)

    async def _launch(self, manager: AsyncKernelManager, directory: Path) -> None:
        environment = worker_environment(self._settings)
        # Provisioners, such as sshpyk's, write there; Jupyter's servers make it.
        await asyncio.to_thread(ensure_dir_exists, jupyter_runtime_dir(), 0o700)
        await self._thread.run(lambda: manager.start_kernel(env=environment))

    async def _is_alive(self) -> bool:
        manager = self._manager
        assert manager is not None
        return bool(await self._thread.run(lambda: manager.is_alive()))

    async def _exit_code(self, manager: AsyncKernelManager) -> int | None:
        find_out = super()._exit_code
        return await self._thread.run(lambda: find_out(manager))

    async def stop(self, *, now: bool = False) -> None:
        """As for any worker; one whose machine cannot be reached is left to end by itself."""
        try:
            await super().stop(now=now)
        finally:
            if self._ending is None:
                self._thread.close()

    async def _shut_down(self, manager: AsyncKernelManager, *, now: bool) -> None:
        self._ending = ending = self._thread.submit(lambda: manager.shutdown_kernel(now=now))
        ending.add_done_callback(lambda _: self._thread.close())
        with contextlib.suppress(TimeoutError):  # it goes on, and the worker ends by itself
            async with asyncio.timeout(_LONGEST_END_S):
                await asyncio.shield(asyncio.wrap_future(ending))

    def tell_end(self) -> concurrent.futures.Future[None] | None:
        """Tell the worker to end, from any machine."""
        manager = self._manager
        if manager is None or not manager.has_kernel or self._killed:
            return None
        return self._thread.submit(lambda: manager.shutdown_kernel())
