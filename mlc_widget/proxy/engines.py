"""The kernel engines: the same interface as the direct engines, in a background kernel."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from mlc_widget.api.engine_base import AsyncMLCEngineInterface, EngineBase, MLCEngineInterface
from mlc_widget.api.engine_link import EngineLink, EngineState, Hang
from mlc_widget.api.errors import EngineForkedError
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.progress import InitProgressCallback
from mlc_widget.api.request_values import identifier, plain
from mlc_widget.api.tracebacks import releases_locals
from mlc_widget.protocol.worker_settings import WorkerSettings
from mlc_widget.proxy.core import KernelCore
from mlc_widget.proxy.hangs import check_hang_timeout
from mlc_widget.proxy.in_flight import Recovery, check_recovery
from mlc_widget.proxy.process import TransportEncryption, WorkerProcess

if TYPE_CHECKING:
    _State: TypeAlias = EngineState
else:  # jedi, which completes in notebooks, fails at a property that gives a `Literal`
    _State = str


def _end(core: KernelCore) -> None:
    """End the worker of an engine that nothing refers to any more."""
    with contextlib.suppress(EngineForkedError):  # a copy of the object is not the engine
        core.submit(core.terminate(dropped=True))


class _KernelEngine(EngineBase):
    """The common part of both kernel engines, with what they report of their worker."""

    _core: KernelCore

    def __init__(
        self,
        *,
        runtime: str = "auto",
        runtime_options: Mapping[str, Any] | None = None,
        python: str | None = None,
        kernel_name: str | None = None,
        transport_encryption: TransportEncryption = "auto",
        handler: str | None = None,
        logit_processors: Mapping[str, str] | None = None,
        start_timeout: float = 60.0,
        hang_timeout: float = 30.0,
        recovery: Recovery = "resume",
        init_progress_callback: InitProgressCallback | None = None,
    ) -> None:
        settings = WorkerSettings(
            runtime=runtime,
            runtime_options=dict(runtime_options or {}),
            handler=handler,
            logit_processors=dict(logit_processors or {}),
        )

        def make_process() -> WorkerProcess:
            return WorkerProcess(
                settings,
                python=python,
                kernel_name=kernel_name,
                transport_encryption=transport_encryption,
            )

        home = HomeLoop.shared()
        core = KernelCore(
            home,
            make_process,
            start_timeout=start_timeout,
            hang_timeout=check_hang_timeout(hang_timeout),
            recovery=check_recovery(recovery),
        )
        super().__init__(core, home)
        self.set_init_progress_callback(init_progress_callback)
        self._finalizer = weakref.finalize(self, _end, core)
        self._finalizer.atexit = False  # at exit the worker's supervisor kills it

    @property
    def link(self) -> EngineLink:
        """Observes and controls this engine from any thread, as the widgets and the magics do.

        It does not keep the engine alive.
        """
        return self._core

    @property
    def state(self) -> _State:
        """``idle``, ``starting``, ``loading``, ``ready``, ``dead`` or ``terminated``."""
        return self._core.snapshot.state

    @property
    def hang(self) -> Hang | None:
        """Set while the worker or its engine has not responded for long; otherwise None.

        It may recover. `terminate` and a restart (``%mlc restart``) work even while it hangs.
        """
        return self._core.snapshot.hang

    @property
    def model_id(self) -> str | None:
        """The model that is loaded or loading; several are joined by commas."""
        return self._core.snapshot.model_id

    @property
    def worker_pid(self) -> int | None:
        """The worker's process id, while there is one on this machine."""
        return self._core.worker_pid

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.model_id or 'no model'}: {self.state}>"


class AsyncKernelMLCEngine(_KernelEngine, AsyncMLCEngineInterface):
    """A proxy with `AsyncMLCEngine`'s interface; models run in a background kernel.

    The worker starts with the first `reload` and ends with `terminate`, with this object, or with
    this process, whichever comes first.

    Args:
        runtime: The worker's runtime: ``tvm``, or ``auto`` for the best that is installed there.
        runtime_options: Options of the runtime, such as ``device`` and ``threads``.
        python: The Python interpreter to run the worker in; this one by default.
        kernel_name: An installed kernelspec to run the worker with instead, wherever its kernel
            provisioner places it. Its argv must be ``python -m mlc_widget.worker -f
            {connection_file}``.
        transport_encryption: CurveZMQ to that kernel: ``auto`` where its kernelspec declares it,
            ``required``, or ``disabled``.
        handler: The worker's `KernelMLCEngineHandler` subclass, as ``package.module:Class``.
        logit_processors: By model id, each as ``package.module:Class``; imported by the worker.
        start_timeout: Seconds that the worker may take to start.
        hang_timeout: Seconds without a response from the worker, while something waits for it,
            after which `hang` is set and a warning is logged. A load, a model's first step, and
            the steps of a slow model may take longer. `math.inf` turns it off.
        recovery: What happens to running requests when the worker dies. With ``resume`` a new
            worker loads the same models and continues each request where it was, in the same
            ``await`` or ``async for``; a request that seems to kill its workers fails with
            `EngineDeadError`. With ``error`` all fail at once. See ``docs/answers.md``.
        init_progress_callback: Called with an `InitProgressReport` as a load advances.
    """

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
    """`AsyncKernelMLCEngine`, blocking the calling thread."""

    @releases_locals
    def custom_request(self, name: str, message: Any = None) -> Any:
        """As `AsyncKernelMLCEngine.custom_request`."""
        name, message = identifier("name", name), plain("message", message)
        return self._call(self._core.custom_request, name, message)


KernelEngine: TypeAlias = AsyncKernelMLCEngine | KernelMLCEngine
