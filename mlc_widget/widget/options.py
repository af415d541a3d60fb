"""A chat's settings: what each may be, and how the page reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.requests import CHAT_FIELDS, JSONDict, check_sampling
from mlc_widget.widget.chat_tools import offered, read_chat_tools
from mlc_widget.widget.state import ChatOptions, json_answer

OPTION_NAMES = (
    *("system", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens"),
    *("seed", "logprobs", "schema", "tools", "sampling", "system_prompts"),
)

MAX_PROMPTS: Final = 50
"""Pinned system prompts; js/src/protocol.ts has the same limit."""
_MAX_PROMPT_NAME: Final = 100


def check_option(name: str, value: Any) -> Any:
    """Check one setting; returns the value to keep.

    Raises:
        BadRequestError: A setting is invalid; the message has its value and the valid ones.
    """
    if name not in OPTION_NAMES:
        known = ", ".join(OPTION_NAMES)
        raise BadRequestError(f"{name} = {value!r}: no such setting; known: {known}.", param=name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if name == "system":
        if not isinstance(value, str):
            raise BadRequestError(f"system = {value!r}: must be a string.", param=name)
        return value
    if name == "system_prompts":
        return _check_prompts(value)
    if name == "schema":
        return _check_schema(value)
    if name == "tools":
        return read_chat_tools(value)
    if name == "sampling":
        return check_sampling(value, OPTION_NAMES)
    return CHAT_FIELDS[name](name, value)


def _check_prompts(value: Any) -> dict[str, str] | None:
    if not isinstance(value, Mapping):
        raise BadRequestError(
            f'system_prompts = {value!r}: must be a mapping, such as {{"Short": "Be brief."}}.',
            param="system_prompts",
        )
    if len(value) > MAX_PROMPTS:
        raise BadRequestError(
            f"system_prompts: {len(value)} prompts; at most {MAX_PROMPTS} can be pinned.",
            param="system_prompts",
        )
    for name, text in value.items():
        param = f"system_prompts[{name!r}]"
        if not isinstance(name, str) or not name.strip() or len(name) > _MAX_PROMPT_NAME:
            raise BadRequestError(
                f"{param}: a name must be a string of 1 to {_MAX_PROMPT_NAME} characters.",
                param="system_prompts",
            )
        if not isinstance(text, str) or not text.strip():
            raise BadRequestError(
                f"{param} = {text!r}: a prompt must be a string with text in it.",
                param="system_prompts",
            )
    return dict(value) or None


def _check_schema(value: Any) -> JSONDict:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise BadRequestError(f"schema: not valid JSON: {error}.", param="schema") from None
    if not isinstance(value, Mapping):
        raise BadRequestError(
            f'schema = {value!r}: must be an object, such as {{"type": "object"}}.', param="schema"
        )
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
