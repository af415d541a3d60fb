"""Which members of a kind only `make soak` tries."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest


def but_for_soak(kinds: Collection[str], *left: str) -> list[Any]:
    """All kinds, for `pytest.mark.parametrize`; those that are `left` run in `make soak` only.

    They are left out because another kind takes the same path through our code.
    """
    assert set(left) < set(kinds)
    return [pytest.param(kind, marks=pytest.mark.soak) if kind in left else kind for kind in kinds]
