"""Structural tags: free text in which some marked places must match a grammar.

They may be written in two ways: ``{"structures": [{"begin", "schema", "end"}], "triggers": […]}``,
or xgrammar's ``{"format": {"type": …}}`` with its formats const_string, json_schema, regex,
grammar, any_text, sequence, or, tag, triggered_tags and tags_with_separator.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from mlc_widget.api.errors import BadRequestError, UnsupportedFieldError
from mlc_widget.engine.grammar_text import (
    ANY_TEXT,
    Part,
    grammar_part,
    json_part,
    literal,
    regex_part,
    regex_problem,
)
from mlc_widget.engine.json_schema import check_schema


def structural_tag_parts(wanted: Any, at: str) -> dict[str, Part]:
    """The grammar of a structural tag: ``body``, and the parts to which it refers.

    Args:
        wanted: The tag, or its JSON text.
        at: The field of the request that has the tag, for error messages.

    Raises:
        BadRequestError: It is malformed; `param` names the part.
        UnsupportedFieldError: It has an unknown format.
    """
    if isinstance(wanted, str):
        try:
            wanted = json.loads(wanted)
        except ValueError as error:
            raise BadRequestError(f"{at}: not valid JSON ({error}).", param=at) from None
    if not isinstance(wanted, Mapping):
        raise _wrong(at, wanted, "give an object with format, or with structures and triggers")
    maker = _Maker()
    if "format" in wanted:
        start = maker.format(f"{at}.format", wanted["format"])
    else:
        start = maker.structures(at, wanted)
    text = "\n".join([f"start: {start}", *maker.rules])
    return {"body": {"lark_grammar": text}, **maker.parts}


def _wrong(at: str, value: Any, remedy: str) -> BadRequestError:
    return BadRequestError(f"{at} = {value!r:.120}: {remedy}.", param=at)


class _Maker:
    """Turns formats into Lark expressions, with the rules and parts that they need."""

    def __init__(self) -> None:
        self.rules: list[str] = []
        self.parts: dict[str, Part] = {}
        self._formats: dict[str, Callable[[str, Mapping[str, Any]], str]] = {
            "const_string": lambda at, f: literal(self._string(at, f, "value")),
            "json_schema": self._json_schema,
            "regex": self._regex,
            "grammar": self._grammar,
            "any_text": lambda at, f: ANY_TEXT,
            "sequence": self._sequence,
            "or": lambda at, f: f"({' | '.join(self._all(at, f))})",
            "tag": self._tag,
            "triggered_tags": self._triggered_tags,
            "tags_with_separator": self._tags_with_separator,
        }

    def format(self, at: str, wanted: Any) -> str:
        if not isinstance(wanted, Mapping):
            raise _wrong(at, wanted, 'give a format such as {"type": "const_string", "value": …}')
        kind = wanted.get("type")
        if kind not in self._formats:
            raise UnsupportedFieldError(
                f"{at}.type = {kind!r}: not a known format; give one of "
                f"{', '.join(self._formats)}.",
                param=f"{at}.type",
            )
        return self._formats[kind](at, wanted)

    def structures(self, at: str, wanted: Mapping[str, Any]) -> str:
        structures, tags = self._list(at, wanted, "structures"), []
        for i, one in enumerate(structures):
            if not isinstance(one, Mapping):
                raise _wrong(f"{at}.structures[{i}]", one, "give begin, schema and end")
            tags.append({**one, "content": {"type": "json_schema", "json_schema": one["schema"]}}
                        if "schema" in one else one)  # fmt: skip
        rewritten = {"triggers": wanted.get("triggers"), "tags": tags}
        return self._triggered_tags(at, rewritten, tags_name="structures")

    def _name(self, kind: str) -> str:
        return f"{kind}_{len(self.rules) + len(self.parts)}"

    def _rule(self, kind: str, options: str, body: str) -> str:
        name = self._name(kind)
        self.rules.append(f"{name}{options}: {body}")
        return name

    def _part(self, part: Part) -> str:
        name = self._name("part")
        self.parts[name] = part
        return f"@{name}"

    def _string(self, at: str, wanted: Mapping[str, Any], name: str) -> str:
        value = wanted.get(name)
        if not isinstance(value, str):
            raise _wrong(f"{at}.{name}", value, "give a string")
        return value

    def _list(self, at: str, wanted: Mapping[str, Any], name: str) -> list[Any]:
        value = wanted.get(name)
        if not isinstance(value, list) or not value:
            raise _wrong(f"{at}.{name}", value, "give a list with at least one entry")
        return value

    def _json_schema(self, at: str, wanted: Mapping[str, Any]) -> str:
        at = f"{at}.json_schema"
        schema = check_schema(wanted.get("json_schema"), at, is_regex=regex_problem)
        return self._part(json_part(schema, at))

    def _regex(self, at: str, wanted: Mapping[str, Any]) -> str:
        pattern = self._string(at, wanted, "pattern")
        if problem := regex_problem(pattern):
            raise _wrong(f"{at}.pattern", pattern, problem)
        return self._part(regex_part(pattern))

    def _grammar(self, at: str, wanted: Mapping[str, Any]) -> str:
        return self._part(grammar_part(self._string(at, wanted, "grammar"), f"{at}.grammar"))

    def _all(self, at: str, wanted: Mapping[str, Any]) -> list[str]:
        elements = self._list(at, wanted, "elements")
        return [self.format(f"{at}.elements[{i}]", e) for i, e in enumerate(elements)]

    def _sequence(self, at: str, wanted: Mapping[str, Any]) -> str:
        elements = self._list(at, wanted, "elements")
        made: list[str] = []
        for i, element in enumerate(elements):
            text = self.format(f"{at}.elements[{i}]", element)
            if made and made[-1] == ANY_TEXT:
                if element.get("type") != "const_string" or not text:
                    raise _wrong(f"{at}.elements[{i}]", element,
                                 "only a const_string may follow any_text")  # fmt: skip
                made[-1] = self._rule("until", "[lazy]", f"{ANY_TEXT} {text}")
            else:
                made.append(text)
        return f"({' '.join(made)})"

    def _content(self, at: str, tag: Mapping[str, Any], end: str) -> str:
        content = self.format(f"{at}.content", tag.get("content"))
        if content == ANY_TEXT and end:
            return self._rule("until", "[lazy]", f"{ANY_TEXT} {literal(end)}")
        return f"{content} {literal(end)}"

    def _tag(self, at: str, wanted: Mapping[str, Any]) -> str:
        begin, end = self._string(at, wanted, "begin"), self._string(at, wanted, "end")
        return f"({literal(begin)} {self._content(at, wanted, end)})"

    def _triggered_tags(self, at: str, wanted: Mapping[str, Any], tags_name: str = "tags") -> str:
        triggers = self._list(at, wanted, "triggers")
        for i, trigger in enumerate(triggers):
            if not isinstance(trigger, str) or not trigger:
                raise _wrong(f"{at}.triggers[{i}]", trigger, "give a string")
        tags = []
        for i, tag in enumerate(self._list(at, wanted, "tags")):
            where = f"{at}.{tags_name}[{i}]"
            if not isinstance(tag, Mapping):
                raise _wrong(where, tag, "give begin, content and end")
            begin, end = self._string(where, tag, "begin"), self._string(where, tag, "end")
            trigger = next((t for t in triggers if begin.startswith(t)), None)
            if trigger is None:
                raise _wrong(f"{where}.begin", begin, "it must start with one of the triggers")
            head = self._rule("trigger", "[lazy]", f"{ANY_TEXT} {literal(trigger)}")
            rest = literal(begin[len(trigger) :])
            tags.append(f"({head} {rest} {self._content(where, tag, end)})")
        if not self._flag(at, wanted, "stop_after_first"):
            many = "+" if self._flag(at, wanted, "at_least_one") else "*"
            tail = self._rule("tail", "", ANY_TEXT)
            return f"(({' | '.join(tags)}){many} {tail})"
        one = f"({' | '.join(tags)})"
        return one if self._flag(at, wanted, "at_least_one") else f"({one} | {ANY_TEXT})"

    def _tags_with_separator(self, at: str, wanted: Mapping[str, Any]) -> str:
        tags = [
            self._tag(f"{at}.tags[{i}]", tag if isinstance(tag, Mapping) else {})
            for i, tag in enumerate(self._list(at, wanted, "tags"))
        ]
        one = f"({' | '.join(tags)})"
        many = f"{one} ({literal(self._string(at, wanted, 'separator'))} {one})*"
        if self._flag(at, wanted, "stop_after_first"):
            many = one
        return f"({many})" if self._flag(at, wanted, "at_least_one") else f"({many})?"

    def _flag(self, at: str, wanted: Mapping[str, Any], name: str) -> bool:
        value = wanted.get(name, False)
        if not isinstance(value, bool):
            raise _wrong(f"{at}.{name}", value, "give true or false")
        return value
