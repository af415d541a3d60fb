"""Intents that arrive while a cell runs, in a real kernel."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient

from ..kernels import QUICK_KERNEL, LocalKernelManager

DEADLINE = 60.0
# Python that keeps its thread busy, as a loop over a data frame might, until a file appears.
BUSY = """
import os

print("busy", flush=True)
while not os.path.exists({released!r}):
    for _ in range(100_000):
        pass
print("cell done")
"""


@pytest.fixture(scope="module")
def kernel() -> Iterator[BlockingKernelClient]:
    manager = LocalKernelManager()
    manager.start_kernel(extra_arguments=["--HistoryManager.enabled=False", *QUICK_KERNEL])
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=DEADLINE)
        yield client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def run(kernel: BlockingKernelClient, code: str) -> None:
    reply = kernel.execute(code, reply=True, timeout=DEADLINE)
    assert reply["content"]["status"] == "ok", reply["content"]


def intent(kernel: BlockingKernelClient, comm_id: str, intent_id: str, kind: str) -> None:
    content = {"type": "intent", "id": intent_id, "intent": {"kind": kind}}
    data = {"method": "custom", "content": content}
    message = kernel.session.msg("comm_msg", {"comm_id": comm_id, "data": data})
    kernel.control_channel.send(message)


def until(kernel: BlockingKernelClient, found: Any) -> list[dict[str, Any]]:
    """All messages on iopub up to the first one that matches."""
    seen: list[dict[str, Any]] = []
    deadline = time.monotonic() + DEADLINE
    while not seen or not found(seen[-1]):
        seen.append(kernel.get_iopub_msg(timeout=deadline - time.monotonic()))
    return seen


def ack_of(message: dict[str, Any]) -> str | None:
    data = message["content"].get("data") or {}
    content = data.get("content") or {}
    return content.get("intent") if content.get("type") == "ack" else None


@pytest.fixture(scope="module")
def comm_id(kernel: BlockingKernelClient, model_folder: Path) -> str:
    """The comm of a chat whose reply never ends."""
    script = {"text": "word", "repeat": 100_000, "pace_s": 0.01}
    run(
        kernel,
        "from mlc_widget.proxy.engines import KernelMLCEngine\n"
        "from mlc_widget.widget import ChatWidget\n"
        f"engine = KernelMLCEngine(runtime='scripted', runtime_options={script!r})\n"
        f"engine.reload({str(model_folder)!r})\n"
        "chat = ChatWidget(engine)\n",
    )
    reply = kernel.execute(
        "", user_expressions={"id": "chat._comm_id", "control": "chat._control"}, reply=True
    )
    values = reply["content"]["user_expressions"]
    assert values["control"]["data"]["text/plain"] == "True"
    return str(values["id"]["data"]["text/plain"]).strip("'")


def test_stop_ends_the_reply_while_a_cell_computes(
    kernel: BlockingKernelClient, comm_id: str, tmp_path: Path
) -> None:
    released = tmp_path / "released"
    run(kernel, "reply = chat.send('Go on')")
    kernel.execute(BUSY.format(released=str(released)))
    until(kernel, lambda m: m["content"].get("text") == "busy\n")
    until(kernel, lambda m: m["msg_type"] == "comm_msg" and "delta" in str(m["content"]))
    intent(kernel, comm_id, "stop-1", "stop")
    heard: set[str] = set()

    def acknowledged_and_stopped(message: dict[str, Any]) -> bool:
        if ack_of(message) == "stop-1":
            heard.add("ack")
        if "'status': 'stopped'" in str(message["content"]):
            heard.add("stopped")
        return heard == {"ack", "stopped"}

    until(kernel, acknowledged_and_stopped)  # the cell still computes
    released.touch()
    until(kernel, lambda m: m["content"].get("text") == "cell done\n")
    run(kernel, "assert reply.done() and reply.status == 'stopped'")


def test_other_comms_and_rubbish_on_the_control_channel_do_no_harm(
    kernel: BlockingKernelClient, comm_id: str
) -> None:
    intent(kernel, "of-somebody-else", "x", "stop")
    for content in ({}, {"comm_id": comm_id}, {"comm_id": comm_id, "data": {"method": "update"}}):
        kernel.control_channel.send(kernel.session.msg("comm_msg", content))
    intent(kernel, comm_id, "after", "resync")
    seen = until(kernel, lambda m: ack_of(m) == "after")
    assert "x" not in [ack_of(message) for message in seen]


def test_a_closed_widget_is_forgotten(kernel: BlockingKernelClient, comm_id: str) -> None:
    run(kernel, "chat.close()\nfrom mlc_widget.widget import control")
    run(kernel, f"assert {comm_id!r} not in control._targets")
    run(kernel, "engine.terminate()")


def test_importing_the_widgets_does_not_import_the_runtime(kernel: BlockingKernelClient) -> None:
    run(kernel, "import sys; assert 'tvm' not in sys.modules, 'the notebook pays for TVM'")
