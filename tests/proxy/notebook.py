"""A user's real Jupyter kernel."""

from __future__ import annotations

from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient

from ..kernels import LocalKernelManager

DEADLINE_S = 60.0


class Notebook:
    """A kernel with cells, started with these arguments."""

    def __init__(self, *arguments: str) -> None:
        self.manager = LocalKernelManager()
        self.manager.start_kernel(extra_arguments=[*arguments])
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        try:
            self.client.wait_for_ready(timeout=DEADLINE_S)
        except BaseException:
            self.close()
            raise

    def begin(self, code: str) -> str:
        return str(self.client.execute(code))

    def end(self, cell: str) -> tuple[dict[str, Any], str]:
        """A cell's reply, and what it printed."""
        printed = ""
        while True:
            message = self.client.get_iopub_msg(timeout=DEADLINE_S)
            if message["parent_header"].get("msg_id") != cell:
                continue
            if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
                printed += message["content"]["text"]
            if message["content"].get("execution_state") == "idle":
                break
        while True:
            reply = self.client.get_shell_msg(timeout=DEADLINE_S)
            if reply["parent_header"].get("msg_id") == cell:
                return reply["content"], printed

    def run(self, code: str) -> str:
        reply, printed = self.end(self.begin(code))
        assert reply["status"] == "ok", "\n".join(reply.get("traceback", []))
        return printed.strip()

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
