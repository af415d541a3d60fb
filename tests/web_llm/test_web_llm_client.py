"""The real ``@mlc-ai/web-llm`` client, under Node, drives our handler in a real worker kernel."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest
import zmq

from mlc_widget.protocol.messages import COMM_TARGET
from mlc_widget.protocol.worker_settings import WorkerSettings
from mlc_widget.proxy.connection import WorkerConnection
from mlc_widget.proxy.process import WorkerProcess

pytest.importorskip("tvm", reason="needs mlc-widget[tvm]")

HERE = Path(__file__).parent
ENCODER = HERE.parent / "fixtures" / "embeddings" / "bert"
SCENARIOS = re.findall(r'^  async "(.+)"\(', (HERE / "client.mjs").read_text(), re.MULTILINE)
DEADLINE_S = 300.0


@pytest.fixture(scope="module")
def node() -> str:
    """Node, with the client's package installed at the version that the lockfile names."""
    found, npm = shutil.which("node"), shutil.which("npm")
    assert found is not None, "Node is needed: the front end is built with it, too"
    assert npm is not None
    if not (HERE / "node_modules" / ".package-lock.json").is_file():
        command = [npm, "ci", "--no-audit", "--no-fund", "--silent", "--prefer-offline"]
        subprocess.run(command, cwd=HERE, check=True, timeout=300)
    return found


class Shim:
    """A comm client of a worker that never says hello, as WebLLM's own client does not."""

    def __init__(self, process: WorkerProcess) -> None:
        self._shell, self._iopub, self._session = process.connect()
        self._comm_id = uuid.uuid4().hex
        self._iopub.setsockopt(zmq.SUBSCRIBE, f"comm-{self._comm_id}".encode())

    def _send(self, kind: str, content: dict[str, Any]) -> None:
        self._session.send(self._shell, kind, {"comm_id": self._comm_id, **content})

    async def open(self) -> None:
        self._send("comm_open", {"target_name": COMM_TARGET, "data": {}})
        while True:
            self.post({"kind": "keepAlive", "uuid": "open", "content": None})
            try:
                await asyncio.wait_for(self.receive(), 0.2)
                return
            except TimeoutError:
                continue

    def post(self, data: dict[str, Any]) -> None:
        self._send("comm_msg", {"data": data})

    async def receive(self) -> dict[str, Any]:
        while True:
            frames = await self._iopub.recv_multipart()
            _, frames = self._session.feed_identities(frames)
            message = self._session.deserialize(frames)
            if message["msg_type"] == "comm_msg":
                return dict(message["content"]["data"])

    def close(self) -> None:
        self._shell.close(0)
        self._iopub.close(0)


async def drive(node: str, model: Path, other: Path) -> tuple[dict[str, str | None], list[str]]:
    """Each scenario's error; and the kinds of all messages that came down."""
    process = WorkerProcess(WorkerSettings(runtime="tvm"))
    await process.start()
    shim, ours = Shim(process), WorkerConnection(*process.connect(), lambda _: None)
    results: dict[str, str | None] = {}
    kinds: list[str] = []
    try:
        await ours.open(timeout=60)
        await shim.open()
        client = await asyncio.create_subprocess_exec(
            node,
            str(HERE / "client.mjs"),
            str(model),
            str(other),
            str(ENCODER),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert client.stdin is not None
        assert client.stdout is not None
        to_client = client.stdin

        def tell(message: dict[str, Any]) -> None:
            to_client.write(json.dumps(message).encode() + b"\n")

        async def down() -> None:
            while True:
                message = await shim.receive()
                if message.get("uuid") == "open":
                    continue
                kinds.append(message["kind"])
                tell(message)

        downward = asyncio.create_task(down())
        async for line in client.stdout:
            said = json.loads(line)
            if "post" in said:
                shim.post(said["post"])
            elif "ask" in said:
                await ours.call("reload", {"modelId": [str(other)]})
                tell({"kind": "loadedOther"})
            else:
                results[said["scenario"]] = said["error"]
        await client.wait()
        downward.cancel()
        metrics = await ours.call("metrics")
        results["nothing runs any more"] = str(metrics["running_requests"] or "") or None
    finally:
        await ours.close()
        shim.close()
        await process.stop()
    return results, kinds


@pytest.fixture(scope="module")
def outcome(
    node: str,
    tiny_model: Path,
    other_tiny_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, str | None], list[str]]:
    async def run() -> tuple[dict[str, str | None], list[str]]:
        return await asyncio.wait_for(drive(node, tiny_model, other_tiny_model), DEADLINE_S)

    with pytest.MonkeyPatch.context() as patch:  # where sessions are kept
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        return asyncio.run(run())


@pytest.mark.parametrize("scenario", [*SCENARIOS, "nothing runs any more"])
def test_web_llm_client(outcome: tuple[dict[str, str | None], list[str]], scenario: str) -> None:
    results, _ = outcome
    assert scenario in results, "the client did not get that far"
    assert results[scenario] is None, results[scenario]


def test_a_peer_that_said_no_hello_gets_only_web_llms_kinds(
    outcome: tuple[dict[str, str | None], list[str]],
) -> None:
    assert set(outcome[1]) == {"return", "throw", "initProgressCallback"}
