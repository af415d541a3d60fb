"""Models on the Hugging Face Hub, kept in the Hub's own cache.

``HF://user/repo[@revision]`` is a repository in MLC format, ``HF://user/repo/file.gguf[@revision]``
one file of a repository, with the other parts if it is split.

`huggingface_hub` does the work, so its settings hold: ``HF_TOKEN``, ``HF_HOME``, ``HF_ENDPOINT``,
``HF_HUB_OFFLINE`` and proxies. What was downloaded is found again without a network, and a download
that was cut short goes on with the files that it lacks.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from mlc_widget.api.errors import (
    BadRequestError,
    ModelDownloadError,
    ModelFormatError,
    ModelNotFoundError,
    RuntimeUnavailableError,
)
from mlc_widget.api.progress import LoadReporter
from mlc_widget.engine.store import hub_child
from mlc_widget.engine.store.download_process import run_download
from mlc_widget.engine.store.split_files import preferred

HUB_PREFIX: Final = "HF://"
_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?"
_PART: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9._+ -]*[A-Za-z0-9_+-])?"
_MODEL_ID: Final = re.compile(
    rf"HF://(?P<repo>{_NAME}/{_NAME})(?:/(?P<file>(?:{_PART}/)*{_PART}))?"
    r"(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]*))?"
    r"(?:#sha256=(?P<sha256>[0-9A-Fa-f]{64}))?"
)
_LONGEST: Final = 1024
_LISTED: Final = 30


@dataclass(frozen=True, slots=True)
class HubModel:
    """A repository, or one GGUF file of it.

    Attributes:
        repo: ``user/repo``.
        revision: A branch, tag or commit; None is the default branch.
        file: The path of a GGUF file in it; None for a repository in MLC format.
        sha256: What the file's content must have, as 64 hexadecimal digits; None for any.
    """

    repo: str
    revision: str | None = None
    file: str | None = None
    sha256: str | None = None


def parse(model_id: str) -> HubModel:
    """Take an id of the form ``HF://user/repo[/file.gguf][@revision][#sha256=…]`` apart.

    Raises:
        BadRequestError: It is malformed.
    """
    match = _MODEL_ID.fullmatch(model_id) if len(model_id) <= _LONGEST else None
    file = match["file"] if match else None
    sha256 = match["sha256"] if match else None
    if (
        match is None
        or not (file is None or file.lower().endswith(".gguf"))
        or (sha256 and not file)
    ):
        raise BadRequestError(
            f"model_id = {model_id[:200]!r}: write HF://user/repo, HF://user/repo@revision, or "
            "HF://user/repo/file.gguf, as in HF://mlc-ai/Llama-3.2-1B-Instruct-q4f16_1-MLC.",
            param="model_id",
        )
    return HubModel(match["repo"], match["revision"], file, sha256 and sha256.lower())


async def cached(wanted: HubModel) -> Path | None:
    """The folder or file, if the Hub's cache has all of it; no network is used."""
    argument = {**asdict(wanted), "local": True}
    outcome = await run_download(hub_child.__name__, argument, _no_report, wanted.repo)
    return Path(outcome["path"]) if "path" in outcome else None


def _no_report(phase: str, fraction: float, text: str, **counts: Any) -> None:
    pass


async def download(model_id: str, report: LoadReporter) -> Path:
    """The folder of a repository's files, or its GGUF file, as far as the cache lacks them.

    Cancelling this stops the download at once; files that came whole stay for the next try.

    Raises:
        BadRequestError: `model_id` is malformed.
        ModelNotFoundError: there is no such repository, revision or file, or it is private.
        ModelFormatError: the repository is not in MLC format, or the file is not the expected one.
        ModelDownloadError: no network, no access, no space.
    """
    wanted = parse(model_id)
    name = wanted.repo if wanted.file is None else wanted.file.rpartition("/")[2]
    report("download", 0.0, f"Asking the Hub for {wanted.repo}")
    outcome = await run_download(hub_child.__name__, asdict(wanted), report, name)
    if "path" in outcome:
        report("download", 1.0, f"{name} is here")
        return Path(outcome["path"])
    raise _failure(model_id, wanted, outcome)


def _what_to_give(wanted: HubModel, files: Mapping[str, int]) -> str:
    """The GGUF files of a repository, and the one to take."""
    if not files:
        return "It has no GGUF files."
    listed = [f"{name} ({_size(nbytes)})" for name, nbytes in list(files.items())[:_LISTED]]
    more = f" and {len(files) - _LISTED} more" if len(files) > _LISTED else ""
    revision = f"@{wanted.revision}" if wanted.revision else ""
    return (
        f"It has these GGUF files: {', '.join(listed)}{more}. Give one of them, such as "
        f"'HF://{wanted.repo}/{preferred(files)}{revision}'."
    )


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.0f} MB"


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
            f"{model_id}: {repo} has no such file. {_what_to_give(wanted, files)}",
            param="model_id",
        )
    if kind == "NotCached":
        return ModelDownloadError(
            f"{model_id}: {where} cannot be reached, and the cache lacks {detail}.",
            param="model_id",
        )
    if kind == "Damaged":
        return ModelFormatError(f"{model_id}: {detail}", param="model_id")
    if kind == "NotMLC" and files:
        return ModelFormatError(
            f"{model_id} is not in MLC format. {_what_to_give(wanted, files)}", param="model_id"
        )
    if kind == "NotMLC":
        return ModelFormatError(
            f"{model_id} is not in MLC format: it has no mlc-chat-config.json. Look for a "
            "converted one (many are in https://huggingface.co/mlc-ai), or convert it with "
            "`mlc_llm convert_weight` and `mlc_llm gen_config`.",
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
