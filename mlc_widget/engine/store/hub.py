"""Models on the Hugging Face Hub: ``HF://user/repo[@revision]``, kept in the Hub's own cache.

`huggingface_hub` does the work, so its settings hold: ``HF_TOKEN``, ``HF_HOME``, ``HF_ENDPOINT``,
``HF_HUB_OFFLINE`` and proxies. What was downloaded is found again without a network, and a download
that was cut short goes on with the files that it lacks.
"""

from __future__ import annotations

import importlib.util
import re
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

HUB_PREFIX: Final = "HF://"
_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?"
_MODEL_ID: Final = re.compile(
    rf"HF://(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]*))?"
)


def parse(model_id: str) -> tuple[str, str | None]:
    """Repository (``user/repo``) and revision (branch, tag or commit; None is the default branch).

    Raises:
        BadRequestError: it is not of the form ``HF://user/repo[@revision]``.
    """
    match = _MODEL_ID.fullmatch(model_id)
    if match is None:
        raise BadRequestError(
            f"model_id = {model_id!r}: write HF://user/repo, or HF://user/repo@revision, as in "
            "HF://mlc-ai/Llama-3.2-1B-Instruct-q4f16_1-MLC.",
            param="model_id",
        )
    return match["repo"], match["revision"]


async def download(model_id: str, report: LoadReporter) -> Path:
    """The folder of a repository's files, downloaded as far as the cache lacks them.

    Cancelling this stops the download at once; files that came whole stay for the next try.

    Raises:
        BadRequestError: `model_id` is malformed.
        ModelNotFoundError: there is no such repository or revision, or it is private.
        ModelFormatError: the repository is not in MLC format.
        ModelDownloadError: no network, no access, no space.
    """
    repo, revision = parse(model_id)
    report("download", 0.0, f"Asking the Hub for {repo}")
    argument = {"repo": repo, "revision": revision}
    outcome = await run_download(hub_child.__name__, argument, report, repo)
    if "folder" in outcome:
        report("download", 1.0, f"{repo} is here")
        return Path(outcome["folder"])
    raise _failure(model_id, repo, revision, outcome)


def _failure(model_id: str, repo: str, revision: str | None, outcome: dict[str, Any]) -> Exception:
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
