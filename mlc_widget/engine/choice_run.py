"""One choice of a request while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlc_widget.engine.answer import AnswerParser
from mlc_widget.engine.resumption import Beginning
from mlc_widget.engine.runtimes.base import GenerationEvent, GenerationStats
from mlc_widget.engine.shapes import Choice


@dataclass(eq=False, slots=True)
class ChoiceRun:
    """How far a choice has come.

    Attributes:
        parser: Reads its text.
        beginning: What it is generated from.
        exact: Whether a resumed one is the one that would have come.
        choice: What was read so far.
        tokens: Tokens that the runtime gave, those of before a resumption included.
        text_without_ids: Text whose tokens the runtime keeps to itself.
        replay_left: Tokens that are still to come again and whose chunks the reader has.
        last_chunk_sent: The reader has its last chunk.
        first_at: When its first event came, in seconds of the monotonic clock.
        begun: A chunk of it was given.
        ended: Its last event is in the queue, or was taken.
        stats: Of all of it, at its end.
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
        """Keep what an event was made of for the journal of the next chunk.

        An exact one's last event is left out: it comes again by itself.
        """
        if not self.exact:
            self._text.append(event.text)
        elif event.finish_reason is None:
            self._ids.extend(event.token_ids)

    def take_journal(self) -> list[int] | str:
        """What was noted since the last chunk."""
        ids, text = self._ids, "".join(self._text)
        self._ids, self._text = [], []
        return ids if self.exact else text
