"""Messages become a prompt by a model's template in Jinja."""

import json
from types import SimpleNamespace

import pytest

from mlc_widget.api.errors import UnsupportedFieldError
from mlc_widget.engine.jinja_conversation import JinjaConversation
from mlc_widget.engine.store.stored_model import JinjaSource

TOKENIZER = SimpleNamespace(control_names=["<|im_end|>", "<think>", "</think>"])
CHATML = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TRIMMED = CHATML.replace("m.content", "m.content|trim")
CALL = {
    "id": "call00009",
    "type": "function",
    "function": {"name": "get_time", "arguments": '{"zone": "é"}'},
}
CALLED = [
    {"role": "user", "content": "time?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "noon", "tool_call_id": "call00009"},
]


def prompt(template, *messages, **variables):
    source = JinjaSource(template, {"bos_token": "<s>"}, None, "model.gguf")
    return JinjaConversation(source, TOKENIZER).render(messages, **variables)


@pytest.mark.parametrize(
    ("template", "begun", "ends"),
    [
        (CHATML, "The capital", "<assistant>The capital"),
        (CHATML, "The capital ", "<assistant>The capital "),
        (CHATML, "Sure\n\n", "<assistant>Sure\n\n"),
        (TRIMMED, "The capital", "<assistant>The capital"),
        (TRIMMED, "The capital ", "<assistant>The capital"),
        (TRIMMED, "Sure\n\n", "<assistant>Sure"),
    ],
)
def test_an_answer_that_was_begun_ends_as_the_template_writes_it(template, begun, ends):
    text = prompt(
        template, {"role": "user", "content": "?"}, {"role": "assistant", "content": begun}
    ).text
    assert text == "<user>?<|im_end|>" + ends


def test_a_template_that_leaves_the_last_answer_out_cannot_continue_it():
    with pytest.raises(UnsupportedFieldError, match="cannot be continued"):
        prompt("{{ messages[0].content }}", {"role": "user", "content": "?"},
               {"role": "assistant", "content": "begun"})  # fmt: skip


THOUGHTFUL = "{% for m in messages %}{{ m.content.split('</think>')[-1] }};{% endfor %}"


def test_templates_find_the_thoughts_in_answers_but_not_in_questions():
    said = "<think>hm</think>4"
    text = prompt(
        THOUGHTFUL,
        {"role": "assistant", "content": said},
        {"role": "user", "content": said},
    )
    assert text.text == f"4;{said};"


@pytest.mark.parametrize("name", ["reasoning_content", "thinking"])
def test_thoughts_are_there_by_either_name(name):
    template = "{{ messages[0].%s }}" % name  # noqa: UP031
    message = {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [CALL]}
    assert prompt(template, message).text == "hm"


@pytest.mark.parametrize(
    "call",
    [
        "{{ f.name }}{{ f.arguments|tojson }}",  # Qwen, Llama 3.1
        "{{ f.name + f.arguments }}",  # Functionary
        "{% if f.arguments is mapping %}{{ f.name }}{{ f.arguments|tojson }}{% endif %}",
        "{% if m.content is none %}{{ f.name + f.arguments }}{% endif %}",  # DeepSeek
        "{% if m.content is none %}{{ f.name }}{{ f.arguments|tojson }}{% endif %}",
        "{{ raise_exception('which?') if m.content is none }}{{ f.name }}{{ f.arguments|tojson }}",
    ],
)
def test_calls_are_written_in_the_form_that_the_template_takes(call):
    template = (
        "{% for m in messages %}{{ m.role }}:{% for c in m.tool_calls %}{% set f = c.function %}"
        f"{call}{{% endfor %}}{{{{ m.content or '' }}}};{{% endfor %}}"
    )
    text = prompt(template, *CALLED).text
    user, assistant, tool, _ = text.split(";")
    assert (user, tool) == ("user:time?", "tool:noon")
    assert assistant.startswith("assistant:get_time")
    assert json.loads(assistant.removeprefix("assistant:get_time")) == {"zone": "é"}
    said = [*CALLED[:1], {**CALLED[1], "tool_calls": None, "content": "text"}]
    assert "assistant:text" in prompt(template, *said).text
