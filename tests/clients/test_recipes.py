"""Every recipe of docs/clients.md runs as it stands, with the real packages, and dials nobody."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.environments import ROOT

from ..kinds import but_for_soak
from .environment import ALL, MOST_USED, make_client_environment

PAGE = ROOT / "docs" / "clients.md"
RUNNER = Path(__file__).parent / "run_recipe.py"

pytest.importorskip("tvm", reason="needs mlc-widget[tvm]")


def run(python: Path | str, page: Path, heading: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "RECIPE_WORKER_PYTHON": sys.executable,
        "OPENAI_API_KEY": "a key that must not be used",
    }
    command = [python, RUNNER, page, heading]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)


def check(ran: subprocess.CompletedProcess[str]) -> None:
    assert ran.returncode == 0, ran.stderr[-5000:]
    assert ran.stdout.strip(), "the recipe prints its answers"


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    # Instructor takes the least time to import; tests/api/test_openai_client.py has LangChain.
    "heading",
    but_for_soak(MOST_USED, "LangChain", "LlamaIndex", "Pydantic AI", "OpenAI Agents SDK"),
)
def test_a_recipe_of_the_most_used(request: pytest.FixtureRequest, heading: str) -> None:
    cache = request.config.cache.mkdir("client-environments")
    check(run(make_client_environment(cache, tuple(MOST_USED.values())), PAGE, heading))


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("heading", ALL)
def test_a_recipe_with_all_of_them_installed(request: pytest.FixtureRequest, heading: str) -> None:
    cache = request.config.cache.mkdir("client-environments")
    check(run(make_client_environment(cache, tuple(ALL.values())), PAGE, heading))


def test_every_recipe_is_run() -> None:
    headings = re.findall(r"^## (.+)$", PAGE.read_text(), flags=re.MULTILINE)
    assert headings == list(ALL)


_LEAKS = {
    "a client of its own": "import openai\nopenai.OpenAI().models.list()",
    "LangChain without the blocking client": (
        "from langchain_openai import ChatOpenAI\n"
        "client = engine.openai_client()\n"
        "model = ChatOpenAI(model='demo', api_key='none', root_async_client=client,\n"
        "    async_client=client.chat.completions, max_retries=0)\n"
        "await model.ainvoke('Hello!', max_tokens=2)\n"
        "model.invoke('Hello!')"
    ),
    "a socket": "import socket\nsocket.create_connection(('192.0.2.1', 80), timeout=1)",
}


@pytest.mark.parametrize(
    "leak", but_for_soak(_LEAKS, "a client of its own", "LangChain without the blocking client")
)
def test_a_recipe_that_dials_is_noticed(tmp_path: Path, leak: str) -> None:
    page = tmp_path / "page.md"
    code = f"try:\n{re.sub('(?m)^', '    ', _LEAKS[leak])}\nexcept Exception:\n    pass\n"
    page.write_text(f"## Leak\n\n```python\n{code}print('done')\n```\n")
    ran = run(sys.executable, page, "Leak")
    assert ran.returncode != 0
    assert "api.openai.com" in ran.stderr or "192.0.2.1" in ran.stderr
