"""Runs a model on a compute thread."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

from mlc_widget.api.errors import InternalEngineError, MLCEngineError
from mlc_widget.engine.runtimes.tvm import shutdown
from mlc_widget.engine.runtimes.tvm.threads import ComputeThread


def run_on_compute_thread(scheduler: Any, executor: Any, threads: int) -> Future[None]:
    """Prepare the executor on a compute thread and leave the scheduler running there.

    Args:
        scheduler: A `Scheduler`, or an embedding model's `Embedder`; its ``run()`` is called.
        executor: The executor, whose ``prepare()`` is called first, and ``end()`` last.
        threads: The number of CPU threads.

    Returns:
        A future that is done when the thread no longer uses the model.
    """
    ready = threading.Event()
    failure: list[BaseException] = []

    def body() -> None:
        try:
            executor.prepare()
        except BaseException as e:  # raised in the loading thread
            failure.append(e)
            ready.set()
            return
        ready.set()
        try:
            scheduler.run()
        finally:
            executor.end()

    ended = ComputeThread.take(threads).run(body)
    del body
    ready.wait()
    if failure:
        if isinstance(failure[0], MLCEngineError):
            raise failure[0]
        raise InternalEngineError(f"The model could not be started: {failure[0]}") from failure[0]
    shutdown.model_runs(scheduler, ended)
    return ended
