"""How a notebook shows our errors."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from mlc_widget.api.errors import ModelFormatError, ModelNotFoundError
from mlc_widget.engine.store.model_folder import resolve
from mlc_widget.engine.store.model_names import advice

from .conftest import Execute
from .test_in_kernel import load

LOADED = [
    "await _engine.reload('no_such_model')",
    "await _engine.chat.completions.create(messages=[])",
    "await _engine.chat.completions.create(messages=[{'role': 'user', 'content': 'Hi'}], n=0)",
    "async for _ in await _engine.completions.create(prompt=5, stream=True): pass",
    "await create_kernel_mlc_engine('no_such_model')",
    "chat = ChatWidget(_engine, temperature=9)",
    "chat = ChatWidget(_engine)\nchat.temperature = 9",
    "chat.send(' ')",
    "await chat.send_results(['5'])",
    "def mine():\n    return chat.export('pdf')\nmine()",
    "engine = KernelMLCEngine()\nengine.chat.completions.create(messages=[])",
    "engine.reload('no_such_model')",
    "%xmode Plain\nchat.send('')",
]


def shown(notebook: nbformat.NotebookNode, cell: int) -> str:
    text = "\n".join(line for o in notebook.cells[cell].outputs for line in o.get("traceback", ()))
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_no_frame_of_ours_is_above_the_message(execute: Execute, model_folder: Path) -> None:
    notebook = execute(
        load(model_folder),
        *LOADED,
        "import traceback\n"
        "try: await _engine.reload('no_such_model')\n"
        "except Exception as error: caught = error\n"
        "print(type(caught.__cause__).__name__, 'worker' in str(caught.__cause__))\n"
        "print(len(traceback.extract_tb(caught.__traceback__)) > 1)",
        "%xmode Verbose\nawait _engine.reload('no_such_model')",
        errors=True,
    )
    for cell in range(1, len(LOADED) + 1):
        text = shown(notebook, cell)
        assert re.search(r"(ModelNotFound|BadRequest)Error", text), LOADED[cell - 1]
        for ours in ("mlc_widget/", "asyncio", "traitlets", "RemoteTraceback", "direct cause"):
            assert ours not in text, LOADED[cell - 1]
        assert text.count("\n") < 20
    assert "mine()" in shown(notebook, 10)
    assert "return chat.export" in shown(notebook, 10)  # the user's own frames stay
    (output,) = notebook.cells[len(LOADED) + 1].outputs
    assert output["text"] == "RemoteTraceback True\nTrue\n"
    assert "mlc_widget/" in shown(notebook, len(LOADED) + 2)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mlc-ai/Qwen3-0.6B-q4f16_1-MLC", "give 'HF://mlc-ai/Qwen3-0.6B-q4f16_1-MLC'"),
        ("Qwen/Qwen3@main", "give 'HF://Qwen/Qwen3@main'"),
        ("u/r/a.Q4_0.gguf", "'HF://u/r/a.Q4_0.gguf'"),
        ("models/tiny.gguf", "no file at this path"),
        ("~/x/tiny.Q4_K_M.GGUF", "no file at this path"),
        ("llama3.2:1b", "`ollama pull llama3.2:1b`"),
        ("library/qwen2.5:0.5b-instruct", "search=qwen2.5+gguf"),
        ("./llama/model.safetensors", "Give the folder"),
        ("/data/model.safetensors.index.json", "Give the folder"),
        ("llama/pytorch_model.bin", "not read"),
        ("model.onnx", "not read"),
        ("/data/model", "nothing at this path"),
        ("./model", "nothing at this path"),
        ("C:\\models\\llama", "nothing at this path"),
        ("SmolLM2-135M", "Did you mean 'smollm2-135m'?"),
        ("smollm2:135m", "Did you mean 'smollm2-135m'?"),
        ("Demo", "Did you mean 'demo'?"),
        ("dmeo", "Did you mean 'demo'?"),
        ("Qwen3-0.6B-q4f16_1-MLC", "give 'HF://mlc-ai/Qwen3-0.6B-q4f16_1-MLC'"),
        ("gpt-4o", ".gguf file"),
        ("", "folder in MLC format or of safetensors"),
        ("what", "'PYPI://package/path/file.gguf'"),
        ("which", "Ollama has pulled"),
    ],
)
def test_an_unknown_name_is_answered_by_what_to_give_instead(name: str, says: str) -> None:
    text = advice(name, ["demo", "smollm2-135m"])
    assert says in text
    assert len(text) < 250


def test_a_gguf_file_that_is_there_is_a_model(tmp_path: Path) -> None:
    for name in ("tiny.gguf", "Tiny.Q4_K_M.GGUF"):
        file = tmp_path / name
        with pytest.raises(ModelNotFoundError, match="no file at this path"):
            resolve(str(file))
        file.touch()
        assert resolve(str(file)) == file


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("model.safetensors", "Give the folder that has"),
        ("pytorch_model.bin", "not read"),
        ("model", "Give a .gguf file"),
    ],
)
def test_a_file_of_another_kind_is_there_and_is_no_model(
    tmp_path: Path, name: str, says: str
) -> None:
    (tmp_path / name).touch()
    with pytest.raises(ModelFormatError, match=says) as caught:
        resolve(str(tmp_path / name))
    assert caught.value.param == str(tmp_path / name)
