"""A loaded model with its code, weights and KV cache, which runs one step at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from mlc_widget.engine.runtimes.base import DeviceUsage
from mlc_widget.engine.runtimes.tvm.candidates import Best, Block, Candidates, Scored
from mlc_widget.engine.runtimes.tvm.divided_steps import SecondThread, divide
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
from mlc_widget.engine.runtimes.tvm.step_inputs import Span, StepInputs
from mlc_widget.engine.store.packed_weights import CopyTask
from mlc_widget.engine.store.rope import tables
from mlc_widget.engine.system.memory import trim

Logits = npt.NDArray[np.float32]


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
        tile_rows: int = 0,
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
            tile_rows: The number of rows of the kernels' tiles, if steps of more may be divided
                among that thread and another; otherwise 0.
            kv_dtype: The dtype of keys and values in the cache.
            device: The device that computes, such as ``cpu`` or ``cuda:1``.
        """
        self.device = device
        self._executable = executable
        self._program: _Program | None = None
        self._second: tuple[SecondThread, _Program] | None = None
        self._huge_pages: HugePages | None = None
        self._warm = False
        self._trimmed = False
        self.save_weights: Callable[[Callable[[], bool]], CopyTask | None] = nothing_to_save
        self.shape, self.page_size, self.pages, self.vocab = shape, page_size, pages, vocab
        self.context = context
        self.max_rows, self._tile_rows = max_rows, tile_rows
        self.usual_rows, self._attention_part = usual_rows, attention_part
        self._make_inputs = partial(
            StepInputs,
            max_rows,
            -(-context // page_size),
            page_size,
            attention_rows=attention_rows,
            kv_heads=shape.kv_heads,
            threads=threads,
        )
        self._inputs = self._make_inputs()
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
        self._program = _Program(self._executable, self._inputs)
        if self._tile_rows:
            other = _Program(self._executable, self._make_inputs())
            self._second = SecondThread(), other

    def end(self) -> None:
        """End what `prepare` started, after the last step."""
        if self._second is not None:
            self._second[0].end()
            self._second = None

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
        assert self._program is not None
        if self._second is None:
            return self._part(self._program, spans, 0)
        first = divide([len(span.tokens) for span in spans], self._tile_rows)
        thread, other = self._second
        if first == len(spans) or not thread.savings.worthwhile():
            return self._part(self._program, spans, 0)
        counts = [sum(len(span.logits) for span in part) for part in (spans[:first], spans[first:])]
        thread.run_both(
            partial(self._part, self._program, spans[:first], 0),
            partial(self._part, other, spans[first:], counts[0]),
        )
        return sum(counts)

    def _part(self, program: _Program, spans: Sequence[Span], row: int) -> int:
        """Run some spans, with logits from a row on; return the number of rows of logits."""
        inputs, count = program.inputs.fill(spans)
        # One row is always computed. If none is asked for, there are more tokens in the step than
        # rows of logits, so the last row is free.
        logits = self._logits[row : row + count] if count else self._logits[-1:]
        program.run(inputs, self._static, logits, self._weights)
        return count

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


class _Program:
    """A virtual machine that runs the compiled code, with inputs of its own."""

    def __init__(self, executable: Any, inputs: StepInputs) -> None:
        machine = virtual_machine(executable)
        self._forward, self._forward_one = machine["forward"], machine["forward_one"]
        self.inputs = inputs

    def run(
        self, inputs: list[Array], static: tuple[Any, ...], logits: Array, weights: Any
    ) -> None:
        """Run a step, or a part of one."""
        one = len(inputs[0]) == len(inputs[3]) == len(logits) == 1
        (self._forward_one if one else self._forward)(
            *map(as_tensor, inputs), *static, as_tensor(logits), weights
        )


def _shortlisted_at(span: Span) -> float | None:
    """The temperature of a span's draws, if its most probable tokens may suffice for them."""
    if span.draws is not None or (span.uniforms is not None and span.temperature):
        return None
    return span.temperature


def nothing_to_save(busy: Callable[[], bool]) -> CopyTask | None:
    """`Executor.save_weights` where there is nothing to keep."""
    return None


def kv_bytes_per_page(shape: ModelShape, page_size: int, kv_dtype: str) -> int:
    """The size in bytes of one page, in all layers together."""
    return (
        2 * np.dtype(kv_dtype).itemsize * shape.layers * shape.kv_heads * shape.head_dim * page_size
    )


def _aligned(array: Array) -> Array:
    out = aligned_zeros(array.shape, array.dtype)
    out[...] = array
    return out
