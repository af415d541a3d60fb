"""Two answers to one message of a chat, beside each other, of which the user keeps one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from mlc_widget.api.engine_link import EngineLink
from mlc_widget.api.errors import BadRequestError, EngineForkedError
from mlc_widget.api.request_values import bad
from mlc_widget.widget.chat_request import ChatOptions
from mlc_widget.widget.history import Conversation
from mlc_widget.widget.kept_settings import KEPT_NAMES
from mlc_widget.widget.link import link_of
from mlc_widget.widget.options import with_options
from mlc_widget.widget.questions import Question, read_attachments, read_question
from mlc_widget.widget.session import ChatSession


class Shown(Protocol):
    """A widget that shows a chat."""

    @property
    def model_id(self) -> str:
        """The id of its model in the page."""

    def close(self) -> None:
        """Remove it from the page, and stop what it writes."""


class Side(NamedTuple):
    """One of the two chats."""

    widget: Shown
    session: ChatSession


class Comparison:
    """Continues a chat in two others, with other settings or another model, until one is kept.

    Both begin with the chat's conversation; what they add to it is taken over from the one that is
    kept. Another model is loaded into an engine of its own, which ends with the comparison.

    Its methods belong to the I/O thread; `chats` may be read on any.

    Args:
        link: The chat's engine.
        session: The chat.
        make_side: Makes a chat on an engine, with these settings. It is called on a thread of its
            own.
        on_change: Called when a comparison has begun or ended.
    """

    def __init__(
        self,
        link: EngineLink,
        session: ChatSession,
        make_side: Callable[[EngineLink, ChatOptions], Side],
        on_change: Callable[[], object],
    ) -> None:
        self._link, self._session = link, session
        self._make_side, self._on_change = make_side, on_change
        self._sides: tuple[Side, ...] = ()
        self._beginning = False
        self._engine: object = None
        """The engine of the other model, which nothing else keeps alive."""

    @property
    def chats(self) -> list[str]:
        """The models of the two chats in the page; empty while nothing is compared."""
        return [side.widget.model_id for side in self._sides]

    async def begin(self, *, model: Any, settings: Any, text: Any, attachments: Any) -> None:
        """Have a message answered twice: as the chat would, and with what is given here.

        Args:
            model: The other chat's model; None for the same one.
            settings: Its settings by their names, where they differ.
            text: The message; None to answer the last one again, beside the answer that it has.
            attachments: As in `read_attachments`.

        Raises:
            BadRequestError: An argument is invalid, nothing was asked yet, an answer is being
                written, or two are being compared already.
            EngineTerminatedError: The engine was terminated.
        """
        if self._sides or self._beginning:
            raise BadRequestError("compare: two answers are being compared already.")
        self._beginning = True
        try:
            options = self._options(settings)
            if model is not None and (not isinstance(model, str) or not model.strip()):
                raise bad("model", model, "must be a model's name.")
            question = None
            if text or attachments:
                question = await read_question(text or "", read_attachments(attachments))
            self._check(question)
            if model is not None and await self._has(model):
                options, model = replace(options, model=model), None
            elif model is not None:
                options = replace(options, model=None)
            self._sides = await asyncio.to_thread(self._make, options, model)
        finally:
            self._beginning = False
        try:
            if self._engine is not None and model is not None:
                link_of(self._engine).begin_reload((model,))
            self._ask(question)
        except BaseException:
            self.end()
            raise
        self._on_change()

    def _options(self, settings: Any) -> ChatOptions:
        given = {} if settings is None else settings
        if not isinstance(given, Mapping):
            raise bad("settings", settings, 'must be an object, such as {"temperature": 1}.')
        for name, value in given.items():
            if name not in KEPT_NAMES:
                raise bad(f"settings[{name!r}]", value, f"give one of {', '.join(KEPT_NAMES)}.")
        return with_options(self._session.options, **given)

    def _check(self, question: Question | None) -> None:
        self._session.check_alive()
        path = self._session.state.path()
        if question is None and not any(message.role == "user" for message in path):
            raise BadRequestError("text: write a message for both to answer.", param="text")
        if _goes_on(self._session):
            raise BadRequestError("compare: an answer is being written. Stop it, or wait for it.")

    async def _has(self, model: str) -> bool:
        """Whether the engine has the model loaded."""
        if self._link.snapshot.state != "ready":
            return model == self._link.snapshot.model_id
        return any(loaded.get("id") == model for loaded in await self._link.list_models())

    def _make(self, options: ChatOptions, model: str | None) -> tuple[Side, Side]:
        other = self._link
        if model is not None:
            self._engine = self._link.make_another()
            other = link_of(self._engine)
        first = self._make_side(self._link, self._session.options)
        return first, self._make_side(other, options)

    def _ask(self, question: Question | None) -> None:
        """Let both chats begin where this one is now, and have the message answered."""
        self._check(question)
        state = self._session.state
        path = state.path()
        first, second = (side.session for side in self._sides)
        whole = Conversation(None, path, state.given_title)
        first.take_up(whole)
        if question is not None:
            second.take_up(whole)
            first.send(question)
            second.send(question)
            return
        asked = state.question(path[-1].id)
        assert asked is not None, "it was checked"
        second.take_up(whole._replace(messages=state.path(asked)))
        second.retry(asked)
        if path[-1].id == asked:  # its reply was deleted
            first.retry(asked)

    def keep(self, chat: Any) -> None:
        """Take over what one of the two chats has said, and end the comparison.

        Args:
            chat: 0 or 1.

        Raises:
            BadRequestError: Nothing is compared, or its answer has not ended.
        """
        if type(chat) is not int or chat not in (0, 1) or not self._sides:
            raise bad("chat", chat, "must be 0 or 1, while two answers are compared.")
        session = self._sides[chat].session
        if _goes_on(session):
            raise bad("chat", chat, "its answer has not ended yet.")
        self._session.adopt(session.state.path())
        self.end()

    def end(self) -> None:
        """End the comparison, if there is one; the chat stays as it was."""
        sides, self._sides = self._sides, ()
        engine, self._engine = self._engine, None
        if sides:
            self._on_change()
        for side in sides:
            side.widget.close()
        if engine is not None:
            link = link_of(engine)
            with contextlib.suppress(EngineForkedError):
                link.submit(link.terminate())


def _goes_on(session: ChatSession) -> bool:
    """Whether a reply on the shown path is being made, or its calls are."""
    path = session.state.path()
    return any(message.status in ("queued", "running") or message.calling for message in path)
