"""A client's hostile messages neither crash nor hang a shared worker, nor reach another client."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.session import json_packer

from mlc_widget.worker import reorder_buffer

from ..waiting import until
from .conftest import Bench, Client, hello
from .hostile_messages import SECRET, VICTIM_REQUEST, VICTIM_STREAM, Attacker, awaits_answer

COUNTS = [2_000, pytest.param(100_000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
_BURST = 50
_CREDIT = 64


class Hostile(Client):
    """Counts answers instead of keeping them, and refuses what the sockets would refuse."""

    def __init__(self, *args: Any) -> None:
        self.answers: Counter[str] = Counter()
        super().__init__(*args)

    def _receive(self, message: dict[str, Any]) -> None:
        packed = json_packer(message)
        assert SECRET.encode() not in packed
        if message["kind"] in ("return", "throw"):
            self.answers[message["uuid"]] += 1
        if message["kind"] == "chunks":
            assert message["uuid"].startswith("hostile")


class Victim:
    """Reads the same answer again and again, as one stream each time."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.request = {
            "messages": [{"role": "user", "content": SECRET}],
            "request_id": VICTIM_REQUEST,
            "max_tokens": 1000,
        }
        self.expected = self.text = ""
        self.answers = 0
        self._init = ""

    async def begin(self) -> None:
        """Remember the answer as it is without an attack, and begin to stream it."""
        answer = await self.client.call("chatCompletionNonStreaming", {"request": self.request})
        self.expected = answer["content"]["choices"][0]["message"]["content"]
        assert SECRET in self.expected
        self._open()

    def _open(self) -> None:
        self.text, self._seq = "", 0
        content = {"request": self.request, "streamId": VICTIM_STREAM, "credit": _CREDIT}
        self._init = self.client.post("chatCompletionStreamInit", content)

    async def read_on(self) -> None:
        """Wait for more of the answer, and check it."""
        message = await self.client.until(lambda m: m["uuid"] == self._init)
        while True:
            self.client.down.remove(message)
            if message["kind"] == "return":
                assert self.text == self.expected
                self.answers += 1
                self._open()
                return
            assert message["kind"] == "chunks", message
            assert message["seq"] == self._seq
            self._seq += 1
            self.text += "".join(
                c["choices"][0]["delta"].get("content") or "" for c in message["content"]
            )
            assert self.expected.startswith(self.text)
            credit = {"streamId": VICTIM_STREAM, "credit": len(message["content"])}
            self.client.post("streamCredit", credit)
            more = [m for m in self.client.down if m["uuid"] == self._init]
            if not more:
                return
            message = more[0]


@pytest.mark.filterwarnings("ignore:Message serialization failed")  # Jupyter's, of answers with nan
@pytest.mark.parametrize("count", COUNTS)
async def test_a_client_survives_the_hostile_messages_of_another(
    make: Callable[..., Bench],
    tiny_model: Path,
    count: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Each gap in the numbers takes that long, and there are many.
    monkeypatch.setattr(reorder_buffer, "PATIENCE_S", 0.001)
    monkeypatch.setattr(reorder_buffer, "_LOOKS", 1)
    bench = make(echo=True, repeat=10**6)
    victim, client = bench.client(), bench.client(Hostile)
    assert isinstance(client, Hostile)
    await hello(victim, {"pid": os.getpid()})
    await victim.call("reload", {"modelId": [str(tiny_model)]})
    reader = Victim(victim)
    await reader.begin()
    attacker, awaited = Attacker(count, str(tiny_model)), set()
    for sent in range(count):
        message = attacker.message()
        client.handler.on_message(message)
        if uuid := awaits_answer(message):
            awaited.add(uuid)
        if sent % _BURST == 0:
            await reader.read_on()

    missing = set(awaited)

    def all_answered() -> bool:
        client.post("interruptGenerate")  # of its own streams that wait for credit
        missing.difference_update(client.answers)
        return not missing

    await until(all_answered)
    assert {client.answers[uuid] for uuid in awaited} == {1}
    answers = reader.answers
    while reader.answers < answers + 2:
        await reader.read_on()
