"""What the worker's kernel answers to a front end, and to a comm that is opened wrongly."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
from jupyter_client.session import Session

from mlc_widget.worker.app import WorkerKernelApp
from mlc_widget.worker.kernel import WorkerKernel


class NotingSession(Session):
    """Notes what is sent."""

    def __init__(self) -> None:
        super().__init__(key=b"")
        self.sent: list[tuple[str, Any]] = []

    def send(self, stream: Any, msg_or_type: Any, content: Any = None, *_: Any, **__: Any) -> Any:
        self.sent.append((msg_or_type, content))
        return content


@pytest.fixture
def session() -> NotingSession:
    return NotingSession()


@pytest.fixture
def kernel(session: NotingSession) -> WorkerKernel:
    return WorkerKernel(session=session, log=logging.getLogger("worker-kernel"))


def ask(kernel: WorkerKernel, kind: str, content: dict[str, Any]) -> None:
    handle = kernel.control_handlers[kind]
    asyncio.run(handle(None, [], {"header": {}, "content": content}))


def test_front_ends_are_told_of_no_subshells_and_no_debugger(
    kernel: WorkerKernel, session: NotingSession
) -> None:
    kernel.shell_channel_thread = object()  # as it has in a process
    ask(kernel, "kernel_info_request", {})
    [(kind, content)] = session.sent
    assert kind == "kernel_info_reply"
    assert content["supported_features"] == []
    assert content["implementation"] == "mlc_widget"
    assert content["protocol_version"].startswith("5.")


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        # On a subshell's thread the engine would end with the subshell, and the lease with it.
        ("create_subshell_request", {}),
        ("debug_request", {"type": "request", "seq": 1, "command": "debugInfo"}),
    ],
)
def test_what_it_does_not_have_is_refused(
    kernel: WorkerKernel, session: NotingSession, kind: str, content: dict[str, Any]
) -> None:
    if kind not in kernel.control_handlers:
        pytest.skip("this ipykernel has no such request")
    ask(kernel, kind, content)
    [(answer, refused)] = session.sent
    assert answer == kind.replace("request", "reply")
    assert "runs no code" in str(refused)
    assert refused.get("success") is False or refused["status"] == "error"


@pytest.mark.parametrize("data", ["x", 5, [1], True])
def test_a_comm_that_is_opened_with_something_else_is_refused(data: Any) -> None:
    sent: list[Any] = []
    taken: list[Any] = []
    comm = SimpleNamespace(send=sent.append, on_msg=taken.append)
    app = cast("Any", SimpleNamespace(_settled=True, _lease=None))
    WorkerKernelApp._on_open(app, comm, {"content": {"data": data}})
    taken[0]({"content": {"data": {"kind": "hello", "uuid": "u"}}})
    assert sent[0]["error"]["type"] == "ProtocolError"
    assert sent[0]["error"]["message"] == f"data = {data!r}: must be an object"
