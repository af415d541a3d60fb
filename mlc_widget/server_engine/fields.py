"""Which request fields a server honours, as far as it says so, and what it calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlc_widget.api.core import RequestKind
from mlc_widget.api.errors import UnsupportedFieldError
from mlc_widget.api.request_fields import RULES
from mlc_widget.api.requests import JSONDict

PATHS: Final[dict[RequestKind, str]] = {
    "chat": "/chat/completions",
    "completion": "/completions",
    "embedding": "/embeddings",
}
"""By kind of request."""

_OTHER_NAMES: Final = {
    "repetition_penalty": ("repetition_penalty", "repeat_penalty"),
    "max_tokens": ("max_tokens", "max_completion_tokens"),
}
"""What servers call a field, the most usual name first."""
_OWN: Final = ("model", "stream", "request_id", "messages", "prompt", "input")
"""Every server has them, or they are not sent."""
_DROPPED: Final = frozenset(
    rule.name for rule in RULES if rule.by in ("label", "neutral")
) | frozenset({"service_tier", "stream_options"})
"""Left out where a server does not have them, as no answer depends on them."""
_FORMATS: Final = ("text", "json_object", "json_schema")
_OF_LLAMA_CPP: Final = frozenset(
    {
        *("min_p", "top_k", "typical_p", "repeat_penalty", "ignore_eos", "chat_template_kwargs"),
        *("dry_multiplier", "dry_base", "dry_allowed_length", "dry_sequence_breakers"),
    }
)
_LACKING_IN_OLLAMA: Final = frozenset({"logit_bias", "n", "tool_choice", "parallel_tool_calls"})


@dataclass(frozen=True, slots=True)
class ServerFields:
    """The fields that a server has, by kind of request.

    Attributes:
        source: How they are known, for error messages.
        names: The names of the fields; None if the server itself refuses what it does not honour.
    """

    source: str
    names: Mapping[RequestKind, frozenset[str]] | None

    def translated(self, kind: RequestKind, request: Mapping[str, Any]) -> JSONDict:
        """A checked request as this server takes it.

        Raises:
            UnsupportedFieldError: The server does not have a field, or not this value of it.
        """
        given = {name: value for name, value in request.items() if value is not None}
        given.pop("request_id", None)
        if given.pop("resumable", {}).get("enabled"):
            raise no_sessions()
        if self.names is None:
            return given
        sent: JSONDict = {}
        for name, value in given.items():
            if name == "service_tier" and value == "flex":
                continue  # elsewhere it is a matter of price
            if (theirs := self._name(kind, name)) is not None:
                sent[theirs] = _checked(kind, name, value)
            elif name == "enable_thinking" and "chat_template_kwargs" in self.names[kind]:
                sent["chat_template_kwargs"] = {"enable_thinking": value}
            elif name not in _DROPPED:
                raise UnsupportedFieldError(
                    f"{name}: {self.source}. Leave it out, or name it in extra_fields if the "
                    "server honours it nevertheless.",
                    param=name,
                )
        return sent

    def _name(self, kind: RequestKind, name: str) -> str | None:
        """What this server calls a field; None if it does not have it."""
        names = (self.names or {}).get(kind, frozenset())
        for theirs in _OTHER_NAMES.get(name, (name,)):
            if theirs in names:
                return theirs
        return name if name in _OWN else None


def _checked(kind: RequestKind, name: str, value: Any) -> Any:
    """A value of a field that the server has.

    Raises:
        UnsupportedFieldError: It is an extension of ours.
    """
    if name == "response_format" and value["type"] not in _FORMATS:
        raise UnsupportedFieldError(
            f"response_format.type = {value['type']!r}: servers of OpenAI's API take "
            f"{', '.join(_FORMATS)}.",
            param="response_format.type",
        )
    if name == "response_format" and value["type"] == "json_object" and "schema" in value:
        schema = {"name": "schema", "schema": value["schema"]}
        return {"type": "json_schema", "json_schema": schema}
    if name == "logit_bias" and not all(str(token).lstrip("-").isdecimal() for token in value):
        raise UnsupportedFieldError(
            "logit_bias: servers of OpenAI's API take token ids, not texts.", param="logit_bias"
        )
    if name == "logprobs" and kind == "completion" and value is True:
        raise UnsupportedFieldError(
            "logprobs = True: servers of OpenAI's API take a number of alternatives here, such as "
            "5.",
            param="logprobs",
        )
    return value


def fields_of(
    openapi: Any, path: str, owners: Sequence[Any], software: str, extra: Sequence[str]
) -> ServerFields:
    """What is known of a server's fields.

    Args:
        openapi: What the server describes itself with (OpenAPI), or None.
        path: The path that those of OpenAI's API are added to there, such as ``/v1``.
        owners: The ``owned_by`` of its models.
        software: Its header ``Server``.
        extra: More fields, which the user vouches for.
    """
    if software == "mlc_widget":
        return ServerFields("the server is one of ours", None)
    described = {kind: _described(openapi, path + PATHS[kind]) for kind in PATHS}
    standard = _standard()
    source = "the server's description of its API (openapi.json) does not have this field"
    if not any(described.values()):
        source = "it is not one of OpenAI's fields, and the server does not say that it has it"
        if "llamacpp" in owners:
            source = "llama.cpp's server does not have this field"
            standard = {kind: names | _OF_LLAMA_CPP for kind, names in standard.items()}
        elif "library" in owners:
            source = "Ollama does not honour this field"
            standard = {kind: names - _LACKING_IN_OLLAMA for kind, names in standard.items()}
    more = frozenset(extra)
    return ServerFields(
        source, {kind: (described[kind] or standard[kind]) | more for kind in PATHS}
    )


def _standard() -> dict[RequestKind, frozenset[str]]:
    """OpenAI's own fields."""
    return {
        kind: frozenset(
            rule.name
            for rule in RULES
            if kind in rule.kinds and "OpenAI" in rule.origins and rule.by != "nobody"
        )
        for kind in PATHS
    }


def no_sessions() -> UnsupportedFieldError:
    """The error of all that needs an answer on disk."""
    return UnsupportedFieldError(
        "resumable: a server cannot continue an answer exactly; load the model in a kernel engine.",
        param="resumable",
    )


_DEEPEST: Final = 8


def _described(openapi: Any, path: str) -> frozenset[str]:
    """The fields of a path's request in an OpenAPI description; empty if it has none."""
    schema = openapi
    for step in ("paths", path, "post", "requestBody", "content", "application/json", "schema"):
        schema = schema.get(step) if isinstance(schema, dict) else None
    return frozenset(_properties(openapi, schema, _DEEPEST, set()))


def _properties(openapi: Any, schema: Any, depth: int, seen: set[int]) -> set[str]:
    """The properties of a schema, and of those that it consists of; each is read once."""
    if depth == 0 or not isinstance(schema, dict) or id(schema) in seen:
        return set()
    seen.add(id(schema))
    found: set[str] = set()
    if isinstance(own := schema.get("properties"), dict):
        found.update(own)
    if isinstance(reference := schema.get("$ref"), str) and reference.startswith("#/"):
        target = openapi
        for step in reference[2:].split("/"):
            target = target.get(step) if isinstance(target, dict) else None
        found |= _properties(openapi, target, depth - 1, seen)
    for key in ("allOf", "anyOf", "oneOf"):
        parts = schema.get(key)
        for part in parts[:16] if isinstance(parts, list) else ():
            found |= _properties(openapi, part, depth - 1, seen)
    return found
