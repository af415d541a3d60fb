"""The result of a call as text for the model."""

from __future__ import annotations

import json
from typing import Any, Final

MAX_RESULT: Final = 16 * 1024
"""The most characters of a result; a model's context is small."""


def result_text(result: Any) -> str:
    """The text of a `mcp.types.CallToolResult`, cut at `MAX_RESULT` characters.

    Images and sounds are named, not passed on.
    """
    parts = [_block_text(block) for block in result.content]
    if not parts and result.structured_content is not None:
        parts = [json.dumps(result.structured_content, ensure_ascii=False)]
    text = "\n".join(part for part in parts if part)
    if len(text) > MAX_RESULT:
        text = f"{text[:MAX_RESULT]}\n… (cut: the result has {len(text):,} characters)"
    return f"Error: {text or 'the tool failed'}" if result.is_error else text


def _block_text(block: Any) -> str:
    kind = block.type
    if kind == "text":
        return str(block.text)
    if kind == "resource":
        text = getattr(block.resource, "text", None)
        return str(text) if text is not None else f"[a file: {block.resource.uri!s:.200}]"
    if kind == "resource_link":
        return f"[a link: {block.uri!s:.200}]"
    return f"[{kind}: {getattr(block, 'mime_type', '')!s:.80}, left out]"
