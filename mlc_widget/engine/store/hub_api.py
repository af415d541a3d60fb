"""The Hub's API: the commit of a revision, the files of a commit, and searches.

`huggingface_hub` knows the user's token, endpoint, proxies and certificates. Requests that fail for
a while are repeated, and only files with plain names are listed.
"""

from __future__ import annotations

import importlib
import itertools
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from mlc_widget.engine.store.download_process import one_line
from mlc_widget.engine.store.hub_cache import is_commit
from mlc_widget.engine.store.retrying import (
    TEMPORARY,
    Backoff,
    GaveUp,
    TemporaryError,
    wanted_pause,
)
from mlc_widget.engine.store.transfer import DamagedError, Transfer, is_digest

_T = TypeVar("_T")

_MOST_FILES: Final = 10_000
_LONGEST_NAME: Final = 512
_SEARCH_S: Final = 10.0
_NO_ANSWER: Final = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""What `huggingface_hub` raises where an answer is not the JSON that it expects."""
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A file of a repository: its size, and the checksum by which its content is named."""

    size: int
    digest: str


class Hub:
    """The Hub's API, with the user's settings for `huggingface_hub`.

    Args:
        endpoint: The Hub's address; None for the user's setting.
        token: The user's token; None for that of the login.
        sleep: Waits between attempts.
        on_wait: Called before each wait with its seconds and its reason.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        token: str | None = None,
        sleep: Callable[[float], object] = time.sleep,
        on_wait: Callable[[float, str], None] = lambda seconds, reason: None,
    ) -> None:
        import huggingface_hub
        from huggingface_hub import constants
        from huggingface_hub.errors import HfHubHTTPError

        self.endpoint: str = endpoint or constants.ENDPOINT
        self._api = huggingface_hub.HfApi(endpoint=self.endpoint, token=token)
        self._sleep, self._on_wait = sleep, on_wait
        self._http_error = HfHubHTTPError
        # The exceptions belong to the HTTP library that this version of the package uses.
        base = next(cls for cls in HfHubHTTPError.__mro__ if cls.__name__ == "HTTPError")
        package = importlib.import_module(base.__module__.partition(".")[0])
        self._network_errors: tuple[type[BaseException], ...] = (package.RequestError,)
        self._url = huggingface_hub.hf_hub_url
        utils: Any = importlib.import_module("huggingface_hub.utils")
        self._session, self._check_status = utils.get_session(), utils.hf_raise_for_status
        self._headers = utils.build_hf_headers(token=token, library_name="mlc_widget")
        self.transfer = Transfer(
            self._session,
            self._headers,
            check_status=self._check_status,
            network_errors=self._network_errors,
            backoff=self._backoff,
        )

    def _backoff(self, **more: Any) -> Backoff:
        return Backoff(on_wait=self._on_wait, sleep=self._sleep, **more)

    def commit(self, repo: str, revision: str | None) -> str:
        """The current commit of a branch or tag.

        Raises:
            HfHubHTTPError: The Hub answered with an error.
            GaveUp: It could not be reached.
        """
        if revision is not None and is_commit(revision):
            return revision
        info = self._ask(lambda: self._api.repo_info(repo, revision=revision))
        if not is_commit(info.sha):
            raise DamagedError(
                f"{self.endpoint} did not say which commit of {repo} is the current one."
            )
        return str(info.sha)

    def files(self, repo: str, commit: str) -> dict[str, ListedFile]:
        """The files of a commit that have plain names, at most `_MOST_FILES`.

        Raises:
            HfHubHTTPError: The Hub answered with an error.
            GaveUp: It could not be reached.
        """

        def listed() -> list[Any]:
            tree = self._api.list_repo_tree(repo, recursive=True, revision=commit)
            return list(itertools.islice(tree, _MOST_FILES))

        found: dict[str, ListedFile] = {}
        for entry in self._ask(listed):
            name, lfs = str(entry.path), getattr(entry, "lfs", None)
            size = getattr(lfs or entry, "size", None)
            digest = str(lfs.sha256 if lfs is not None else getattr(entry, "blob_id", "")).lower()
            if isinstance(size, int) and size >= 0 and is_digest(digest) and _is_plain(name):
                found[name] = ListedFile(size, digest)
        return found

    def search(self, text: str, limit: int = 10) -> list[str]:
        """The most downloaded repositories with GGUF files whose names have a text.

        Raises:
            HfHubHTTPError: The Hub answered with an error.
            GaveUp: It could not be reached, or its answer is no list of models.
            DamagedError: It redirects in a circle.
        """
        # Not `list_models`, which tries for half a minute where there is no network.
        question = {"search": text, "filter": "gguf", "sort": "downloads", "limit": str(limit)}

        def found() -> Any:
            response = self._session.get(
                f"{self.endpoint}/api/models",
                params=question,
                headers=self._headers,
                timeout=_SEARCH_S,
            )
            self._check_status(response)
            return response.json()

        models = self._ask(found)
        if not isinstance(models, list):
            raise GaveUp(f"{self.endpoint} sends no list of models.")
        names = (model.get("id") for model in models if isinstance(model, dict))
        found_names = (n for n in names if isinstance(n, str) and _REPOSITORY.fullmatch(n))
        return list(itertools.islice(found_names, limit))

    def url(self, repo: str, name: str, commit: str) -> str:
        """The URL of a file's content."""
        return self._url(repo, name, revision=commit, endpoint=self.endpoint)

    def _ask(self, call: Callable[[], _T]) -> _T:
        backoff = self._backoff(attempts=4)
        while True:
            try:
                return call()
            except self._http_error as error:
                response = getattr(error, "response", None)
                if response is None or response.status_code not in TEMPORARY:
                    raise
                text = f"{self.endpoint} answers {response.status_code}"
                backoff.wait(TemporaryError(text, wanted_pause(response.headers)))
            except self._network_errors as error:
                if type(error).__name__ == "TooManyRedirects":
                    raise DamagedError(f"{self.endpoint} redirects in a circle.") from error
                raise GaveUp(
                    f"{self.endpoint} cannot be reached ({one_line(error)}). Check the internet "
                    "connection and the proxy."
                ) from error
            except _NO_ANSWER as error:  # of the parser of JSON, or of what reads its values
                raise GaveUp(f"{self.endpoint} did not answer as a Hub does.") from error


def _is_plain(name: str) -> bool:
    """Whether a path stays below the folder in which it is put, on every system."""
    return (
        len(name) <= _LONGEST_NAME
        and name.isprintable()
        and not set(name) & set('\\:*?"<>|')
        and all(part == part.strip(" ") and part.strip(".") for part in name.split("/"))
    )
