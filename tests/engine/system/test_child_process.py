"""What a child process sends reaches its parent whole, whatever else it prints meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlc_widget.engine.system.child_process import run_child

TALKER = """
import sys, threading
from mlc_widget.engine.system.child_process import send_facts

def talk(who):
    for number in range(100):
        send_facts(who=who, number=number, text="x" * 50)
        print("a library's log", who)

threads = [threading.Thread(target=talk, args=(who,)) for who in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.stdout.write("no end of a line")
send_facts(last=True)
sys.stdout.write('mlc_widget-facts:{"cut": ')
"""


async def test_facts_of_many_threads_arrive_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "talker.py").write_text(TALKER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    facts: list[dict[str, Any]] = []
    output: list[str] = []
    await run_child("talker", {}, facts.append, output.append)
    assert facts.pop() == {"last": True}
    for who in range(8):
        assert [fact["number"] for fact in facts if fact["who"] == who] == list(range(100))
    assert len(facts) == 800
    assert "no end of a line" in output
    assert "Traceback" not in "\n".join(output)
