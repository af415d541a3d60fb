"""Makes TVMScript's macros cheap: a model's kernels expand about a hundred of them."""

from __future__ import annotations

import sys
from typing import Any

from tvm.script.parser.core.parser import ScriptMacro


def expand_macros_quickly() -> None:
    """Have macros find the parser that expands them without reading source files. Idempotent.

    TVM calls `inspect.getouterframes` for each macro, which looks up the source line of every
    caller, although only the frames' globals are of interest. That took up to a fifth of the time
    to compile a model.
    """
    ScriptMacro._find_parser_def = _find_parser


def _find_parser(_: Any) -> Any:
    """The parser in the globals of the nearest caller that has one, as TVM's own method finds it.

    Raises:
        RuntimeError: No parser is running.
    """
    frame = sys._getframe(1)
    while frame is not None:
        parser = frame.f_globals.get(ScriptMacro.parser_object_name)
        if parser is not None:
            return parser
        frame = frame.f_back  # type: ignore[assignment]
    raise RuntimeError(f"{ScriptMacro.parser_object_name} not available")
