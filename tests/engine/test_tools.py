"""Tools in the prompt, and calls in a model's text, however it is cut into pieces."""

from __future__ import annotations

import json

import pytest

from mlc_widget.api.errors import BadRequestError, UnsupportedFieldError
from mlc_widget.api.limits import LIMITS
from mlc_widget.api.requests import check_chat
from mlc_widget.engine.answer import AnswerParser
from mlc_widget.engine.conversation import ConversationTemplate
from mlc_widget.engine.reasoning import ReasoningParser
from mlc_widget.engine.tool_formats import Call, ChatML, Hermes, Llama31, tool_format_of
from mlc_widget.engine.tool_grammar import tool_rules
from mlc_widget.engine.tool_parser import ToolCallParser
from mlc_widget.engine.tools import Tools, read_tools, render_messages


def template(name="qwen2", *, style="chatml", tool=None, system="You help."):
    if style == "chatml":
        roles = {"user": "<|im_start|>user", "assistant": "<|im_start|>assistant"}
        parts = ("<|im_start|>system\n{system_message}<|im_end|>\n", "<|im_end|>\n", "\n")
    else:
        roles = {
            "user": "<|start_header_id|>user",
            "assistant": "<|start_header_id|>assistant",
        }
        parts = (
            "<|start_header_id|>system<|end_header_id|>\n\n{system_message}<|eot_id|>",
            "<|eot_id|>",
            "<|end_header_id|>\n\n",
        )
    if tool:
        roles["tool"] = tool
    return ConversationTemplate.from_config(
        {
            "conv_template": {
                "name": name,
                "system_template": parts[0],
                "system_message": system,
                "roles": roles,
                "role_templates": {},
                "seps": [parts[1]],
                "role_content_sep": parts[2],
                "role_empty_sep": parts[2],
            }
        }
    )


QWEN = template()
HERMES = template("hermes3_llama-3_1", tool="<|im_start|>tool")
LLAMA = template("llama-3_1", style="llama", tool="<|start_header_id|>ipython")
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
CALLED = [
    {"role": "user", "content": "Weather in Paris and Rome?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": f"call_{city}",
                "type": "function",
                "function": {"name": "get_weather", "arguments": json.dumps({"city": city})},
            }
            for city in ("Paris", "Rome")
        ],
    },
    {"role": "tool", "tool_call_id": "call_Paris", "content": "12 °C"},
    {"role": "tool", "tool_call_id": "call_Rome", "content": "20 °C"},
]


def prompt(messages, tools, known):
    request = {"messages": messages, "tools": tools}
    return known.render(render_messages(messages, read_tools(request, known), known)).text


# --- rendering ------------------------------------------------------------------------------------


def test_the_family_is_read_from_the_template():
    assert isinstance(tool_format_of(QWEN), ChatML)
    assert isinstance(tool_format_of(HERMES), Hermes)
    assert isinstance(tool_format_of(LLAMA), Llama31)
    assert tool_format_of(template(style="llama")) is None


def test_qwens_conversation_with_calls():
    assert prompt(CALLED, [WEATHER, NOW], QWEN) == (
        "<|im_start|>system\nYou help.\n\n# Tools\n\n"
        "You may call one or more functions to assist with the user query.\n\n"
        "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
        f"{json.dumps(WEATHER)}\n{json.dumps(NOW)}\n</tools>\n\n"
        "For each function call, return a json object with function name and arguments within "
        "<tool_call></tool_call> XML tags:\n<tool_call>\n"
        '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\nWeather in Paris and Rome?<|im_end|>\n"
        "<|im_start|>assistant\n"
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
        "<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\n12 °C\n</tool_response>\n"
        "<tool_response>\n20 °C\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_hermes_has_a_role_for_results():
    text = prompt(CALLED, [WEATHER], HERMES)
    assert f"<tools> {json.dumps([WEATHER])} </tools>" in text
    assert "<|im_start|>tool\n<tool_response>\n12 °C\n</tool_response>\n<tool_response>" in text


def test_llamas_conversation_with_calls():
    text = prompt(CALLED, [WEATHER], LLAMA)
    assert text.startswith(
        "<|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\nYou help.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nGiven the following functions, please"
    )
    assert f"\n\n{json.dumps(WEATHER, indent=4)}\n\nWeather in Paris and Rome?<|eot_id|>" in text
    assert (
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
        '{"name": "get_weather", "parameters": {"city": "Paris"}}; '
        '{"name": "get_weather", "parameters": {"city": "Rome"}}<|eot_id|>'
        "<|start_header_id|>ipython<|end_header_id|>\n\n12 °C<|eot_id|>"
    ) in text


def test_the_requests_own_system_message_comes_first():
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert prompt(messages, [NOW], QWEN).startswith("<|im_start|>system\nBe brief.\n\n# Tools")
    assert prompt(messages, [], QWEN) == QWEN.render(messages).text


def test_earlier_thoughts_are_left_out():
    messages = [
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\ntwo"},
        {"role": "user", "content": "3"},
    ]
    assert "<|im_start|>assistant\ntwo<|im_end|>" in prompt(messages, [], QWEN)


@pytest.mark.parametrize(
    ("call", "param"),
    [
        ({"function": {"arguments": "{}"}}, "messages[1].tool_calls[0].function"),
        ({"type": "function"}, "messages[1].tool_calls[0].function"),
        ("text", "messages[1].tool_calls[0].function"),
        (
            {"function": {"name": "f", "arguments": 5}},
            "messages[1].tool_calls[0].function.arguments",
        ),
    ],
)
def test_malformed_calls_in_the_history_are_refused_by_name(call, param):
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "user", "content": "!"},
    ]
    with pytest.raises(BadRequestError) as caught:
        render_messages(messages, None, QWEN)
    assert caught.value.param == param


OBJECTS = ['{"a": "é"}', '{"a":1,"b":[{}]}', '{"a": "\\ud800"}', " {} "]
NO_OBJECTS = ['{"a', "[1]", "null", '"text"', "5", '{"a": NaN}', '{"a": 1e999}', "</tool_call>",
              "é\n", '{"a": ' + "[" * 100_000, '{"a": ' + "9" * 5000 + "}"]  # fmt: skip


@pytest.mark.parametrize("known", [QWEN, HERMES, LLAMA], ids=["qwen", "hermes", "llama"])
@pytest.mark.parametrize("text", ["", *OBJECTS, *NO_OBJECTS], ids=lambda text: text[:12])
def test_any_text_may_be_a_call_s_arguments(text, known):
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": text}}
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "user", "content": "!"},
    ]
    checked = check_chat({"messages": messages})["messages"]
    assert checked[1]["tool_calls"] == [call]
    written = render_messages(checked, None, known)[1]["content"].text
    parser = ToolCallParser(tool_format_of(known), ("f",))
    _, calls = parser.push(written)
    assert not parser.broken
    assert calls[0].name == "f"
    arguments = "".join(call.arguments for call in calls)
    if text in NO_OBJECTS:
        assert arguments == text
    else:
        assert json.loads(arguments) == json.loads(text or "{}")


@pytest.mark.parametrize("known", [ChatML(), Llama31()], ids=["chatml", "llama"])
def test_a_call_that_is_cut_anywhere_can_be_given_back_and_is_none_to_make(known):
    calls = [Call("f", '{"a": "\\"}"}'), Call("g", '{"b": {"c": [1]}}')]
    text = known.calls("", calls).text
    whole_at = [known.calls("", calls[:1]).text.index('"}"}}') + 5, text.rindex("}") + 1]
    for end in range(len(text) + 1):
        parser = AnswerParser(None, ToolCallParser(known, ("f", "g")), "key")
        delta = parser.push(text[:end], last=True)
        names = [c["function"]["name"] for c in delta.tool_calls]
        assert parser.called == (len(names) > 0 and end >= whole_at[len(names) - 1])
        said = {"role": "assistant", "content": delta.content, "tool_calls": [*delta.tool_calls]}
        user = {"role": "user", "content": "?"}
        check_chat({"messages": [user, said, user]})


def test_an_answer_may_make_more_calls_than_there_can_be_tools():
    calls = [
        {"id": f"c{i}", "function": {"name": "f", "arguments": "{}"}}
        for i in range(LIMITS.tools + 1)
    ]
    user = {"role": "user", "content": "?"}
    messages = [user, {"role": "assistant", "tool_calls": calls}, user]
    assert len(check_chat({"messages": messages})["messages"][1]["tool_calls"]) == len(calls)
    calls[0]["function"]["arguments"] = "x" * LIMITS.prompt_bytes
    with pytest.raises(BadRequestError, match="bytes"):
        check_chat({"messages": messages})


def test_names_and_arguments_that_escape_half_a_character_can_be_given_back():
    text = '<tool_call>{"name": "f\\ud800", "arguments": "\\udc00"}</tool_call>'
    _, calls = ToolCallParser(ChatML(), ("f",)).push(text)
    assert (calls[0].name, calls[0].arguments) == ("f\ufffd", "\ufffd")


def test_templates_without_tools_refuse_them():
    plain = template("vicuna", style="llama")
    with pytest.raises(UnsupportedFieldError, match="vicuna"):
        read_tools({"tools": [NOW]}, plain)
    with pytest.raises(UnsupportedFieldError) as caught:
        render_messages(CALLED, None, plain)
    assert caught.value.param == "messages[1]"
    assert read_tools({"tools": [NOW], "tool_choice": "none"}, plain) is None


def test_tool_choice():
    both = [WEATHER, NOW]
    assert not read_tools({"tools": both}, QWEN).forced
    assert read_tools({"tools": both, "tool_choice": "none"}, QWEN) is None
    assert read_tools({"tools": both, "tool_choice": "required"}, QWEN).forced
    named = {"type": "function", "function": {"name": "now"}}
    chosen = read_tools({"tools": both, "tool_choice": named}, QWEN)
    assert (chosen.names, chosen.forced, chosen.parallel) == ({"now"}, True, False)


def with_parameters(parameters, **more):
    return {"type": "function", "function": {"name": "f", "parameters": parameters, **more}}


def test_parameters_that_are_malformed_or_strict_and_not_enforceable_are_refused():
    for parameters, strict, path in [
        ({"type": "objekt"}, None, ".type"),
        ({"type": "object", "properties": {"a": "string"}}, None, ".properties.a"),
        ({"type": "object", "unevaluatedProperties": False}, True, ".unevaluatedProperties"),
    ]:
        tools = Tools(ChatML(), (with_parameters(parameters, strict=strict),))
        with pytest.raises(BadRequestError) as caught:
            tool_rules(tools, else_body=False)
        assert caught.value.param == f"tools[0].function.parameters{path}"
    loose = Tools(ChatML(), (with_parameters({"type": "object", "unevaluatedProperties": False}),))
    _, parts = tool_rules(loose, else_body=False)
    assert parts["arguments_0"]["json_schema"]["type"] == "object"


# --- parsing --------------------------------------------------------------------------------------


def cuts(text):
    """A text whole, letter by letter, and cut once anywhere."""
    yield [text]
    yield list(text)
    for i in range(1, len(text)):
        yield [text[:i], text[i:]]


def parse(pieces, known=ChatML, names=("f", "g"), *, reasoning=None):
    """What a message has in the end, from deltas as OpenAI's clients put them together."""
    parser = AnswerParser(
        ReasoningParser(inside=reasoning == "inside") if reasoning else None,
        ToolCallParser(known(), names),
        "key",
    )
    content = thought = ""
    calls: list[list[str]] = []
    for i, piece in enumerate(pieces):
        delta = parser.push(piece, last=i == len(pieces) - 1)
        content += delta.content
        thought += delta.reasoning
        for call in delta.tool_calls:
            if "id" in call:
                assert call["index"] == len(calls)
                calls.append([call["function"]["name"], ""])
            calls[call["index"]][1] += call["function"]["arguments"]
    assert calls or not parser.called
    return content, [tuple(c) for c in calls], thought


ARGS_F = '{"a": [1, {"b": "}\\""}], "c": "<tool_call>"}'
CALL_F = f'<tool_call>\n{{"name": "f", "arguments": {ARGS_F}}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ("No call at all.", "No call at all.", []),
        ("Looks < like <tool but is not", "Looks < like <tool but is not", []),
        (CALL_F, "", [("f", ARGS_F)]),
        (f"Wait.\n{CALL_F}", "Wait.", [("f", ARGS_F)]),
        (f"{CALL_F}\n{CALL_F}\n", "", [("f", ARGS_F)] * 2),
        (f"{CALL_F}\n\nDone.", "Done.", [("f", ARGS_F)]),
        ('<tool_call>{"arguments": {"x":1}, "name": "g"}</tool_call>', "", [("g", '{"x":1}')]),
        ('<tool_call>{"name": "g"}</tool_call>', "", [("g", "{}")]),
        ('<tool_call>{"name":"g","arguments":"{\\"x\\": 1}"}</tool_call>', "", [("g", '{"x": 1}')]),
        ('<tool_call>{"name": "g", "arguments": {"x": 1', "", [("g", '{"x": 1')]),
        ('<tool_call>{"name": "g", "id": 7, "arguments": {}}', "", [("g", "{}")]),
        ("<tool_call>not JSON</tool_call>", "<tool_call>not JSON</tool_call>", []),
        ('<tool_call>{"nam', '<tool_call>{"nam', []),
        ("a\n\n\nb \n", "a\n\n\nb \n", []),
    ],
)
def test_calls_in_chatml_however_they_are_cut(text, content, calls):
    for pieces in cuts(text):
        assert parse(pieces) == (content, calls, "")


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ('{"name": "f", "parameters": {"x": "y"}}', "", [("f", '{"x": "y"}')]),
        ('\n {"name": "f", "parameters": {}}', "", [("f", "{}")]),
        (
            '{"name": "f", "parameters": {}}; {"name": "g", "parameters": {"n": 1}}',
            "",
            [("f", "{}"), ("g", '{"n": 1}')],
        ),
        ('{"name": "Ann", "age": 5}', '{"name": "Ann", "age": 5}', []),
        ('{"city": "Rome"}', '{"city": "Rome"}', []),
        ('The JSON is {"name": "f", "parameters": {}}', None, []),
        ("Plain.", "Plain.", []),
        ("", "", []),
    ],
)
def test_calls_in_llamas_way_however_they_are_cut(text, content, calls):
    for pieces in cuts(text):
        assert parse(pieces, Llama31) == (text if content is None else content, calls, "")


@pytest.mark.parametrize(
    ("text", "reasoning", "content", "thought"),
    [
        ("<think>\nhm <b\n</think>\n\nYes.", "start", "Yes.", "hm <b"),
        ("\n<think>a\n\nb</think>c", "start", "c", "a\n\nb"),
        ("<think>\n\n</think>\n\nYes.", "start", "Yes.", ""),
        ("a thought\n</think>\nYes.", "inside", "Yes.", "a thought"),
        ("Yes. <think>no</think>", "start", "Yes. <think>no</think>", ""),
        ("<thin", "start", "<thin", ""),
        ("<think>cut off", "start", "", "cut off"),
        ("<think>cut off</thi", "start", "", "cut off</thi"),
        (f"<think>call\n</think>\n{CALL_F}", "start", "", "call"),
    ],
)
def test_thoughts_however_they_are_cut(text, reasoning, content, thought):
    calls = [("f", ARGS_F)] if CALL_F in text else []
    for pieces in cuts(text):
        assert parse(pieces, reasoning=reasoning) == (content, calls, thought)


def test_ids_of_calls_depend_on_request_choice_and_place():
    def ids(key):
        parser = AnswerParser(None, ToolCallParser(ChatML(), ("f",)), key)
        delta = parser.push(CALL_F * 2, last=True)
        return [c["id"] for c in delta.tool_calls if "id" in c]

    assert ids("a/0") == ids("a/0")
    assert len({*ids("a/0"), *ids("a/1"), *ids("b/0")}) == 6
    assert all(i.startswith("call_") for i in ids("a/0"))
