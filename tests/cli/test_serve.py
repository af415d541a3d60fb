"""``mlc_widget serve``: its token, what it prints, and how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path

import psutil
import pytest

from mlc_widget import MLCEngine, ServerMLCEngine, factories
from mlc_widget.api.errors import EngineTerminatedError, ServerError
from mlc_widget.api.serving import group_server, group_socket
from mlc_widget.cli import main as cli
from mlc_widget.cli import serve
from mlc_widget.protocol.worker_record import WorkerRecords
from mlc_widget.proxy import engines

from ..waiting import until_blocking

TOKEN = "a-token-of-the-users-own"


@pytest.fixture
def served(monkeypatch, tiny_model):
    """Runs the command with an engine of this process; `during` is what happens while it serves."""
    engines = []

    def make(model, **options):
        engine = MLCEngine(runtime="scripted")
        engine.reload(model)
        engines.append(engine)
        return engine

    def run(*arguments, during=lambda: None):
        monkeypatch.setattr(factories, "kernel_mlc_engine", make)
        monkeypatch.setattr(serve, "_wait_for_signal", during)
        where = [] if "--group" in arguments else ["--port", "0"]
        return cli.main(["serve", str(tiny_model), *where, *arguments]), engines

    return run


def ask(url: str, token: str) -> int:
    asked = urllib.request.Request(f"{url}/models", headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return answer.status


def test_it_prints_where_and_a_new_token_and_ends_the_engine(served, capsys):
    said = []

    def during():
        said.append(capsys.readouterr().out)
        first, second, _ = said[0].splitlines()
        assert ask(first.rpartition(" ")[2], second.rpartition(" ")[2]) == 200

    status, (engine,) = served(during=during)
    assert status == 0
    with pytest.raises(EngineTerminatedError):
        engine.completions.create(prompt="Hi")


def test_a_token_of_the_environment_is_not_printed(served, capsys, monkeypatch):
    monkeypatch.setenv("MLC_WIDGET_TOKEN", TOKEN)

    def during():
        out = capsys.readouterr().out
        assert TOKEN not in out
        assert "MLC_WIDGET_TOKEN" in out
        assert ask(out.splitlines()[0].rpartition(" ")[2], TOKEN) == 200

    assert served(during=during)[0] == 0


def test_a_file_is_made_for_the_token_and_read_again(served, capsys, tmp_path):
    file = tmp_path / "token"

    def during():
        out = capsys.readouterr().out
        token = file.read_text().strip()
        assert token not in out
        assert str(file) in out
        assert ask(out.splitlines()[0].rpartition(" ")[2], token) == 200

    assert served("--token-file", str(file), during=during)[0] == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_text()
    assert served("--token-file", str(file), during=during)[0] == 0
    assert file.read_text() == before


@pytest.mark.parametrize("case", ["readable", "folder", "no folder", "empty", "binary", "pipe"])
def test_a_bad_token_file_is_refused_before_the_load(served, capsys, tmp_path, case):
    file = tmp_path / "token"
    if case == "folder":
        file.mkdir()
    elif case == "no folder":
        file = tmp_path / "none" / "token"
    elif case == "pipe":
        os.mkfifo(file, 0o600)
    else:
        file.write_bytes({"readable": TOKEN.encode(), "empty": b"", "binary": b"\xff" * 32}[case])
        file.chmod(0o644 if case == "readable" else 0o600)
    status, engines = served("--token-file", str(file))
    assert (status, engines) == (2, [])
    said = capsys.readouterr().err
    assert TOKEN not in said
    assert said.count("\n") == 1


def test_a_port_that_cannot_be_listened_on_is_refused_before_the_load(served, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert served("--port", port) == (2, [])
        assert f"port {port}" in capsys.readouterr().err
    assert served("--port", "65536") == (2, [])


def test_a_host_that_others_reach_needs_a_flag(served, capsys):
    status, engines = served("--host", "0.0.0.0")
    assert (status, engines) == (2, [])
    assert "--allow-remote" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [["--port", "1"], ["--host", "::1"], ["--token-file", "t"], ["--allow-remote"]]
)
def test_a_group_has_no_port(served, capsys, option):
    status, engines = served("--group", "any", *option)
    assert (status, engines) == (2, [])
    assert f"{option[0].strip('-')} = " in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--unload-after", "--idle-timeout"])
def test_times_are_for_groups(served, capsys, option):
    assert served(option, "5") == (2, [])
    assert "--group" in capsys.readouterr().err


def test_a_time_that_is_none_is_refused(served, capsys):
    assert served("--group", "any", "--idle-timeout", "-1") == (2, [])
    assert "idle-timeout" in capsys.readouterr().err


@pytest.mark.parametrize("runtime", ["tvm", "mlc_llm"])
def test_no_user_of_a_group_sees_what_another_has_sent(served, monkeypatch, runtime):
    made = []

    class Engine:
        _hides_output = False

        def __init__(self, **options):
            self.options = options

    class Socket(contextlib.nullcontext):
        url = "group://any"

        def __enter__(self):
            return self

    class Server(contextlib.ExitStack):
        def interrupt_generate(self):
            pass

        def __init__(self, _, make_engine, __, *, idle_timeout):
            super().__init__()
            made.extend(make_engine(user) for user in (1, 2))

    monkeypatch.setattr(group_socket, "GroupSocket", Socket)
    monkeypatch.setattr(group_server, "GroupServer", Server)
    monkeypatch.setattr(engines, "AsyncKernelMLCEngine", Engine)
    assert served("--group", "any", "--runtime", runtime)[0] == 0
    assert [engine._hides_output for engine in made] == [True] * 2
    options = [engine.options for engine in made]
    if runtime == "tvm":
        assert len({one["cache_salt"] for one in options}) == 2
    else:
        config = {"prefix_cache_mode": "disable"}
        assert [one["runtime_options"]["engine_config"] for one in options] == [config] * 2


@pytest.mark.parametrize("one", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it(one):
    before = signal.getsignal(one)

    def send():
        until_blocking(lambda: signal.getsignal(one) is not before)
        os.kill(os.getpid(), one)

    sender = threading.Thread(target=send)
    sender.start()
    serve._wait_for_signal()
    sender.join()
    assert signal.getsignal(one) is before


@pytest.mark.parametrize(
    "one", [signal.SIGKILL, signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.soak)]
)
def test_nothing_is_left_however_it_ends(one, tiny_model):
    # A short path: the worker's sockets would not be in a folder with a long one.
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        served = subprocess.Popen(
            [sys.executable, "-m", "mlc_widget", "serve", str(tiny_model), "--port", "0"],
            env={**os.environ, "TMPDIR": folder},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert served.stdout is not None
        until_blocking(lambda: "Ctrl+C" in served.stdout.readline())
        family = psutil.Process(served.pid).children(recursive=True)
        assert family
        assert os.listdir(folder)
        served.send_signal(one)
        served.wait(60)
        until_blocking(lambda: not any(map(runs, family)))
        until_blocking(lambda: not os.listdir(folder))


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="groups are served on Linux only")
@pytest.mark.parametrize("one", [signal.SIGTERM, signal.SIGINT])
def test_a_group_s_server_outlives_its_worker_and_leaves_nothing(one, tiny_model, monkeypatch):
    import grp  # not on Windows

    group = grp.getgrgid(os.getegid()).gr_name
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setenv("MLC_WIDGET_RUNTIME_DIR", f"{folder}/workers")
        monkeypatch.setenv("MLC_WIDGET_GROUP_DIR", f"{folder}/groups")
        command = [sys.executable, "-m", "mlc_widget", "serve", str(tiny_model), "--group", group]
        served = subprocess.Popen(
            [*command, "--runtime", "scripted"], stdout=subprocess.PIPE, text=True
        )
        assert served.stdout is not None
        until_blocking(lambda: "Ctrl+C" in served.stdout.readline())
        engine = ServerMLCEngine(f"group://{group}")
        engine.reload()
        for _ in range(2):
            assert engine.completions.create(prompt="Hi").choices[0].text
            worker = psutil.Process(WorkerRecords().read(f"group-{group}").pid)
            worker.kill()
        assert engine.completions.create(prompt="Hi").choices[0].text
        worker = psutil.Process(WorkerRecords().read(f"group-{group}").pid)
        served.send_signal(one)
        assert served.wait(60) == 0
        until_blocking(lambda: not runs(worker))
        with pytest.raises(ServerError, match="No server runs for the group"):
            engine.completions.create(prompt="Hi")
        engine.terminate()
        assert [p.suffix for p in Path(folder, "workers").iterdir()] == [".lock"]
        assert not list(Path(folder, "groups", group).iterdir())


def runs(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
