"""Several notebooks on one shared worker: memory, tokens per second, and each one's share.

Every client is a process of its own, with SmolLM2-135M or another model::

    python benchmarks/shared.py [--model smollm2-135m] [--clients 8] [--seconds 5] [--flood 16]

Printed are: the worker's memory with all clients, and with one; the clients' tokens per second all
at once, and one after the other; what the slowest gets, as a part of an equal share; and the same
where the first client has many requests at once and all others have one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--flood", type=int, default=16)
    given = parser.parse_args()
    name = f"benchmark-{os.getpid()}"
    clients: list[Process] = []
    try:
        for i in range(given.clients):
            arguments = name, given.model, f"number {i}"
            clients.append(Process(sys.executable, "_shared_client.py", *arguments))
            if not i:
                tokens(clients[0], given.seconds)  # kernels are compiled, buffers have their size
                one = memory_mb(name)
        turns = sum(tokens(client, given.seconds) for client in clients) / given.clients
        all_at_once = together(clients, given.seconds)
        several = memory_mb(name)
        flooded = together(clients, given.seconds, given.flood)[1:]
    finally:
        for client in clients:
            client.close()
        stop_worker(name)
    total = sum(all_at_once)
    print(f"{given.clients} clients of {given.model}:")
    print(f"  memory: {several:.0f} MB, with one {one:.0f} MB: {several / one:.2f} times")
    print(
        f"  tokens per second: {total / given.seconds:.0f}, in turns {turns / given.seconds:.0f}: "
        f"{total / turns:.2f} times"
    )
    print(f"  the slowest has {min(all_at_once) * given.clients / total:.2f} of an equal share")
    print(
        f"  beside {given.flood} requests of another, the slowest has "
        f"{min(flooded) / (total / given.clients):.2f} of what it had"
    )


if __name__ == "__main__":
    main()
