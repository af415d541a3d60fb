"""The kernel engines: the same interface as the direct engines, in a background kernel."""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar, Never, TypeAlias, Unpack

from mlc_widget.api.async_interface import AsyncMLCEngineInterface
from mlc_widget.api.blocking_interface import MLCEngineInterface
from mlc_widget.api.engine_link import Hang
from mlc_widget.api.engine_options import complete_options, runtime_options_of, takes_options
from mlc_widget.api.errors import EngineForkedError
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.linked_engine import LinkedEngine
from mlc_widget.api.request_values import identifier, plain
from mlc_widget.api.tracebacks import releases_locals
from mlc_widget.protocol.worker_settings import WorkerSettings
from mlc_widget.proxy.core import KernelCore
from mlc_widget.proxy.hangs import check_hang_timeout
from mlc_widget.proxy.in_flight import check_recovery
from mlc_widget.proxy.kernelspec_process import KernelspecProcess
from mlc_widget.proxy.options import WORKER_DEFAULTS, WorkerOptions, read_link_timeout, read_share
from mlc_widget.proxy.process import WorkerProcess
from mlc_widget.proxy.shared_process import SharedWorkerProcess
from mlc_widget.proxy.worker import AnyProcess


def _end(core: KernelCore) -> None:
    """End the worker of an engine that nothing refers to any more."""
    with contextlib.suppress(EngineForkedError):  # a copy of the object is not the engine
        core.submit(core.terminate(dropped=True))


class _KernelEngine(LinkedEngine):
    """The common part of both kernel engines, with what they report of their worker."""

    _core: KernelCore

    _factory: ClassVar[str]
    _hides_output: ClassVar[bool] = False
    """Whether errors lack what a shared worker printed, as they are shown to others than its user.
    """

    @takes_options(WorkerOptions, WORKER_DEFAULTS)
    def __init__(self, *models: Never, **options: Unpack[WorkerOptions]) -> None:
        chosen = complete_options(type(self), self._factory, models, options, WORKER_DEFAULTS)
        settings = WorkerSettings(
            runtime=chosen["runtime"],
            runtime_options=runtime_options_of(chosen),
            handler=chosen["handler"],
            logit_processors=dict(chosen["logit_processors"] or {}),
        )

        share = read_share(chosen)
        if share is not None and self._hides_output:
            share = replace(share, hides_output=True)
        link_timeout = read_link_timeout(chosen)

        def make_process() -> AnyProcess:
            if share is not None:
                return SharedWorkerProcess(
                    share, settings, python=chosen["python"], timeout=chosen["start_timeout"]
                )
            if chosen["kernel_name"] is not None:
                return KernelspecProcess(
                    chosen["kernel_name"],
                    settings,
                    link_timeout=link_timeout,
                    transport_encryption=chosen["transport_encryption"],
                )
            return WorkerProcess(settings, python=chosen["python"])

        home = HomeLoop.shared()
        core = KernelCore(
            home,
            make_process,
            start_timeout=chosen["start_timeout"],
            hang_timeout=check_hang_timeout(chosen["hang_timeout"]),
            recovery=check_recovery(chosen["recovery"]),
            shared=share is not None,
        )
        super().__init__(core, home)
        self.set_init_progress_callback(chosen["init_progress_callback"])
        others = {**chosen, "init_progress_callback": None}
        make: Callable[..., object] = type(self)
        core.made_by(functools.partial(make, **others))
        self._finalizer = weakref.finalize(self, _end, core)
        self._finalizer.atexit = False  # at exit the worker's supervisor kills it

    @property
    def hang(self) -> Hang | None:
        """Set while the worker or its engine has not responded for long; otherwise None.

        It may recover. `terminate` and a restart (``%mlc restart``) work even while it hangs.
        """
        return self._core.snapshot.hang

    @property
    def worker_pid(self) -> int | None:
        """The worker's process id, while there is one on this machine."""
        return self._core.worker_pid


class AsyncKernelMLCEngine(_KernelEngine, AsyncMLCEngineInterface):
    """A proxy with `AsyncMLCEngine`'s interface; models run in a background kernel.

    The worker starts with the first `reload` and ends with `terminate`, with this object, or with
    this process, whichever comes first. A shared one (`share`) is only left then.

    Args:
        **options: See `WorkerOptions`.

    Raises:
        TypeError: an option does not exist, or a model was given: `create_kernel_mlc_engine` takes
            one.
        BadRequestError: an option is invalid.
    """

    _factory = "await create_kernel_mlc_engine"

    @releases_locals
    async def custom_request(self, name: str, message: Any = None) -> Any:
        """Send a request to the worker's own handler class (`handler`); plain JSON both ways.

        Raises:
            BadRequestError: the message is not plain JSON.
            ProtocolError: the handler does not know this request.
        """
        name, message = identifier("name", name), plain("message", message)
        return await self._call(self._core.custom_request, name, message)


class KernelMLCEngine(_KernelEngine, MLCEngineInterface):
    """`AsyncKernelMLCEngine`, blocking the calling thread; `kernel_mlc_engine` makes one."""

    _factory = "kernel_mlc_engine"

    @releases_locals
    def custom_request(self, name: str, message: Any = None) -> Any:
        """As `AsyncKernelMLCEngine.custom_request`."""
        name, message = identifier("name", name), plain("message", message)
        return self._call(self._core.custom_request, name, message)


KernelEngine: TypeAlias = AsyncKernelMLCEngine | KernelMLCEngine
