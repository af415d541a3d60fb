"""The transcript in the notebook: its content, its readers, its safety."""

from __future__ import annotations

import random
import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest

from mlc_widget.api.requests import JSONDict
from mlc_widget.widget import transcript_output
from mlc_widget.widget.safe_markdown import plain, quoted, safe_markdown, without_headings
from mlc_widget.widget.transcript_output import TranscriptOutput

from ..kernels import QUICK_KERNEL, LocalNotebookClient

CHAT = """
from mlc_widget import ChatWidget, KernelMLCEngine
engine = KernelMLCEngine(runtime="scripted", runtime_options={{"text": "Hello **there**"}})
engine.reload({folder!r})
chat = ChatWidget(engine)
chat
"""
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "`<img src=x onerror=alert(1)>`",
    "``a ` <svg onload=alert(1)>``",
    "```\n</code></pre><script>alert(1)</script>\n```",
    "```\n<script>\n``` x\n</script>\n~~~\n<b onclick=1>\n~~~",
    "````html\n```\n<script>alert(1)</script>\n````",
    "- a\n\n  ```\n  <script>\n  ```\n\n- b <iframe src=//e>",
    "> ```\n> <script>\n\n<script>",
    "    <script>indented</script>",
    "![x](https://evil.example/a.png)",
    "![x][e]\n\n[e]: https://evil.example/b.png",
    "[![x](https://evil.example/c.png)](https://ok.example)",
    "![x](<https://evil.example/d.png> 'title')",
    "\\![x](https://evil.example/e.png)",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt&#58;alert(1))",
    "[x](&#106;avascript:alert(1))",
    "[x]( data:text/html,<script>alert(1)</script>)",
    "[x](vbscript:x)",
    "[x][j]\n\n[j]: javascript:alert(1)",
    "<javascript:alert(1)>",
    "$\\href{javascript:alert(1)}{x}$",
    "$$\\style{background:url(https://evil.example)}{x}$$",
    "$$\n```\n<script>alert(1)</script>\n```\n$$",
    "$a<b onclick=alert(1)>$",
    "\\begin{equation}<img src=x onerror=alert(1)>\\end{equation}",
    "<!-- --><script>alert(1)</script>",
    "<!--\n```\n-->\n<script>alert(1)</script>\n```",
    "<![CDATA[<script>alert(1)</script>]]>",
    "|a|b|\n|-|-|\n|<script>|`|`<img src=x>|",
    "<a href=# data-commandlinker-command=x id=y name=z style=q>x</a>",
    "x\x00<scr\x00ipt>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "[^1]: <script>alert(1)</script>\n\nx[^1]",
    "*[x]: <b>\n\n::: div\n<script>",
    "`` ` ``<img src=x onerror=alert(1)>`` ` ``",
    "`\n<script>alert(1)</script>\n`",
    "~~~mermaid\ngraph TD; A-->B; click A javascript:alert(1)\n~~~",
]

HASTY = """
from mlc_widget.widget.transcript_output import TranscriptOutput
texts = ["running"]
def read():
    now = texts[-1]
    if now == "running":  # it ends just while it is being displayed
        texts.append("ended")
        output.update()
    return {"text/markdown": now}
output = TranscriptOutput(read, lambda message: None)
output.show()
"""


class Found(HTMLParser):
    """The tags and attributes of the transcript's own part of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]


def rendered(markdown: str) -> Found:
    """The output of nbconvert, which does not sanitize by itself."""
    from nbconvert.filters.markdown_mistune import markdown2html_mistune  # takes a second

    found = Found()
    found.feed(markdown2html_mistune(markdown))
    return found


# What nbconvert itself writes for paragraphs, code with its colours, tables and lists.
TAGS = set(
    re.findall(
        r"\w+",
        "p strong em code pre div span blockquote ul ol li table thead tbody tr th td br a "
        "h1 h2 h3 h4 h5 h6 hr del sup section",
    )
)
ATTRIBUTES = {"class", "href", "id", "style", "start"}


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_answer_stays_text(text: str) -> None:
    for shown in (safe_markdown(text), quoted(safe_markdown(text)), plain(text)):
        found = rendered(f"**You**\n\n{shown}\n\n**Model**\n\nfine")
        assert found.tags <= TAGS
        assert found.attributes <= ATTRIBUTES
        assert all(link.startswith(("http:", "https:", "mailto:", "#")) for link in found.links)
        assert "href{" not in shown.replace("\\\N{ZERO WIDTH NON-JOINER}href{", "")


def test_hostile_answers_in_any_mixture_stay_text() -> None:
    rng = random.Random(7)
    joins = ["\n\n", "\n", " ", "\n> ", "\n- ", "```", "`", "$", "$$"]
    for _ in range(60):
        text = "".join(rng.choice(HOSTILE) + rng.choice(joins) for _ in range(4))
        found = rendered(safe_markdown(text))
        assert found.tags <= TAGS, text
        assert all(link.startswith(("http:", "https:", "mailto:", "#")) for link in found.links)


def test_what_is_harmless_keeps_its_structure() -> None:
    text = (
        "# Title\n\nSome *emphasis*, `code`, [a link](https://example.org) and $a^2$.\n\n"
        "- one\n- two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nif a < b: print('<')\n```"
    )
    shown = safe_markdown(text)
    assert shown == text
    assert {"h1", "em", "code", "a", "ul", "table", "pre"} <= rendered(shown).tags
    assert safe_markdown(shown) == shown


def test_in_a_notebook_s_output_a_reply_s_headings_are_bold_lines() -> None:
    text = "# One\nsome\n\n## **Two** ##\n\nThree\n===\n- a\n---\n\n```sh\n# no\n\n\nx\n```\n# "
    shown = without_headings(safe_markdown(text))
    assert shown == (
        "**One**\n\nsome\n\n**Two**\n\n**Three**\n\n- a\n---\n\n```sh\n# no\n\n\nx\n```\n"
    )
    assert not rendered(shown).tags & {"h1", "h2", "h3", "h4", "h5", "h6"}


def test_code_in_lists_and_unclosed_code_is_kept() -> None:
    assert "```py\nx = 1 < 2\n```" in safe_markdown(
        "1. do\n   ```py\n   x = 1 < 2\n   ```\n2. done"
    )
    assert safe_markdown("```\nhalf").endswith("half\n```")


def test_of_several_pages_one_at_a_time_puts_it_in_its_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[JSONDict] = []
    output = TranscriptOutput(lambda: {"text/markdown": "x"}, told.append)
    now = 0.0
    monkeypatch.setattr(transcript_output.time, "monotonic", lambda: now)

    def asks(page: object) -> list[object]:
        told.clear()
        output.intents()["transcript"]({"kind": "transcript", "page": page})
        return [message["page"] for message in told]

    assert asks("one") == ["one"]
    assert asks("other") == []
    assert asks("one") == ["one"]
    now = transcript_output._TURN_S
    assert asks("other") == ["other"]
    assert asks("one") == []
    now *= 2
    assert asks("x" * 1000) == ["x" * transcript_output._PAGE_LENGTH]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> nbformat.NotebookNode:
    """A notebook with a chat, executed and read back from its file."""
    notebook = nbformat.v4.new_notebook()
    cells = [
        CHAT.format(folder=str(model_folder)),
        "await chat.send('Say <b>hello</b>')",
        "reply = chat.send('Again'); reply.result(30)",
        # This one ends between two cells.
        "chat.send('Once more');",
        "import time\nwhile len(chat.messages) < 6: time.sleep(0.01)",
        "again = ChatWidget(engine, history=chat.export('json'))\nagain",
        "await again.send('Go on')\nlen(again.messages)",
    ]
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in cells]
    LocalNotebookClient(
        notebook, timeout=60, kernel_name="python3", extra_arguments=[*QUICK_KERNEL]
    ).execute()
    path = tmp_path_factory.mktemp("saved") / "chat.ipynb"
    nbformat.write(notebook, path)
    return nbformat.read(path, as_version=4)


def markdown_of(cell: nbformat.NotebookNode) -> str:
    found = [o.data["text/markdown"] for o in cell.outputs if "text/markdown" in o.data]
    assert len(found) == 1
    return str(found[0])


def test_what_changes_while_it_is_being_shown_is_shown() -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(HASTY)])
    LocalNotebookClient(notebook, timeout=60).execute()
    (output,) = notebook.cells[0].outputs
    assert output["data"]["text/markdown"] == "ended"


def test_the_saved_notebook_holds_the_transcript(saved: nbformat.NotebookNode) -> None:
    nbformat.validate(saved)
    text = markdown_of(saved.cells[0])
    assert text.count("**You**") == 3
    assert text.count("Hello **there**") == 3
    assert "> Say &lt;b>hello&lt;/b>" in text
    first = saved.cells[0].outputs[0].data
    assert "application/vnd.jupyter.widget-view+json" in first


def test_a_chat_that_goes_on_from_an_export_keeps_its_own(saved: nbformat.NotebookNode) -> None:
    assert markdown_of(saved.cells[5]).count("**You**") == 4
    assert saved.cells[6].outputs[0].data["text/plain"] == "8"


def test_html_without_javascript_shows_it(saved: nbformat.NotebookNode) -> None:
    from nbconvert import HTMLExporter

    page, _ = HTMLExporter().from_notebook_node(saved)
    assert page.count("<p>Hello <strong>there</strong></p>") >= 3
    assert "<b>hello</b>" not in page


def test_a_saved_notebook_can_be_gone_on_from(saved: nbformat.NotebookNode, tmp_path: Path) -> None:
    from mlc_widget.widget.history import read_history

    nbformat.write(saved, tmp_path / "saved.ipynb")
    messages = read_history(tmp_path / "saved.ipynb").messages
    assert [m.role for m in messages] == ["user", "assistant"] * 4
    assert messages[0].text == "Say <b>hello</b>"
