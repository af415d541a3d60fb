"""What the worker's kernel answers to a front end, and to a comm that is opened wrongly."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
import zmq
from jupyter_client.session import Session

from mlc_widget.protocol.worker_settings import VARIABLE
from mlc_widget.worker import kernel as module
from mlc_widget.worker.app import WorkerKernelApp
from mlc_widget.worker.kernel import IOPUB_QUEUE, WorkerKernel
from mlc_widget.worker.services import WorkerServices


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


async def test_each_client_gets_a_queue_that_its_credit_cannot_fill(
    session: NotingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another application has made the sockets, as a launcher's does."""
    monkeypatch.delenv(VARIABLE, raising=False)
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        thread = SimpleNamespace(schedule=lambda call: call(), socket=socket)
        kernel = WorkerKernel(session=session, log=logging.getLogger(), iopub_thread=thread)
        services = WorkerServices(pytest.fail, kernel._widen_iopub)
        taken: list[Any] = []
        comm: Any = SimpleNamespace(
            send=lambda *_: None, on_msg=taken.append, on_close=lambda _: None
        )
        services.on_open(comm, {"content": {"data": {"settings": {"runtime": "scripted"}}}})
        for kind, widened in (("hello", False), ("hello", False), ("keepAlive", True)):
            taken[0]({"content": {"data": {"kind": kind, "uuid": "u", "content": {}}}})
            assert (socket.sndhwm == IOPUB_QUEUE) is widened


async def test_a_kernel_that_does_not_end_in_time_is_ended(
    kernel: WorkerKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    call_soon = asyncio.get_running_loop().call_soon_threadsafe
    monkeypatch.setattr(module, "_END_S", 0.01)
    monkeypatch.setattr(kernel, "_leave", lambda why: call_soon(left.set_result, why))
    assert await kernel.do_shutdown(restart=False) == {"status": "ok", "restart": False}
    assert await left == "The worker was told to end, and has not in 0.01 s."


@pytest.mark.parametrize("data", ["x", 5, [1], True])
def test_a_comm_that_is_opened_with_something_else_is_refused(data: Any) -> None:
    sent: list[Any] = []
    taken: list[Any] = []
    comm = SimpleNamespace(send=sent.append, on_msg=taken.append)
    services = cast("Any", SimpleNamespace(_settled=True, _lease=None))
    WorkerServices.on_open(services, comm, {"content": {"data": data}})
    taken[0]({"content": {"data": {"kind": "hello", "uuid": "u"}}})
    assert sent[0]["error"]["type"] == "ProtocolError"
    assert sent[0]["error"]["message"] == f"data = {data!r}: must be an object"


def test_no_thread_reads_a_client_s_messages_ahead_of_another_s() -> None:
    """The shell's socket takes turns among clients, as long as it is read one by one."""
    app = WorkerKernelApp(ip="127.0.0.1")
    context = zmq.Context()
    try:
        app.shell_socket = context.socket(zmq.ROUTER)
        app.init_control(context)
        assert getattr(app, "shell_channel_thread", None) is None
    finally:
        context.destroy(linger=0)
