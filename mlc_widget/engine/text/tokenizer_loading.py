"""Loads the tokenizer of a model folder, after it was tried in a process that may die of it.

The `tokenizers` package is native code that believes its file: an id of 2**31 makes it allocate
without end, and nothing in this process could stop that. A child process under limits of time and
memory loads the same bytes first and encodes some texts. That costs once: good files are remembered
by their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
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
from mlc_widget.engine.system.child_process import end_with_parent, run_child
from mlc_widget.engine.system.daemon import call_in_daemon
from mlc_widget.engine.text.tokenizer import (
    TOKENIZER_FILE,
    Tokenizer,
    import_tokenizers,
    read_tokenizer,
)

MARK: Final = "mlc_widget-tokenizer:"
CPU_S: Final = 60
MEMORY_BYTES: Final = 4 << 30
_NOT_THE_FILES: Final[dict[str, type[MLCEngineError]]] = {
    cls.__name__: cls for cls in (InsufficientMemoryError, RuntimeUnavailableError)
}
"""Errors of the child that are no fault of the file."""
_SAMPLES: Final = (
    "Hello, world! It's 12345.67 — naïve café, 犬が走る 🙂.\n\n\tdef f(x):\n        return x\n",
    "".join(map(chr, range(32, 0x250))),
    " " * 300 + "a" * 300 + "!" * 300 + "\n" * 300 + "0" * 300 + "é" * 300 + "a b" * 300,
)
"""What any tokenizer must be able to encode; and a normaliser that explodes, explodes here."""


async def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder; cancelling this ends the work.

    Raises:
        ModelFormatError: tokenizer.json is missing, malformed, or not to be used safely.
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
    """The name of what is remembered of a file: another version may find other faults."""
    return f"{digest}-{version('tokenizers')}-1"


async def _try(file: Path, digest: str) -> None:
    told: dict[str, Any] = {}
    lines: list[str] = []

    def on_line(line: str) -> None:
        if line.startswith(MARK):
            told.update(json.loads(line.removeprefix(MARK)))
        else:
            lines.append(line[:500])
            del lines[:-20]

    await run_child(__name__, {"file": str(file), "limits": [CPU_S, MEMORY_BYTES]}, on_line)
    if told.get("type") in _NOT_THE_FILES:
        raise _NOT_THE_FILES[told["type"]](told["error"])
    if "error" in told:
        raise ModelFormatError(told["error"], param=str(file))
    if "digest" not in told:
        last = f" It said: {lines[-1]}" if lines else ""
        raise ModelFormatError(
            f"{file} cannot be used: loading it, or encoding a short text with it, takes more than "
            f"{CPU_S} s or {MEMORY_BYTES >> 30} GiB, or fails in native code.{last}",
            param=str(file),
        )
    if told["digest"] != digest:
        raise ModelFormatError(f"{file} changed while it was read. Try again.", param=str(file))


def main() -> None:
    """Try a tokenizer, under limits, and say how that ended."""
    wanted: dict[str, Any] = json.loads(sys.argv[1])
    end_with_parent()
    _limit(*wanted["limits"])
    file = Path(wanted["file"])
    try:
        content = read_tokenizer(file)
        tokenizer = Tokenizer.from_bytes(content, file)
        for text in _SAMPLES:
            tokenizer.encode(text)
        told = {"digest": hashlib.sha256(content).hexdigest()}
    except MLCEngineError as error:
        told = {"error": error.message, "type": type(error).__name__}
    except BaseException as error:
        told = {"error": f"{file} cannot be used: encoding a short text with it fails: {error}."}
    print(MARK + json.dumps(told), flush=True)
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
