"""A chat's settings: what each may be, and how the page reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.limits import LIMITS
from mlc_widget.api.request_values import bad, encoded_size, field_name
from mlc_widget.api.requests import CHAT_FIELDS, JSONDict, check_sampling
from mlc_widget.widget.chat_request import ChatOptions, json_answer
from mlc_widget.widget.chat_tools import offered, read_chat_tools
from mlc_widget.widget.title import one_line

OPTION_NAMES = (
    *("system", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens"),
    *("seed", "logprobs", "schema", "tools", "sampling", "system_prompts"),
)

MAX_PROMPTS: Final = 50
"""Pinned system prompts; js/src/protocol.ts has the same limit."""
MAX_PROMPTS_BYTES: Final = 256 * 2**10
"""Their names and texts together; the page gets all of them with each change of a setting."""
_MAX_PROMPT_NAME: Final = 100
"""Characters of a name."""


def check_option(name: str, value: Any) -> Any:
    """Check one setting; returns the value to keep.

    Raises:
        BadRequestError: A setting is invalid; the message has its value and the valid ones.
    """
    if name not in OPTION_NAMES:
        known = ", ".join(OPTION_NAMES)
        raise bad(field_name(name), value, f"no such setting; known: {known}.")
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if name == "system":
        if not isinstance(value, str):
            raise bad(name, value, "must be a string.")
        if encoded_size(name, value) > LIMITS.prompt_bytes:
            raise bad(name, value, f"it is too large; give at most {LIMITS.prompt_bytes} bytes.")
        return value
    if name == "system_prompts":
        return _check_prompts(name, value)
    if name == "schema":
        return _check_schema(value)
    if name == "tools":
        return read_chat_tools(value)
    if name == "sampling":
        return check_sampling(value, OPTION_NAMES)
    return CHAT_FIELDS[name](name, value)


def checked_model(model: Any, loaded: Sequence[str] = ()) -> str | None:
    """Check the name of one of an engine's models.

    Args:
        model: The name; None for the only one.
        loaded: The models that are loaded or loading.

    Raises:
        BadRequestError: It is neither a name nor None, or None where there are several models.
    """
    if model is None and len(loaded) > 1:
        raise BadRequestError(
            f"model: several models are loaded ({', '.join(loaded)}); name the one that answers, "
            f"as in ChatWidget(engine, model={loaded[0]!r}).",
            param="model",
        )
    if model is None or (isinstance(model, str) and model.strip()):
        return model
    raise bad("model", model, "must be the name of one of the engine's models.")


def _check_prompts(param: str, value: Any) -> dict[str, str] | None:
    if not isinstance(value, Mapping):
        raise bad(param, value, 'must be a mapping, such as {"Short": "Be brief."}.')
    if len(value) > MAX_PROMPTS:
        raise bad(param, len(value), f"at most {MAX_PROMPTS} prompts can be pinned.")
    size = 0
    for name, text in value.items():
        if not isinstance(name, str) or len(name) > _MAX_PROMPT_NAME or not one_line(name):
            must = f"a name must be a string of 1 to {_MAX_PROMPT_NAME} characters that are seen."
            raise bad(param, name, must)
        if not isinstance(text, str) or not text.strip():
            raise bad(f"{param}[{name!r}]", text, "a prompt must be a string with text in it.")
        size += encoded_size(param, name) + encoded_size(f"{param}[{name!r}]", text)
        if size > MAX_PROMPTS_BYTES:
            most = f"all prompts and their names may have {MAX_PROMPTS_BYTES:,} bytes; pin fewer."
            raise bad(f"{param}[{name!r}]", text, most)
    return dict(value) or None


def _check_schema(value: Any) -> JSONDict:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise bad("schema", value, f"not valid JSON: {error}.") from None
    if not isinstance(value, Mapping):
        raise bad("schema", value, 'must be an object, such as {"type": "object"}.')
    schema: JSONDict = dict(value)
    CHAT_FIELDS["response_format"]("schema", json_answer(schema))
    return schema


def checked_options(**values: Any) -> ChatOptions:
    """Make options from unchecked values.

    Raises:
        BadRequestError: A setting is invalid; the message names it and its value.
    """
    return with_options(ChatOptions(), **values)


def with_options(options: ChatOptions, **values: Any) -> ChatOptions:
    """Options with some changed.

    Raises:
        BadRequestError: A setting is invalid; the message names it and its value.
    """
    return replace(options, **{name: check_option(name, value) for name, value in values.items()})


def options_json(options: ChatOptions) -> JSONDict:
    """The options in the page's format: the schema as indented text, tools by their names."""
    return {
        **{name: getattr(options, name) for name in OPTION_NAMES},
        "schema": None if options.schema is None else json.dumps(options.schema, indent=2),
        "tools": [tool["function"]["name"] for tool in offered(options.tools)],
    }
