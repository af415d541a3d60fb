"""Makes TVMScript cheap: a model has dozens of kernels, which expand about a hundred macros."""

from __future__ import annotations

import inspect
import sys
from functools import cache
from types import ModuleType
from typing import Any, Final

from tvm.script.parser.core import doc, evaluator
from tvm.script.parser.core.diagnostics import Source
from tvm.script.parser.core.parser import ScriptMacro
from tvm.tirx.script.parser import entry

_READ: Final = 3
"""TVM reads the source of only the three innermost frames of a stack."""
_eval_with_compile: Final = evaluator._eval_expr


@cache
def parse_quickly() -> None:
    """Have TVM parse kernels and expand macros without work that gives the same each time.

    TVM calls `inspect.stack` for each kernel and `inspect.getouterframes` for each macro, which
    look up the module and the source line of every caller. TVM needs the frames' variables, and
    the source of the innermost ones. The rest took up to a fifth of the time to compile a model.

    It also parses the source of a macro whenever that is expanded, and has Python compile each
    operand, although nearly all are names of values.
    """
    ScriptMacro._find_parser_def = _find_parser
    Source.as_ast = lambda source: _parsed(source.source)
    evaluator._eval_expr = _evaluated
    quick = ModuleType(inspect.__name__)
    vars(quick).update(vars(inspect), stack=_stack)
    entry.inspect = quick


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


def _stack() -> list[inspect.FrameInfo]:
    """The caller's `inspect.stack`, with source lines in its first `_READ` entries only."""
    found: list[inspect.FrameInfo] = []
    frame = sys._getframe(1)
    while frame is not None:
        file, line, code = frame.f_code.co_filename, frame.f_lineno, frame.f_code
        lines, index = None, None
        if len(found) < _READ:
            read = inspect.getframeinfo(frame)
            lines, index = read.code_context, read.index
        found.append(inspect.FrameInfo(frame, file, line, code.co_name, lines, index))
        frame = frame.f_back  # type: ignore[assignment]
    return found


@cache
def _parsed(source: str) -> Any:
    """TVM's syntax tree of a kernel's or a macro's source."""
    return doc.parse(source)


def _evaluated(node: Any, variables: dict[str, Any]) -> Any:
    """The value of an expression whose operands TVM has evaluated, so that they are names."""
    match node:
        case doc.Constant(value=value):
            return value
        case doc.Name(id=name) if name in variables:
            return variables[name]
        case doc.Attribute(value=doc.Name(id=name), attr=attribute) if name in variables:
            return getattr(variables[name], attribute)
    return _eval_with_compile(node, variables)
