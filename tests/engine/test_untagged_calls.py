"""Answers that are one call's JSON without the tags of the model's format."""

from __future__ import annotations

import json
from typing import Any

import llguidance
import pytest

from mlc_widget.engine.answer import AnswerParser
from mlc_widget.engine.grammar_text import assemble
from mlc_widget.engine.reasoning import ReasoningParser
from mlc_widget.engine.tool_formats import ChatML, Hermes
from mlc_widget.engine.tool_grammar import tool_rules
from mlc_widget.engine.tool_parser import ToolCallParser
from mlc_widget.engine.tools import Tools

CALL = '{"name": "add", "arguments": {"a": 1, "b": [2, "}"]}}'
ARGUMENTS = '{"a": 1, "b": [2, "}"]}'


def parse(pieces: list[str], parser: AnswerParser) -> tuple[str, list[tuple[str, str]]]:
    content, calls = "", []
    for i, piece in enumerate(pieces):
        delta = parser.push(piece, last=i == len(pieces) - 1)
        content += delta.content
        calls += [(c["function"]["name"], c["function"]["arguments"]) for c in delta.tool_calls]
    assert parser.called is bool(calls)
    return content, calls


def cuts(text: str) -> list[list[str]]:
    return [[text], list(text), [text[: len(text) // 2], text[len(text) // 2 :], ""]]


@pytest.mark.parametrize("known", [ChatML, Hermes])
@pytest.mark.parametrize(
    "text",
    [
        CALL,
        f"\n\n  {CALL}\n",
        f"```json\n{CALL}\n```",
        f"```\n{CALL}\n```\n",
        f"```tool_call\n{CALL}",
        f"{CALL}\n</tool_call>",
        '{"name":"add","parameters":{"a": 1, "b": [2, "}"]}}',
        '{"arguments": {"a": 1, "b": [2, "}"]}, "name": "add"}',
        json.dumps({"name": "add", "arguments": ARGUMENTS}),
    ],
)
def test_one_call_without_its_tags_is_made(text: str, known: Any) -> None:
    for pieces in cuts(text):
        parser = AnswerParser(None, ToolCallParser(known(), ("add", "sub")), "key")
        content, calls = parse(pieces, parser)
        assert content == ""
        assert [(name, json.loads(args)) for name, args in calls] == [
            ("add", json.loads(ARGUMENTS))
        ]


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "Ann", "arguments": {}}',
        '{"name": "add", "arguments": {}, "age": 3}',
        '{"name": "add", "arguments": [1]}',
        '{"name": "Ann", "name": "add", "arguments": {}}',
        '{"name": "add", "name": "Ann", "arguments": {}}',
        '{"name": "add", "arguments": {"a": 1',
        '{"name": "add", "arguments": {"a": tru}}',
        '{"name": "add", "arguments": {"a": 1}, "parameters": {"a": 2}}',
        f"{CALL} adds them.",
        f"{CALL}\n{CALL}",
        f"[{CALL}]",
        f"Call it: {CALL}",
        f"```json\n{CALL}\n``` is the call.",
        f"``` {CALL[:9]}",
        '{"city": "Oslo"}',
        "``",
        "```python\nprint()\n```",
        "  ",
        "{",
    ],
)
def test_anything_else_is_text(text: str) -> None:
    for pieces in cuts(text):
        parser = AnswerParser(None, ToolCallParser(ChatML(), ("add", "sub")), "key")
        assert parse(pieces, parser) == (text, [])


def test_text_goes_on_as_soon_as_it_cannot_be_a_call() -> None:
    for text in ("Hello", '{"city"', '{"name": "Ann"', "```python\np", f"{CALL} a"):
        assert ToolCallParser(ChatML(), ("add",)).push(text)[0].startswith(text.rstrip())


def test_a_call_with_tags_may_follow_what_is_none() -> None:
    text = f'{{"city": 1}}\n<tool_call>\n{CALL}\n</tool_call>'
    parser = AnswerParser(None, ToolCallParser(ChatML(), ("add",)), "key")
    assert parse([text], parser) == ('{"city": 1}', [("add", ARGUMENTS)])


def test_a_thought_may_come_before_it() -> None:
    parser = AnswerParser(ReasoningParser(), ToolCallParser(ChatML(), ("add",)), "key")
    assert parse([f"<think>\nhm\n</think>\n\n{CALL}"], parser) == ("", [("add", ARGUMENTS)])


def test_where_a_format_is_asked_for_it_is_the_answer() -> None:
    parser = AnswerParser(None, ToolCallParser(ChatML(), ("add",), untagged=False), "key")
    assert parse([CALL], parser) == (CALL, [])


def _matches(text: str, grammar: str) -> bool:
    matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), grammar, log_level=0)
    tokens = list(text.encode())
    return bool(matcher.try_consume_tokens(tokens) == len(tokens))


def test_the_grammar_holds_its_arguments_to_the_parameters() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    offered = tuple(
        {"type": "function", "function": {"name": name, "parameters": parameters}}
        for name in ("add", "a/b.c")
    )
    rules, parts = tool_rules(Tools(ChatML(), offered), else_body=False)
    grammar = assemble(f"start: answer\n{rules}", parts)
    good, wrong = '{"name": "add", "arguments": {"a": 1}}', '{"name": "add", "arguments": {"a": "1'
    for text in (
        *(good, f"\n{good}\n</tool_call>", f"```json\n{good}\n```", good.replace("add", "a/b.c")),
        *("", "Hello", "{", '{"name": "Ann", "x": 1}', '{"city": 1}', "I <tool", f"So: {wrong}"),
        f"<tool_call>\n{good}\n</tool_call>\n<tool_call>\n{good}\n</tool_call> Done.",
        f"One.\n<tool_call>\n{good}\n</tool_call>",
    ):
        assert _matches(text, grammar), text
    for text in (
        *(wrong, f" {wrong}", f"```json\n{wrong}", wrong.replace("add", "a/b.c")),
        *(f"<tool_call>\n{wrong}", f"a\n<tool_call>\n{wrong}"),
        f"<tool_call>\n{good}\n</tool_call>\n<tool_call>\n{wrong}",
    ):
        assert not _matches(text, grammar), text
