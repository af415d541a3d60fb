"""Prompt-lookup speculation: tokens are drafted from earlier in the text, and checked in one step.

If the last tokens also occurred earlier in prompt or answer, the text may go on as it did there. A
step that computes several drafted tokens takes less time than as many steps, since it reads the
weights once. Each token is then sampled from its own logits, in order, until one differs from the
draft. As logits do not depend on how tokens are divided among steps, and random numbers depend on
the position alone, the text is the same to the bit with and without drafts: only its time differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

SpeculativeMode: TypeAlias = Literal["auto", "always", "disable"]

MOST_DRAFTED: Final = 15
"""The most tokens that are drafted at once."""
_LENGTHS: Final = (1, 3, 7, MOST_DRAFTED)
"""The lengths of drafts in the mode ``auto``."""
_MOST_ROWS: Final = 32
"""The most rows of logits of a step with drafts, for all sequences together."""
MOST_SEQUENCES: Final = 8
"""With more sequences, a step's time grows with each row, so that drafts do not pay."""

_NGRAM: Final = 3
"""The number of tokens that must have occurred before."""
_BITS: Final = 21
_MASK: Final = (1 << (_BITS * _NGRAM)) - 1

_FIRST_RATE: Final = 0.05
"""So low that nothing is drafted before a prediction has come true: a short answer could not earn
back what wrong drafts lose."""
_RATE_STEP: Final = 0.15
_LEAST_GAIN: Final = 1.1
"""Drafts are used if they are expected to be at least this many times as fast."""

_FIRST_BALANCE: Final = 0.25
_EARNED: Final = 0.01
_MOST_BALANCE: Final = 8.0
_ROW_COST: Final = 0.1
"""The assumed cost of a row, relative to a step of one row, before steps were measured."""
_WEIGHT: Final = 0.1
"""The weight of a new measurement."""


class Drafter:
    """Predicts the next tokens of one sequence from what is before them in its text.

    Attributes:
        rate: The fraction of recent predictions that came true, whether they were used or not.
        balance: The time that drafts may lose, in steps: ordinary steps earn a hundredth of a step,
            tokens that were drafted rightly earn the steps that they saved.
        drafted: The number of tokens that were drafted.
        accepted: The number of them that were right.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        """Follow `tokens`, which grow: prompt and answer."""
        self._tokens = tokens
        self._ends: dict[int, int] = {}  # where the last occurrence of a few tokens ends
        self._seen = self._key = 0
        self._at: int | None = None  # where the next token would be if the text repeats itself
        self.rate = _FIRST_RATE
        self.balance = _FIRST_BALANCE
        self.drafted = self.accepted = 0

    def follow(self, first_of_answer: int = 0) -> None:
        """Take note of new tokens; predictions of those from `first_of_answer` on are rated."""
        tokens, ends, key, at = self._tokens, self._ends, self._key, self._at
        for i in range(self._seen, len(tokens)):
            token = tokens[i]
            if at is not None:
                hit = tokens[at] == token
                if i >= first_of_answer:
                    self.rate += _RATE_STEP * (hit - self.rate)
                at = at + 1 if hit else None
            key = (key << _BITS | token) & _MASK
            if i >= _NGRAM - 1:
                if at is None:
                    at = ends.get(key)
                ends[key] = i + 1
        self._seen, self._key, self._at = len(tokens), key, at

    @property
    def predicts(self) -> bool:
        """Whether it has a prediction; after `follow`."""
        return self._at is not None

    def draft(self, count: int) -> list[int]:
        """The next `count` tokens, as it predicts them, or none; after `follow`."""
        if self._at is None or count <= 0:
            return []
        known = list(self._tokens[self._at : self._at + count])
        # The text that it repeats may end where the answer does; it is then repeated again.
        return (known * -(-count // len(known)))[:count]

    def expected(self, count: int) -> float:
        """The number of tokens of a draft of `count` that are likely to be right."""
        return sum(self.rate**i for i in range(1, count + 1))


class Speculator:
    """Decides how many tokens to draft for the sequences of a step.

    In the mode ``auto``, drafts must be likely to save time for every sequence of the step, by the
    measured times of steps. If they lose time nevertheless, that is at most about a hundredth.
    """

    def __init__(self, mode: SpeculativeMode) -> None:
        self._mode = mode
        self._seconds: dict[int, float] = {}  # of steps by their rows, smoothed

    def draft(self, drafters: Sequence[Drafter], *, rows: int, mixed: bool) -> list[list[int]]:
        """The tokens to draft for each of some sequences that decode.

        Args:
            drafters: Those of the sequences, which have followed the text.
            rows: The number of rows that the step has room for, beside one for each sequence.
            mixed: Whether the step has other rows, too.
        """
        count = len(drafters)
        none: list[list[int]] = [[] for _ in drafters]
        if self._mode == "disable" or not count:
            return none
        room = min(rows, _MOST_ROWS - count) // count
        if self._mode == "always":
            return [drafter.draft(min(MOST_DRAFTED, room)) for drafter in drafters]
        if mixed or not all(drafter.predicts for drafter in drafters):
            return none
        best, length = _LEAST_GAIN, 0
        for k in _LENGTHS:
            if k > room:
                break
            cost = self._cost(count, count * (1 + k))
            gain = min((1 + drafter.expected(k)) / cost for drafter in drafters)
            if gain > best and all(cost - 1 <= drafter.balance for drafter in drafters):
                best, length = gain, k
        return [drafter.draft(length) for drafter in drafters]

    def _cost(self, count: int, rows: int) -> float:
        """The time of a step of `rows`, relative to one of `count`."""
        if rows in self._seconds and count in self._seconds:
            return max(1.0, self._seconds[rows] / self._seconds[count])
        return 1 + _ROW_COST * (rows - count)

    def stepped(self, rows: int, seconds: float, drafters: Sequence[Drafter], saved: int) -> None:
        """Take note of a step in which all sequences decoded.

        Args:
            rows: The rows of the step.
            seconds: The time that it took.
            drafters: Those of its sequences.
            saved: The number of drafted tokens that were right, for all sequences together.
        """
        known = self._seconds.get(rows, seconds)
        usual = min(seconds, 2 * known)  # something else may have kept the CPU busy
        self._seconds[rows] = known + _WEIGHT * (usual - known)
        count, earned = len(drafters), _EARNED
        if rows > count and (plain := self._seconds.get(count)):
            earned = saved / count - (usual / plain - 1)
        for drafter in drafters:
            drafter.balance = min(_MOST_BALANCE, drafter.balance + earned)
