"""``mlc_widget serve``: OpenAI's API over HTTP, answered by a model of this machine."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import stat
import sys
import threading
from pathlib import Path
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.request_values import bad

_TOKEN: Final = "MLC_WIDGET_TOKEN"


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "serve",
        help="answer OpenAI's API over HTTP with a model",
        description="Load a model and answer OpenAI's API on this machine, until Ctrl+C. Clients "
        "must send a token as API key: the one in --token-file or in the environment variable "
        f"{_TOKEN}, or else a new one, which is printed once. There is no option for the token "
        "itself, since other users of the machine can read a command's arguments.",
    )
    parser.add_argument(
        "model", nargs="+", help="a model, such as demo, a .gguf file or HF://user/repo"
    )
    parser.add_argument("--host", help="the address to listen on (default: 127.0.0.1)")
    parser.add_argument(
        "--port", type=int, help="the port to listen on; 0 chooses a free one (default: 8000)"
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="a file with the token, readable only by you; if it does not exist, it is made with a "
        "new token",
    )
    parser.add_argument(
        "--allow-remote",
        action="store_true",
        help="allow a --host that other machines can reach; nothing is encrypted",
    )
    parser.add_argument(
        "--group",
        metavar="NAME",
        help="serve the members of this group of the system, on a Unix socket that only they can "
        "open, instead of a port: no token is needed, and users share the model fairly",
    )
    parser.add_argument(
        "--unload-after",
        type=float,
        metavar="SECONDS",
        help="with --group: unload models after this many seconds without a request; the next "
        "request loads them again (default: 1800; inf: never)",
    )
    parser.add_argument(
        "--idle-timeout",
        type=float,
        metavar="SECONDS",
        help="with --group: end a user's engine after this many seconds without a request; the "
        "next request starts it again (default: 3600; inf: never)",
    )
    parser.add_argument("--device", help="such as cpu, cuda or auto")
    parser.add_argument("--runtime", default="auto", help="tvm, mlc_llm or auto")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Load, serve until SIGINT or SIGTERM, and let running requests end."""
    if options.group is not None:
        from mlc_widget.cli.serve_group import serve_group

        serve_group(options, _wait_for_signal)
        return
    for name in ("unload_after", "idle_timeout"):
        if (value := getattr(options, name)) is not None:
            raise bad(name.replace("_", "-"), value, "it is only for --group.")
    _serve_port(options)


def _serve_port(options: argparse.Namespace) -> None:
    from mlc_widget.api.serving.access import check_host, check_token
    from mlc_widget.api.serving.server import check_port
    from mlc_widget.factories import kernel_mlc_engine

    host = "127.0.0.1" if options.host is None else options.host
    port = 8000 if options.port is None else options.port
    check_host(host, options.allow_remote)  # before the load, which may take long
    check_port(host, port)
    token, told = _token(options.token_file)
    token = check_token(token)
    engine = kernel_mlc_engine(options.model, runtime=options.runtime, device=options.device)
    with engine:
        server = engine.serve(host=host, port=port, token=token, allow_remote=options.allow_remote)
        print(f"{', '.join(options.model)} is served at {server.url}")
        print(f"Clients take {told or f'this token, which is shown only now: {token}'}")
        print("Ctrl+C ends it.", flush=True)
        _wait_for_signal()
        print("Ending …", file=sys.stderr)
        engine.interrupt_generate()  # each answer ends properly, with what it has
        server.close()


def _wait_for_signal() -> None:
    """Wait for SIGINT or SIGTERM; another one of them meanwhile ends the process as usual."""
    ended = threading.Event()
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {one: signal.signal(one, lambda *_: ended.set()) for one in signals}
    try:
        ended.wait()
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _token(file: Path | None) -> tuple[str | None, str]:
    """The token that the user keeps somewhere, and how to say where; None for a new one."""
    if file is not None:
        return _token_of(file.expanduser()), f"the token in {file}."
    if token := os.environ.get(_TOKEN):
        return token, f"the token in {_TOKEN}."
    return None, ""


def _token_of(file: Path) -> str:
    """The token in a file, which is made if there is none.

    Raises:
        BadRequestError: Others can read it, it is no file, or the system refuses.
    """
    from mlc_widget.api.serving.access import check_token

    try:
        with contextlib.suppress(FileExistsError):
            new = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(new, "w", encoding="ascii") as opened:
                opened.write(check_token(None) + "\n")
        with open(file, encoding="utf-8", opener=_opened_at_once) as opened:
            mode = os.fstat(opened.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise bad("token-file", str(file), "it is no regular file.")
            if os.name == "posix" and stat.S_IMODE(mode) & 0o077:
                raise bad("token-file", str(file), f"others can read it: `chmod 600 {file}`.")
            return opened.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise BadRequestError(f"cannot read the token in {file}: {reason}.") from None


def _opened_at_once(path: str, flags: int) -> int:
    """Opens a file; of a pipe, it does not wait for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
