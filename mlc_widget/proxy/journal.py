"""What the consumer of a stream has received, so that another worker can continue from there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlc_widget.api.requests import JSONDict, choices_of


class _Choice:
    """One choice: its tokens or, for runtimes that are not batch-invariant, its text."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._text: list[str] = []
        self.finish_reason: str | None = None

    def take(self, journal: Any, finish_reason: str | None) -> None:
        if isinstance(journal, str):
            self._text.append(journal)
        elif journal is not None:
            self._tokens += journal
        self.finish_reason = finish_reason

    def content(self) -> JSONDict:
        journal = "".join(self._text) if self._text else self._tokens
        return {"journal": journal, "finish_reason": self.finish_reason}


class Journal:
    """The journal of one stream: a few bytes per token, bounded by the context window.

    Args:
        request: The stream's request, in OpenAI's shape.
        resume: What the consumer had before this stream, as `content` returns it.
    """

    def __init__(self, request: Mapping[str, Any], resume: JSONDict | None = None) -> None:
        self._request = request
        self._choices: dict[int, _Choice] = {}
        self._created: int | None = None
        self._used = False
        if resume is not None:
            self._created = resume["created"]
            for index, choice in enumerate(resume["choices"]):
                known = self._choices.setdefault(index, _Choice())
                known.take(choice["journal"], choice["finish_reason"])

    def take(self, chunk: JSONDict) -> None:
        """Note a chunk that the consumer gets, and remove the journal from it."""
        self._created = chunk.get("created", 0)
        journal = chunk.pop("journal", None)
        for choice in chunk.get("choices", ()):
            known = self._choices.setdefault(choice.get("index", 0), _Choice())
            known.take(journal, choice.get("finish_reason"))
        self._used = self._used or "usage" in chunk

    @property
    def aborted(self) -> bool:
        """Whether a choice was ended by an abort: it ends them all."""
        return any(c.finish_reason == "abort" for c in self._choices.values())

    @property
    def complete(self) -> bool:
        """Whether the consumer has all chunks of the answer."""
        ended = sum(c.finish_reason is not None for c in self._choices.values())
        usage = (self._request.get("stream_options") or {}).get("include_usage")
        return ended == self._n and (self._used or not usage)

    @property
    def _n(self) -> int:
        return choices_of(self._request)

    def content(self) -> JSONDict | None:
        """The content of ``resume`` in a stream's init; None before the first chunk."""
        if self._created is None:
            return None
        choices = [self._choices.get(i) for i in range(self._n)]
        return {"created": self._created, "choices": [c and c.content() for c in choices]}
