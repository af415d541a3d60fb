"""The inputs of a step: which tokens a program computes, where they are, and what they see."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mlc_widget.engine.runtimes.tvm.draws import Draw
from mlc_widget.engine.runtimes.tvm.memory import Array, aligned_zeros

MIN_TILE_ROWS = 4
"""Attention is not cut into smaller tiles than this to occupy more threads."""


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of one sequence to run in a step.

    Attributes:
        tokens: The tokens, at successive positions.
        start: The position of the first token.
        pages: The sequence's pages, enough for the last token; they are filled up to `start`.
        logits: The indices in `tokens` for which logits are needed.
        temperature: None if the logits themselves are needed. Otherwise, an executor may return
            what suffices to choose a token at this temperature: `Best` for 0, else `Candidates` or
            `Block`.
        draws: Returns how to draw from each row of logits, (vocab,), or None where the logits
            themselves are needed after all; to be called, once, after the step has begun. Without
            it, there are filters, but no changes of logits.
        uniforms: Returns the two random numbers of the draw at a position: which token of its
            block, and which block (see `Draw.at`); only if the draws have neither filters nor
            changes of logits, so that those of later steps are known.
    """

    tokens: Sequence[int]
    start: int
    pages: Sequence[int]
    logits: Sequence[int] = ()
    temperature: float | None = None
    draws: Callable[[int], Sequence[Draw | None]] | None = None
    uniforms: Callable[[int], tuple[float, float]] | None = None

    def rows(self, vocab: int) -> Sequence[Draw | None]:
        """How to draw from each row of logits."""
        if self.temperature is not None and self.logits and self.draws is not None:
            return self.draws(vocab)
        return [None if self.temperature is None else Draw(self.temperature)] * len(self.logits)


class StepInputs:
    """Memory for the inputs of one step at a time.

    Attributes:
        threads: The number of CPU threads to which attention's tiles are distributed evenly.
    """

    def __init__(
        self,
        max_rows: int,
        max_pages: int,
        page_size: int,
        *,
        attention_rows: int,
        kv_heads: int,
        threads: int,
    ) -> None:
        """Allocate memory.

        Args:
            max_rows: The maximum number of tokens of a step.
            max_pages: The maximum number of pages of a sequence.
            page_size: The number of tokens in a page.
            attention_rows: The maximum number of rows of an attention tile.
            kv_heads: The number of key heads.
            threads: See the class.
        """
        self._page_size, self._attention_rows = page_size, attention_rows
        self._kv_heads, self.threads = kv_heads, threads
        self._ids, self._position, self._slot, self._logit_rows = (
            aligned_zeros((max_rows,), np.int32) for _ in range(4)
        )
        self._tile = aligned_zeros((max_rows, 3), np.int32)
        self._page_table = aligned_zeros((max_rows * max_pages,), np.int32)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many int32 each of the inputs of `fill` has at most."""
        return tuple(
            array.size
            for array in (
                self._ids, self._position, self._slot, self._page_table, self._tile,
                self._logit_rows,
            )
        )  # fmt: skip

    def fill(self, spans: Sequence[Span]) -> tuple[list[Array], int]:
        """Fill in the tokens of some spans.

        Returns:
            A program's first inputs, up to ``logit_rows``, and the number of requested logits.
        """
        n = tiles = 0
        wanted: list[int] = []
        width = max(len(span.pages) for span in spans)
        table = self._page_table[: len(spans) * width].reshape(len(spans), width)
        table.fill(0)
        for s, span in enumerate(spans):
            count = len(span.tokens)
            end = n + count
            table[s, : len(span.pages)] = span.pages
            if count == 1:  # numbers take less time here than arrays of one
                page, at = divmod(span.start, self._page_size)
                self._ids[n], self._position[n] = span.tokens[0], span.start
                self._slot[n] = span.pages[page] * self._page_size + at
                self._tile[tiles] = n, 1, s
                tiles += 1
            else:
                tiles = self._fill_many(span, s, n, tiles, table[s])
            wanted.extend(n + i for i in span.logits)
            n = end
        # The logits of one row are always computed, as an empty tensor would be a special case.
        m = max(1, len(wanted))
        self._logit_rows[0] = 0
        self._logit_rows[: len(wanted)] = wanted
        inputs = [
            self._ids[:n], self._position[:n], self._slot[:n], table, self._tile[:tiles],
            self._logit_rows[:m],
        ]  # fmt: skip
        return inputs, len(wanted)

    def _fill_many(self, span: Span, s: int, n: int, tiles: int, pages: Array) -> int:
        """Fill in a span's tokens from row n on, and its tiles; return the number of all tiles."""
        count = len(span.tokens)
        positions = np.arange(span.start, span.start + count, dtype=np.int32)
        self._ids[n : n + count] = span.tokens
        self._position[n : n + count] = positions
        self._slot[n : n + count] = (
            pages[positions // self._page_size] * self._page_size + positions % self._page_size
        )
        parts = attention_tiles(count, self._attention_rows, self._kv_heads, self.threads)
        for i in range(parts):
            first, after = i * count // parts, (i + 1) * count // parts
            self._tile[tiles + i] = n + first, after - first, s
        return tiles + parts


def attention_tiles(rows: int, most: int, kv_heads: int, threads: int) -> int:
    """The number of tiles of at most `most` rows into which to cut rows of a sequence.

    Each thread computes some pairs of a tile and a key head. So the number of tiles is chosen such
    that all threads get equally many, provided that a tile has at least `MIN_TILE_ROWS` rows.
    """
    fewest = -(-rows // most)
    unit = threads // math.gcd(threads, kv_heads)
    even = -(-fewest // unit) * unit
    return even if even * MIN_TILE_ROWS <= rows else fewest
