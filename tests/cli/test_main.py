"""The command's own part: arguments, errors and exit statuses; subcommands have their tests."""

from __future__ import annotations

import errno
import subprocess
import sys
from types import SimpleNamespace

import pytest

from mlc_widget import __version__
from mlc_widget.api.errors import BadRequestError, ModelFormatError
from mlc_widget.cli import main as cli


@pytest.fixture
def command(monkeypatch):
    """Has ``mlc_widget try`` do something."""

    def install(run):
        def add_to(commands):
            commands.add_parser("try").set_defaults(run=lambda options: run())

        monkeypatch.setattr(cli, "COMMANDS", (SimpleNamespace(add_to=add_to),))

    return install


def raising(error):
    def run():
        raise error

    return run


def test_it_is_a_module_that_runs():
    ended = subprocess.run(
        [sys.executable, "-m", "mlc_widget", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.strip() == f"mlc_widget {__version__}"


def test_a_command_that_works(command, capsys):
    command(lambda: print("done"))
    assert cli.main(["try"]) == 0
    assert capsys.readouterr().out == "done\n"


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ModelFormatError("config.json is missing."), 1, "mlc_widget: config.json is missing.\n"),
        (BadRequestError("no such model"), 2, "mlc_widget: no such model\n"),
        (KeyboardInterrupt(), 130, "mlc_widget: interrupted\n"),
        (OSError(errno.ENOSPC, "Disk full"), 1, "mlc_widget: cannot write: Disk full.\n"),
    ],
)
def test_what_goes_wrong_is_one_line_and_a_status(command, capsys, error, status, said):
    command(raising(error))
    assert cli.main(["try"]) == status
    assert capsys.readouterr() == ("", said)


@pytest.mark.parametrize("arguments", [[], ["fly"], ["try", "--high"]])
def test_wrong_arguments_are_told_with_the_usage(command, capsys, arguments):
    command(lambda: None)
    with pytest.raises(SystemExit) as left:
        cli.main(arguments)
    assert left.value.code == 2
    assert "usage: mlc_widget" in capsys.readouterr().err


def test_an_output_that_was_closed_at_the_start_is_none(command, monkeypatch):
    command(lambda: print("done"))
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(["try"]) == 0


def test_a_reader_that_leaves_is_no_traceback():
    program = (
        "import sys; from types import SimpleNamespace; from mlc_widget.cli import main as cli\n"
        "def run(_):\n    for i in range(10**6): print(i)\n"
        "add = lambda c: c.add_parser('try').set_defaults(run=run)\n"
        "cli.COMMANDS = (SimpleNamespace(add_to=add),)\n"
        "sys.exit(cli.main(['try']))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "0\n"
    child.stdout.close()
    assert child.wait(60) == 1
    assert child.stderr is not None
    assert child.stderr.read() == ""
    child.stderr.close()
