"""Loads the tokenizer of a model folder, after trying it in a child process.

The `tokenizers` package is native code that does not check its file: a token id of 2**31, say,
makes it allocate endlessly, and nothing in this process could stop it. So a child process with
limits on time and memory first loads the same bytes and encodes some texts. That is done once for
each file: the SHA-256 of good files is remembered.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import deque
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from mlc_widget.api.errors import (
    InsufficientMemoryError,
    MLCEngineError,
    ModelFormatError,
    RuntimeUnavailableError,
)
from mlc_widget.engine.store.user_cache import UserCache
from mlc_widget.engine.system.child_process import end_with_parent, run_child, send_facts
from mlc_widget.engine.system.daemon import call_in_daemon
from mlc_widget.engine.text.tokenizer import TOKENIZER_FILE, Tokenizer, read_tokenizer
from mlc_widget.engine.text.tokenizer_backend import import_tokenizers

CPU_S: Final = 60
MEMORY_BYTES: Final = 4 << 30
_NOT_THE_FILES: Final[dict[str, type[MLCEngineError]]] = {
    cls.__name__: cls for cls in (InsufficientMemoryError, RuntimeUnavailableError)
}
"""Errors in the child for which the file is not to blame."""
_SAMPLES: Final = (
    "Hello, world! It's 12345.67 — naïve café, 犬が走る 🙂.\n\n\tdef f(x):\n        return x\n",
    "".join(map(chr, range(32, 0x250))),
    " " * 300 + "a" * 300 + "!" * 300 + "\n" * 300 + "0" * 300 + "é" * 300 + "a b" * 300,
)
"""Texts that every tokenizer must encode. A normalizer that inflates texts is caught here."""


async def load_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a model folder. Cancelling the task ends the work.

    Raises:
        ModelFormatError: tokenizer.json is missing, malformed, or cannot be used safely.
    """
    file = folder / TOKENIZER_FILE
    content = await call_in_daemon(lambda: read_tokenizer(file), "mlc_widget-tokenizer")
    digest = hashlib.sha256(content).hexdigest()
    await call_in_daemon(import_tokenizers, "mlc_widget-tokenizer")
    name, cache = _entry(digest), UserCache("tokenizers")
    if await call_in_daemon(lambda: cache.read(name), "mlc_widget-tokenizer") is None:
        await _try(file, digest)
        await call_in_daemon(lambda: cache.write(name, b"good\n"), "mlc_widget-tokenizer")
    return await call_in_daemon(lambda: Tokenizer.from_bytes(content, file), "mlc_widget-tokenizer")


def _entry(digest: str) -> str:
    """The cache entry of a good file, per version of `tokenizers`, as others may find faults."""
    return f"{digest}-{version('tokenizers')}-1"


async def _try(file: Path, digest: str) -> None:
    outcome: dict[str, Any] = {}
    lines: deque[str] = deque(maxlen=1)
    wanted = {"file": str(file), "limits": [CPU_S, MEMORY_BYTES]}
    await run_child(__name__, wanted, outcome.update, lambda line: lines.append(line[:500]))
    if outcome.get("type") in _NOT_THE_FILES:
        raise _NOT_THE_FILES[outcome["type"]](outcome["error"])
    if "error" in outcome:
        raise ModelFormatError(outcome["error"], param=str(file))
    if "digest" not in outcome:
        last = f" Its last output: {lines[-1]}" if lines else ""
        raise ModelFormatError(
            f"{file} cannot be used: loading it or encoding a short text with it takes more than "
            f"{CPU_S} s or {MEMORY_BYTES >> 30} GiB, or crashes.{last}",
            param=str(file),
        )
    if outcome["digest"] != digest:
        raise ModelFormatError(f"{file} changed while it was read. Try again.", param=str(file))


def main() -> None:
    """In the child: try a tokenizer under limits and print the outcome."""
    wanted: dict[str, Any] = json.loads(sys.argv[1])
    end_with_parent()
    _limit(*wanted["limits"])
    file = Path(wanted["file"])
    try:
        content = read_tokenizer(file)
        tokenizer = Tokenizer.from_bytes(content, file)
        for text in _SAMPLES:
            tokenizer.encode(text)
        outcome = {"digest": hashlib.sha256(content).hexdigest()}
    except MLCEngineError as error:
        outcome = {"error": error.message, "type": type(error).__name__}
    except BaseException as error:
        outcome = {"error": f"{file} cannot be used: encoding a short text with it fails: {error}."}
    send_facts(**outcome)
    os._exit(0)


def _limit(cpu_s: int, memory_bytes: int) -> None:
    try:
        import resource
    except ImportError:  # not on Windows
        return
    for kind, wanted in (
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (most, hard))


if __name__ == "__main__":
    main()
