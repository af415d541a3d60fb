"""Loading and unloading the extension, help, and tab completion."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from mlc_widget.magics import actions
from mlc_widget.magics.commands import MLCMagics
from mlc_widget.magics.conversation import advice
from mlc_widget.magics.parsing import chat_parser, mlc_parser

TINY = Path(__file__).parent.parent / "mcp_client" / "tiny_server.py"
LOAD = """
import json, sys
import ipywidgets
from IPython.core.interactiveshell import InteractiveShell
before = set(sys.modules)
shell = InteractiveShell.instance()
shell.run_line_magic("load_ext", "mlc_widget")
print(json.dumps(sorted({m.partition(".")[0] for m in set(sys.modules) - before})))
"""


def test_loading_imports_nothing_heavy() -> None:
    ran = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True, check=True)
    imported = set(json.loads(ran.stdout))
    assert "mlc_widget" in imported
    heavy = {"tvm", "openai", "numpy", "pandas", "tokenizers", "torch", "nbconvert", "pydantic"}
    assert not imported & heavy


def test_unloading_takes_back_what_loading_put_there(shell: InteractiveShell) -> None:
    shell.user_ns["ChatWidget"] = mine = object()
    assert "create_kernel_mlc_engine" in shell.user_ns
    assert shell.find_line_magic("mlc") is not None
    shell.run_line_magic("unload_ext", "mlc_widget")
    assert "create_kernel_mlc_engine" not in shell.user_ns
    assert shell.user_ns["ChatWidget"] is mine
    assert shell.find_line_magic("mlc") is None
    assert shell.find_cell_magic("chat") is None
    assert shell.complete("%mlc lo")[1] == []
    shell.run_line_magic("load_ext", "mlc_widget")
    assert shell.find_line_magic("mlc") is not None


def test_the_notebook_s_own_names_are_left_alone() -> None:
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance()
    shell.user_ns["ChatWidget"] = "mine"
    shell.run_line_magic("load_ext", "mlc_widget")
    assert shell.user_ns["ChatWidget"] == "mine"
    InteractiveShell.clear_instance()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("%mlc ", {"load", "unload", "models", "stop", "reset", "stats", "restart", "explain"}),
        ("%mlc re", {"reset", "restart"}),
        ("%mlc load d", {"demo"}),
        ("%mlc load smol", {"smollm2-135m"}),
        (
            "%mlc load demo --",
            {"--to", "--runtime", "--device", "--python", "--kernel", "--share", "--help"},
        ),
        ("%mlc stats --to ", set()),
        ("%mlc explain --model ", {"demo"}),
        ("%mlc stats --", {"--model", "--to", "--help"}),
        ("%mlc stats --model ", set()),
        ("%%chat --te", {"--temperature"}),
        ("%%chat --model d", {"demo"}),
        ("%%chat --schema ", {"person"}),
        ("%%chat --tools add", {"adder"}),
        ("%%chat --tools adder ", {"adder"}),
        ("%%chat --tools adder --te", {"--temperature"}),
        ("%mlc nonsense ", set()),
    ],
)
def test_completion(shell: InteractiveShell, line: str, offered: set[str]) -> None:
    shell.user_ns["person"] = {"type": "object"}
    shell.run_cell("def adder(a): ...")
    shell.Completer.use_jedi = False
    assert set(shell.complete("", line, len(line))[1]) >= offered
    if not offered:
        assert not {"load", "demo"} & set(shell.complete("", line, len(line))[1])


def test_help_is_in_the_docstrings_and_behind_the_flag(said: Callable[[str], str]) -> None:
    for magic in (MLCMagics.mlc, MLCMagics.chat, MLCMagics.map):
        assert len(magic.__doc__ or "") > 400
    assert "restart" in said("%mlc")
    assert "%%chat" in said("%mlc --help")
    assert "--device" in said("%mlc load --help")
    assert "--schema" in said("%%chat --help\nx")
    assert "{name}" in said("%%chat -h\nx")


def test_a_kernel_that_does_not_exist_is_named_until_another_load(
    shell: InteractiveShell, said: Callable[[str], str]
) -> None:
    said("%mlc load demo --kernel nope")
    refused = said("%%chat\nHello")
    assert "nope" in refused
    assert "%mlc load" in refused
    engine = shell.user_ns["_engine"]
    magics = shell.find_line_magic("mlc").__self__
    assert actions._engine_with(magics.registry, engine, {"kernel_name": "nope"}) is engine
    assert actions._engine_with(magics.registry, engine, {}) is shell.user_ns["_engine"]
    assert magics.registry.options_of(shell.user_ns["_engine"]) == {}


def test_the_advice_of_a_reply_loads_what_was_loaded(tmp_path: Path) -> None:
    assert "`%mlc load demo`" in advice([], None)
    path = tmp_path / "my models, and others" / "a, b.gguf"
    path.parent.mkdir()
    path.touch()
    line = advice(["demo", str(path), "b"], "other").split("`")[1].removeprefix("%mlc ")
    read = mlc_parser().read(line)
    assert read.model == ["demo", str(path), "b"]
    assert read.to == "other"


def test_the_advice_names_the_engine_where_there_are_several(
    shell: InteractiveShell,
) -> None:
    registry = shell.find_line_magic("mlc").__self__.registry
    first = registry.conversation(registry.make(None))
    assert first.name_of() is None
    other = registry.aside(registry.make("other"))
    assert first.name_of() == "_engine"
    assert other.name_of() == "other"


def test_servers_are_added_listed_and_ended(
    shell: InteractiveShell, said: Callable[[str], str]
) -> None:
    pytest.importorskip("mcp")
    assert "no MCP servers" in said("%mlc tools")
    added = said(f"%mlc tools add tiny {sys.executable} {TINY}")
    assert added.startswith("tiny: 4 tools\n  add  Add two numbers.\n")
    assert said("%mlc tools") == added
    magics = shell.find_line_magic("mlc").__self__
    options = magics._options(chat_parser().read("--temperature 0"))
    assert options.tools == list(magics.registry.servers.values())
    assert magics._options(mlc_parser().read("explain")).tools is None
    assert "no MCP servers" in said("%mlc tools rm tiny")


@pytest.mark.parametrize(
    ("cell", "complaint"),
    [
        ("%mlc lod demo", "invalid choice: 'lod'"),
        ("%mlc load", "arguments are required: model"),
        ("%mlc load 'demo", "quotation mark"),
        ("%mlc load demo --to 1x", "a valid name for a variable"),
        ("%mlc load demo --to sys", "a variable has this name already \\(module\\)"),
        ("%mlc stats --to big", "--to big: no engine of that name; there is none"),
        ("%mlc unload", "%mlc load demo"),
        ("%mlc explain", "no cell has failed yet"),
        ("%%chat\nHello", "%mlc load demo"),
        ("%%chat\n  ", "write the message below"),
        ("%%chat --temperature warm\nHello", "invalid float value: 'warm'"),
        ("%%chat --temperature 3\nHello", "temperature = 3.0"),
        ("%%chat --schema nothing\nHello", "--schema nothing: neither a variable nor a JSON"),
        ("%%chat --schema '{'\nHello", "not valid JSON"),
        ("%%chat --tools add\nHello", "--tools add: no variable has that name"),
        ("%%chat --tools json\nHello", "tools"),
        ("%%chat\nHello {nobody}", "no variable 'nobody'"),
        ("%mlc tools add time", "give a name, and a command or address"),
        ("%mlc tools add a/b tool", "name = 'a/b'"),
        ("%mlc tools add time no-such-command", "'no-such-command' was not found"),
        ("%mlc tools rm time", r"one of the servers \(none\)"),
        ("%mlc tools time", "give `add`, `rm`, or nothing"),
    ],
)
def test_mistakes_are_explained_in_a_sentence(
    shell: InteractiveShell, said: Callable[[str], str], cell: str, complaint: str
) -> None:
    import re

    shell.user_ns["sys"] = sys
    for name in ("last_exc", "last_value"):
        if hasattr(sys, name):
            delattr(sys, name)
    text = said(cell)
    assert re.search(complaint, text), text
    assert "UsageError" in text
    assert "Traceback" not in text
