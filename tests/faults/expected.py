"""What may become of what was in flight when a fault came."""

from __future__ import annotations

from .bench import FATAL, HANGING, Outcome

_REQUESTS = ("in prefill", "mid-stream", "between requests")
_LOADS = ("loading", "downloading")
_LIMITED = ("out of memory", "disk full")


def problem(phase: str, fault: str, outcome: Outcome) -> str:
    """What is wrong with an outcome; "" if nothing is."""
    allowed = _allowed(phase, fault)
    if outcome.end not in allowed:
        return f"it ended with {outcome.end} ({outcome.message}), not {' or '.join(allowed)}"
    if outcome.end.endswith("Error") and not outcome.message:
        return f"{outcome.end} says nothing"
    if fault in HANGING and phase in (*_LOADS, *_REQUESTS) and not outcome.reported:
        return "nothing said that the worker hangs"
    return "" if outcome.answered else "the next request was not answered as usual"


def _allowed(phase: str, fault: str) -> tuple[str, ...]:
    """The ends of a fault in a phase: requests go on, and other calls may end with one error."""
    if phase in _REQUESTS:
        return ("goes on",)
    if phase == "terminating":
        return ("done",)
    error = "WorkerStartError" if phase == "starting" else "EngineDeadError"
    if fault in FATAL or (fault in HANGING and phase != "unloading"):
        return (error,)
    if fault in _LIMITED or (phase, fault) == ("starting", "files removed"):
        return ("done", error)  # the latter if the notebook had not connected to it yet
    return ("done",)
