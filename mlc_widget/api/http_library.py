"""The HTTP library that comes with the installed openai: httpx, or httpx2 with openai 3."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import version
from typing import Any


@cache
def http_library() -> Any:
    """The library; importing it takes a moment."""
    return import_module("httpx" if int(version("openai").split(".")[0]) < 3 else "httpx2")
