"""Starts a decode step before the host knows the tokens of the one before.

Where the GPU chooses all tokens of a step, it also makes the inputs of a step that goes on with
them (`next_step`). If that one is started at once, the GPU need not wait until the host has read
the tokens, decided that the same sequences go on, and sent them back. Where they do not, what such
a step has computed is ignored: it wrote keys and values only to places after the tokens that the
sequences have, before any later step writes there.

Each row is either greedy, or drawn from without filters and changes of logits, so that its random
numbers can be sent ahead. The GPU draws only nearly as the host does, which draws again from what
is left of the row. If the tokens differ, which is rare, the host's counts, as the sequence then
does not go on with the GPU's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np

from mlc_widget.api.errors import InternalEngineError
from mlc_widget.engine.runtimes.tvm.cuda import cudart, tensors
from mlc_widget.engine.runtimes.tvm.cuda.decode import MOST_ROWS, DecodeStep
from mlc_widget.engine.runtimes.tvm.cuda.records import (
    DRAWN_WORDS,
    WANTED,
    WANTED_WORDS,
    best_of,
    block_of,
    blocks_of,
)
from mlc_widget.engine.runtimes.tvm.executor import Logits, Row
from mlc_widget.engine.runtimes.tvm.step_inputs import Span

SURE: Final = 16
"""The number of steps that have to go on with the same sequences before one is started ahead.

One that was started in vain takes about as much time as so many started ahead save.
"""


def can_choose(span: Span) -> bool:
    """Whether the GPU can choose the token of a row, and of the row after it."""
    return span.uniforms is not None or (span.temperature == 0 and span.draws is None)


class _Draw(NamedTuple):
    """How to draw from a row; see `records.WANTED`."""

    scale: float
    at: float
    within: float


_GREEDY: Final = _Draw(0.0, 0.0, 0.0)


def _draw_of(span: Span, position: int) -> _Draw:
    if not span.temperature or span.uniforms is None:
        return _GREEDY
    within, at = span.uniforms(position)
    return _Draw(1 / span.temperature, at, within)


def _any_drawn(draws: Sequence[_Draw]) -> bool:
    return any(draw.scale for draw in draws)


class Lookahead:
    """Decode steps whose tokens the GPU chooses.

    Args:
        width: The number of logits of a row in memory.
        vocab: The number of logits that count.
        page_size: The number of tokens in a page.
        context: The number of positions.
        part: The number of keys of a part into which tiles may be cut; 0 if they may not.
        device: The `tvm_ffi.Device`.
        step_of: Makes or gets the decode step for a number of rows; called with the pool's lock.

    Attributes:
        find_best: The kernel of `shortlist.make_best_tokens`; to be set before the first step.
        draw: Those of `shortlist.make_draw_tokens`; likewise.
        next_step: That of `next_step.make_next_step`; likewise.
    """

    def __init__(
        self,
        width: int,
        vocab: int,
        page_size: int,
        context: int,
        part: int,
        device: Any,
        step_of: Callable[[int], DecodeStep],
    ) -> None:
        self.find_best: Any = None
        self.draw: Any = None
        self.next_step: Any = None
        self._vocab, self._page_size, self._context = vocab, page_size, context
        self._part, self._step_of = part, step_of
        self._keys = tensors.copy_of(np.zeros((MOST_ROWS, 1), np.int64), device)
        self._turn_there = tensors.copy_of(np.zeros((1,), np.int32), device)
        self._told = cudart.Pinned((2, MOST_ROWS), np.uint64)
        room = tensors.empty((2, MOST_ROWS), "int64", device)
        self._told_there = tensors.moved(room, self._told.array.ctypes.data)
        self._records = cudart.Pinned((2, MOST_ROWS, DRAWN_WORDS), np.uint64)
        room = tensors.empty(self._records.array.shape, "int64", device)
        self._drawing = [
            tensors.empty((MOST_ROWS, WANTED_WORDS), "int32", device),
            tensors.copy_of(np.zeros((MOST_ROWS, DRAWN_WORDS), np.int64), device),
            tensors.empty((MOST_ROWS, blocks_of(width)), "float64", device),
        ]
        self._records_there = tensors.moved(room, self._records.array.ctypes.data)
        self._wanted = cudart.Pinned((2, MOST_ROWS, WANTED_WORDS), np.int32)
        self._done = [cudart.Event(), cudart.Event()]
        self._turn = 0  # of the next step to be started
        self._steady = 0  # how many steps, up to the last, went on with the same sequences
        self._next: list[tuple[int, int]] | None = None  # tokens and positions that would go on
        self._pages: list[list[int]] = []  # those in the GPU's page table
        self._draws: list[_Draw] = []  # those of the last step that was asked for
        self._started: int | None = None  # the turn of the step ahead, if there is one
        self._draws_ahead: list[_Draw] = []

    def forget(self) -> None:
        """Ignore the step that was started ahead; called before any other step starts."""
        self._next = self._started = None
        self._steady = 0

    def take_back(self) -> bool:
        """Ignore the step that was started ahead; return whether there was one.

        The last step may be run again, but no other. The next one can go on from it.
        """
        ahead, self._started = self._started is not None, None
        return ahead

    def choose(self, logits: Any, inputs: Sequence[Any], *, drawn: bool) -> None:
        """Start the kernels that choose the tokens of a step and make the inputs of the next.

        Args:
            logits: (rows, width) float32.
            inputs: The ids, positions, places and page table of the step.
            drawn: Whether not all tokens are the most probable ones.
        """
        rows = logits.shape[0]
        keys = tensors.view(self._keys, (rows, 1))
        if drawn:
            there = [tensors.view(a, (rows, *a.shape[1:])) for a in self._drawing]
            told = self._records_there, self._turn_there
            self.draw(logits, self._vocab, *there, keys, *told)
        else:
            self.find_best(logits, self._vocab, keys)
        self.next_step(keys, *inputs, self._told_there, self._turn_there)

    def start(self, spans: Sequence[Span]) -> int:
        """Start a step, if it has not been started, and perhaps the next.

        Called with the pool's lock.

        Args:
            spans: One token of each sequence; see `decode.is_decode`.

        Returns:
            The step's turn, for `rows`.
        """
        self._draws = [_draw_of(span, span.start + 1) for span in spans]
        goes_on = self._goes_on(spans)
        self._steady = self._steady + 1 if goes_on else 0
        turn = self._started if goes_on and self._draws == self._draws_ahead else None
        step = self._step_of(len(spans))
        if turn is None:
            self._pages = [list(span.pages) for span in spans]
            turn = self._start(step, spans, self._draws)
        self._started = None
        if self._steady >= SURE and all(map(self._has_room, spans, self._pages)):
            self._draws_ahead = [_draw_of(span, span.start + 2) for span in spans]
            self._started = self._start(step, None, self._draws_ahead)
        return turn

    def rows(self, spans: Sequence[Span], turn: int, row_of: Callable[[int], Logits]) -> list[Row]:
        """Wait for what suffices to choose the tokens of the step that was asked for last.

        Args:
            spans: Those of the step.
            turn: Its turn.
            row_of: Returns the logits of one of its rows; see `Block.row`.
        """
        self._done[turn].synchronize()
        chosen = best_of(self._told.array[turn, : len(spans)])
        self._next = [(c.token, s.start + 1) for c, s in zip(chosen, spans, strict=True)]
        if not _any_drawn(self._draws):
            return list(chosen)
        records = self._records.array[turn, : len(spans)]
        found: list[Row] = []
        for i, (best, draw) in enumerate(zip(best_of(records[:, 0]), self._draws, strict=True)):
            block = partial(block_of, records[i], best, draw.at, self._vocab, partial(row_of, i))
            found.append(block() if draw.scale else best)
        return found

    def _start(self, step: DecodeStep, spans: Sequence[Span] | None, draws: Sequence[_Draw]) -> int:
        turn, self._turn = self._turn, 1 - self._turn
        drawn = _any_drawn(draws)
        if drawn:
            # The step that had this turn before is done.
            here = self._wanted.array[turn, : len(draws)]
            rows = here.view(WANTED)[:, 0]
            for name, values in zip(_Draw._fields, zip(*draws, strict=True), strict=True):
                rows[name] = values
            there = self._drawing[0].data_ptr()
            cudart.copy(there, here.ctypes.data, here.nbytes, cudart.TO_DEVICE)
        step.start_choosing(spans, drawn=drawn)
        self._done[turn].record()
        return turn

    def _goes_on(self, spans: Sequence[Span]) -> bool:
        """Whether a step goes on with the tokens and the sequences of the last one."""
        if self._next is None or len(self._next) != len(spans):
            return False
        for span, pages, (token, position) in zip(spans, self._pages, self._next, strict=True):
            held = min(len(pages), position // self._page_size + 1)
            if (
                span.start != position
                or span.tokens[0] != token
                or list(span.pages[:held]) != pages[:held]
            ):
                return False
        return True

    def _has_room(self, span: Span, pages: Sequence[int]) -> bool:
        """Whether the GPU can make the inputs of the step after this one."""
        at = span.start + 1
        there = at < min(self._context, len(pages) * self._page_size)
        return there and not (self._part and at % self._part == 0)  # its tiles are the same

    def __del__(self) -> None:
        with suppress(InternalEngineError):  # which it is where CUDA ends with the process
            for event in getattr(self, "_done", ()):  # a step ahead may yet write to `_told`
                event.synchronize()
