"""The engine's counters: sums over all finished requests, under mlc_llm's names."""

from __future__ import annotations

from collections.abc import Sequence

from mlc_widget.api.requests import JSONDict
from mlc_widget.engine.runtimes.base import GenerationStats


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


class Counters:
    """Sums over finished requests."""

    def __init__(self) -> None:
        self._finished = 0
        self._prompt_tokens = 0
        self._prefill_tokens = 0
        self._decode_tokens = 0
        self._completion_tokens = 0
        self._draft_tokens = 0
        self._accepted_draft_tokens = 0
        self._prefill_s = 0.0
        self._decode_s = 0.0
        self._last: JSONDict = {}

    def add(self, stats: Sequence[GenerationStats], completion_tokens: int) -> None:
        """Add a finished request, given the statistics of its finished choices."""
        self._finished += 1
        self._completion_tokens += completion_tokens
        if not stats:
            return
        prefill_tokens = stats[0].prompt_tokens - stats[0].cached_tokens
        decode_tokens = max(completion_tokens - len(stats), 0)
        prefill_s = max(s.prefill_s for s in stats)
        decode_s = max(s.decode_s for s in stats)
        queue_s = max(s.queue_s for s in stats)
        self._prompt_tokens += stats[0].prompt_tokens
        self._prefill_tokens += prefill_tokens
        self._decode_tokens += decode_tokens
        self._draft_tokens += (drafted := sum(s.draft_tokens for s in stats))
        self._accepted_draft_tokens += (accepted := sum(s.accepted_draft_tokens for s in stats))
        self._prefill_s += prefill_s
        self._decode_s += decode_s
        self._last = {
            "prompt_tokens": stats[0].prompt_tokens,
            "completion_tokens": completion_tokens,
            "prefill_tokens": prefill_tokens,
            "decode_tokens": decode_tokens,
            "jump_forward_tokens": 0,
            "draft_tokens": drafted,
            "accepted_draft_tokens": accepted,
            "prefill_tokens_per_s": _rate(prefill_tokens, prefill_s),
            "decode_tokens_per_s": _rate(decode_tokens, decode_s),
            "end_to_end_latency_s": queue_s + prefill_s + decode_s,
            "ttft_s": queue_s + prefill_s,
            "inter_token_latency_s": decode_s / decode_tokens if decode_tokens else 0.0,
        }

    def read(self, running: int) -> JSONDict:
        """The current sums; see `mlc_widget.api.metrics.EngineMetrics`."""
        return {
            "running_requests": running,
            "finished_requests": self._finished,
            "engine_prefill_time_sum": self._prefill_s,
            "engine_decode_time_sum": self._decode_s,
            "engine_jump_forward_time_sum": 0.0,
            "prompt_tokens_sum": self._prompt_tokens,
            "completion_tokens_sum": self._completion_tokens,
            "prefill_tokens_sum": self._prefill_tokens,
            "decode_tokens_sum": self._decode_tokens,
            "jump_forward_tokens_sum": 0,
            "draft_tokens_sum": self._draft_tokens,
            "accepted_draft_tokens_sum": self._accepted_draft_tokens,
            "prefill_tokens_per_s": _rate(self._prefill_tokens, self._prefill_s),
            "decode_tokens_per_s": _rate(self._decode_tokens, self._decode_s),
            "last_finished_request": self._last,
        }
