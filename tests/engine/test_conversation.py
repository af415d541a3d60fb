"""Messages in any order become a prompt, and a prompt is bounded before it is written."""

from __future__ import annotations

import pytest

from mlc_widget.api.errors import ContextLengthExceededError
from mlc_widget.api.requests import check_chat
from mlc_widget.engine.conversation import ConversationTemplate
from mlc_widget.engine.tools import read_tools, render_messages

SYSTEM, MORE = {"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Sing."}
USER, REPLY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "One, two"}


def template(**fields) -> ConversationTemplate:
    return ConversationTemplate.from_config(
        {
            "conv_template": {
                "system_template": "<|im_start|>system\n{system_message}<|im_end|>\n",
                "system_message": "You help.",
                "roles": {"user": "<|im_start|>user", "assistant": "<|im_start|>assistant"},
                "role_templates": {"user": "{user_message}", "assistant": "{assistant_message}"},
                "seps": ["<|im_end|>\n"],
                "role_content_sep": "\n",
                "role_empty_sep": "\n",
                **fields,
            }
        }
    )


CHATML = template()
VICUNA = template(
    system_template="{system_message} ",
    roles={"user": "USER", "assistant": "ASSISTANT"},
    seps=[" ", "</s>"],
    role_content_sep=": ",
    role_empty_sep=":",
)
LLAMA_2 = template(
    system_template="[INST] <<SYS>>\n{system_message}\n<</SYS>>\n\n",
    roles={"user": "<s>[INST]", "assistant": "[/INST]"},
    seps=[" ", " </s>"],
    role_content_sep=" ",
    role_empty_sep=" ",
    add_role_after_system_message=False,
)


def prompt(known: ConversationTemplate, *messages, longest=None, **request) -> str:
    checked = check_chat({"messages": list(messages), **request})
    tools = read_tools(checked, known)
    return known.render(render_messages(checked["messages"], tools, known), longest).text


def test_several_system_messages_are_one():
    one = prompt(CHATML, {"role": "system", "content": "Be brief.\n\nSing."}, USER)
    assert prompt(CHATML, SYSTEM, MORE, USER) == one
    assert prompt(CHATML, SYSTEM, USER, MORE) == one
    assert prompt(CHATML, USER, SYSTEM, MORE) == one
    assert prompt(CHATML, SYSTEM, {**MORE, "content": ""}, USER) == prompt(CHATML, SYSTEM, USER)


def test_a_system_message_may_be_all():
    assert prompt(CHATML, SYSTEM) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt(VICUNA, SYSTEM, MORE) == "Be brief.\n\nSing. ASSISTANT:"
    assert prompt(LLAMA_2, SYSTEM) == "[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n[/INST] "


@pytest.mark.parametrize("messages", [[SYSTEM], [REPLY], [SYSTEM, REPLY]], ids=len)
def test_tools_need_no_message_of_a_user(messages):
    tool = {"type": "function", "function": {"name": "look_up"}}
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    roles = {r: header.format(r)[:-2] for r in ("user", "assistant", "ipython")}
    llama = template(
        system_template=header.format("system") + "{system_message}<|eot_id|>",
        roles={**roles, "tool": roles["ipython"]},
        seps=["<|eot_id|>"],
        role_content_sep="\n\n",
        role_empty_sep="\n\n",
    )
    for known in (CHATML, llama):
        assert prompt(known, *messages, tools=[tool]).count('"look_up"') == 1


def test_an_assistant_s_last_message_is_gone_on_with():
    assert prompt(CHATML, USER, REPLY).endswith("Hi<|im_end|>\n<|im_start|>assistant\nOne, two")
    assert prompt(VICUNA, USER, REPLY) == "You help. USER: Hi ASSISTANT: One, two"
    assert prompt(LLAMA_2, USER, REPLY).endswith("Hi [/INST] One, two")
    around = {"user": "{user_message}", "assistant": "<a>{assistant_message}</a>"}
    assert prompt(template(role_templates=around), USER, REPLY).endswith("\n<a>One, two")
    empty = {**REPLY, "content": ""}
    assert prompt(CHATML, USER, empty) == prompt(CHATML, USER)
    assert prompt(VICUNA, USER, empty) == prompt(VICUNA, USER)
    assert prompt(CHATML, REPLY).endswith("assistant\nOne, two")


def test_what_comes_before_a_later_system_message_is_not_gone_on_with():
    text = prompt(CHATML, USER, REPLY, MORE)
    assert text.endswith("One, two<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(
    "fields",
    [
        {"system_template": "{system_message}" * 10**5},
        {"role_templates": {"user": "{user_message}" * 10**5, "assistant": ""}},
        {"roles": {"user": "x" * 10**6, "assistant": ""}},
        {"seps": ["x" * 10**6]},
    ],
    ids=["system", "user", "role", "separator"],
)
def test_a_template_that_explodes_is_refused_before_it_is_written(fields):
    known = template(**fields)
    long = [{**m, "content": "y" * 10**6} for m in (SYSTEM, USER)]
    with pytest.raises(ContextLengthExceededError, match="at most 1000"):
        prompt(known, *long, longest=1000)


def test_a_prompt_that_just_fits_is_written():
    messages = [SYSTEM, USER, REPLY, USER]
    text = prompt(CHATML, *messages)
    assert prompt(CHATML, *messages, longest=len(text)) == text
    with pytest.raises(ContextLengthExceededError):
        prompt(CHATML, *messages, longest=len(text) - 1)
