"""The output of `%%chat`: one reply, with its tool calls and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import traitlets

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.requests import JSONDict
from mlc_widget.magics.conversation import Conversation
from mlc_widget.widget.base import EngineWidget, mirror
from mlc_widget.widget.chat_request import ChatOptions
from mlc_widget.widget.intents import Handler
from mlc_widget.widget.options import options_json
from mlc_widget.widget.reply import Reply
from mlc_widget.widget.state import Message
from mlc_widget.widget.transcript import CHAT_MIME, Shown, conversation, markdown
from mlc_widget.widget.transcript_output import TranscriptOutput, in_notebook


class ReplyWidget(EngineWidget):
    """Shows one reply of a conversation; the page can stop and regenerate it.

    Args:
        conversation: The conversation.
        reply: The reply.
        model: The model that makes it, if one was named.

    Traits: as `ChatWidget`'s; `_chat` has the reply and, if it makes calls, what follows from them.
    """

    _view = traitlets.Unicode("reply", read_only=True).tag(sync=True)
    _chat = mirror("_chat")
    _live = mirror("_live")
    _options = mirror("_options")

    def __init__(self, conversation: Conversation, reply: Reply, model: str | None = None) -> None:
        self._talk = conversation
        question = conversation.session.message(reply.id).parent
        assert question is not None, "a reply follows a message"
        self._question = question
        self._kept: object = None
        self._transcript_output = TranscriptOutput(self._transcript_bundle, self.send)
        super().__init__(conversation.link, model)
        self._link.call_soon(self._begin)

    def _begin(self) -> None:
        self._talk.add(self)
        self.on_change()

    @property
    def _turn(self) -> tuple[Message, ...]:
        """The messages of the branch that was chosen last: the reply, and what follows from it."""
        return self._talk.session.state.turn(self._question)

    @property
    def _shown(self) -> Message:
        """The last message of the turn."""
        return self._turn[-1]

    def _more_mirrors(self) -> Mapping[str, Callable[[], JSONDict]]:
        return {
            "_chat": self._chat_json,
            "_live": self._live_json,
            "_options": lambda: {**options_json(ChatOptions()), "models": []},
        }

    def _chat_json(self) -> JSONDict:
        state = self._talk.session.state
        return state.to_json(state.turn(self._question))

    def _live_json(self) -> JSONDict:
        live = self._talk.session.live
        return live if live.get("reply") == self._shown.id else {}

    def _intents(self) -> Mapping[str, Handler]:
        session = self._talk.session
        return {
            **super()._intents(),
            **self._transcript_output.intents(),
            "stop": lambda _: session.stop(self._shown.id),
            "results": lambda intent: session.give_results(
                self._mine(intent, "reply"), intent.get("results")
            ),
            "allow": lambda intent: session.approvals.decide(
                self._mine(intent, "reply"), intent.get("call"), intent.get("decision")
            ),
            "retry": lambda intent: session.retry(self._mine(intent, "reply")),
            "select": lambda intent: session.select(self._mine(intent, "message")),
            "resync": lambda _: self.send_state(["_chat"]),
        }

    def _mine(self, intent: JSONDict, name: str) -> str:
        message_id, state = str(intent.get(name)), self._talk.session.state
        if message_id not in state.messages or state.question(message_id) != self._question:
            raise BadRequestError(f"{name} = {message_id!r}: this cell does not show this reply.")
        return message_id

    def on_change(self) -> None:
        """Messages were added or removed, or have ended. On the I/O thread."""
        turn = self._turn
        now = [
            (m.id, m.status, m.calling, len(m.tool_calls), len(m.questions), m.resumed)
            for m in turn
        ]
        if self._kept == now:
            return
        self._kept = now
        self.send_state(["_chat", "_live"])
        if turn[-1].status not in ("queued", "running"):
            self._transcript_output.update()

    def on_delta(self, delta: JSONDict) -> None:
        """A reply has new text. On the I/O thread."""
        if delta["reply"] == self._shown.id:
            self.send(delta)

    def on_mirror(self) -> None:
        """The growing reply should be synced. On the I/O thread."""
        if self._live_json():
            self.send_state("_live")

    def _transcript_bundle(self) -> JSONDict:
        shown = self._shown
        session = self._talk.session
        shown_chat = Shown(session.state.path(shown.id), None, self._view_of.model)
        text = markdown(shown_chat._replace(messages=self._turn), headings=False)
        return {
            "text/markdown": "" if shown.status == "queued" else text,
            "text/plain": repr(self),
            CHAT_MIME: conversation(shown_chat),
        }

    def _ipython_display_(self) -> None:
        """Show the widget, and the transcript below it."""
        if not in_notebook():
            print(repr(self))
            return
        self._transcript_output.show_below(self, "Run this cell again to get a new reply.")

    def __repr__(self) -> str:
        shown = self._shown
        return f"<reply: {shown.status}, {len(shown.text)} characters>"
