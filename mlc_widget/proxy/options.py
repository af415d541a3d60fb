"""The options of the kernel engines, written once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mlc_widget.api.engine_options import ENGINE_DEFAULTS, EngineOptions
from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.request_values import identifier
from mlc_widget.protocol.worker_record import check_seconds, check_share
from mlc_widget.proxy.in_flight import Recovery
from mlc_widget.proxy.kernelspec_process import TransportEncryption
from mlc_widget.proxy.shared_process import Share

LINK_TIMEOUT_S: Final = 60.0


class WorkerOptions(EngineOptions, total=False):
    """`EngineOptions`, and what concerns the worker: the options of the kernel engines.

    Attributes:
        python: The Python interpreter to run the worker in; this one by default.
        kernel_name: An installed kernelspec to run the worker with instead, wherever its kernel
            provisioner places it. Its argv must be ``python -m mlc_widget.worker -f
            {connection_file}``.
        transport_encryption: CurveZMQ to that kernel: ``auto`` (the default) where its kernelspec
            declares it, ``required``, or ``disabled``.
        link_timeout: With `kernel_name`: seconds without a sign of life after which each side
            gives up on the other; 60 by default. The worker then ends, wherever it is, and the next
            request starts another. `math.inf` turns it off. See ``docs/elsewhere.md``.
        share: The name of a worker that other notebooks of this user may use, too: it is joined if
            it is there, and started otherwise. It stays when this notebook ends. See
            ``docs/shared-workers.md``.
        idle_timeout: With `share`: seconds without any notebook after which the worker ends; 900
            by default. `math.inf` turns it off.
        unload_after: With `share`: seconds after which models that nobody asked for are unloaded,
            until the next request; 1800 by default. `math.inf` turns it off.
        cache_salt: With `share`: a text. Engines with different ones, or without one, do not share
            the keys and values of prompts that begin in the same way, so that none can tell from
            times and `cached_tokens` what another was asked. Without it, all share them.
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
    link_timeout: float | None
    share: str | None
    idle_timeout: float | None
    unload_after: float | None
    cache_salt: str | None
    handler: str | None
    logit_processors: Mapping[str, str] | None
    start_timeout: float
    hang_timeout: float
    recovery: Recovery


def read_share(options: WorkerOptions) -> Share | None:
    """The shared worker that options name; None if they name none.

    Raises:
        BadRequestError: an option is invalid, or does not go with the others.
    """
    given: dict[str, Any] = {
        name: check(name, value)
        for name, value, check in (
            ("idle_timeout", options["idle_timeout"], check_seconds),
            ("unload_after", options["unload_after"], check_seconds),
            ("cache_salt", options["cache_salt"], _check_salt),
        )
        if value is not None
    }
    if options["share"] is None:
        for name, value in given.items():
            raise BadRequestError(
                f"{name} = {value!r}: it is for shared workers; give `share` a name, too.",
                param=name,
            )
        return None
    if options["kernel_name"] is not None:
        raise BadRequestError(
            f"share = {options['share']!r} and kernel_name = {options['kernel_name']!r}: a shared "
            "worker is a process on this machine; give one of them.",
            param="share",
        )
    return Share(check_share(options["share"]), **given)


def _check_salt(name: str, value: Any) -> str:
    return identifier(name, value)


def read_link_timeout(options: WorkerOptions) -> float:
    """Seconds after which the two sides of a link give each other up.

    Raises:
        BadRequestError: it is no time, or there is no link.
    """
    value = options["link_timeout"]
    if value is None:
        return LINK_TIMEOUT_S
    seconds = check_seconds("link_timeout", value)
    if options["kernel_name"] is None:
        raise BadRequestError(
            f"link_timeout = {value!r}: it is for kernelspecs; give `kernel_name`, too.",
            param="link_timeout",
        )
    return seconds


WORKER_DEFAULTS: Final[WorkerOptions] = {
    **ENGINE_DEFAULTS,
    "python": None,
    "kernel_name": None,
    "transport_encryption": "auto",
    "link_timeout": None,
    "share": None,
    "idle_timeout": None,
    "unload_after": None,
    "cache_salt": None,
    "handler": None,
    "logit_processors": None,
    "start_timeout": 60.0,
    "hang_timeout": 30.0,
    "recovery": "resume",
}
