"""Schemas that know their path in the request."""

from __future__ import annotations

from typing import Any, Final

from mlc_widget.api.errors import BadRequestError

_SCHEMAS: Final = frozenset(
    {"allOf", "anyOf", "oneOf", "items", "prefixItems", "contains", "additionalProperties"}
)
_BY_NAME: Final = frozenset({"properties", "patternProperties"})


class LocatedSchema(dict[str, Any]):
    """A checked schema that knows its path in the request.

    Attributes:
        at: The path.
        problem: Why no value matches it, if that is obvious. It may be one of several options.
    """

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at
        self.problem: BadRequestError | None = None


def located(schema: Any, at: str) -> Any:
    """Give one path to all parts of a schema that were generated, rather than in the request."""
    if isinstance(schema, list):
        return [located(part, at) for part in schema]
    if not isinstance(schema, dict) or isinstance(schema, LocatedSchema):
        return schema
    made = LocatedSchema(at)
    for keyword, value in schema.items():
        if keyword in _SCHEMAS:
            made[keyword] = located(value, at)
        elif keyword in _BY_NAME:
            made[keyword] = {name: located(part, at) for name, part in value.items()}
        else:
            made[keyword] = value
    return made
