"""Models that are converted to MLC format as they are loaded, once."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from mlc_widget.api.errors import RuntimeUnavailableError
from mlc_widget.api.progress import LoadReporter
from mlc_widget.engine.load_sequence import uncancelled
from mlc_widget.engine.store.model_folder import is_transformers_folder
from mlc_widget.engine.system.daemon import call_in_daemon
from mlc_widget.engine.text.tokenizer_loading import load_tokenizer

if TYPE_CHECKING:
    from mlc_widget.engine.store.conversion import Conversion

_T = TypeVar("_T")
_THREAD = "mlc_widget-convert"


async def in_mlc_format(path: Path, chat_opts: Mapping[str, Any], report: LoadReporter) -> Path:
    """A model's folder in MLC format: itself, or what it was converted to; or a GGUF file, itself.

    Cancelling this ends the work and removes what it had written.

    Args:
        path: From `model_folder.fetch`.
        chat_opts: ``quantization`` says what a folder of safetensors is converted to.
        report: Gets progress.

    Raises:
        ModelError: See `Conversion` and its `run`.
        RuntimeUnavailableError: numpy or filelock is missing.
    """
    if not await call_in_daemon(lambda: is_transformers_folder(path), _THREAD):
        return path
    report("resolve", 0.0, f"Reading the headers of {path.name}")
    conversion = await opened(path, chat_opts.get("quantization"))
    try:
        return await _converted(conversion, report)
    finally:
        conversion.close()


async def opened(
    path: Path, quantization: str | None, calibration: Path | None = None
) -> Conversion:
    """A `Conversion`, to be closed; its errors, and RuntimeUnavailableError without numpy."""

    def make() -> Conversion:
        try:
            from mlc_widget.engine.store.conversion import Conversion
        except ModuleNotFoundError as error:
            raise RuntimeUnavailableError(
                f"Converting safetensors needs the package {error.name}, which is missing: "
                'pip install "mlc-widget[tvm]".'
            ) from error
        return Conversion(path, quantization, calibration)

    return await call_in_daemon(make, _THREAD)


async def _converted(conversion: Conversion, report: LoadReporter) -> Path:
    from mlc_widget.engine.store import converted_folder

    if (
        there := await call_in_daemon(lambda: converted_folder.find(conversion), _THREAD)
    ) is not None:
        return there
    # Tried before the work starts: without it the model would be of no use.
    tokenizer = await load_tokenizer(conversion.path)
    return await cancellable(
        lambda cancelled: converted_folder.convert(conversion, tokenizer, report, cancelled)
    )


async def cancellable(work: Callable[[threading.Event], _T]) -> _T:
    """Run work on a thread; cancelling this sets the event and waits until the work has ended."""
    cancelled = threading.Event()
    task = call_in_daemon(lambda: work(cancelled), _THREAD)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        cancelled.set()
        with contextlib.suppress(Exception):  # the cancellation is what the caller hears of
            await uncancelled(task)
        raise
