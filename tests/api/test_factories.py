"""The factories' types: who gives a model gets an engine with a worker, not one of two kinds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_overloads

import pytest

from mlc_widget import factories


@pytest.mark.parametrize(
    ("factory", "kernel", "server"),
    [
        (factories.create_kernel_mlc_engine, "AsyncKernelMLCEngine", "AsyncServerMLCEngine"),
        (factories.kernel_mlc_engine, "KernelMLCEngine", "ServerMLCEngine"),
    ],
)
def test_a_model_without_a_server_gives_a_kernel_engine(
    factory: Callable[..., Any], kernel: str, server: str
) -> None:
    shapes = [
        (one.__annotations__.get("source"), one.__annotations__.get("model"))
        for one in get_overloads(factory)
    ]
    returned = [one.__annotations__["return"] for one in get_overloads(factory)]
    assert dict(zip(shapes, returned, strict=True)) == {
        ("str", "_Models"): server,
        ("_Models", None): kernel,
        (None, "_Models"): kernel,
        ("str", None): server,  # with an option that only servers have
    }
