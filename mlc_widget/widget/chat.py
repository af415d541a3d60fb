"""`ChatWidget`: a conversation with an engine, in the notebook."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import traitlets

from mlc_widget.api.requests import JSONDict
from mlc_widget.engine.store.model_folder import builtin_models
from mlc_widget.widget.base import EngineWidget, mirror
from mlc_widget.widget.intents import Handler
from mlc_widget.widget.link import link_of
from mlc_widget.widget.options import checked_options, options_json
from mlc_widget.widget.reply import Reply
from mlc_widget.widget.session import ChatSession, ChatSink
from mlc_widget.widget.state import openai_messages


class ChatWidget(EngineWidget):
    """A chat with an engine. The cell that shows it returns at once, and so does `send`.

    Args:
        engine: An `AsyncKernelMLCEngine` or a `KernelMLCEngine`; its model may still be loading.
        system: The system prompt; None leaves it to the model.
        temperature: As in OpenAI's requests, like those that follow; None is the model's default.
        top_p: See there.
        max_tokens: See there.
        seed: See there.
        schema: A JSON schema, as an object or as text, that every answer must meet.
        tools: OpenAI's tools that the model may call; calls are shown, and not made.

    Raises:
        TypeError: for another kind of engine.
        BadRequestError: for a setting that no engine would take.

    Traits, beside those of `EngineWidget` (all for the page; none is meant to be set):
        _chat: ``{"rev", "messages": [{"id", "role", "text", "status", "finish", "error",
            "stats", "reasoning", "tool_calls", "json", "branches"}]}``, the shown conversation.
        _live: ``{"reply", "text", "reasoning"}``, the growing reply, synced now and then.
        _options: The settings by their names (`options_json`), and ``models``, the names of those
            that are built in.

    Messages to the page: ``{"type": "delta", "reply", "part", "offset", "text"}``, where `offset`
    counts UTF-16 code units, and acknowledgements (`IntentDesk`). From the page: intents of the
    kinds ``send {text}``, ``stop {reply?}``, ``retry {reply}``, ``edit {message, text}``,
    ``select {message}``, ``delete {message}``, ``set {name, value}``, ``load {model?}``,
    ``resync`` and ``cancel_load``.
    """

    _view = traitlets.Unicode("chat", read_only=True).tag(sync=True)
    _chat = mirror("_chat")
    _live = mirror("_live")
    _options = mirror("_options")

    def __init__(
        self,
        engine: object,
        *,
        system: str | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        schema: Mapping[str, Any] | str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        sink = ChatSink(
            on_change=lambda: self.send_state(["_chat", "_live"]),
            on_delta=self.send,
            on_mirror=lambda: self.send_state("_live"),
            on_options=lambda: self.send_state("_options"),
        )
        options = checked_options(
            system=system,
            temperature=temperature,
            top_p=top_p,
            max_tokens=max_tokens,
            seed=seed,
            schema=schema,
            tools=None if tools is None else list(tools),
        )
        self._session = ChatSession(link_of(engine), sink, options)
        self._owner = engine  # an engine that nobody holds ends
        super().__init__(engine)

    def _more_mirrors(self) -> Mapping[str, Callable[[], JSONDict]]:
        return {
            "_chat": lambda: self._session.state.to_json(),
            "_live": lambda: self._session.live,
            "_options": lambda: {
                **options_json(self._session.options),
                "models": list(builtin_models()),
            },
        }

    def _intents(self) -> Mapping[str, Handler]:
        session = self._session
        return {
            **super()._intents(),
            "send": lambda intent: session.send(intent.get("text")),
            "stop": lambda intent: session.stop(intent.get("reply")),
            "retry": lambda intent: session.retry(intent.get("reply")),
            "edit": lambda intent: session.edit(intent.get("message"), intent.get("text")),
            "select": lambda intent: session.select(intent.get("message")),
            "delete": lambda intent: session.delete(intent.get("message")),
            "set": lambda intent: session.set_option(intent.get("name"), intent.get("value")),
            "resync": lambda _: self.send_state(["_chat"]),
        }

    def send(self, content: Any, buffers: Any = None) -> Any:
        """Send a message to the model, or, given a dict, one to the page (as ipywidgets' `send`).

        Returns at once. The message is answered when those before it are, and after the model is
        loaded.

        Args:
            content: What to say.
            buffers: For messages to the page only.

        Returns:
            A `Reply`: ``await`` it for the message, read its `text`, or leave it.

        Raises:
            BadRequestError: if there is nothing in `content`.
            EngineTerminatedError: after the engine's `terminate`.
        """
        if isinstance(content, dict):
            return super().send(content, buffers=buffers)

        async def take() -> Reply:
            return self._session.send(content)

        # Waits for the I/O thread to take it, which is quick: `messages` has it then.
        return self._link.submit(take()).result()

    def stop(self) -> None:
        """End the reply that runs, and those that wait. Their text so far stays."""
        self._link.call_soon(self._session.stop)

    @property
    def messages(self) -> tuple[dict[str, Any], ...]:
        """The conversation in OpenAI's shape, with the running reply's text so far."""
        return tuple(openai_messages(self._session.state.path()))

    def _attach(self) -> None:
        super()._attach()
        self._session.start()

    def _detach(self) -> None:
        super()._detach()
        self._session.close()

    def __repr__(self) -> str:
        snapshot = self._link.snapshot
        return f"<ChatWidget {snapshot.model_id or 'no model'}: {len(self.messages)} messages>"
