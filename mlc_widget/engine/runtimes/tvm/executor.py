"""A loaded model with its code, weights and KV cache, which runs one step at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlc_widget.engine.runtimes.base import DeviceUsage
from mlc_widget.engine.runtimes.tvm.candidates import Best, Block, Candidates, Scored
from mlc_widget.engine.runtimes.tvm.draws import Draw
from mlc_widget.engine.runtimes.tvm.huge_pages import HugePages
from mlc_widget.engine.runtimes.tvm.layouts import USUAL_ROWS, pad
from mlc_widget.engine.runtimes.tvm.machine import virtual_machine
from mlc_widget.engine.runtimes.tvm.memory import (
    Array,
    aligned_zeros,
    as_tensor,
    large_zeros,
    usage,
)
from mlc_widget.engine.runtimes.tvm.model_shape import ModelShape
from mlc_widget.engine.runtimes.tvm.shortlists import shortlists
from mlc_widget.engine.store.packed_weights import CopyTask
from mlc_widget.engine.store.rope import tables
from mlc_widget.engine.system.memory import trim

MIN_TILE_ROWS = 4
"""Attention is not cut into smaller tiles than this to occupy more threads."""

Logits = npt.NDArray[np.float32]


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


Row = Logits | Best | Candidates | Block | Scored
"""The logits of a token, (vocab,) float32, or what suffices in their place."""
Rows = Logits | list[Row]
"""For each row that spans ask for, in their order; as an array if all are logits."""


class Executor:
    """Runs steps of a compiled model. All calls must come from the thread with TVM's workers.

    Attributes:
        save_weights: Starts a thread that copies the weights to the cache for later loads, and
            pauses while the function that it is given returns true. None if they are there.
    """

    def __init__(
        self,
        executable: Any,
        shape: ModelShape,
        weights: list[Array],
        *,
        page_size: int,
        pages: int,
        context: int,
        vocab: int,
        max_rows: int,
        usual_rows: int = USUAL_ROWS,
        attention_rows: int,
        attention_part: int = 0,
        threads: int = 1,
        kv_dtype: str = "float32",
        device: str = "cpu",
    ) -> None:
        """Set up a model from its parts.

        Args:
            executable: The compiled module.
            shape: The model's shape.
            weights: Its parameters, in the order of the program.
            page_size: The number of tokens in a page.
            pages: The number of pages of the KV cache.
            context: The number of positions in the rotary table.
            vocab: The number of tokens for which to return logits, from the model's first.
            max_rows: The maximum number of tokens of a step.
            usual_rows: That maximum unless a user chooses another.
            attention_rows: The maximum number of rows of an attention tile.
            attention_part: The number of keys of a part into which tiles may be cut; 0 if they may
                not.
            threads: The number of CPU threads on which steps run.
            kv_dtype: The dtype of keys and values in the cache.
            device: The device that computes, such as ``cpu`` or ``cuda:1``.
        """
        self.device = device
        self._executable = executable
        self._forward: Any = None
        self._forward_one: Any = None
        self._huge_pages: HugePages | None = None
        self._warm = False
        self._trimmed = False
        self.save_weights: Callable[[Callable[[], bool]], CopyTask | None] = nothing_to_save
        self.shape, self.page_size, self.pages, self.vocab = shape, page_size, pages, vocab
        self.context = context
        self.max_rows, self._attention_rows, self._threads = max_rows, attention_rows, threads
        self.usual_rows, self._attention_part = usual_rows, attention_part
        max_pages = -(-context // page_size)
        self._ids, self._position, self._slot, self._logit_rows = (
            aligned_zeros((max_rows,), np.int32) for _ in range(4)
        )
        self._tile = aligned_zeros((max_rows, 3), np.int32)
        self._page_table = aligned_zeros((max_rows * max_pages,), np.int32)
        # The system allocates only rows that are used (numpy would ask for huge pages).
        self._logits = large_zeros((max_rows, pad(shape.vocab_size)), np.float32)
        self.steps = 0
        self.weight_bytes = sum(w.nbytes for w in weights)
        cos, sin = (_aligned(t) for t in tables(shape.ropes, context))
        self._allocate(weights, cos, sin, kv_dtype)

    def _allocate(self, weights: list[Array], cos: Array, sin: Array, kv_dtype: str) -> None:
        """Put the weights where the kernels read them, and allocate the pages."""
        import tvm_ffi

        self._huge_pages = HugePages(weights)
        self._weights = tvm_ffi.convert([as_tensor(w) for w in weights])
        pages, shape = self.pages, self.shape
        self._k, self._v = (
            large_zeros((pages, shape.layers, shape.kv_heads, *last), kv_dtype, huge=True)
            for last in ((shape.head_dim, self.page_size), (self.page_size, shape.head_dim))
        )
        self._static = tuple(map(as_tensor, (cos, sin, self._k, self._v)))

    def usage(self) -> DeviceUsage:
        """The device and its memory, of which the model takes its weights and its KV cache."""
        return usage(self.weight_bytes + self.kv_bytes)

    @property
    def kv_bytes(self) -> int:
        """The size of the KV cache in bytes, whether used or not."""
        return self._k.nbytes + self._v.nbytes

    def prepare(self) -> None:
        """Make the virtual machine; called on the thread that will run steps."""
        machine = virtual_machine(self._executable)
        self._forward, self._forward_one = machine["forward"], machine["forward_one"]

    def run(self, spans: Sequence[Span]) -> Rows:
        """Run the tokens of all spans in one step.

        Returns:
            (rows, vocab) float32, the logits for which the spans ask, in their order. It is a view
            of memory that the next step overwrites. Or, if spans have a `temperature`, a list of
            such rows and of what suffices in their place.
        """
        count = self._compute(spans)
        self.steps += 1
        logits = self._logits[:count, : self.vocab]
        temperatures = [_shortlisted_at(span) for span in spans for _ in span.logits]
        if all(temperature is None for temperature in temperatures):
            return logits
        rows: list[Row] = [*shortlists(logits, temperatures)]
        return rows

    def _compute(self, spans: Sequence[Span]) -> int:
        """Run the tokens of all spans; return the number of rows of logits."""
        inputs, count = self._fill(spans)
        m = max(1, count)
        one = len(inputs[0]) == len(inputs[3]) == m == 1
        (self._forward_one if one else self._forward)(
            *map(as_tensor, inputs), *self._static, as_tensor(self._logits[:m]), self._weights
        )
        return count

    def _fill(self, spans: Sequence[Span]) -> tuple[list[Array], int]:
        """The first inputs of a step, up to `logit_rows`, and the number of requested logits."""
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
                page, at = divmod(span.start, self.page_size)
                self._ids[n], self._position[n] = span.tokens[0], span.start
                self._slot[n] = span.pages[page] * self.page_size + at
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
            pages[positions // self.page_size] * self.page_size + positions % self.page_size
        )
        parts = attention_tiles(count, self._attention_rows, self.shape.kv_heads, self._threads)
        for i in range(parts):
            first, after = i * count // parts, (i + 1) * count // parts
            self._tile[tiles + i] = n + first, after - first, s
        return tiles + parts

    def settle(self) -> bool:
        """While there is no step to run, spend some milliseconds on making later steps faster.

        Returns:
            Whether there may be more to do.
        """
        if not self._warm and self.steps == 0:  # so that nothing is in the pages yet
            self._warm = True
            self._compute([Span([0], 0, [0], [0])])  # brings code, weights and buffers into memory
            return True
        if not self._trimmed:
            self._trimmed = True
            trim()  # free memory that the load used
            return True
        return self._huge_pages is not None and self._huge_pages.move()

    def copy_page(self, source: int, target: int) -> None:
        """Copy a page's keys and values in all layers."""
        self._k[target] = self._k[source]
        self._v[target] = self._v[source]


def _shortlisted_at(span: Span) -> float | None:
    """The temperature of a span's draws, if its most probable tokens may suffice for them."""
    if span.draws is not None or (span.uniforms is not None and span.temperature):
        return None
    return span.temperature


def nothing_to_save(busy: Callable[[], bool]) -> CopyTask | None:
    """`Executor.save_weights` where there is nothing to keep."""
    return None


def attention_tiles(rows: int, most: int, kv_heads: int, threads: int) -> int:
    """The number of tiles of at most `most` rows into which to cut rows of a sequence.

    Each thread computes some pairs of a tile and a key head. So the number of tiles is chosen such
    that all threads get equally many, provided that a tile has at least `MIN_TILE_ROWS` rows.
    """
    fewest = -(-rows // most)
    unit = threads // math.gcd(threads, kv_heads)
    even = -(-fewest // unit) * unit
    return even if even * MIN_TILE_ROWS <= rows else fewest


def kv_bytes_per_page(shape: ModelShape, page_size: int, kv_dtype: str) -> int:
    """The size in bytes of one page, in all layers together."""
    return (
        2 * np.dtype(kv_dtype).itemsize * shape.layers * shape.kv_heads * shape.head_dim * page_size
    )


def _aligned(array: Array) -> Array:
    out = aligned_zeros(array.shape, array.dtype)
    out[...] = array
    return out
