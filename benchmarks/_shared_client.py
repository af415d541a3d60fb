"""A client of a shared worker, for `shared.py`: a line with seconds runs requests for so long."""

from __future__ import annotations

import json
import sys
import threading
import time

from mlc_widget import kernel_mlc_engine

TOKENS = 64


def main(name: str, model: str, number: str) -> None:
    engine = kernel_mlc_engine(model, share=name, show_progress=False)
    print(json.dumps({"pid": engine.worker_pid}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        until = time.perf_counter() + command["seconds"]
        counts: list[int] = []

        def ask(until: float = until, counts: list[int] = counts) -> None:
            """Ask until the time is over; what comes later does not count."""
            while time.perf_counter() < until:
                stream = engine.chat.completions.create(
                    messages=[{"role": "user", "content": f"Write about {number}."}],
                    max_tokens=TOKENS,
                    ignore_eos=True,
                    stream=True,
                )
                for chunk in stream:
                    if time.perf_counter() >= until:
                        break
                    counts.append(bool(chunk.choices and chunk.choices[0].delta.content))

        threads = [threading.Thread(target=ask) for _ in range(command["at_once"])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(json.dumps({"tokens": sum(counts)}), flush=True)
    engine.terminate()


main(*sys.argv[1:])
