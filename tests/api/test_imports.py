"""Importing the package is cheap: heavy packages are imported only when they are needed."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(code: str) -> str:
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


_LOADED = """
import sys
from IPython.core.interactiveshell import InteractiveShell
{body}
print(" ".join(m for m in ("tvm", "openai", "tokenizers", "numpy", "mlc_llm") if m in sys.modules))
"""


@pytest.mark.parametrize(
    "body",
    [
        "import mlc_widget",
        "InteractiveShell.instance().run_line_magic('load_ext', 'mlc_widget')",
        "import mlc_widget; [getattr(mlc_widget, n) for n in mlc_widget.__all__]",
    ],
    ids=["import", "load_ext", "all names"],
)
def test_no_heavy_package_is_imported(body: str) -> None:
    code = _LOADED.format(body=body)
    assert run(code) == run(_LOADED.format(body="import ipywidgets"))


def test_a_whole_conversation_never_imports_tvm_here() -> None:
    assert "tvm" not in run(
        _LOADED.format(
            body="""
import asyncio
from mlc_widget import create_kernel_mlc_engine
async def main():
    engine = await create_kernel_mlc_engine("demo", show_progress=False)
    await engine.chat.completions.create(messages=[{"role": "user", "content": "Hi"}])
    await engine.terminate()
asyncio.run(main())
"""
        )
    )


def test_an_unknown_name_is_an_attribute_error() -> None:
    assert run("import mlc_widget\ntry: mlc_widget.nope\nexcept AttributeError as e: print(e)") == (
        "module 'mlc_widget' has no attribute 'nope'"
    )
