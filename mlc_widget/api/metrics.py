"""The result of `metrics()`: counters by mlc_llm's names, also in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_GAUGES: Final = frozenset({"running_requests", "prefill_tokens_per_s", "decode_tokens_per_s"})


class EngineMetrics(dict[str, Any]):
    """Counters since the engine was made, by mlc_llm's names; times in seconds.

    ``engine_prefill_time_sum``, ``engine_decode_time_sum``, ``engine_jump_forward_time_sum``,
    ``prompt_tokens_sum``, ``completion_tokens_sum``, ``prefill_tokens_sum`` (without tokens from
    the prefix cache), ``decode_tokens_sum``, ``jump_forward_tokens_sum``,
    ``prefill_tokens_per_s``, ``decode_tokens_per_s``, and ``last_finished_request`` with the same
    for that one request. Ours: ``running_requests`` (without completions that wait for a load, or
    whose schema or prompt is being prepared; `EngineStatistics` counts them, too),
    ``finished_requests``, ``draft_tokens_sum`` and ``accepted_draft_tokens_sum`` (tokens that
    speculation drafted, and those that were right).
    """

    def prometheus_text(self) -> str:
        """All numbers in Prometheus' text format."""
        lines: list[str] = []
        _lines("", self, lines)
        return "\n".join([*lines, ""])


def _lines(prefix: str, values: Mapping[str, Any], lines: list[str]) -> None:
    for name, value in values.items():
        if isinstance(value, Mapping):
            _lines(f"{prefix}{name}_", value, lines)
        elif isinstance(value, int | float):
            kind = "gauge" if prefix or name in _GAUGES else "counter"
            lines += [f"# TYPE {prefix}{name} {kind}", f"{prefix}{name} {value}"]


def no_metrics() -> dict[str, Any]:
    """The counters of an engine that has done nothing yet."""
    return {
        "running_requests": 0,
        "finished_requests": 0,
        "engine_prefill_time_sum": 0.0,
        "engine_decode_time_sum": 0.0,
        "engine_jump_forward_time_sum": 0.0,
        "prompt_tokens_sum": 0,
        "completion_tokens_sum": 0,
        "prefill_tokens_sum": 0,
        "decode_tokens_sum": 0,
        "jump_forward_tokens_sum": 0,
        "draft_tokens_sum": 0,
        "accepted_draft_tokens_sum": 0,
        "prefill_tokens_per_s": 0.0,
        "decode_tokens_per_s": 0.0,
        "last_finished_request": {},
    }
