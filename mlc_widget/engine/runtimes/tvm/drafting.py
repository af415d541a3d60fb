"""Drafts for the sequences of a step, and what they save."""

from __future__ import annotations

from mlc_widget.engine.runtimes.tvm.sequence import Sequence
from mlc_widget.engine.runtimes.tvm.sequence_pages import SequencePages
from mlc_widget.engine.runtimes.tvm.speculation import (
    MOST_SEQUENCES,
    SpeculativeMode,
    Speculator,
)


class Drafting:
    """Has tokens drafted for sequences that decode. Only the scheduler's thread may use it.

    Args:
        mode: Whether to draft tokens: ``auto``, where that saves time; ``always``, wherever the
            text repeats itself; or ``disable``.
        pages: Makes room for drafted tokens.
        chunk: The maximum number of tokens of a step.
    """

    def __init__(self, mode: SpeculativeMode, pages: SequencePages, chunk: int) -> None:
        self._speculator = Speculator(mode)
        self._enabled = mode != "disable"
        self._pages, self._chunk = pages, chunk

    def draft(self, plan: list[tuple[Sequence, int]], running: int) -> dict[Sequence, list[int]]:
        """Tokens of sequences that decode to be computed in the same step, as far as they fit.

        Args:
            plan: The sequences of the step, with the number of tokens of each.
            running: The number of sequences that run, whether they share this step or not.
        """
        if not self._enabled or running > MOST_SEQUENCES:
            return {}
        decoding, predicts = list[Sequence](), False
        for sequence, count in plan:
            if count == sequence.remaining == 1 and not sequence.scoring:
                sequence.drafter.follow(sequence.prompt_tokens)
                predicts = predicts or sequence.drafter.predicts
                decoding.append(sequence)
        if not predicts:  # as in most steps, whose time on a GPU is that of few lines of Python
            return {}
        drafts = self._speculator.draft(
            [sequence.drafter for sequence in decoding],
            rows=self._chunk - sum(count for _, count in plan),
            mixed=len(decoding) < len(plan),
        )
        fitting = {}
        for sequence, draft in zip(decoding, drafts, strict=True):
            draft = draft[: sequence.most_drafted]
            if fits := self._pages.hold_draft(sequence, len(draft), running):
                fitting[sequence] = draft[:fits]
        return fitting

    def stepped(
        self, plan: list[tuple[Sequence, int]], tokens: int, seconds: float, saved: int
    ) -> None:
        """Take note of a step.

        Args:
            plan: As for `draft`.
            tokens: The number of tokens that the step computed, drafted ones included.
            seconds: The time that it took.
            saved: The number of drafted tokens that were right.
        """
        if self._enabled and all(count == 1 for _, count in plan):
            self._speculator.stepped(tokens, seconds, [s.drafter for s, _ in plan], saved)
