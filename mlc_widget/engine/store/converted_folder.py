"""The cache of models that were converted when they were loaded."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Final

from mlc_widget.api.errors import ModelError
from mlc_widget.api.progress import LoadReporter
from mlc_widget.engine.store.conversion import PART, Conversion, Vocabulary
from mlc_widget.engine.store.user_cache import UnsafeFolderError, UserCache
from mlc_widget.models import CONFIG_FILE

NAME: Final = "converted"
"""The name of the folder in the user's cache."""
_POLL_S: Final = 0.1


class Cancelled(Exception):
    """The load was cancelled; raised on the thread that converts."""


def find(conversion: Conversion) -> Path | None:
    """The folder of an earlier conversion of this source, if there is one."""
    try:
        folder = UserCache(NAME).secure_folder() / conversion.name
    except OSError:
        return None
    return folder if (folder / CONFIG_FILE).is_file() else None


def convert(
    conversion: Conversion,
    vocabulary: Vocabulary,
    report: LoadReporter,
    cancelled: threading.Event,
) -> Path:
    """Convert a source and return the folder; one process at a time converts it.

    Args:
        conversion: What to convert.
        vocabulary: The model's tokenizer.
        report: Gets progress, in the phase ``convert``.
        cancelled: Ends the work once it is set.

    Raises:
        ModelError: The cache cannot be written; or see `Conversion.run`.
        Cancelled: `cancelled` was set.
    """
    from filelock import FileLock, Timeout

    name = conversion.path.name
    text = f"Converting {name} to {conversion.format.name}"

    def progress(done: int, total: int) -> None:
        if cancelled.is_set():
            raise Cancelled
        report("convert", done / max(1, total), text, bytes_done=done, bytes_total=total)

    try:
        cache = UserCache(NAME).secure_folder()
    except OSError as error:
        unsafe = isinstance(error, UnsafeFolderError)
        why = str(error) if unsafe else f"The cache cannot be written: {error}."
        raise ModelError(
            f"{conversion.path}: the converted model cannot be kept. {why} Or convert it once "
            "with `mlc_widget convert` and load the result.",
            param="model_id",
        ) from error
    folder = cache / conversion.name
    lock = FileLock(cache / f"{conversion.name}.lock")
    while True:
        try:
            lock.acquire(timeout=_POLL_S)
            break
        except Timeout:
            if cancelled.is_set():
                raise Cancelled from None
            report("convert", 0.0, f"Another process is converting {name}")
    try:
        if not (folder / CONFIG_FILE).is_file():
            for left in cache.glob(f".{conversion.name}.*{PART}"):  # by killed processes
                shutil.rmtree(left, ignore_errors=True)
            shutil.rmtree(folder, ignore_errors=True)
            conversion.run(folder, vocabulary, progress)
    finally:
        lock.release()
    return folder
