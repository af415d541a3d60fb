"""Models on the Hugging Face Hub, kept in the Hub's own cache.

``HF://user/repo[@revision]`` is a repository in MLC format, of safetensors, or of GGUF files, of
which one that fits is chosen. ``HF://user/repo:Q4_K_M`` names the quantization,
``HF://user/repo/file.gguf`` the file; if it is split, all parts are downloaded. ``HF://`` may be
left out.

The settings are those of `huggingface_hub`: ``HF_TOKEN``, ``HF_HOME``, ``HF_ENDPOINT``,
``HF_HUB_OFFLINE`` and proxies. Downloaded models are found without a network, and an interrupted
download continues where it ended.
"""

from __future__ import annotations

import asyncio
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from mlc_widget.api.errors import (
    BadRequestError,
    InsufficientMemoryError,
    ModelDownloadError,
    ModelFormatError,
    ModelNotFoundError,
    RuntimeUnavailableError,
)
from mlc_widget.api.progress import LoadReporter
from mlc_widget.engine.store import hub_child, other_caches
from mlc_widget.engine.store.download_process import run_download
from mlc_widget.engine.store.hub_cache import (
    CachedRepository,
    HubModel,
    has_sum,
    is_commit,
)
from mlc_widget.engine.store.model_facts import size_text
from mlc_widget.engine.store.split_files import closest, preferred
from mlc_widget.models.places import hub_cache_root as cache_root
from mlc_widget.models.places import weight_budget

HUB_PREFIX: Final = "HF://"
_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?"
_PART: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9._+ -]*[A-Za-z0-9_+-])?"
_MODEL_ID: Final = re.compile(
    rf"(?:HF://)?(?P<repo>{_NAME}/{_NAME})"
    rf"(?:/(?P<file>(?:{_PART}/)*{_PART})|:(?P<quantization>[A-Za-z0-9_]{{2,32}}))?"
    r"(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]*))?"
    r"(?:#sha256=(?P<sha256>[0-9A-Fa-f]{64}))?"
)
_LONGEST: Final = 1024
_LISTED: Final = 30


def is_repository(model_id: str) -> bool:
    """Whether an id without ``HF://`` may be that of a repository or of a file in one.

    ``models/my.gguf`` is rather a file's path, and so is ``models/mine/my.gguf`` where there is a
    folder ``models``.
    """
    try:
        wanted = parse(model_id)
    except BadRequestError:
        return False
    if wanted.repo.lower().endswith(".gguf") or (wanted.file and _is_folder(wanted.repo)):
        return False
    return not model_id.startswith(HUB_PREFIX)


def _is_folder(repo: str) -> bool:
    """Whether there is a folder here of the name of a repository's user."""
    return Path(repo.partition("/")[0]).is_dir()


def parse(model_id: str) -> HubModel:
    """Parse an id such as ``[HF://]user/repo[/file.gguf][@revision][#sha256=…]``.

    Raises:
        BadRequestError: It is malformed.
    """
    match = _MODEL_ID.fullmatch(model_id) if len(model_id) <= _LONGEST else None
    file = match["file"] if match else None
    sha256 = match["sha256"] if match else None
    revision = match["revision"] if match else None
    if (
        match is None
        or not (file is None or file.lower().endswith(".gguf"))
        or (sha256 and not file)
        or not all(part.strip(".") for part in (revision or "main").split("/"))
    ):
        raise BadRequestError(
            f"model_id = {model_id[:200]!r}: write HF://user/repo, HF://user/repo@revision, "
            "HF://user/repo:Q4_K_M or HF://user/repo/file.gguf, as in "
            "HF://mlc-ai/Llama-3.2-1B-Instruct-q4f16_1-MLC.",
            param="model_id",
        )
    quantization = match["quantization"]
    return HubModel(
        match["repo"],
        revision,
        file,
        sha256 and sha256.lower(),
        quantization and quantization.upper(),
    )


def cached(wanted: HubModel) -> Path | None:
    """The model in the cache, if it is complete and has the pinned checksum, if any."""
    found = CachedRepository(cache_root(), wanted.repo).find(wanted)
    if found is not None and has_sum(found, wanted.sha256):
        return found
    return other_caches.find(wanted)


async def download(model_id: str, report: LoadReporter) -> Path:
    """Download the files that the cache lacks; return the folder or the GGUF file.

    Cancelling the task closes the connections at once; received data is kept for the next attempt.

    Raises:
        BadRequestError: `model_id` is malformed.
        ModelNotFoundError: There is no such repository, revision or file, or it is private.
        ModelFormatError: The repository has no supported format, or several models, or the file is
            not the expected one.
        ModelDownloadError: There is no network, no access or no space.
        InsufficientMemoryError: No file was named, and all are too large for this machine.
    """
    wanted = parse(model_id)
    name = wanted.repo if wanted.file is None else wanted.file.rpartition("/")[2]
    found = await asyncio.to_thread(other_caches.find, wanted)
    if found is not None and CachedRepository(cache_root(), wanted.repo).find(wanted) is None:
        return found
    if is_commit(wanted.revision) and (path := cached(wanted)) is not None:
        return path  # it cannot have changed
    report("download", 0.0, f"Asking the Hub for {wanted.repo}")
    outcome = await run_download(hub_child.__name__, asdict(wanted), report, name)
    if "path" in outcome:
        report("download", 1.0, f"{name} is here")
        return Path(outcome["path"])
    raise _failure(model_id, wanted, outcome)


def _what_to_give(wanted: HubModel, files: Mapping[str, int]) -> str:
    """List the GGUF files of a repository, and suggest one."""
    if not files:
        return "It has no GGUF files."
    listed = [f"{name} ({size_text(nbytes)})" for name, nbytes in list(files.items())[:_LISTED]]
    more = f" and {len(files) - _LISTED} more" if len(files) > _LISTED else ""
    revision = f"@{wanted.revision}" if wanted.revision else ""
    near = closest(wanted.file, files) if wanted.file else None
    return (
        f"It has these GGUF files: {', '.join(listed)}{more}. Give one of them, such as "
        f"'HF://{wanted.repo}/{near or preferred(files)}{revision}'."
    )


def _failure(model_id: str, wanted: HubModel, outcome: dict[str, Any]) -> Exception:
    repo, revision = wanted.repo, wanted.revision
    kind = outcome.get("error")
    detail = outcome["message"]
    where = outcome.get("endpoint", "the Hub")
    if kind == "ImportError":
        missing = importlib.util.find_spec("huggingface_hub") is None
        remedy = " Install it with `pip install huggingface_hub`." if missing else ""
        return RuntimeUnavailableError(
            f"{model_id}: huggingface_hub cannot be imported ({detail}).{remedy}"
        )
    if kind == "RevisionNotFoundError":
        return ModelNotFoundError(
            f"{model_id}: {repo} has no branch, tag or commit {revision!r} on {where}.",
            param="model_id",
        )
    if kind == "GatedRepoError":
        return ModelDownloadError(
            f"{model_id}: permission is needed. Accept its terms on {where}/{repo}, then "
            "log in with `hf auth login` or set HF_TOKEN.",
            code="gated_model",
            param="model_id",
        )
    if kind == "RepositoryNotFoundError":
        return ModelNotFoundError(
            f"{model_id}: there is no such repository on {where}, or it is private: then log in "
            "with `hf auth login` or set HF_TOKEN.",
            param="model_id",
        )
    files = outcome.get("files") or {}
    if kind == "NoFile":
        return ModelNotFoundError(
            f"{model_id}: {repo} has no such file{_of(wanted)}. {_what_to_give(wanted, files)}",
            param="model_id",
        )
    if kind == "NotCached":
        return ModelDownloadError(
            f"{model_id} could not be downloaded, and is not in the cache: {detail}",
            param="model_id",
        )
    if kind == "DamagedError":
        return ModelFormatError(f"{model_id}: {detail}", param="model_id")
    if kind == "NotMLC" and outcome.get("why") == "memory":
        return InsufficientMemoryError(
            f"{model_id}: none of its files fits into this machine's memory, which has "
            f"room for {size_text(weight_budget() or 0)} of weights. {_what_to_give(wanted, files)}"
        )
    if kind == "NotMLC" and files:
        return ModelFormatError(
            f"{model_id} has several models. {_what_to_give(wanted, files)}", param="model_id"
        )
    if kind == "NotMLC":
        return ModelFormatError(
            f"{model_id} is not in MLC format: it has no mlc-chat-config.json, and neither GGUF "
            "files nor safetensors with a config.json. Look for a repository that has one of them.",
            param="model_id",
        )
    if kind == "NoSpace":
        return ModelDownloadError(
            f"{model_id}: {detail} Free some space, or set HF_HOME to a larger disk.",
            code="disk_full",
            param="model_id",
        )
    return ModelDownloadError(
        f"{model_id} could not be downloaded: {detail or 'it ended without an error message'}",
        param="model_id",
    )


def _of(wanted: HubModel) -> str:
    return f" in {wanted.quantization}" if wanted.quantization else ""
