"""An answer that is written to a session's journal before its reader gets it."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping
from typing import Any, Self

from mlc_widget.api.errors import InternalEngineError
from mlc_widget.api.request_ids import new_request_id
from mlc_widget.api.requests import JSONDict, check_chat
from mlc_widget.engine.generation import Generation
from mlc_widget.engine.resumption import Resumption, is_exact
from mlc_widget.engine.sessions.session_file import Header, encode_chunk, split_request
from mlc_widget.engine.sessions.session_journal import SessionJournal
from mlc_widget.engine.sessions.session_store import SessionStore

_log = logging.getLogger(__name__)


def resumable_request(kind: str, request: JSONDict) -> JSONDict | None:
    """A checked request that asks for a session, with an id and a seed; None if it does not.

    Raises:
        BadRequestError: A field is invalid.
    """
    if kind != "chat" or not (request.get("resumable") or request.get("extra_body")):
        return None
    checked = check_chat(request)
    if not checked.get("resumable", {}).get("enabled"):
        return None
    request_id = checked.setdefault("request_id", new_request_id("chat"))
    checked.setdefault("seed", secrets.randbits(63))
    checked["resumable"].setdefault("session_id", request_id)
    return checked


class JournaledAnswer:
    """A `ChunkSource`; use `begin`.

    Args:
        generation: The answer, whose chunks have journals.
        journal: The session's file; None if it cannot be written.
        strict: Whether the request fails if its answer cannot be written.
        keeps_journals: Whether the reader gets the chunks' journals, too.
    """

    def __init__(
        self,
        generation: Generation,
        journal: SessionJournal | None,
        *,
        strict: bool,
        keeps_journals: bool,
    ) -> None:
        self._generation = generation
        self._journal = journal
        self._strict = strict
        self._keeps_journals = keeps_journals

    @classmethod
    async def begin(
        cls,
        generation: Generation,
        request: Mapping[str, Any],
        resumption: Resumption | None,
        *,
        keeps_journals: bool,
    ) -> Self:
        """Make the session, or continue it. If that fails, the generation is closed.

        Args:
            generation: The answer, whose chunks have journals.
            request: From `resumable_request`.
            resumption: What its reader has already.
            keeps_journals: Whether the reader gets the chunks' journals, too.

        Raises:
            BadRequestError: The session exists for another request, or is being written.
            InternalEngineError: It cannot be written, and ``strict_persistence`` is set.
        """
        options = request["resumable"]
        strict = options.get("strict_persistence", False)
        delivered = resumption.choices[0] if resumption is not None else None
        known = 0 if delivered is None else len(delivered.tokens or delivered.text)
        journal = None
        try:
            try:
                journal = await asyncio.to_thread(_open, generation, request, known)
            except OSError as error:
                _failed(options["session_id"], error, strict=strict)
        except BaseException:
            await generation.aclose()
            raise
        return cls(generation, journal, strict=strict, keeps_journals=keeps_journals)

    def __aiter__(self) -> JournaledAnswer:
        return self

    async def __anext__(self) -> list[JSONDict]:
        try:
            batch = await anext(self._generation)
        except Exception:  # its end, too
            self._close()
            raise
        await self.record(batch)
        return batch

    async def record(self, batch: list[JSONDict]) -> None:
        """Write chunks, and remove their journals if the reader does not get them.

        Raises:
            InternalEngineError: They cannot be written, and ``strict_persistence`` is set.
        """
        lines = b"".join(encode_chunk(chunk, chunk.get("journal")) for chunk in batch)
        if not self._keeps_journals:
            for chunk in batch:
                chunk.pop("journal", None)
        if self._journal is None or not lines:
            return
        try:
            await asyncio.to_thread(self._journal.append, lines)
        except OSError as error:
            self._close()
            _failed(self._generation.request_id, error, strict=self._strict)

    async def whole(self) -> JSONDict:
        """The whole answer in OpenAI's shape."""
        try:
            return await self._generation.whole(self.record)
        finally:
            self._close()

    async def aclose(self) -> None:
        """Stop the engine's work on the answer; its session stays."""
        await self._generation.aclose()
        self._close()

    def _close(self) -> None:
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.close()


def _failed(name: str, error: OSError, *, strict: bool) -> None:
    if strict:
        raise InternalEngineError(
            f"resumable: the session of {name} cannot be written: {error}. Without "
            "strict_persistence the answer would go on."
        ) from error
    _log.warning("the session of %s is not kept any further: %s", name, error)


def _open(generation: Generation, request: Mapping[str, Any], known: int) -> SessionJournal:
    store, name = SessionStore(), request["resumable"]["session_id"]
    salt = store.salt(name)
    if salt is not None:  # by this very request, in a worker that died; or the name is taken
        return store.reopen(name, known, _header(generation, request, salt))
    if known:
        raise OSError("the session is gone, with the part of the answer that was delivered")
    return store.begin(_header(generation, request, secrets.token_hex(16)))


def _header(generation: Generation, request: Mapping[str, Any], salt: str) -> Header:
    options, model = request["resumable"], generation.model
    named = {**request, "model": model.model_id}
    stored, digests = split_request(named, salt, stored=options.get("store_prompt", False))
    return Header(
        session_id=options["session_id"],
        created=generation.created,
        model_id=model.model_id,
        fingerprint=model.fingerprint,
        exact=is_exact(model),
        prompt_tokens=generation.prompt_tokens,
        request=stored,
        digests=digests,
        salt=salt,
    )
