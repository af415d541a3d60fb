"""Runs pip to download a wheel, and tells its failures apart."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from mlc_widget.engine.store import pip_cache
from mlc_widget.engine.store.wheel_failures import (
    CutOff,
    FetchError,
    NoNetwork,
    NoPackage,
    NoSpace,
    PipFailed,
    need_space,
)
from mlc_widget.engine.system.child_process import send_facts

_PROGRESS: Final = re.compile(r"Progress (\d+) of (\d+)")
_RESUMPTIONS: Final = "20"
"""How often pip (since 25.1) goes on with a download that was cut off; older ones start again."""
_CUT_OFF: Final = re.compile(
    r"not enough bytes were received|IncompleteRead|Connection broken|Connection aborted"
    r"|ConnectionResetError|Read timed out"
)
_LARGEST_METADATA: Final = 1 << 22
"""pip does without downloads of more bytes when it only looks up a wheel."""
_COPIES: Final = 3
"""The copies of a wheel on disk at worst: pip's temporary one, its result, the extracted file."""


def cache_folder() -> Path | None:
    """The folder of pip's cache, as the user has set it; None if there is none."""
    command = [sys.executable, "-P", "-m", "pip", "cache", "dir", "--disable-pip-version-check"]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    return Path(done.stdout.strip()) if done.returncode == 0 and done.stdout.strip() else None


def download(parts: Path, package: str, version: str | None) -> Path:
    """Download a package's wheel into a new folder.

    Args:
        parts: The folder.
        package: The package's normalized name.
        version: Its version; None for the newest.

    Raises:
        FetchError: It failed; one of its subclasses says how.
    """
    to = parts / "wheel"
    to.mkdir(parents=True)

    def progress(done: int, total: int) -> None:
        need_space(parts, _COPIES * total - done)
        send_facts(bytes_done=done, bytes_total=total)

    status, lines = _run_pip(parts, ["download", "--dest", str(to)], package, version, progress)
    if status:
        raise _pip_failure(lines)
    for wheel in to.glob("*.whl"):
        if pip_cache.normalized(wheel.name.split("-")[0]) == package:
            return wheel
    raise PipFailed(f"pip downloaded no wheel of {package}")


def report(parts: Path, package: str, version: str | None) -> Any:
    """Have pip look up a package; return its installation report.

    It is None if pip needs the whole wheel for that, or fails.

    Args:
        parts: A folder for temporary files.
        package: The package's normalized name.
        version: Its version; None for the newest.
    """
    file = parts / "report.json"
    action = [
        *("install", "--dry-run", "--ignore-installed", "--report", str(file), "--retries", "1"),
        "--use-feature=fast-deps",  # reads metadata out of wheels where the index has none
    ]

    def progress(done: int, total: int) -> None:
        if total > _LARGEST_METADATA:
            raise PipFailed("the index has no metadata")

    with contextlib.suppress(PipFailed, OSError, ValueError, RecursionError):
        status, _ = _run_pip(parts, action, package, version, progress)
        return None if status else json.loads(file.read_bytes())
    return None


def _run_pip(
    parts: Path,
    action: Sequence[str],
    package: str,
    version: str | None,
    on_progress: Callable[[int, int], None],
) -> tuple[int, list[str]]:
    """Run pip for a wheel without its dependencies; return its status and its last lines.

    Args:
        parts: The folder in which pip makes its temporary files.
        action: pip's subcommand with its own options.
        package: The package's normalized name.
        version: Its version; None for the newest.
        on_progress: Called with the bytes done and the total; an exception ends pip.
    """
    temporary = parts / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-P", "-m", "pip", *action),
        *("--no-deps", "--only-binary", ":all:", "--no-input", "--no-color"),
        "--disable-pip-version-check",
        *("--progress-bar", "raw" if _pip_version() >= (24, 1) else "off"),
        f"{package}=={version}" if version else package,
    ]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={
            "PIP_RESUME_RETRIES": _RESUMPTIONS,
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "TMPDIR": str(temporary),
        },
    )
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        if progress := _PROGRESS.search(line):
            try:
                on_progress(int(progress[1]), int(progress[2]))
            except FetchError:
                process.kill()
                process.wait()
                raise
        elif line.strip():
            lines = [*lines[-200:], line.strip()]
    return process.wait(), lines


def _pip_version() -> tuple[int, ...]:
    try:
        return tuple(int(n) for n in importlib.metadata.version("pip").split(".")[:2])
    except (ValueError, importlib.metadata.PackageNotFoundError):
        return (0,)


def _pip_failure(lines: list[str]) -> FetchError:
    """The failure that pip's output describes."""
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    said = "; ".join(dict.fromkeys(errors[-2:])) or (lines[-1] if lines else "pip said nothing")
    if any("No space left on device" in line or "Disk quota" in line for line in errors):
        return NoSpace(f"{said}.")
    broken = [line for line in lines if "Retrying (Retry(" in line or "Max retries" in line]
    if broken:
        cause = re.search(r"""['"](\w+\(.*\))['"]""", broken[-1])
        return NoNetwork(cause[1] if cause else broken[-1])
    if any("No matching distribution" in line for line in errors):
        return NoPackage(said)
    if cut := next((line for line in lines if _CUT_OFF.search(line)), None):
        return CutOff(cut.lstrip("× "))
    return PipFailed(said)
