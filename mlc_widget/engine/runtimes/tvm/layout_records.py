"""Makes layouts from the JSON values in which a plan stores them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from mlc_widget.engine.runtimes.tvm.blocks import BlockMatrix
from mlc_widget.engine.runtimes.tvm.cuda import fragments
from mlc_widget.engine.runtimes.tvm.layouts import Codes, FloatBlocks, Layout, Scales, Vector


def layout_of(record: Sequence[Any]) -> Layout:
    """The layout with this record.

    Raises:
        ValueError: No layout has it.
    """
    match record:
        case ["Vector", *parts]:
            return Vector(*parts)
        case ["FloatBlocks", inputs, outputs, dtype]:
            return FloatBlocks(inputs, tuple(outputs), dtype)
        case ["Codes", inputs, outputs, bits, transposed]:
            return Codes(inputs, tuple(outputs), bits, transposed=transposed)
        case ["Scales", inputs, outputs, dtype, transposed]:
            return Scales(inputs, tuple(outputs), dtype, transposed=transposed)
        case ["BlockMatrix", kind, inputs, outputs, rows, width]:
            return BlockMatrix(kind, inputs, outputs, rows, width)
        case ["Floats" | "Codes4" | "Codes8" | "Scales" as name, inputs, outputs, transposed]:
            kind = getattr(fragments, name)
            return cast("Layout", kind(inputs, tuple(outputs), transposed=transposed))
    raise ValueError(f"no layout has the record {record!r}")
