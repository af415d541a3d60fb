"""Starts a decode step before the host knows the tokens of the one before.

Where the GPU chooses all tokens of a step, it also makes the inputs of a step that goes on with
them (`next_step`). If that one is started at once, the GPU need not wait until the host has read
the tokens, decided that the same sequences go on, and sent them back. Where they do not, what such
a step has computed is ignored: it wrote keys and values only to places after the tokens that the
sequences have, before any later step writes there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np

from mlc_widget.api.errors import InternalEngineError
from mlc_widget.engine.runtimes.tvm.candidates import Best
from mlc_widget.engine.runtimes.tvm.cuda import cudart, tensors
from mlc_widget.engine.runtimes.tvm.cuda.decode import MOST_ROWS, DecodeStep
from mlc_widget.engine.runtimes.tvm.cuda.records import best_of
from mlc_widget.engine.runtimes.tvm.executor import Span

SURE: Final = 16
"""The number of steps that have to go on with the same sequences before one is started ahead.

One that was started in vain takes about as much time as so many started ahead save.
"""


class Lookahead:
    """Decode steps whose tokens the GPU chooses.

    Args:
        vocab: The number of logits that count.
        page_size: The number of tokens in a page.
        context: The number of positions.
        part: The number of keys of a part into which tiles may be cut; 0 if they may not.
        device: The `tvm_ffi.Device`.
        step_of: Makes or gets the decode step for a number of rows; called with the pool's lock.

    Attributes:
        find_best: The kernel of `shortlist.make_best_tokens`; to be set before the first step.
        next_step: That of `next_step.make_next_step`; likewise.
    """

    def __init__(
        self,
        vocab: int,
        page_size: int,
        context: int,
        part: int,
        device: Any,
        step_of: Callable[[int], DecodeStep],
    ) -> None:
        self.find_best: Any = None
        self.next_step: Any = None
        self._vocab, self._page_size, self._context = vocab, page_size, context
        self._part, self._step_of = part, step_of
        self._keys = tensors.copy_of(np.zeros((MOST_ROWS, 1), np.int64), device)
        self._turn_there = tensors.copy_of(np.zeros((1,), np.int32), device)
        self._told = cudart.Pinned((2, MOST_ROWS), np.uint64)
        room = tensors.empty((2, MOST_ROWS), "int64", device)
        self._told_there = tensors.moved(room, self._told.array.ctypes.data)
        self._done = [cudart.Event(), cudart.Event()]
        self._turn = 0  # of the next step to be started
        self._steady = 0  # how many steps, up to the last, went on with the same sequences
        self._next: list[tuple[int, int]] | None = None  # tokens and positions that would go on
        self._pages: list[list[int]] = []  # those in the GPU's page table
        self._started: int | None = None  # the turn of the step ahead, if there is one

    def forget(self) -> None:
        """Ignore the step that was started ahead; called before any other step starts."""
        self._next = self._started = None
        self._steady = 0

    def choose(self, logits: Any, inputs: Sequence[Any]) -> None:
        """Start the kernels that choose the tokens of a step and make the inputs of the next.

        Args:
            logits: (rows, width) float32.
            inputs: The ids, positions, places and page table of the step.
        """
        keys = tensors.view(self._keys, (logits.shape[0], 1))
        self.find_best(logits, self._vocab, keys)
        self.next_step(keys, *inputs, self._told_there, self._turn_there)

    def start(self, spans: Sequence[Span]) -> int:
        """Start a step, if it has not been started, and perhaps the next.

        Called with the pool's lock.

        Args:
            spans: One token of each sequence; see `decode.is_decode`.

        Returns:
            The step's turn, for `tokens`.
        """
        goes_on = self._goes_on(spans)
        self._steady = self._steady + 1 if goes_on else 0
        turn = self._started if goes_on else None
        step = self._step_of(len(spans))
        if turn is None:
            self._pages = [list(span.pages) for span in spans]
            turn = self._start(step, spans)
        ahead = self._steady >= SURE and all(map(self._has_room, spans, self._pages))
        self._started = self._start(step, None) if ahead else None
        return turn

    def tokens(self, spans: Sequence[Span], turn: int) -> list[Best]:
        """Wait for the tokens of the step that was started last."""
        self._done[turn].synchronize()
        best = best_of(self._told.array[turn, : len(spans)])
        self._next = [(b.token, s.start + 1) for b, s in zip(best, spans, strict=True)]
        return best

    def _start(self, step: DecodeStep, spans: Sequence[Span] | None) -> int:
        turn, self._turn = self._turn, 1 - self._turn
        step.start_choosing(spans)
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
