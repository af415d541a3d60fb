"""docs/architecture.md agrees with the code: every bound and every name."""

from __future__ import annotations

import ast
import importlib
import re
from fractions import Fraction
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
BOUNDS = dict(re.findall(r"^\| `(mlc_widget[\w.]+)` \| ([\d./]+) \|", PAGE, re.MULTILINE))
COMPLETE = (
    *("protocol", "proxy", "worker", "server_engine", "mcp_client"),
    *("api/serving", "api/streams.py", "api/home_loop.py"),
    *("widget/intents.py", "widget/reply_buffer.py", "widget/call_turns.py"),
    *("widget/session.py", "widget/reply_queue.py", "widget/running_reply.py"),
    *("widget/options.py", "widget/title.py", "widget/history.py"),
)
"""Where every number is a bound that the table must have."""
NOT_BOUNDS = {
    "mlc_widget.protocol.messages.PROTOCOL_VERSION",
    "mlc_widget.worker.services._ENGINE_DEAD",
    "mlc_widget.worker.resources._EXHAUSTED",
    "mlc_widget.protocol.errors._MAX_TRACEBACK",
}


def numbers_of(file: Path) -> list[str]:
    """The module's constants that are numbers, by their full names."""
    module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
    loaded = importlib.import_module(module)
    names = []
    for node in ast.parse(file.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names += [t.id for t in targets if isinstance(t, ast.Name) and t.id.lstrip("_").isupper()]
    return [f"{module}.{n}" for n in names if type(getattr(loaded, n)) in (int, float)]


@pytest.mark.parametrize("name", BOUNDS)
def test_each_bound_is_what_the_page_says(name: str) -> None:
    module, _, constant = name.rpartition(".")
    assert getattr(importlib.import_module(module), constant) == float(Fraction(BOUNDS[name]))


def test_no_bound_is_missing_from_the_page() -> None:
    files = []
    for place in COMPLETE:
        path = ROOT / "mlc_widget" / place
        files += [path] if path.is_file() else sorted(path.glob("*.py"))
    files = [file for file in files if file.name != "__main__.py"]
    found = {name for file in files for name in numbers_of(file)}
    missing = found - set(BOUNDS) - NOT_BOUNDS
    assert not missing, f"add them, with their reasons, to docs/architecture.md: {sorted(missing)}"


def test_a_clients_credit_cannot_fill_the_worker_s_queue() -> None:
    from mlc_widget.proxy.stream_receiver import STREAM_CREDIT
    from mlc_widget.worker.client_streams import MAX_STREAMS
    from mlc_widget.worker.kernel import IOPUB_QUEUE
    from mlc_widget.worker.stream_sender import MAX_CREDIT, PROBES

    assert STREAM_CREDIT <= MAX_CREDIT
    # A message has one chunk at least; each stream may be probed, and has a first and a last one.
    assert MAX_STREAMS * (MAX_CREDIT + PROBES + 2) < IOPUB_QUEUE


def test_gathering_never_holds_the_choices_back() -> None:
    from mlc_widget.engine import generation

    assert generation._AHEAD < generation._MANY < generation._AHEAD_OF_BATCH


def test_the_names_in_the_text_are_in_the_code() -> None:
    prose = PAGE[PAGE.index("## Invariants") :]
    code = "\n".join(path.read_text() for path in (ROOT / "mlc_widget").rglob("*.py"))
    code += "\n".join(path.read_text() for path in (ROOT / "js" / "src").rglob("*.ts"))
    for name in re.findall(r"`([A-Za-z_][\w.]*)`", prose):
        last = name.rpartition(".")[2]
        assert re.search(rf"\b{re.escape(last)}\b", code), f"`{name}` is not in the code"
