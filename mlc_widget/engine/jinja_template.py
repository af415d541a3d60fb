"""Renders chat templates in Jinja, as in GGUF files and Hugging Face repositories.

Rendering follows transformers' ``apply_chat_template`` (trimmed blocks, loop controls,
``raise_exception``, ``strftime_now``, ``tojson``, the ``generation`` tag). Templates are untrusted
code: they run in Jinja's sandbox, and this module limits their time and their output.
"""

from __future__ import annotations

import datetime
import json
import re
import string
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from mlc_widget.api.errors import ModelFormatError, UnsupportedFieldError

MAX_SOURCE: Final = 1 << 18
"""The maximum length of a template in characters; the longest known ones have some 20,000."""
MAX_OUTPUT: Final = 1 << 24
"""The maximum length in characters of any text that a template makes."""
MAX_SECONDS: Final = 5.0
"""The maximum time that rendering may take; usually it takes about a millisecond."""


class TemplateRefusedError(Exception):
    """The template called ``raise_exception``."""


class _TooMuchError(Exception):
    """The template takes too long, or makes a text that is too long."""


class _Guard:
    """Ends a template that takes too long."""

    def __init__(self) -> None:
        self._end = time.monotonic() + MAX_SECONDS
        self._calls = 0

    def step(self) -> None:
        """Check the time; called wherever a template may loop."""
        self._calls += 1
        if self._calls & 255 == 0 and time.monotonic() > self._end:
            raise _TooMuchError(f"it took longer than {MAX_SECONDS:g} s")

    def over(self, items: Iterable[Any]) -> Iterator[Any]:
        """`items`, with a step at each."""
        for item in items:
            self.step()
            yield item


def _size(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple) else 0


def _bounded(size: int) -> None:
    if size > MAX_OUTPUT:
        raise _TooMuchError(f"it produces a text of {size} characters")


class _GenerationTag(Extension):
    """``{% generation %}``, which marks the model's own text for training; it is ignored here."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with limits on time and size."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _GenerationTag]
        )
        self.guard = _Guard()
        kept: dict[str, Any] = {n: self.filters[n] for n in _FILTERS if n in self.filters}
        self.filters = {
            **kept,
            "tojson": _to_json,
            "join": self._join,
            "replace": _replace,
            "indent": self._indent,
            "format": lambda text, *args, **kwargs: _percent(text, kwargs or args),
            "_each": lambda items: self.guard.over(items),
            "_concat": _concat,
        }
        self.globals = {
            "range": self._range,
            **{name: self.globals[name] for name in ("namespace", "cycler", "joiner")},
            "dict": dict,
            "raise_exception": _refuse,
            "strftime_now": lambda form: datetime.datetime.now().strftime(form),
        }

    def compiled(self, source: str) -> jinja2.Template:
        """Compile a template whose loops and concatenations are checked."""
        tree = self.parse(source)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, "_each", [], [], None, None)
        return self.from_string(_guard_joins(tree))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Check operations whose result may be much larger than their operands."""
        if operator == "+":
            _bounded(_size(left) + _size(right))
        elif operator == "*":
            for text, times in ((left, right), (right, left)):
                if _size(text) and isinstance(times, int):
                    _bounded(_size(text) * times)
        elif operator == "**":
            raise _TooMuchError("it uses a power")
        elif operator == "%" and isinstance(left, str):
            return _percent(left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Check a call; calls of a template's own macros come here, too."""
        self.guard.step()
        name = getattr(function, "__name__", "")
        if name in _GROWING and not isinstance(function, type):
            raise _TooMuchError(f"it calls {name}")
        # The sandbox wraps `str.format`.
        method = getattr(function, "__wrapped__", function)
        text = getattr(method, "__self__", None)
        if isinstance(text, str):
            if name == "replace" and len(args) >= 2:
                return _replace(text, *args)
            if name == "join":
                return self._join(args[0], text)
            if name == "format":
                _check_format(text, (*args, *kwargs.values()))
        return super().call(context, function, *args, **kwargs)

    def _range(self, *args: int) -> Iterable[int]:
        numbers = range(*args)
        if len(numbers) > 100_000:
            raise _TooMuchError(f"it uses a range of {len(numbers)} numbers")
        return numbers

    def _join(self, items: Iterable[Any], by: str = "", attribute: str | None = None) -> str:
        texts = [
            str(self.getattr(item, attribute) if attribute else item)
            for item in self.guard.over(items)
        ]
        _bounded(sum(map(len, texts)) + len(by) * len(texts))
        return by.join(texts)

    def _indent(self, text: str, width: Any = 4, first: bool = False, blank: bool = False) -> str:
        by = " " * min(width, 1000) if isinstance(width, int) else str(width)
        lines = str(text).splitlines()
        _bounded(len(text) + len(by) * len(lines))
        return "\n".join(
            (by if (i > 0 or first) and (line or blank) else "") + line
            for i, line in enumerate(lines)
        )


_FILTERS: Final = (
    "abs", "bool", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first",
    "attr", "float", "groupby", "int", "items", "last", "length", "list", "lower", "map", "max",
    "min", "reject", "rejectattr", "reverse", "round", "safe", "select", "selectattr", "sort",
    "string", "striptags", "sum", "title", "trim", "truncate", "unique", "upper", "urlencode",
    "wordcount",
)  # fmt: skip
"""Jinja's filters whose result is not much larger than their input."""
_GROWING: Final = frozenset(
    {"center", "ljust", "rjust", "zfill", "expandtabs", "format_map", "translate"}
)
_WIDEST: Final = 999
"""Characters that a format may ask for."""
_PERCENT: Final = re.compile(r"%(?:\([^)]*\))?([^a-zA-Z%]*)")


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    text, old, new = str(text), str(old), str(new)
    _bounded(len(text) + (text.count(old) + (0 if old else 1)) * len(new))
    return text.replace(old, new, -1 if count is None else count)


def _check_format(text: str, values: Iterable[Any]) -> None:
    """Refuse what `str.format` would make much longer than its text and its values are.

    Raises:
        _TooMuchError: It would.
    """
    try:
        specs = [spec for _, field, spec, _ in string.Formatter().parse(text) if field is not None]
    except ValueError:
        return  # the call itself will fail
    _check_specs(text, [spec or "" for spec in specs], values)


def _percent(text: str, values: Any) -> Any:
    """``text % values``, of a size that is checked before."""
    given = values.values() if isinstance(values, Mapping) else values
    given = given if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
    _check_specs(str(text), _PERCENT.findall(str(text)), given)
    return text % values


def _check_specs(text: str, specs: list[str], values: Iterable[Any]) -> None:
    numbers = [int(digits[-9:]) for spec in specs for digits in re.findall(r"\d+", spec)]
    if any(number > _WIDEST for number in numbers) or any(
        c in spec for spec in specs for c in "*{"
    ):
        raise _TooMuchError("it formats with a width that is unknown or too large")
    longest = max((len(str(value)) for value in values), default=0)
    _bounded(len(text) + len(specs) * (longest + _WIDEST))


def _concat(*parts: Any) -> str:
    texts = [str(part) for part in parts]
    _bounded(sum(map(len, texts)))
    return "".join(texts)


def _refuse(message: str) -> None:
    raise TemplateRefusedError(str(message)[:500])


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    if indent is not None:
        indent = min(int(indent), 16)
    text = json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=_plain,
    )
    _bounded(len(text))
    return text


def _plain(value: Any) -> Any:
    """Convert values that templates pass to `tojson` and JSON does not know."""
    if isinstance(value, jinja2.Undefined):
        return None
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterable):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value")


def _guard_joins(tree: nodes.Template) -> nodes.Template:
    """Replace each ``a ~ b`` by the call of a filter that checks the size of the result."""

    def guarded(node: Any) -> Any:
        for field in node.fields:
            value = getattr(node, field)
            if isinstance(value, nodes.Node):
                setattr(node, field, guarded(value))
            elif isinstance(value, list):
                setattr(
                    node, field, [guarded(v) if isinstance(v, nodes.Node) else v for v in value]
                )
        if isinstance(node, nodes.Concat):
            return nodes.Filter(node.nodes[0], "_concat", node.nodes[1:], [], None, None)
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
        except RecursionError:
            raise ModelFormatError(
                f"{where}: the chat template is nested too deeply.", param="model_id"
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
                self._environment.guard = guard = _Guard()
                parts, size = [], 0
                for part in self._compiled.generate(**variables):
                    guard.step()
                    size += len(part)
                    _bounded(size)
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
