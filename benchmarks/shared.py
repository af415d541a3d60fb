"""Several notebooks on one shared worker: memory, tokens per second, and each one's share.

Every client is a process of its own, with SmolLM2-135M or another model::

    python benchmarks/shared.py [--model smollm2-135m] [--clients 8] [--seconds 3] [--flood 16]

Printed are: the worker's memory with all clients, and that of a worker whose only client got as
many tokens, since the pages of the prefix cache take memory as they are first written, whoever
asks; the clients' tokens per second all at once, one after the other, and with as many requests of
one client; what the slowest gets, as a part of an equal share; and the same where the first client
has many requests at once and all others have one.

All clients at once, one alone, and as many requests of one follow each other in rounds, one for
each client's turn, so that a machine that is faster at one time than at another does not favour
any. The first run after a change of the kernels compiles them in the worker, which takes memory:
run it twice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from _process import Process

from mlc_widget.proxy.shared_workers import running_workers, stop_worker


def memory_mb(name: str) -> float:
    """The memory of the worker's process."""
    [worker] = [w for w in asyncio.run(running_workers()) if w.record.name == name]
    assert worker.info is not None, worker.problem
    return float(worker.info["memory_bytes"]) / 1e6


def tokens(client: Process, seconds: float, at_once: int = 1) -> int:
    """How many tokens a client gets in so many seconds."""
    answer = client.ask(json.dumps({"seconds": seconds, "at_once": at_once}))
    return int(answer["tokens"])


def together(clients: list[Process], seconds: float, flood: int = 1) -> list[int]:
    """The tokens of each client, all at once; the first has so many requests."""
    with ThreadPoolExecutor(len(clients)) as pool:
        asked = [
            pool.submit(tokens, client, seconds, 1 if i else flood)
            for i, client in enumerate(clients)
        ]
        return [one.result() for one in asked]


@contextmanager
def sharing(name: str, model: str, count: int) -> Iterator[list[Process]]:
    """So many clients of a worker of this name, which ends with them."""
    clients: list[Process] = []
    try:
        for i in range(count):
            arguments = name, model, f"number {i}"
            clients.append(Process(sys.executable, "_shared_client.py", *arguments))
        yield clients
    finally:
        for client in clients:
            client.close()
        stop_worker(name)


def memory_with_one(name: str, model: str, seconds: float, least: int) -> float:
    """The memory of a worker with one client, after it has given it at least so many tokens."""
    with sharing(name, model, 1) as [client]:
        got = 0
        while got < least:
            got += tokens(client, seconds)
        return memory_mb(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--flood", type=int, default=16)
    given = parser.parse_args()
    name = f"benchmark-{os.getpid()}"
    everyone, alone, by_one = [0] * given.clients, 0, 0
    with sharing(f"{name}-first", given.model, 1) as [client]:
        tokens(client, 1.0)  # compiles the kernels, which takes memory
    with sharing(name, given.model, given.clients) as clients:
        got = tokens(clients[0], given.seconds)
        got += sum(together(clients, given.seconds))
        for client in clients:
            at_once = together(clients, given.seconds)
            everyone = [a + b for a, b in zip(everyone, at_once, strict=True)]
            alone += tokens(client, given.seconds)
            by_one += tokens(client, given.seconds, given.clients)
        several = memory_mb(name)
        flooded = together(clients, given.seconds, given.flood)[1:]
    total = sum(everyone)
    got += total + alone + by_one
    one = memory_with_one(f"{name}-one", given.model, given.seconds, got)
    measured = given.seconds * given.clients
    print(f"{given.clients} clients of {given.model}:")
    print(
        f"  memory: {several:.0f} MB, with one client for as many tokens {one:.0f} MB: "
        f"{several / one:.2f} times"
    )
    print(
        f"  tokens per second: {total / measured:.0f}, in turns {alone / measured:.0f}: "
        f"{total / alone:.2f} times (as many requests of one client: {by_one / alone:.2f} times)"
    )
    print(f"  the slowest has {min(everyone) * given.clients / total:.2f} of an equal share")
    print(
        f"  beside {given.flood} requests of another, the slowest has "
        f"{min(flooded) / (total / given.clients**2):.2f} of what it had"
    )


if __name__ == "__main__":
    main()
