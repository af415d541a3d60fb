"""The kernel engines: the direct engines' interface, computing in a background kernel."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from mlc_widget.api.core import ChatOpts
from mlc_widget.api.facade import AsyncEngine, Engine
from mlc_widget.api.home_loop import HomeLoop
from mlc_widget.api.progress import InitProgressCallback
from mlc_widget.proxy.core import KernelCore
from mlc_widget.proxy.state import EngineState
from mlc_widget.worker.settings import WorkerSettings


def _make_core(
    runtime: str,
    runtime_options: Mapping[str, Any] | None,
    python: str | None,
    kernel_name: str | None,
    start_timeout: float,
) -> KernelCore:
    settings = WorkerSettings(runtime=runtime, runtime_options=dict(runtime_options or {}))
    return KernelCore(
        HomeLoop.shared(),
        settings,
        python=python,
        kernel_name=kernel_name,
        start_timeout=start_timeout,
    )


def _end(core: KernelCore) -> None:
    core.submit(core.terminate())


class AsyncKernelMLCEngine(AsyncEngine[KernelCore]):
    """A proxy with `AsyncMLCEngine`'s interface; models run in a background kernel.

    The worker starts with the first `reload` and ends with `terminate`, with this object, or with
    this process, whichever comes first.

    Args:
        runtime: The worker's runtime: ``tvm``, or ``auto`` for the best that is installed there.
        runtime_options: What the runtime takes, such as ``device`` and ``threads``.
        python: The Python interpreter to run the worker in; this one by default.
        kernel_name: An installed kernelspec to run the worker in instead.
        start_timeout: Seconds that the worker may take to start.
        init_progress_callback: Called with an `InitProgressReport` as a load advances.
    """

    def __init__(
        self,
        *,
        runtime: str = "auto",
        runtime_options: Mapping[str, Any] | None = None,
        python: str | None = None,
        kernel_name: str | None = None,
        start_timeout: float = 60.0,
        init_progress_callback: InitProgressCallback | None = None,
    ) -> None:
        core = _make_core(runtime, runtime_options, python, kernel_name, start_timeout)
        super().__init__(core, HomeLoop.shared())
        self.set_init_progress_callback(init_progress_callback)
        self._finalizer = weakref.finalize(self, _end, core)
        self._finalizer.atexit = False  # the core's own exit handler kills the worker

    @property
    def state(self) -> EngineState:
        """``idle``, ``starting``, ``loading``, ``ready``, ``dead`` or ``terminated``."""
        return self._core.snapshot.state

    @property
    def model_id(self) -> str | None:
        """The model that is loaded or loading."""
        return self._core.snapshot.model_id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.model_id or 'no model'}: {self.state}>"


class KernelMLCEngine(Engine[KernelCore]):
    """`AsyncKernelMLCEngine`, blocking the calling thread."""

    def __init__(
        self,
        *,
        runtime: str = "auto",
        runtime_options: Mapping[str, Any] | None = None,
        python: str | None = None,
        kernel_name: str | None = None,
        start_timeout: float = 60.0,
        init_progress_callback: InitProgressCallback | None = None,
    ) -> None:
        core = _make_core(runtime, runtime_options, python, kernel_name, start_timeout)
        super().__init__(core, HomeLoop.shared())
        self.set_init_progress_callback(init_progress_callback)
        self._finalizer = weakref.finalize(self, _end, core)
        self._finalizer.atexit = False

    @property
    def state(self) -> EngineState:
        """``idle``, ``starting``, ``loading``, ``ready``, ``dead`` or ``terminated``."""
        return self._core.snapshot.state

    @property
    def model_id(self) -> str | None:
        """The model that is loaded or loading."""
        return self._core.snapshot.model_id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.model_id or 'no model'}: {self.state}>"


async def create_kernel_mlc_engine(
    model: str | Sequence[str],
    *,
    chat_opts: ChatOpts | Sequence[ChatOpts | None] | None = None,
    runtime: str = "auto",
    runtime_options: Mapping[str, Any] | None = None,
    python: str | None = None,
    kernel_name: str | None = None,
    start_timeout: float = 60.0,
    init_progress_callback: InitProgressCallback | None = None,
    show_progress: bool = True,
) -> AsyncKernelMLCEngine:
    """Start a worker kernel, load a model in it, and return the ready engine.

    In a notebook, a progress bar is shown meanwhile; the kernel stays free.

    Args:
        model: ``HF://user/repo[@revision]``, a folder in MLC format, a built-in name, or several.
        chat_opts: For each model, overrides of its mlc-chat-config.json.
        runtime: See `AsyncKernelMLCEngine`, as for the arguments that follow.
        runtime_options: See there.
        python: See there.
        kernel_name: See there.
        start_timeout: See there.
        init_progress_callback: See there.
        show_progress: Whether to show the progress bar in a notebook.

    Raises:
        WorkerStartError: the worker did not start; the message ends with its last output.
        MLCEngineError: what `AsyncKernelMLCEngine.reload` raises. The engine is terminated then.
    """
    engine = AsyncKernelMLCEngine(
        runtime=runtime,
        runtime_options=runtime_options,
        python=python,
        kernel_name=kernel_name,
        start_timeout=start_timeout,
        init_progress_callback=init_progress_callback,
    )
    if show_progress:
        from mlc_widget.widget import display_load_progress

        display_load_progress(engine._core)
    try:
        await engine.reload(model, chat_opts)
    except BaseException:
        await engine.terminate()
        raise
    return engine
