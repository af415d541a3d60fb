"""Arrays as Lark: which items come, how many of them, and the commas between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mlc_widget.engine.schema.lark import times
from mlc_widget.engine.schema.layout import ArrayShape, Scalars
from mlc_widget.engine.schema.writer import Writer

MOST_COUNTED: Final = 4000
"""The most items that a rule's parameter can count: the rules recur once per item."""
_ITEMS: Final = "[0:12]"
"""The bits of a rule's parameter that count items."""
_FOUND: Final = ("[12:24]", "[24:36]", "[36:48]", "[48:60]")
"""The bits that count the items that match one `contains`."""
MOST_FOUND: Final = len(_FOUND)
"""The maximum number of `contains` for one array."""


def array_text(array: ArrayShape, writer: Writer) -> str:
    """An array, from bracket to bracket."""
    if array.distinct is not None:
        return _distinct(array, array.distinct, writer)
    if array.scalars is not None:
        return _apart(array, array.scalars, writer)
    if array.found:
        return _containing(array, writer)
    prefix, low, high = array.prefix, array.low, array.high
    dead = next((i for i, n in enumerate(prefix) if not writer.is_alive(n)), None)
    if dead is None and not writer.is_alive(array.rest):
        dead = len(prefix)
    if dead is not None:
        high = dead if high is None else min(dead, high)
    if high == 0:
        return '"[" "]"'
    listed = prefix if high is None else prefix[:high]
    tail = ""
    if high is None or high > len(prefix):
        least = max(0, low - len(listed))
        rest = f'"," {writer.use(array.rest)}'
        if listed:
            tail = times(rest, least, None if high is None else high - len(listed))
        else:
            more = times(rest, max(0, least - 1), None if high is None else high - 1)
            one = f"{array.rest} {more}"
            return f'"[" {one if low else f"({one})?"} "]"'
    for i in range(len(listed) - 1, 0, -1):
        item = f'"," {writer.use(listed[i])} {tail}'
        tail = item if i < low else writer.lark.rule(f"({item})?")
    first = f"{writer.use(listed[0])} {tail}"
    return f'"[" {first if low else f"({first})?"} "]"'


def _distinct(array: ArrayShape, texts: Sequence[str], writer: Writer) -> str:
    """Items that occur at most once each: the rule's parameter has one bit per item."""
    most = len(texts) if array.high is None else min(array.high, len(texts))
    head, seq = writer.lark.new_name(), writer.lark.new_name()
    ending = [f'"" %if bit_count_ge(_, {array.low})']
    first, more = list(ending), list(ending)
    for i, text in enumerate(texts):
        then = f"{seq}::set_bit({i}) %if and(bit_clear({i}), bit_count_lt(_, {most}))"
        first.append(f"{text} {then}")
        more.append(f'"," {text} {then}')
    writer.lark.rule(" | ".join(first), f"{head}::_")
    writer.lark.rule(" | ".join(more), f"{seq}::_")
    return f'"[" {head}::0 "]"'


def _apart(array: ArrayShape, scalars: Scalars, writer: Writer) -> str:
    """Items that the runtime keeps distinct: a mark tells it where they begin."""
    lark = writer.lark
    if not scalars.count or array.high == 0:
        return '"[" "]"'
    items = [lark.terminal(text) for text in scalars.others]
    if scalars.strings:
        inside = lark.terminal(" | ".join(f"({text})" for text in scalars.strings))
        items.append(lark.terminal(f'"\\"" {inside} "\\""'))
    item = lark.rule(" | ".join(items))
    mark = lark.mark(scalars)
    high = None if array.high is None else array.high - 1
    more = times(f'"," {item}', max(0, array.low - 1), high)
    several = f"{item} {more}"
    return f'"[" ({mark} | {several}){"" if array.low else "?"} "]"'


def _containing(array: ArrayShape, writer: Writer) -> str:
    """Items of which some must match `contains`; the parameter counts all items and the matches."""
    n = len(array.prefix)
    most = MOST_COUNTED if array.high is None else array.high
    head, seq = writer.lark.new_name(), writer.lark.new_name()
    end = f"ge({_ITEMS}, {array.low})"
    options = [(i, f"{writer.use(node)} {seq}::")
               for i, node in enumerate([*array.prefix, array.rest])
               if writer.is_alive(node)]  # fmt: skip
    for found, bits in zip(array.found, _FOUND, strict=False):
        end = f"and({end}, ge({bits}, {found.low}))"
        most_found = MOST_COUNTED if found.high is None else found.high
        for i, node in enumerate([*found.prefix, found.rest]):
            if writer.is_alive(node):  # incrementing two counters takes two rules
                name = writer.lark.new_name()
                step = f"{writer.use(node)} {seq}::incr({bits}) %if lt({bits}, {most_found})"
                writer.lark.rule(step, f"{name}::_")
                options.append((i, f"{name}::"))
    first, more = [f'"[" %if {end}'], [f'"" %if {end}']
    for i, item in options:
        place = f"eq({_ITEMS}, {i})" if i < n else f"ge({_ITEMS}, {n})"
        counted = f"{item}incr({_ITEMS}) %if and({place}, lt({_ITEMS}, {most}))"
        first.append(f'"[" {counted}')
        more.append(f'"," {counted}')
    writer.lark.rule(" | ".join(first), f"{head}::_")
    writer.lark.rule(" | ".join(more), f"{seq}::_")
    return f'{head}::0 "]"'
