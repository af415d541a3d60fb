"""The options of the kernel engines, written once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mlc_widget.api.engine_options import ENGINE_DEFAULTS, EngineOptions
from mlc_widget.proxy.in_flight import Recovery
from mlc_widget.proxy.process import TransportEncryption


class WorkerOptions(EngineOptions, total=False):
    """`EngineOptions`, and what concerns the worker: the options of the kernel engines.

    Attributes:
        python: The Python interpreter to run the worker in; this one by default.
        kernel_name: An installed kernelspec to run the worker with instead, wherever its kernel
            provisioner places it. Its argv must be ``python -m mlc_widget.worker -f
            {connection_file}``.
        transport_encryption: CurveZMQ to that kernel: ``auto`` (the default) where its kernelspec
            declares it, ``required``, or ``disabled``.
        handler: The worker's `KernelMLCEngineHandler` subclass, as ``package.module:Class``.
        logit_processors: By model id, each as ``package.module:Class``; imported by the worker.
        start_timeout: Seconds that the worker may take to start; 60 by default.
        hang_timeout: Seconds without a response from the worker, while something waits for it,
            after which the engine's `hang` is set and a warning is logged; 30 by default. A load,
            a model's first step, and the steps of a slow model may take longer. `math.inf` turns
            it off.
        recovery: What happens to running requests when the worker dies. With ``resume`` (the
            default) a new worker loads the same models and continues each request where it was, in
            the same ``await`` or ``async for``. What was running at two deaths is tried once more,
            alone, and only a request that kills a worker while it is alone there fails with
            `EngineDeadError`. With ``error`` all fail at once. See ``docs/answers.md``.
    """

    python: str | None
    kernel_name: str | None
    transport_encryption: TransportEncryption
    handler: str | None
    logit_processors: Mapping[str, str] | None
    start_timeout: float
    hang_timeout: float
    recovery: Recovery


WORKER_DEFAULTS: Final[WorkerOptions] = {
    **ENGINE_DEFAULTS,
    "python": None,
    "kernel_name": None,
    "transport_encryption": "auto",
    "handler": None,
    "logit_processors": None,
    "start_timeout": 60.0,
    "hang_timeout": 30.0,
    "recovery": "resume",
}
