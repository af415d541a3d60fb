"""Checks and bounds what a server says of its tools."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mlc_widget.api.requests import JSONDict

MAX_TOOLS: Final = 64
MAX_DESCRIPTION: Final = 1024
MAX_SCHEMA: Final = 16 * 1024
_NAME: Final = 64
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class MCPTool:
    """A tool of a server.

    Attributes:
        name: Its name, as the server has it.
        offered: A name that a model can be given.
        description: What it does, in at most `MAX_DESCRIPTION` characters.
        parameters: The JSON schema of its arguments.
        digest: Changes with what the server says of it.
    """

    name: str
    offered: str
    description: str
    parameters: JSONDict
    digest: str

    def described(self, name: str) -> JSONDict:
        """The tool in OpenAI's shape, under a name."""
        function: JSONDict = {"name": name, "parameters": self.parameters}
        if self.description:
            function["description"] = self.description
        return {"type": "function", "function": function}


def read_descriptions(listed: Sequence[Any]) -> tuple[tuple[MCPTool, ...], dict[str, str]]:
    """The usable tools among those that a server lists, and why each other one is left out.

    Args:
        listed: Objects of the class `mcp.types.Tool`.
    """
    found: dict[str, MCPTool] = {}
    left_out: dict[str, str] = {}
    for one in listed:
        name = printable(one.name, 128)
        if len(found) == MAX_TOOLS:
            left_out[name] = f"the server has more than {MAX_TOOLS} tools"
            break
        problem = _schema_problem(one.input_schema)
        if not name or name != one.name:
            problem = "its name is empty, too long or has characters that cannot be printed"
        elif name in found:
            problem = "two tools have this name"
        if problem:
            left_out[name] = problem
            continue
        description = printable(one.description or "", MAX_DESCRIPTION)
        said = json.dumps([name, one.description, one.input_schema], sort_keys=True)
        found[name] = MCPTool(
            name,
            _NOT_IN_NAMES.sub("_", name)[:_NAME].strip("_") or "tool",
            description,
            dict(one.input_schema),
            hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest(),
        )
    return tuple(found.values()), left_out


def printable(text: str, most: int) -> str:
    """A text without characters that cannot be printed, except line breaks, cut at a length."""
    kept = "".join(c for c in text[: 4 * most] if c.isprintable() or c == "\n").strip()
    return kept if len(kept) <= most else kept[: most - 2].rstrip() + " …"


def _schema_problem(schema: Any) -> str:
    """Why a schema cannot be one of arguments; "" if it can."""
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for

    try:
        size = len(json.dumps(schema))
        if not isinstance(schema, Mapping) or schema.get("type", "object") != "object":
            return "its parameters are not a schema of an object"
        if size > MAX_SCHEMA:
            return f"its parameters have {size:,} characters; at most {MAX_SCHEMA:,} are read"
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
        for key, value in _items(schema):
            if key in ("$ref", "$dynamicRef") and not str(value).startswith("#"):
                return f"its parameters refer to another document: {value!r:.80}"
            if key == "pattern" and isinstance(value, str):
                re.compile(value)
    except (SchemaError, re.error) as error:
        return f"its parameters are malformed: {getattr(error, 'message', error)!s:.120}"
    except (RecursionError, ValueError, TypeError, OverflowError) as error:
        return f"its parameters cannot be read: {error!s:.120}"
    return ""


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    """All keys of a schema's objects, at any depth, with their values."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key, item
            yield from _items(item)
    elif isinstance(value, list):
        for item in value:
            yield from _items(item)
