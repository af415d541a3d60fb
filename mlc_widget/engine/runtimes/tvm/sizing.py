"""Sizes of a model's context window, KV cache and steps."""

from __future__ import annotations

from mlc_widget.engine.runtimes.base import ModelSource
from mlc_widget.engine.runtimes.tvm.blocks import BlockMatrix
from mlc_widget.engine.runtimes.tvm.executor import Executor
from mlc_widget.engine.runtimes.tvm.layouts import PAGE
from mlc_widget.engine.runtimes.tvm.options import TVMOptions
from mlc_widget.engine.runtimes.tvm.quantization import GGML, Quantization
from mlc_widget.engine.runtimes.tvm.weights import Parameters
from mlc_widget.engine.store.fields import Fields

DEFAULT_TOTAL = 8192
"""The default number of tokens in the KV cache, or four context windows if that is less."""


def sizes(source: ModelSource, options: TVMOptions) -> tuple[int, int]:
    """The context window in tokens, and the number of pages of the KV cache.

    Models with a sliding window have a context window of -1; it is then as large as the KV cache.
    """
    model_config = Fields(source.config.get("model_config", {}), "model_config")
    window = source.config.get("context_window_size")
    if window is None:
        window = model_config.get("context_window_size", 2048)
    if window == -1:
        window = options.max_total_sequence_length or DEFAULT_TOTAL
    else:
        window = Fields({"context_window_size": window}, "").positive_int("context_window_size")
    total = options.max_total_sequence_length or min(4 * window, DEFAULT_TOTAL)
    pages = -(-total // PAGE)
    return min(window, pages * PAGE), pages


def chunk(source: ModelSource, options: TVMOptions, executor: Executor) -> int:
    """The maximum number of tokens of a step."""
    chosen = min(options.prefill_chunk_size or executor.usual_rows, executor.max_rows)
    return min(chosen, Fields(source.config, "").positive_int("prefill_chunk_size", chosen))


def weight_count(parameters: Parameters, quantization: Quantization) -> int:
    """The number of a model's weights, which decides how many threads it gets."""
    layouts = [layout for name, layout in parameters if not name.endswith("scale")]
    if quantization is GGML:
        return sum(p.weights for p in layouts if isinstance(p, BlockMatrix))
    return sum(p.nbytes for p in layouts) * 8 // quantization.bits
