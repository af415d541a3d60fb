"""One choice of a request while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlc_widget.engine.answer import AnswerParser
from mlc_widget.engine.resumption import Beginning
from mlc_widget.engine.runtimes.base import GenerationEvent, GenerationStats
from mlc_widget.engine.shapes import Choice


@dataclass(eq=False, slots=True)
class ChoiceRun:
    """The progress of one choice.

    Attributes:
        parser: Parses its text.
        beginning: The prompt and sampling that it is generated from.
        exact: Whether a resumed choice is the same as an uninterrupted one.
        choice: The content so far.
        tokens: Tokens from the runtime so far, including those before a resumption.
        text_without_ids: Text whose token ids the runtime does not report.
        replay_left: The number of tokens still to be replayed after a resumption; the reader
            already has their chunks.
        last_chunk_sent: Whether the reader has its last chunk.
        first_at: The time of its first event, by `time.monotonic`.
        begun: Whether a chunk has been sent.
        ended: Whether its last event has been queued.
        stats: The statistics of the whole choice, at its end.
    """

    parser: AnswerParser
    beginning: Beginning
    exact: bool
    choice: Choice = field(default_factory=Choice)
    tokens: int = 0
    text_without_ids: list[str] = field(default_factory=list)
    replay_left: int = 0
    last_chunk_sent: bool = False
    first_at: float | None = None
    begun: bool = False
    ended: bool = False
    stats: GenerationStats | None = None
    _ids: list[int] = field(default_factory=list)
    _text: list[str] = field(default_factory=list)

    def note(self, event: GenerationEvent) -> None:
        """Note an event's tokens or text for the journal of the next chunk.

        The last event of an exact choice is left out: a resumption generates it again.
        """
        if not self.exact:
            self._text.append(event.text)
        elif event.finish_reason is None:
            self._ids.extend(event.token_ids)

    def take_journal(self) -> list[int] | str:
        """Return what was noted since the last chunk."""
        ids, text = self._ids, "".join(self._text)
        self._ids, self._text = [], []
        return ids if self.exact else text
