"""A server of the Model Context Protocol in plain Python, which misbehaves as its argument says.

``python tiny_server.py '{"tools": [...], ...}'``; without an argument it is well behaved.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

ADD = {
    "name": "add",
    "description": "Add two numbers.",
    "inputSchema": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}
TOOLS = [ADD, *({"name": n, "inputSchema": {"type": "object"}} for n in ("die", "hang", "where"))]


def send(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def call(name: str, arguments: dict[str, Any], how: dict[str, Any]) -> dict[str, Any]:
    if name == "die":
        print("out of luck", file=sys.stderr, flush=True)
        os._exit(3)
    if name == "hang":
        print("hanging", file=sys.stderr, flush=True)
        time.sleep(60)
    if name == "where":
        text = json.dumps([os.getpid(), sorted(os.environ)])
    elif name == "add":
        text = str(arguments["a"] + arguments["b"])
    else:
        text = how["results"][name]
    if isinstance(text, str):
        return {"content": [{"type": "text", "text": text}]}
    return text


def main() -> None:
    how = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    print(how.get("says", "started"), file=sys.stderr, flush=True)
    if "exits" in how:
        sys.exit(how["exits"])
    if how.get("silent"):
        time.sleep(60)
    if "child" in how:  # one that outlives it, and holds its pipes
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        with open(how["child"], "w") as file:
            file.write(str(child.pid))
    if how.get("stubborn"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if how.get("prints"):
        print("a line that is no message", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        method, params = asked.get("method"), asked.get("params") or {}
        if "id" not in asked:
            continue
        result: dict[str, Any] | None = None
        if method == "initialize":
            result = {
                "protocolVersion": params["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "tiny", "version": "1"},
            }
        elif method == "tools/list":
            result = {"tools": how.get("tools", TOOLS)}
            if how.get("endless"):
                result["nextCursor"] = "more"
        elif method == "tools/call":
            if how.get("floods"):
                while True:
                    sys.stdout.write(" " * 4096 + how["floods"])
            result = call(params["name"], params.get("arguments") or {}, how)
        if result is None:
            send({"id": asked["id"], "error": {"code": -32601, "message": "no such method"}})
        else:
            send({"id": asked["id"], "result": result})
    if how.get("stubborn"):  # it neither ends with its input nor on request
        time.sleep(60)


if __name__ == "__main__":
    main()
