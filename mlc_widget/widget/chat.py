"""`ChatWidget`: a conversation with an engine, in the notebook.

Traits for the page, beside those of `EngineWidget` (none is meant to be set by users):

``_chat``
    ``{"rev", "messages": [{"id", "role", "text", "attachments", "status", "finish", "error",
    "stats", "reasoning", "tool_calls", "calling", "calls_stopped", "questions", "name", "json",
    "resumed", "repeats", "tokens", "branches"}], "earlier", "title", "saved"}``, the shown
    conversation; after `new_chat`, the first message of the one before; the title; and the number
    of messages that `SavedChat` offers.
``_live``
    ``{"reply", "text", "reasoning", "repeats"}``, the growing reply, synced now and then.
``_comparing``
    ``{"offered", "chats"}``: whether answers can be compared (`Comparison`), and the models of the
    two chats in which they are.
``_options``
    The settings by their names (`options_json`), ``changed``, the names of those that were changed
    in the page, and ``models``, the models to choose from (`ModelChoice`).

Messages to the page are ``{"type": "delta", "reply", "part", "offset", "text", "repeats"}``, where
`offset` counts UTF-16 code units, ``{"type": "export", "format", "text"}``, ``{"type": "notebook",
"names"}`` (`notebook_variables.names`), ``{"type": "tokens", "reply", "tokens"}``
(`tokens_json`), and acknowledgements (`IntentDispatcher`). The page sends intents of the kinds
``send {text, attachments?}``, ``look``, ``results {reply, results}``, ``allow {reply, call,
decision}`` (`Approvals`), ``stop {reply?}``, ``retry {reply}``, ``edit {message, text}``,
``select {message}``, ``delete {message}``, ``new``, ``rename {title}``, ``export {format}``,
``set {name, value}``, ``reset``, ``compare {model?, settings?, text?, attachments?}``,
``keep {chat}`` and ``leave`` (`Comparison`), ``tokens {reply}``, ``load {model?}``, ``restart``,
``resync``, ``cancel_load``, ``take_up`` (`SavedChat`), ``kept`` and ``transcript {page}``
(`TranscriptOutput`).
"""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, Self

import traitlets

from mlc_widget.api.engine_link import EngineLink, EngineSnapshot
from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.keywords import suggests_keywords
from mlc_widget.api.requests import JSONDict
from mlc_widget.api.tracebacks import releases_locals
from mlc_widget.models.inventory import ModelChoice, choices
from mlc_widget.widget import notebook_variables
from mlc_widget.widget.base import EngineWidget, mirror
from mlc_widget.widget.calls import ToolCaller
from mlc_widget.widget.chat_listener import ChatListener
from mlc_widget.widget.chat_request import ChatOptions, openai_messages
from mlc_widget.widget.chat_tools import ChatTools
from mlc_widget.widget.comparison import Comparison, Side
from mlc_widget.widget.history import History, read_history, read_saved
from mlc_widget.widget.intents import Handler
from mlc_widget.widget.kept_settings import (
    KEPT_NAMES,
    KeptSettings,
    saved_settings,
    settings_of,
)
from mlc_widget.widget.link import link_of
from mlc_widget.widget.options import (
    OPTION_NAMES,
    checked_model,
    checked_options,
    options_json,
)
from mlc_widget.widget.page_session import why_no_page
from mlc_widget.widget.questions import (
    Question,
    plain_question,
    read_attachments,
    read_question,
)
from mlc_widget.widget.reply import Reply
from mlc_widget.widget.saved_chat import SavedChat
from mlc_widget.widget.session import ChatSession
from mlc_widget.widget.settings import ChatSettings
from mlc_widget.widget.state import Attachment
from mlc_widget.widget.title import check_title
from mlc_widget.widget.tokens import tokens_json
from mlc_widget.widget.transcript import CHAT_MIME, Shown, conversation, export, markdown
from mlc_widget.widget.transcript_output import TranscriptOutput, in_console, in_notebook
from mlc_widget.widget.user_callbacks import UserCallbacks


class ChatWidget(EngineWidget, ChatSettings):
    """A chat with an engine. The cell that shows it returns at once, and so does `send`.

    The settings (`ChatSettings`) are traits, to be set and observed. Below the widget, the cell
    keeps the transcript as Markdown for readers who have no kernel.

    Args:
        engine: An engine in a worker kernel or on a server; its model may still be loading. Keep
            it in a variable, as the chat does not keep it alive.
        system: The system prompt; None leaves it to the model.
        temperature: 0 to 2; None, here and below, leaves it to the model's configuration.
        top_p: 0 to 1.
        top_k: The number of most likely tokens to choose from; 0 means all of them.
        min_p: 0 to 1; tokens are left out whose probability is less than this fraction of the most
            likely token's.
        repetition_penalty: 0.01 to 10; more than 1 makes repetitions less likely.
        max_tokens: The maximum length of a reply in tokens; 4,096 if the model's configuration has
            no limit either.
        seed: The same seed, settings and messages give the same reply.
        logprobs: True to have the probabilities of a reply's tokens, which the page then shows on
            demand, and `Reply.logprobs`. Such a reply cannot continue if the worker dies.
        schema: A JSON schema, as an object or as text, that every answer must meet.
        tools: What the model may call: functions (a list, or ``{name: function}``), servers made
            by `mcp`, or OpenAI's tools. The model learns a function's arguments from its
            annotations and docstring. Functions are called where `on_reply`'s callbacks are, and
            their results are sent to the model. Calls of a server's tools are shown
            in the page, which asks for approval. Results of other tools are entered there or given
            to `send_results`.
        sampling: Further sampling fields of `chat.completions.create` in a mapping, such as
            ``{"typical_p": 0.9, "dry_multiplier": 0.8, "logit_bias": {"Paris": 5}}``.
        system_prompts: System prompts to choose from in the settings, by their names, such as
            ``{"Short": "Answer in one sentence."}``; at most 50 of 256 KiB together.
        title: The conversation's title, at most 200 characters; by default the first words of the
            first message.
        model: Which of the engine's models answers. It must be named if there are several, such as
            after ``reload(["a", "b"])``. When another one is loaded in the page, that one does.
        history: An earlier conversation: messages in OpenAI's shape, the text that
            ``export("json")`` returns, or the path of such a file or of a notebook that shows a
            chat (the last one counts). A system message in it is the system prompt, unless
            `system` is given; likewise its title.

    Raises:
        TypeError: the engine is neither in a worker kernel nor on a server, or there is no such
            argument.
        BadRequestError: a setting, the title or the history is invalid.
    """

    _instead = (
        "it is part of a page. Keep the conversation, `chat.messages` or `chat.export('json')`, "
        "and give it to another ChatWidget as `history`."
    )
    _view = traitlets.Unicode("chat", read_only=True).tag(sync=True)
    _chat = mirror("_chat")
    _live = mirror("_live")
    _options = mirror("_options")
    _comparing = mirror("_comparing")

    @releases_locals
    @suggests_keywords
    def __init__(
        self,
        engine: object,
        *,
        system: str | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        max_tokens: int | None = None,
        seed: int | None = None,
        logprobs: bool | None = None,
        schema: Mapping[str, Any] | str | None = None,
        tools: ChatTools | None = None,
        sampling: Mapping[str, Any] | None = None,
        system_prompts: Mapping[str, str] | None = None,
        title: str | None = None,
        model: str | None = None,
        history: History = (),
    ) -> None:
        listener = ChatListener(
            on_change=self._on_change,
            on_delta=self.send,
            on_mirror=lambda: self.send_state("_live"),
            on_options=self._on_options,
            on_end=self._on_end,
        )
        earlier = read_history(history)
        if title is not None:
            earlier = earlier._replace(title=check_title(title))
        options = checked_options(
            system=earlier.system if system is None else system,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            max_tokens=max_tokens,
            seed=seed,
            logprobs=logprobs,
            schema=schema,
            tools=tools,
            sampling=sampling,
            system_prompts=system_prompts,
        )
        options = replace(options, model=checked_model(model, link_of(engine).snapshot.models))
        self._user = UserCallbacks()
        self._cell = contextvars.copy_context()
        self._on_reply: list[Callable[[Reply], object]] = []
        self._transcript_output = TranscriptOutput(self._transcript_bundle, self.send)
        self._session = ChatSession(
            link_of(engine), listener, options, earlier, lambda _: _LOAD_ADVICE
        )
        self._saved = SavedChat(self._session)
        self._functions = ToolCaller(link_of(engine), self._session, self._user)
        self._comparison = Comparison(
            link_of(engine), self._session, self._beside, lambda: self.send_state("_comparing")
        )
        given = {name for name in KEPT_NAMES if getattr(options, name) is not None}
        self._settings = KeptSettings(self._session, given)
        self._kept_rev = self._session.state.rev
        self._offered: tuple[str, ...] = ()
        """The engine's models that the page offers, if there are several."""
        super().__init__(engine, options.model)
        self._follow_settings(options, functools.partial(self._link.call_soon, self._set_option))

    @classmethod
    def load(cls, path: str | Path, engine: object, **settings: Any) -> Self:
        """Reopen a chat from its file, with its messages and settings.

        Args:
            path: What `export` or Save wrote as JSON or as a notebook, or a notebook that shows a
                chat (the last one counts).
            engine: As for `ChatWidget`; it need not have the model that wrote the replies.
            **settings: Arguments of `ChatWidget`, such as ``tools``, which no file has. They come
                before the settings of the file. The system prompt is the one given here, or
                else the one in the file's settings, or else the file's system message.

        Raises:
            TypeError: The engine is neither in a worker kernel nor on a server, or there is no
                such setting.
            BadRequestError: The file cannot be read, has no chat, or has an invalid setting.
        """
        saved = read_saved(path)
        return cls(engine, history=saved, **{**saved_settings(saved), **settings})

    def _more_mirrors(self) -> Mapping[str, Callable[[], JSONDict]]:
        return {
            "_chat": lambda: {**self._session.state.to_json(), "saved": self._saved.count},
            "_live": lambda: self._session.live,
            "_options": lambda: {
                **options_json(self._session.options),
                "changed": self._settings.changed,
                "models": [asdict(choice) for choice in self._models_to_choose()],
            },
            "_comparing": lambda: {"offered": in_notebook(), "chats": self._comparison.chats},
        }

    def _models_to_choose(self) -> list[ModelChoice]:
        """The models to offer; if the engine has several, these are the first."""
        found = {choice.name: choice for choice in choices()}
        for name in reversed(self._several):
            choice = found.pop(name, None) or ModelChoice(name, "")
            found = {name: replace(choice, place="loaded", fits=None), **found}
        return list(found.values())

    @property
    def _several(self) -> tuple[str, ...]:
        """The engine's models, if it has several."""
        models = self._link.snapshot.models
        return models if len(models) > 1 else ()

    def _on_engine(self, snapshot: EngineSnapshot) -> None:
        super()._on_engine(snapshot)
        if self._several != self._offered:
            self._offered = self._several
            self.send_state("_options")

    def _beside(self, link: EngineLink, options: ChatOptions) -> Side:
        """A chat in which an answer of this one is compared; its tools print where this one's do.

        It is made on a thread that may not be the user's.
        """
        settings = {name: getattr(options, name) for name in OPTION_NAMES}
        chat = self._cell.copy().run(ChatWidget, link, model=options.model, **settings)
        chat._cell, chat._user, chat._page = self._cell, self._user, self._page
        chat._functions = ToolCaller(link, chat._session, self._user)
        return Side(chat, chat._session)

    def _intents(self) -> Mapping[str, Handler]:
        session = self._session
        return {
            **super()._intents(),
            **self._transcript_output.intents(),
            "send": self._send_from_page,
            "look": lambda _: self.send({"type": "notebook", "names": notebook_variables.names()}),
            "results": lambda intent: session.give_results(
                intent.get("reply"), intent.get("results")
            ),
            "allow": lambda intent: session.approvals.decide(
                intent.get("reply"), intent.get("call"), intent.get("decision")
            ),
            "stop": lambda intent: session.stop(intent.get("reply")),
            "retry": lambda intent: session.retry(intent.get("reply")),
            "edit": self._edit_from_page,
            "select": lambda intent: session.select(intent.get("message")),
            "delete": lambda intent: session.delete(intent.get("message")),
            "new": lambda _: session.begin_anew(),
            "rename": lambda intent: session.rename(intent.get("title")),
            "export": lambda intent: self._export_to_page(intent.get("format")),
            "set": lambda intent: self._set_from_page(intent.get("name"), intent.get("value")),
            "reset": lambda _: self._reset_from_page(),
            "compare": lambda intent: self._comparison.begin(
                model=intent.get("model"),
                settings=intent.get("settings"),
                text=intent.get("text"),
                attachments=intent.get("attachments"),
            ),
            "keep": lambda intent: self._comparison.keep(intent.get("chat")),
            "leave": lambda _: self._comparison.end(),
            "take_up": lambda _: self._saved.take_up(),
            "tokens": lambda intent: self._send_tokens(intent.get("reply")),
            "resync": lambda _: self.send_state(["_chat"]),
        }

    def _load(self, model: Any) -> None:
        super()._load(model)
        if model is not None:  # in place of all that were loaded
            self._session.use_model(None)
            self._view_of.choose(None)

    def send(self, content: Any, buffers: Any = None) -> Any:
        """Send a message to the model; a dict is sent to the page, as by ipywidgets' `send`.

        Returns at once. The message is answered after earlier ones, and once the model is loaded.

        Args:
            content: The message's text.
            buffers: For messages to the page only.

        Returns:
            A `Reply`: ``await`` it for the message, or read its `text` so far.

        Raises:
            BadRequestError: `content` is empty.
            EngineTerminatedError: the engine was terminated.
        """
        if isinstance(content, dict):
            return super().send(content, buffers=buffers)
        (reply,) = send_to_all([self], content)
        return reply

    def _send_tokens(self, reply_id: Any) -> None:
        tokens = tokens_json(self._session.message(reply_id).tokens)
        self.send({"type": "tokens", "reply": reply_id, "tokens": tokens})

    def _send_from_page(self, intent: JSONDict) -> object:
        files = read_attachments(intent.get("attachments"))
        return self._ask(intent.get("text"), files, self._session.send)

    def _set_from_page(self, name: Any, value: Any) -> None:
        self._settings.set(name, value)
        self._transcript_output.update()

    def _reset_from_page(self) -> None:
        self._settings.reset()
        self._transcript_output.update()

    def _edit_from_page(self, intent: JSONDict) -> object:
        old = self._session.question(intent.get("message"))
        files = [item for item in old.attachments if not item.variable]
        return self._ask(intent.get("text"), files, functools.partial(self._session.edit, old.id))

    def _ask(
        self, text: Any, files: Sequence[Attachment], ask: Callable[[Question], object]
    ) -> object:
        """Ask at once, as a Stop may follow; or return a coroutine that reads variables first."""
        if (question := plain_question(text, files)) is not None:
            ask(question)
            return None

        async def filled_in() -> None:
            ask(await read_question(text, files))

        return filled_in()

    def send_results(self, results: Mapping[str, Any] | Sequence[Any]) -> Reply:
        """Send the results of the last reply's tool calls; returns at once.

        Args:
            results: A list with one result per call, in their order, or a mapping by the calls'
                ids or names. A result that is not a string is sent as JSON.

        Raises:
            BadRequestError: the last reply makes no calls, or results are missing.
            EngineTerminatedError: the engine was terminated.
        """

        async def take() -> Reply:
            head = self._session.state.head
            if head is None:
                raise BadRequestError("results: the conversation is empty.", param="results")
            return self._session.give_results(head, results)

        return self._link.submit(take()).result()

    def stop(self) -> None:
        """Stop the running reply and all that are queued. Their text so far is kept."""
        self._link.call_soon(self._session.stop)

    @property
    def messages(self) -> tuple[dict[str, Any], ...]:
        """The conversation in OpenAI's shape, including the running reply's text so far."""
        return tuple(openai_messages(self._session.state.path()))

    def on_reply(self, callback: Callable[[Reply], object]) -> Callable[[], None]:
        """Call a function with each `Reply` that has ended: done, stopped or failed.

        It is called on the event loop that was running when this chat was made (in a notebook,
        between cells), or else on a thread of its own, and may be a coroutine function. It cannot
        delay the engine; an exception in it is logged.

        Returns:
            A function that removes the callback.
        """
        context = contextvars.copy_context()  # what it prints belongs to this cell

        def call(reply: Reply) -> None:
            self._user.call(callback, reply, context=context)

        self._on_reply.append(call)

        def stop() -> None:
            if call in self._on_reply:
                self._on_reply.remove(call)

        return stop

    def export(self, format: str = "md", path: str | Path | None = None) -> str:
        """Return the conversation as text, and write it to a file if `path` is given.

        Args:
            format: ``md``, ``json`` or ``ipynb``; `load` reads the latter two.
            path: The file to write.

        Raises:
            BadRequestError: the format is unknown, or `path` cannot be a path.
            OSError: the file cannot be written.
        """
        shown = self._shown()._replace(settings=settings_of(self._session.options))
        return export(shown, as_format=format, path=path)

    def _export_to_page(self, as_format: Any) -> None:
        self.send({"type": "export", "format": as_format, "text": self.export(as_format)})

    def new_chat(self) -> None:
        """Show an empty conversation; the earlier one stays, as a version of the first message."""
        self._link.call_soon(self._session.begin_anew)

    @property
    def title(self) -> str:
        """The conversation's title: as given, or else the first words of its first message.

        Set it to rename the conversation; None or "" gives it its own title again. A new chat has
        a title of its own.

        Raises:
            BadRequestError: it is not a string, or too long.
        """
        return self._session.state.title

    @title.setter
    def title(self, title: str | None) -> None:
        checked = check_title(title)

        async def rename() -> None:
            self._session.rename(checked)

        self._link.submit(rename()).result()

    def _shown(self) -> Shown:
        session = self._session
        state = session.state
        return Shown(state.path(), session.options.system, self._view_of.model, state.given_title)

    def _transcript_bundle(self) -> JSONDict:
        shown = self._shown()._replace(settings=self._settings.to_json())
        return {
            "text/markdown": markdown(shown, headings=False),
            "text/plain": f"A chat of {len(shown.messages)} messages",
            CHAT_MIME: conversation(shown),
        }

    def _ipython_display_(self) -> None:
        """Show the widget, and the transcript below it."""
        if not in_notebook():
            print(repr(self))
            return
        if in_console():
            print(self.export() or repr(self))
            return
        if self._saved.look():
            self.send_state("_chat")
        self._link.call_soon(self._settings.adopt, self._saved.settings)
        self._transcript_output.show_below(self, "Run this cell again to go on with this chat.")

    def show_transcript(self) -> None:
        """Show the transcript alone below the running cell, and keep it up to date."""
        self._transcript_output.show()

    def _set_option(self, name: str, value: Any) -> None:
        self._session.set_option(name, value)

    def _on_options(self) -> None:
        self.send_state("_options")
        # Read when it is called: the latest wins.
        self._user.call(lambda: self._adopt_settings(self._session.options))

    def _on_change(self) -> None:
        self.send_state(["_chat", "_live"])
        path = self._session.state.path()
        if not any(message.status in ("queued", "running") for message in path):
            self._keep()

    def _on_end(self, reply: Reply) -> None:
        self._keep()
        if self._link.snapshot.state == "ready":
            self._background(self._describe())  # its memory has changed
        self._functions.answer(reply, self._cell)
        for call in list(self._on_reply):
            call(reply)

    def _keep(self) -> None:
        """Update the transcript below the widget."""
        rev = self._session.state.rev
        if rev != self._kept_rev:
            self._kept_rev = rev
            self._transcript_output.update()

    def _attach(self) -> None:
        super()._attach()
        self._session.start()

    def _detach(self) -> None:
        super()._detach()
        self._comparison.end()
        self._session.close()

    def __repr__(self) -> str:
        snapshot = self._link.snapshot
        if (reason := why_no_page()) is not None:
            return reason
        return f"<ChatWidget {snapshot.model_id or 'no model'}: {len(self.messages)} messages>"


_LOAD_ADVICE: Final = (
    "Load one at the top of the chat or by its settings, and then press Try again."
)


def send_to_all(chats: Sequence[ChatWidget], content: str) -> tuple[Reply, ...]:
    """Send a message to each of the chats, or to none if one of them cannot take it.

    Raises:
        BadRequestError: `content` is empty.
        EngineTerminatedError: an engine was terminated.
    """
    sessions = [chat._session for chat in chats]

    async def take() -> tuple[Reply, ...]:
        for session in sessions:
            session.check_send(content)
        return tuple(session.send(content) for session in sessions)

    # Waits for the I/O thread to take it, which is quick: `messages` has it then.
    return chats[0].engine_link.submit(take()).result()
