"""Thousands of requests of four clients of one shared worker, with kills of both; writes a report.

``make soak`` runs it with 10,000 requests and writes docs/soak.md;
``python -m tests.soak.shared --requests 300 --no-report`` is a short form.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Final

import psutil

from mlc_widget import AsyncKernelMLCEngine, __version__
from mlc_widget.protocol.worker_record import DIRECTORY_VARIABLE
from mlc_widget.proxy.shared_workers import stop_worker

from ..pages import replace_part
from ..waiting import until, until_idle
from .client import MODEL, OPTIONS, PROMPTS, SHARE, request, usage

PAGE: Final = Path(__file__).parents[2] / "docs" / "soak.md"
BEGIN: Final = "<!-- written by `make soak` -->"
CLIENTS: Final = 4
MOST_KILLS: Final = 8
"""Of each: of the worker, and of clients. None comes in the last third of the requests."""
_REQUESTS_PER_KILL: Final = 100
TOLERANCES: Final = {
    "memory": 32 * 1024**2,
    "descriptors": 0,
    # Threads of an event loop's pool start when they are first needed.
    "threads": min(32, (os.cpu_count() or 1) + 4),
}
_MOST_S_PER_REQUEST: Final = 1.0
_CLIENT: Final = f"{__package__}.client"


@dataclass
class Report:
    """What happened.

    Attributes:
        requests: How many were to be made.
        seconds: How long it took.
        ends: How many ended in which way.
        worker_kills: How many workers were killed.
        client_kills: How many clients were killed.
        usage: What each process held before and after.
        problems: What went wrong.
    """

    requests: int
    seconds: float = 0.0
    ends: Counter[str] = field(default_factory=Counter)
    worker_kills: int = 0
    client_kills: int = 0
    usage: dict[str, tuple[dict[str, int], dict[str, int]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def compare(self, name: str, before: dict[str, int], after: dict[str, int]) -> None:
        """Note what a process held before and after; more of anything is a problem."""
        self.usage[name] = before, after
        for what, amount in after.items():
            if amount > before[what] + TOLERANCES[what]:
                self.problems.append(f"{name}: {what} grew from {before[what]} to {amount}")

    def text(self) -> str:
        """The report in Markdown."""
        ends = ", ".join(f"{count:,} {how}" for how, count in self.ends.most_common())
        summary = (
            f"{date.today().isoformat()}, mlc_widget {__version__}: {self.requests:,} requests of "
            f"{CLIENTS} clients in {self.seconds / 60:.0f} min; {self.worker_kills} workers and "
            f"{self.client_kills} clients were killed. {ends}."
        )
        lines = [
            summary,
            "",
            "| | memory, MiB | descriptors | threads |",
            "| --- | --- | --- | --- |",
        ]
        for name, (before, after) in self.usage.items():
            memory = " → ".join(f"{u['memory'] / 1024**2:.0f}" for u in (before, after))
            rest = [f"{before[w]} → {after[w]}" for w in ("descriptors", "threads")]
            lines.append(f"| {name} | {memory} | {' | '.join(rest)} |")
        return "\n".join(lines)


class Soak:
    """One run, in a folder of its own for all files.

    Args:
        requests: How many requests to make.
        seed: Of everything that is random.
    """

    def __init__(self, requests: int, seed: int) -> None:
        self.report = Report(requests)
        self._draw = random.Random(seed)
        self._folder = Path(tempfile.mkdtemp(prefix="s-"))
        self._temporary = self._folder / "t"
        self._temporary.mkdir()
        variables = {"TMPDIR": self._temporary, DIRECTORY_VARIABLE: self._temporary / "records"}
        os.environ.update({name: str(path) for name, path in variables.items()})
        tempfile.tempdir = str(self._temporary)
        self._clients: dict[int, subprocess.Popen[bytes]] = {}

    async def run(self) -> Report:
        """Make all requests, and look what is left of them."""
        own = psutil.Process()
        engine = AsyncKernelMLCEngine(**OPTIONS)
        started = time.monotonic()
        try:
            await engine.reload(MODEL)
            await self._write_expected(engine)
            before = await self._held(engine), usage(own)
            async with asyncio.timeout(60 + self.report.requests * _MOST_S_PER_REQUEST):
                await self._serve_all(engine)
            await self._answered(engine)
            after = await self._held(engine), usage(own)
            self.report.compare("the worker, with one client", before[0], after[0])
            self.report.compare("that client, which saw all workers", before[1], after[1])
        finally:
            for process in self._clients.values():
                process.kill()
                process.wait()
            await engine.terminate()
            await asyncio.to_thread(stop_worker, SHARE)
        self.report.seconds = time.monotonic() - started
        self._account()
        await self._look_for_rest(own)
        shutil.rmtree(self._folder)
        return self.report

    async def _write_expected(self, engine: AsyncKernelMLCEngine) -> None:
        answers = [await self._ask(engine, prompt) for prompt in range(PROMPTS)]
        (self._folder / "expected.json").write_text(json.dumps(answers))

    async def _ask(self, engine: AsyncKernelMLCEngine, prompt: int) -> str:
        answer = await engine.chat.completions.create(**request(prompt))
        return answer.choices[0].message.content or ""

    async def _answered(self, engine: AsyncKernelMLCEngine) -> None:
        """Bring a new worker to the state in which the first one was measured."""
        await self._write_expected(engine)

    async def _held(self, engine: AsyncKernelMLCEngine) -> dict[str, int]:
        """What the worker holds once nobody but this client uses it."""
        await until_idle(engine)
        worker = psutil.Process(engine.worker_pid)
        seen: list[dict[str, int]] = []

        def at_rest() -> bool:
            seen.append(usage(worker))
            last = [(u["descriptors"], u["threads"]) for u in seen[-200:]]
            return len(last) == 200 and len(set(last)) == 1

        await until(at_rest)
        return seen[-1]

    # The clients

    async def _serve_all(self, engine: AsyncKernelMLCEngine) -> None:
        for index in range(CLIENTS):
            self._start(index)
        total = self.report.requests
        count = 2 * min(MOST_KILLS, max(1, total // _REQUESTS_PER_KILL))
        kills = [(2 * total * (i + 1) // (3 * (count + 1)), i % 2 == 0) for i in range(count)]
        while self._clients:
            await asyncio.sleep(0.05)
            begun = len(self._lines("begin"))
            while kills and begun >= kills[0][0]:
                _, of_worker = kills.pop(0)
                await self._kill(engine, of_worker=of_worker)
            for index, process in list(self._clients.items()):
                if process.poll() is not None:
                    del self._clients[index]
                    if process.returncode != 0:
                        self.report.problems.append(
                            f"client {index} ended with {process.returncode}"
                        )

    def _start(self, index: int) -> None:
        begun = json.dumps([line["begin"] for line in self._lines("begin", index)])
        numbers = [index, self.report.requests, CLIENTS, self._draw.randrange(2**31)]
        arguments = [str(self._folder), str(index), *map(str, numbers), begun]
        self._clients[index] = subprocess.Popen([sys.executable, "-m", _CLIENT, *arguments])

    async def _kill(self, engine: AsyncKernelMLCEngine, *, of_worker: bool) -> None:
        if of_worker:
            pid = engine.worker_pid
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                self.report.worker_kills += 1
                await until(lambda: engine.worker_pid != pid)
                await self._ask(engine, 0)
            return
        index = self._draw.choice([i for i in self._clients if i] or [0])  # the first one stays
        if index in self._clients and index:
            self._clients[index].kill()
            self._clients[index].wait()
            self.report.client_kills += 1
            self._start(index)

    def _lines(self, key: str, index: int | None = None) -> list[dict[str, Any]]:
        """Lines of the logs that have a key."""
        indexes = range(CLIENTS) if index is None else [index]
        paths = [self._folder / f"log-{i}" for i in indexes]
        lines = [
            json.loads(line)
            for path in paths
            if path.exists()
            for line in path.read_text().splitlines()
        ]
        return [line for line in lines if key in line]

    # What is left

    def _account(self) -> None:
        """Each request began once, and ended once unless its client was killed meanwhile."""
        begun = Counter(line["begin"] for line in self._lines("begin"))
        ended = Counter(line["end"] for line in self._lines("end"))
        problems = self.report.problems
        if set(begun) != set(range(self.report.requests)):
            problems.append(f"{self.report.requests - len(begun)} requests were never made")
        problems += [f"request {n} began {c} times" for n, c in begun.items() if c != 1]
        problems += [f"request {n} ended {c} times" for n, c in ended.items() if c != 1]
        for line in self._lines("end"):
            how = line["how"]
            if how == "error" and "Two workers died during this request" in line["error"]:
                how = "ended with an error as two workers were killed meanwhile"
            self.report.ends[how] += 1
            if how in ("wrong", "error"):
                problems.append(f"request {line['end']}: {line['error']}")
        unfinished = len(begun.keys() - ended.keys())
        self.report.ends["were in flight when their client was killed"] = unfinished
        if unfinished > 3 * self.report.client_kills:
            problems.append(f"{unfinished} requests have no end")
        before, after = (line["usage"] for line in self._lines("usage", 0))
        self.report.compare("a client that stayed", before, after)

    async def _look_for_rest(self, own: psutil.Process) -> None:
        def processes() -> list[psutil.Process]:
            return own.children(recursive=True)

        try:
            await until(lambda: not processes())
        except TimeoutError:
            self.report.problems.append(f"processes are left: {processes()}")
        # The lock of a worker's name stays, as whoever waits for it could not see it go.
        files = [path for path in self._temporary.rglob("*") if not path.is_dir()]
        if left := [path.name for path in files if path.name != f"{SHARE}.lock"]:
            self.report.problems.append(f"files are left: {left}")


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-report", action="store_true", help="do not write docs/soak.md")
    options = parser.parse_args()
    report = asyncio.run(Soak(options.requests, options.seed).run())
    print(report.text())
    for problem in report.problems:
        print(f"WRONG: {problem}")
    if report.problems:
        return 1
    if not options.no_report:
        replace_part(PAGE, BEGIN, report.text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
