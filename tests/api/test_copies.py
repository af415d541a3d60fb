"""Engines are no values: pickle and copy refuse them, and say what to do."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from mlc_widget import AsyncKernelMLCEngine, AsyncMLCEngine, KernelMLCEngine, MLCEngine

COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": pickle.dumps,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "within": lambda engine: copy.deepcopy({"engine": [engine]}),
}


@pytest.mark.parametrize(
    "engine", [AsyncKernelMLCEngine, AsyncMLCEngine, KernelMLCEngine, MLCEngine]
)
@pytest.mark.parametrize("way", COPIES)
def test_engines_are_not_copied(engine: type[Any], way: str) -> None:
    with pytest.raises(TypeError, match=f"{engine.__name__} cannot be pickled or copied"):
        COPIES[way](engine())
