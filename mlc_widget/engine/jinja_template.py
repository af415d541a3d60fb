"""Renders chat templates in Jinja, as in GGUF files and Hugging Face repositories.

Rendering follows transformers' ``apply_chat_template`` (trimmed blocks, loop controls,
``raise_exception``, ``strftime_now``, ``tojson``, the ``generation`` tag). Templates are untrusted
code: they run in Jinja's sandbox, and `jinja_limits` limits their time and what they make.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Set
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any, Final

import jinja2
from jinja2 import filters, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Cycler, Joiner, Namespace
from markupsafe import Markup

from mlc_widget.api.errors import ModelFormatError, UnsupportedFieldError
from mlc_widget.engine.jinja_limits import (
    Guard,
    TooMuchError,
    bounded,
    check_format,
    check_search,
    percent,
    pieces,
    replace,
    times,
)

MAX_SOURCE: Final = 1 << 17
"""The maximum length of a template in characters; the longest known ones have some 20,000."""
_LONGEST_TIME_FORMAT: Final = 1000

_FILTERS: Final = (
    "abs", "bool", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first",
    "attr", "float", "groupby", "int", "items", "last", "length", "list", "lower", "map", "max",
    "min", "reject", "rejectattr", "reverse", "safe", "select", "selectattr", "sort", "string",
    "title", "truncate", "unique", "upper", "urlencode", "wordcount",
)  # fmt: skip
"""Jinja's filters whose result is not much larger than their input."""
_SLOW: Final = frozenset({"title", "urlencode", "wordcount"})
"""Filters that are so slow that their input must be smaller."""
_METHODS: Final = frozenset({
    "capitalize", "casefold", "copy", "count", "endswith", "find", "format", "get", "index",
    "is_integer", "isalnum", "isalpha", "isascii", "isdecimal", "isdigit", "isidentifier",
    "islower", "isnumeric", "isprintable", "isspace", "istitle", "isupper", "items", "join", "keys",
    "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rindex",
    "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "swapcase",
    "title", "upper", "values",
})  # fmt: skip
"""Methods of texts, numbers, lists and mappings that templates may call. Others, such as `center`,
make much of little, or give bytes."""
_REVERSE_SEARCHES: Final = frozenset({
    "lstrip", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "strip",
})  # fmt: skip
"""Those that take time by the product of two lengths."""
_MOST_COMPARED: Final = 8
"""Comparisons in a row (``a < b < c``), between which nothing checks the time."""


class TemplateRefusedError(Exception):
    """The template called ``raise_exception``."""


class _GenerationTag(Extension):
    """``{% generation %}``, which marks the model's own text for training; it is ignored here."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Namespace(Namespace):
    """Jinja's `Namespace`, which would write out its values, that may be it or each other."""

    def __repr__(self) -> str:
        return "<Namespace>"


class _Formatter(SandboxedFormatter):
    """`str.format` in the sandbox, whose fields may be attributes of the values."""

    def __init__(self, environment: _Environment) -> None:
        super().__init__(environment)
        self._guard, self._size = environment.guard, 0

    def format_field(self, value: Any, format_spec: str) -> Any:
        self._guard.step()
        text = super().format_field(value, format_spec)
        self._size += len(text)
        bounded(self._size)
        return text


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with limits on time and size."""

    intercepted_binops = frozenset({"+", "-", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _GenerationTag],
            finalize=self._written,
        )
        self.guard = Guard()
        self.concat = self._join  # type: ignore[method-assign]  # of what a macro writes
        allowed: dict[str, Callable[..., Any]] = {
            **{name: self.filters[name] for name in _FILTERS if name in self.filters},
            "trim": _trim,
            "tojson": self._to_json,
            "join": self._join,
            "replace": replace,
            "round": _round,
            "sum": self._sum,
            "indent": _indent,
            "format": lambda text, *args, **kwargs: percent(text, kwargs or args),
            "_concat": lambda *parts: self._join(parts),
            "_made": lambda value: value,
        }
        self.filters = {name: self._checked(name, allowed[name]) for name in allowed}
        self.filters["_each"] = lambda items: self.guard.over(items)
        tests: dict[str, Any] = {
            **self.tests,
            "odd": lambda value: self.call_binop(None, "%", value, 2) == 1,
            "even": lambda value: self.call_binop(None, "%", value, 2) == 0,
            "divisibleby": lambda value, num: self.call_binop(None, "%", value, num) == 0,
        }
        self.tests = {name: self._checked(name, tests[name]) for name in tests}
        self.globals = {
            "range": _range,
            "namespace": lambda *args, **kwargs: _Namespace(self._dict(*args, **kwargs)),
            "cycler": Cycler,
            "joiner": Joiner,
            "dict": self._dict,
            "raise_exception": _refuse,
            "strftime_now": _strftime_now,
        }

    def compiled(self, source: str) -> jinja2.Template:
        """Compile a template in which all that makes values is checked."""
        self.guard = Guard()  # constants are computed now
        tree = self.parse(source)
        if (block := tree.find(nodes.Block)) is not None:
            raise jinja2.TemplateSyntaxError("blocks are not supported", block.lineno)
        if (escaped := tree.find(nodes.EvalContextModifier)) is not None:  # makes `Markup`
            raise jinja2.TemplateSyntaxError("autoescape is not supported", escaped.lineno)
        for compared in tree.find_all(nodes.Compare):
            if len(compared.ops) > _MOST_COMPARED:
                raise jinja2.TemplateSyntaxError("too many comparisons", compared.lineno)
        for loop in tree.find_all(nodes.For):
            loop.iter = _filtered(loop.iter, "_each")
        return self.from_string(_guarded(tree))

    def _written(self, value: Any) -> str:
        """A value as it stands in the output."""
        return value if isinstance(value, str) else self.guard.made(str(value))

    def _checked(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter or test whose time and result are checked."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            self.guard.step()
            if name in _SLOW:
                bounded(16 * self.guard.size(args))
            return self.guard.made(function(*args, **kwargs))

        return call

    def getitem(self, obj: Any, argument: Any) -> Any:
        self.guard.step()  # a key's hash takes time, and a filter may follow many attributes
        return super().getitem(obj, argument)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Check operations whose result may be much larger than their operands."""
        if operator == "*":
            times(left, right)
        elif operator == "**":
            raise TooMuchError("it uses a power")
        elif operator == "-" and isinstance(left, Set):
            raise TooMuchError("it computes with sets")
        elif operator == "%" and isinstance(left, str):
            return self.guard.made(percent(left, right))
        return self.guard.made(super().call_binop(context, operator, left, right))

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Check a call; calls of a template's own macros come here, too."""
        self.guard.made((*args, *kwargs.values()))  # which macros and cyclers keep
        if isinstance(function, FunctionType):  # the sandbox wraps `str.format`
            function = getattr(function, "__wrapped__", function)
        name = getattr(function, "__name__", "")
        text = getattr(function, "__self__", None)
        if isinstance(text, Markup):  # from a filter such as `safe`; its methods are its own
            text = str(text)
            function = getattr(text, name, function)
        if not self._may_be_called(function):
            raise TooMuchError(f"it calls {name or type(function).__name__}")
        if isinstance(text, str):
            for of_jinja in ("_loop_vars", "_block_vars"):  # for functions that take the context
                kwargs.pop(of_jinja, None)
            if name == "replace" and len(args) >= 2:
                return self.guard.made(replace(text, *args, **kwargs))
            if name == "join":
                return self.guard.made(self._join(args[0], text))
            if name == "format":
                check_format(text)
                return self.guard.made(_Formatter(self).vformat(text, args, kwargs))
            by = args[0] if args else kwargs.get("sep")
            if name in _REVERSE_SEARCHES:
                check_search(text, by)
            if name in ("split", "rsplit", "splitlines"):
                pieces(text, by if isinstance(by, str) else None)
        return self.guard.made(super().call(context, function, *args, **kwargs))

    def _may_be_called(self, function: Any) -> bool:
        """Whether a template may call this: what is not known may make much of little."""
        owner = getattr(function, "__self__", None)
        if isinstance(function, BuiltinMethodType):
            plain = isinstance(owner, str | int | float | list | tuple | Mapping)
            return plain and function.__name__ in _METHODS
        if isinstance(function, MethodType) and isinstance(owner, Cycler | LoopContext):
            return True
        if isinstance(function, Macro | LoopContext | Joiner | jinja2.Undefined):
            return True
        return not callable(function) or any(function == known for known in self.globals.values())

    def _dict(self, items: Any = (), /, **more: Any) -> dict[Any, Any]:
        """``dict(…)`` with a step at each item, as those of the same hash take long."""
        pairs = items.items() if isinstance(items, Mapping) else items
        return dict(self.guard.over(pairs)) | more

    def _join(self, items: Iterable[Any], by: str = "", attribute: str | None = None) -> str:
        texts = [
            str(self.getattr(item, attribute) if attribute else item)
            for item in self.guard.over(items)
        ]
        bounded(sum(map(len, texts)) + len(by) * len(texts))
        return str(by).join(texts)

    def _sum(self, items: Iterable[Any], attribute: Any = None, start: Any = 0) -> Any:
        value_of = filters.make_attrgetter(self, attribute)
        for item in self.guard.over(items):
            start = self.call_binop(None, "+", start, value_of(item))
        return start

    def _to_json(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        encoder = json.JSONEncoder(
            ensure_ascii=ensure_ascii,
            indent=None if indent is None else min(int(indent), 16),
            separators=separators,
            sort_keys=sort_keys,
            default=_plain,
        )
        parts, size = [], 0
        for part in self.guard.over(encoder.iterencode(value)):
            size += len(part)
            bounded(size)
            parts.append(part)
        return "".join(parts)


def _range(*args: int) -> Iterable[int]:
    numbers = range(*args)
    if len(numbers) > 100_000:
        raise TooMuchError(f"it uses a range of {len(numbers)} numbers")
    return numbers


def _trim(value: Any, chars: str | None = None) -> str:
    text = str(value)
    check_search(text, chars)
    return text.strip(chars)


def _round(value: Any, precision: Any = 0, method: Any = "common") -> Any:
    if not -400 < precision < 400:  # beyond all floats
        raise TooMuchError(f"it rounds to {precision} digits")
    return filters.do_round(value, precision, method)


def _indent(text: str, width: Any = 4, first: bool = False, blank: bool = False) -> str:
    by = " " * min(width, 1000) if isinstance(width, int) else str(width)
    text = str(text)
    pieces(text, "\n")
    lines = text.splitlines()
    bounded(len(text) + len(by) * len(lines))
    return "\n".join(
        (by if (i > 0 or first) and (line or blank) else "") + line for i, line in enumerate(lines)
    )


def _refuse(message: Any) -> None:
    raise TemplateRefusedError(str(message)[:500])


def _strftime_now(form: str) -> str:
    if len(form) > _LONGEST_TIME_FORMAT:
        raise TooMuchError(f"it asks for the time in {len(form)} characters")
    return datetime.datetime.now().strftime(form)


def _plain(value: Any) -> Any:
    """Convert values that templates pass to `tojson` and JSON does not know."""
    if isinstance(value, jinja2.Undefined):
        return None
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterable):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _filtered(node: Any, name: str, *more: Any) -> nodes.Filter:
    return nodes.Filter(node, name, list(more), [], None, None)


def _guarded(tree: nodes.Template) -> nodes.Template:
    """Have filters check what literals, slices and comparisons make, and write ``a ~ b`` as one."""

    def guarded(node: Any) -> Any:
        for field in node.fields:
            value = getattr(node, field)
            if isinstance(value, nodes.Node):
                setattr(node, field, guarded(value))
            elif isinstance(value, list):
                setattr(
                    node, field, [guarded(v) if isinstance(v, nodes.Node) else v for v in value]
                )
        match node:
            case nodes.Concat():
                return _filtered(node.nodes[0], "_concat", *node.nodes[1:])
            case nodes.List() | nodes.Dict() | nodes.Compare() | nodes.Test():
                return _filtered(node, "_made")
            case nodes.Tuple(ctx="load") | nodes.Getitem(ctx="load", arg=nodes.Slice()):
                return _filtered(node, "_made")
        return node

    made: nodes.Template = guarded(tree)
    if tree.environment is not None:
        made.set_environment(tree.environment)
    return made


class JinjaTemplate:
    """A chat template.

    Args:
        source: The template's text.
        where: The template's origin, for error messages.

    Raises:
        ModelFormatError: It is not a valid template, or too long.
    """

    def __init__(self, source: str, where: str) -> None:
        if len(source) > MAX_SOURCE:
            raise ModelFormatError(
                f"{where}: the chat template has {len(source)} characters; at most {MAX_SOURCE} "
                "are allowed.",
                param="model_id",
            )
        self.source, self._where = source, where
        self._environment = _Environment()
        self._lock = threading.Lock()  # the environment counts the time of one rendering
        try:
            self._compiled = self._environment.compiled(source)
        except jinja2.TemplateSyntaxError as error:
            raise ModelFormatError(
                f"{where}: the chat template is not Jinja: {error.message} (line {error.lineno}).",
                param="model_id",
            ) from None
        except (RecursionError, MemoryError, SyntaxError):  # the last two are of Python's compiler
            raise ModelFormatError(
                f"{where}: the chat template is nested too deeply.", param="model_id"
            ) from None
        except Exception as error:  # constants are computed now, and may raise anything
            raise ModelFormatError(
                f"{where}: the chat template cannot be read: {type(error).__name__}: "
                f"{str(error)[:300]}.",
                param="model_id",
            ) from None

    def uses(self, name: str) -> bool:
        """Whether the template uses a variable, such as ``tools`` or ``enable_thinking``."""
        return re.search(rf"\b{re.escape(name)}\b", self.source) is not None

    def render(self, variables: Mapping[str, Any]) -> str:
        """Render the template with these variables.

        Raises:
            UnsupportedFieldError: The template refuses this conversation with ``raise_exception``.
            ModelFormatError: It fails, takes too long, or makes too long a text.
        """
        try:
            with self._lock:
                self._environment.guard = guard = Guard()
                parts, size = [], 0
                for part in self._compiled.generate(**variables):
                    guard.step()
                    size += len(part)
                    bounded(size)
                    parts.append(part)
            return "".join(parts)
        except TemplateRefusedError as error:
            raise UnsupportedFieldError(
                f"messages: the model's chat template refuses this conversation: {error}",
                param="messages",
            ) from None
        except MemoryError:
            raise
        except Exception as error:  # a template may raise anything
            raise ModelFormatError(
                f"{self._where}: the chat template failed: {type(error).__name__}: "
                f"{str(error)[:300]}.",
                param="model_id",
            ) from None
