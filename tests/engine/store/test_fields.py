"""What reads a model's configuration names the file, the field, its value and the remedy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlc_widget.api.errors import ModelFormatError, UnsupportedModelError
from mlc_widget.engine.conversation import ConversationTemplate
from mlc_widget.engine.store.fields import Fields
from mlc_widget.engine.store.formats.gguf_config import _Fields

READ = {
    "positive_int": lambda f: f.positive_int("x", most=10),
    "positive_float": lambda f: f.positive_float("x", most=10.0),
    "positive_floats": lambda f: f.positive_floats("x", 2),
    "boolean": lambda f: f.boolean("x", default=False),
    "string": lambda f: f.string("x"),
    "strings": lambda f: f.strings("x"),
    "choice": lambda f: f.choice("x", ("a", "b", "c")),
    "nested": lambda f: f.nested("x"),
}


def reader(values: Any) -> Fields:
    return Fields(values, "outer", "some.json", "Do this.")


@pytest.mark.parametrize(
    ("how", "value", "must"),
    [
        ("positive_int", 0, "must be a positive integer"),
        ("positive_int", True, "must be a positive integer"),
        ("positive_int", 1.5, "must be a positive integer"),
        ("positive_int", 11, "must be at most 10"),
        ("positive_float", "1", "must be a positive number"),
        ("positive_float", float("nan"), "must be a positive number"),
        ("positive_float", 10**400, "must be between 0 and 10"),
        ("positive_floats", [1.0], "must be a list of 2 numbers"),
        ("positive_floats", "12", "must be a list of 2 numbers"),
        ("boolean", 0, "must be true or false"),
        ("string", 1, "must be a string"),
        ("strings", ["a", 1], "must be a list of strings"),
        ("strings", {"a": "b"}, "must be a list of strings"),
        ("choice", "d", "must be a, b or c"),
        ("choice", ["a"], "must be a, b or c"),
        ("nested", [1], "must be an object"),
    ],
)
def test_a_wrong_value_is_named_with_what_to_do(how, value, must):
    with pytest.raises(ModelFormatError) as caught:
        READ[how](reader({"x": value}))
    assert caught.value.message.startswith("some.json: outer.x is ")
    assert caught.value.message.endswith(f"; it {must}. Do this.")
    assert caught.value.param == "outer.x"


@pytest.mark.parametrize("how", ["positive_int", "positive_float", "string", "choice"])
@pytest.mark.parametrize("values", [{}, {"x": None}])
def test_what_is_missing_is_named_with_what_to_do(how, values):
    with pytest.raises(ModelFormatError) as caught:
        READ[how](reader(values))
    assert caught.value.message == "some.json: outer.x is missing, and has no default. Do this."


def test_an_item_of_a_list_is_named():
    with pytest.raises(ModelFormatError, match=r"outer\.x\.1 is -1; it must be a positive number"):
        READ["positive_floats"](reader({"x": [1, -1]}))


def test_good_values_are_read():
    fields = reader({"x": ["a"], "one": "a", "numbers": [1, 2.5], "inner": {"n": 3}})
    assert fields.strings("x") == fields.strings("one") == ("a",)
    assert fields.positive_floats("numbers", 2) == [1.0, 2.5]
    assert fields.nested("inner").positive_int("n") == 3
    assert fields.nested("none").positive_int("n", 4) == 4
    assert fields.choice("none", ("a", "b"), "b") == "b"


def gguf(**fields: Any) -> _Fields:
    named = {f"llama.{name.replace('__', '.')}": value for name, value in fields.items()}
    named["general.architecture"] = "llama"
    model = SimpleNamespace(fields=named, files=[SimpleNamespace(path="some.gguf")], tensors={})
    return _Fields(model)  # type: ignore[arg-type]


def test_metadata_is_read_in_the_same_way():
    with pytest.raises(ModelFormatError, match=r"gguf: llama\.block_count is 'two'; .*again"):
        gguf(block_count="two").positive_int("block_count")
    with pytest.raises(ModelFormatError, match=r"gguf: llama\.block_count is missing.*again"):
        gguf().positive_int("block_count")


def test_one_value_for_each_layer_counts_as_one_if_all_agree():
    name = "attention.head_count_kv"
    assert gguf(attention__head_count_kv=np.array([4, 4, 4])).positive_int(name) == 4
    for values in ([4, 2], []):
        with pytest.raises(UnsupportedModelError, match="differs from layer to layer"):
            gguf(attention__head_count_kv=np.array(values)).positive_int(name)
    with pytest.raises(ModelFormatError, match="is 0; it must be a positive integer"):
        gguf(attention__head_count_kv=np.array([0, 0])).positive_int(name)


@pytest.mark.parametrize("architecture", ["mamba", None, 3, ["llama"]])
def test_an_architecture_that_does_not_run_is_refused_with_those_that_do(architecture):
    model = SimpleNamespace(
        fields={"general.architecture": architecture},
        files=[SimpleNamespace(path="some.gguf")],
        tensors={},
    )
    with pytest.raises(UnsupportedModelError, match=r"^some\.gguf: general\.archi.*llama, qwen2"):
        _Fields(model).model_type()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "value", "must"),
    [
        ("name", 1, "a string"),
        ("seps", ["a", "b", "c"], "one or two strings"),
        ("stop_str", [1], "a list of strings"),
        ("stop_token_ids", ["a"], "a list of token ids"),
        ("roles", {"user": "u"}, "an object with user and assistant"),
        ("role_templates", {"user": 1}, "an object of strings"),
        ("add_role_after_system_message", "yes", "true or false"),
    ],
)
def test_conversation_templates_are_read_in_the_same_way(field, value, must):
    template = {"roles": {"user": "u", "assistant": "a"}, "role_templates": {}, field: value}
    with pytest.raises(ModelFormatError) as caught:
        ConversationTemplate.from_config({"conv_template": template})
    assert caught.value.message.startswith(f"mlc-chat-config.json: conv_template.{field} is ")
    assert caught.value.message.endswith(
        f"; it must be {must}. Regenerate the file with `mlc_llm gen_config`."
    )
