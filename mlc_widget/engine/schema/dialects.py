"""Rewrites keywords of earlier drafts of JSON Schema, and of OpenAPI, to those of draft 2020-12."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def modern(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Rewrite a schema with the keywords of draft 2020-12."""
    new = dict(schema)
    if isinstance(new.get("items"), list):  # up to 2019-09
        new["prefixItems"] = new.pop("items")
        if "additionalItems" in new:
            new["items"] = new["additionalItems"]
    for bound, exclusive in (
        ("minimum", "exclusiveMinimum"),
        ("maximum", "exclusiveMaximum"),
    ):  # draft 4
        if isinstance(new.get(exclusive), bool) and new.pop(exclusive) and bound in new:
            new[exclusive] = new.pop(bound)
    if new.pop("nullable", False) is True and isinstance(new.get("type"), str):  # OpenAPI 3.0
        new["type"] = [new["type"], "null"]
    return new
