"""A loaded model on a GPU, which runs one step at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlc_widget.engine.runtimes.base import DeviceUsage
from mlc_widget.engine.runtimes.tvm.cuda import cudart, device, pool, tensors
from mlc_widget.engine.runtimes.tvm.cuda.decode import MOST_ROWS, DecodeStep, is_decode
from mlc_widget.engine.runtimes.tvm.cuda.lookahead import Lookahead, can_choose
from mlc_widget.engine.runtimes.tvm.cuda.parts import cut_tiles, rows_of
from mlc_widget.engine.runtimes.tvm.cuda.records import BEST_TOKENS, DRAW_TOKENS, NEXT_STEP
from mlc_widget.engine.runtimes.tvm.cuda.step_logits import StepLogits
from mlc_widget.engine.runtimes.tvm.cuda.upload import upload
from mlc_widget.engine.runtimes.tvm.executor import Executor, Logits, Rows
from mlc_widget.engine.runtimes.tvm.layouts import pad
from mlc_widget.engine.runtimes.tvm.machine import function, virtual_machine
from mlc_widget.engine.runtimes.tvm.memory import Array, as_tensor
from mlc_widget.engine.runtimes.tvm.step_inputs import Span


class CudaExecutor(Executor):
    """An `Executor` with weights, pages and logits in the GPU's memory."""

    def _allocate(self, weights: list[Array], cos: Array, sin: Array, kv_dtype: str) -> None:
        import tvm_ffi

        self._inputs.threads = 1  # tiles need not be distributed evenly over threads
        self._rows_of_few = rows_of(self.shape.query_heads // self.shape.kv_heads)
        self._index = device.index_of(self.device)
        self._device = tvm_ffi.device("cuda", self._index)
        cudart.use(self._index)
        self._decode_steps: dict[int, DecodeStep] = {}
        self._epoch = pool.epoch()
        self._weights = tvm_ffi.convert(upload(weights, self._index, self._empty))
        pages, shape = self.pages, self.shape
        self._k, self._v = (
            self._zeros((pages, shape.layers, shape.kv_heads, *last), kv_dtype)
            for last in ((shape.head_dim, self.page_size), (self.page_size, shape.head_dim))
        )
        self._static = (
            tensors.copy_of(cos, self._device),
            tensors.copy_of(sin, self._device),
            self._k,
            self._v,
        )
        self._few_logits = StepLogits(pad(shape.vocab_size), self.vocab, self._device)
        self._lookahead = Lookahead(
            pad(shape.vocab_size), self.vocab, self.page_size, self.context, self._attention_part,
            self._device, self._decode_step,
        )  # fmt: skip
        self._all_logits_there: Any = None
        self._inputs_there = [self._empty((size,), "int32") for size in self._inputs.sizes]

    def usage(self) -> DeviceUsage:
        """The GPU and its memory, of which the model takes its weights and its KV cache."""
        return device.usage(self._index, self.weight_bytes + self.kv_bytes)

    @property
    def kv_bytes(self) -> int:
        """The size of the KV cache in bytes."""
        both: tuple[Any, Any] = (self._k, self._v)
        return sum(int(np.prod(p.shape)) * np.dtype(str(p.dtype)).itemsize for p in both)

    def prepare(self) -> None:
        """Make the virtual machine and run one row; called on the thread that will run steps."""
        cudart.use(self._index)
        self._forward = virtual_machine(self._executable, self._index)["forward"]
        self._few_logits.prepare(lambda name: function(self._executable, name))
        self._lookahead.find_best = function(self._executable, BEST_TOKENS)
        self._lookahead.draw = function(self._executable, DRAW_TOKENS)
        self._lookahead.next_step = function(self._executable, NEXT_STEP)
        # The first step allocates the memory for all steps. If memory is scarce, TVM uses what the
        # steps of other models have left in the pool.
        pool.shrink(lambda: self._launch([Span([0], 0, [0], [0])]))
        cudart.synchronize()
        self._warm, self.steps = True, 0

    def run(self, spans: Sequence[Span]) -> Rows:
        """Run the tokens of all spans in one step; see `Executor.run`."""
        temperatures = [span.temperature for span in spans for _ in span.logits]
        if is_decode(spans) and all(map(can_choose, spans)):
            with pool.lock:
                self._check_pool()
                turn = self._lookahead.start(spans)
            self.steps += 1
            return self._lookahead.rows(spans, turn, lambda i: self._row_again(spans, i))
        chosen = len(temperatures) <= MOST_ROWS and any(t is not None for t in temperatures)
        if chosen:
            self._few_logits.clear(temperatures)
        count = self.launch(spans)
        if count > MOST_ROWS:
            tensors.copy(self._logits_of(count), as_tensor(self._logits[:count]))
            cudart.synchronize()
            return self._logits[:count, : self.vocab]
        if not chosen:
            return self._few_logits.all(count)
        # Meanwhile the step runs.
        return self._few_logits.rows([draw for span in spans for draw in span.rows(self.vocab)])

    def _row_again(self, spans: Sequence[Span], row: int) -> Logits:
        """Copy a row of logits of the last step, which runs again if one was started ahead."""
        with pool.lock:
            ahead = self._lookahead.take_back()
            self._check_pool()
            if ahead:  # it has overwritten the logits
                self.steps += 1
                self._decode_step(len(spans)).start(spans)
        return self._few_logits.row(row)

    def launch(self, spans: Sequence[Span]) -> int:
        """Start a step; the next may be started only when it is done.

        Returns:
            The number of rows of logits that it leaves in the GPU's memory.
        """
        with pool.lock:
            return self._launch(spans)

    def _launch(self, spans: Sequence[Span]) -> int:
        """Like `launch`, but the caller holds the pool's lock."""
        self.steps += 1
        self._check_pool()
        self._lookahead.forget()
        if is_decode(spans):
            self._decode_step(len(spans)).start(spans)
            return len(spans)
        inputs, count = self._inputs.fill(spans)
        if self._attention_part:
            _, position, _, _, tile, _ = inputs
            inputs[4] = cut_tiles(
                tile, position, self._attention_part, self.max_rows, self._rows_of_few
            )
        there = []
        for array, memory in zip(inputs, self._inputs_there, strict=True):
            tensor = tensors.view(memory, array.shape)
            tensors.copy(as_tensor(array), tensor)
            there.append(tensor)
        self._start(there, max(1, count))
        return count

    def _check_pool(self) -> None:
        """Forget the graphs if the pool may have given their memory back."""
        if self._epoch != pool.epoch():
            self._epoch = pool.epoch()
            self._decode_steps.clear()
            self._lookahead.forget()

    def _decode_step(self, rows: int) -> DecodeStep:
        if rows not in self._decode_steps:
            self._decode_steps[rows] = DecodeStep(
                rows,
                self.page_size,
                -(-self.context // self.page_size),
                self._attention_part,
                self.max_rows,
                self._device,
                lambda inputs: self._start(inputs, rows),
                lambda inputs, drawn: self._lookahead.choose(
                    self._logits_of(rows), inputs, drawn=drawn
                ),
            )
        return self._decode_steps[rows]

    def _start(self, inputs: Sequence[Any], logits: int) -> None:
        self._forward(*inputs, *self._static, self._logits_of(logits), self._weights)

    def _logits_of(self, rows: int) -> Any:
        """Memory for some rows of logits; for more than decode steps need, if there are any."""
        if rows <= MOST_ROWS:
            return self._few_logits.tensor(rows)
        there = self._all_logits_there
        if there is None or there.shape[0] < rows:
            most = min(1 << (rows - 1).bit_length(), self.max_rows)
            self._all_logits_there = self._empty((most, self._logits.shape[1]), "float32")
        return tensors.view(self._all_logits_there, (rows, self._logits.shape[1]))

    def copy_page(self, source: int, target: int) -> None:
        """Copy a page's keys and values in all layers."""
        both: tuple[Any, Any] = (self._k, self._v)
        for pages in both:
            shape = tuple(pages.shape)[1:]
            nbytes = int(np.prod(shape)) * np.dtype(str(pages.dtype)).itemsize
            tensors.copy(*(tensors.view(pages, shape, at * nbytes) for at in (source, target)))

    def _empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        return tensors.empty(shape, dtype, self._device)

    def _zeros(self, shape: tuple[int, ...], dtype: str) -> Any:
        there = self._empty(shape, dtype)
        cudart.clear(there.data_ptr(), math.prod(shape) * np.dtype(dtype).itemsize)
        return there
