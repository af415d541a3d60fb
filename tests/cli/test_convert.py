"""``mlc_widget convert``, on a tiny model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from mlc_widget.cli.main import main
from mlc_widget.cli.progress import ProgressLine
from tests.engine.store import hf_folders


@pytest.fixture
def folder(tmp_path):
    return hf_folders.make(tmp_path / "model")


def test_it_makes_a_folder_in_mlc_format(folder, tmp_path, capsys):
    arguments = ["convert", str(folder), str(tmp_path / "out"), "--quantization", "q4f16_1"]
    assert main(arguments) == 0
    config = json.loads((tmp_path / "out" / "mlc-chat-config.json").read_text())
    assert config["quantization"] == "q4f16_1"
    said = capsys.readouterr()
    assert "weights in q4f16_1" in said.out
    assert said.err == ""  # no progress where no terminal is
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "destination", "status", "said"),
    [
        ("none", "out", 1, "none is not a folder"),
        ("model", "none/out", 2, "none is not a folder: make it first"),
        ("model", "model", 2, "exists already"),
        ("empty", "out", 1, "config.json is missing"),
    ],
)
def test_what_is_wrong_is_one_line(folder, tmp_path, capsys, source, destination, status, said):
    (tmp_path / "empty").mkdir()
    assert main(["convert", str(tmp_path / source), str(tmp_path / destination)]) == status
    told = capsys.readouterr()
    assert told.out == ""
    assert said in told.err
    assert told.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_broken_tokenizer_is_told(folder, tmp_path, capsys):
    (folder / "tokenizer.json").write_text("{}")
    assert main(["convert", str(folder), str(tmp_path / "out")]) == 1
    assert "tokenizer.json" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_leaves_nothing(folder, tmp_path, tmp_path_factory):
    """It comes while the first piece is worked on, which waits for it."""
    program = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs ignore it
        "from mlc_widget.engine.store import conversion\n"
        "def hold(self, folder, importance, progress):\n"
        "    print('held', flush=True)\n"
        "    while True: progress(0, 1); time.sleep(0.01)\n"
        "conversion.Conversion._write_weights = hold\n"
        "from mlc_widget.cli.main import main\n"
        f"sys.exit(main(['convert', {str(folder)!r}, {str(tmp_path / 'out')!r}]))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MLC_WIDGET_HOME": str(tmp_path_factory.mktemp("home"))},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (130, "", "mlc_widget: interrupted\n")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


class Terminal:
    def __init__(self):
        self.written = ""

    def isatty(self):
        return True

    def write(self, text):
        self.written += text

    def flush(self):
        pass


def test_progress_is_written_over_itself():
    terminal = Terminal()
    line = ProgressLine("Converting", terminal)
    line.show(0, 200_000_000)
    line.show(1, 200_000_000)  # too soon to be shown
    line.show(200_000_000, 200_000_000)
    line.end()
    line.end()
    assert terminal.written == "\rConverting:   0% of 200 MB\rConverting: 100% of 200 MB\n"
