"""Where models are downloaded from: the Hub, packages, or the first of several that has one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mlc_widget.api.errors import ModelDownloadError, ModelNotFoundError
from mlc_widget.api.progress import LoadReporter
from mlc_widget.engine.store import hub, wheels

_PREFIXES: Final = (hub.HUB_PREFIX, wheels.WHEEL_PREFIX)


def is_source(model_id: str) -> bool:
    """Whether it says where to download from."""
    return model_id.startswith(_PREFIXES)


async def download(model_id: str, report: LoadReporter) -> Path:
    """As `hub.download` and `wheels.download`."""
    if model_id.startswith(wheels.WHEEL_PREFIX):
        return await wheels.download(model_id, report)
    return await hub.download(model_id, report)


async def download_first(name: str, model_ids: Sequence[str], report: LoadReporter) -> Path:
    """The file from the first source whose cache has it, else from the first that can give it.

    Args:
        name: What the model is called.
        model_ids: Where it is, in the order in which to ask.
        report: Gets progress.

    Raises:
        ModelDownloadError: None has it; the message says of each why.
        MLCEngineError: What else a source raises, such as that the file is not the expected one.
    """
    report("download", 0.0, f"Looking for {name}")
    for model_id in model_ids:
        if (path := await asyncio.to_thread(_cached, model_id)) is not None:
            return path
    failures: list[ModelDownloadError | ModelNotFoundError] = []
    for model_id in model_ids:
        try:
            return await download(model_id, report)
        except (ModelDownloadError, ModelNotFoundError) as error:
            failures.append(error)
    reasons = "".join(f"\n- {error}" for error in failures)
    raise ModelDownloadError(
        f"{name!r} could not be downloaded from any of its sources:{reasons}", param="model_id"
    ) from failures[-1]


def _cached(model_id: str) -> Path | None:
    if model_id.startswith(wheels.WHEEL_PREFIX):
        return wheels.cached(wheels.parse(model_id))
    return hub.cached(hub.parse(model_id))
