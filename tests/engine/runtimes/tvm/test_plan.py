"""A damaged plan is made again, whatever is in its place."""

from __future__ import annotations

import pytest

from mlc_widget.engine.runtimes.tvm.plan import PlanCache
from mlc_widget.engine.store.user_cache import UserCache


@pytest.mark.parametrize(
    "content",
    [b"[" * 10**6, b'{"key": ' + b"[" * 10**6, b'{"key":' * 10**6, b"[" * 10**6 + b"]" * 10**6,
     b"", b"\xff", b"{}", b"[]", b"5", b'{"key": 1, "plan": 2}'],
    ids=["deep", "deep key", "deep objects", "deep and closed", "empty", "no text", "no key",
         "a list", "a number", "another key"],
)  # fmt: skip
def test_a_damaged_plan_is_none(tmp_path, content):
    plans = PlanCache({"a": 1}, tmp_path)
    assert UserCache("plans", tmp_path).write(plans._name, content)
    assert plans.load() is None
