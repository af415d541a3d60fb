"""Models on the Hugging Face Hub: ``HF://user/repo[@revision]``, kept in the Hub's own cache.

`huggingface_hub` does the work, so its settings hold: ``HF_TOKEN``, ``HF_HOME``, ``HF_ENDPOINT``,
``HF_HUB_OFFLINE`` and proxies. What was downloaded is found again without a network, and a download
that was cut short goes on with the files that it lacks.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections import deque
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
from mlc_widget.engine.system.child_process import run_child

HUB_PREFIX: Final = "HF://"
_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?"
_MODEL_ID: Final = re.compile(
    rf"HF://(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]*))?"
)
_TAIL_LINES: Final = 10


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
    outcome: dict[str, Any] = {}
    tail: deque[str] = deque(maxlen=_TAIL_LINES)

    def take(line: str) -> None:
        if not line.startswith(hub_child.MARK):
            tail.append(line)
            return
        said = json.loads(line.removeprefix(hub_child.MARK))
        outcome.update(said)
        if (done := said.get("bytes_done")) is not None:
            total = said.get("bytes_total") or None
            fraction = min(done / total, 1.0) if total else 0.0
            report("download", fraction, f"Downloading {repo}", bytes_done=done, bytes_total=total)

    await run_child(hub_child.__name__, {"repo": repo, "revision": revision}, take)
    if "folder" in outcome:
        report("download", 1.0, f"{repo} is here")
        return Path(outcome["folder"])
    raise _failure(model_id, repo, revision, outcome, list(tail))


def _failure(
    model_id: str, repo: str, revision: str | None, outcome: dict[str, Any], tail: list[str]
) -> Exception:
    kind = outcome.get("error")
    detail = outcome.get("message") or "\n".join(f"  {line}" for line in tail)
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
