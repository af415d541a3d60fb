"""Makes a model's Markdown safe for any reader, whatever it sanitizes.

The transcript of a chat is saved as Markdown, and GitHub, nbconvert and JupyterLab each parse that
in their own way. So nothing here depends on how a reader parses: whatever survives is harmless
wherever it lands. There is no ``<`` outside code blocks, no image, no link but to http, https and
mailto, no fence but those written here, and no MathJax command that makes links or attributes.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

_FENCE: Final = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([^`\n]*)$")
_LANGUAGE: Final = re.compile(r"[\w+#.-]{1,30}")
_DRAWN: Final = frozenset({"mermaid", "geojson", "topojson", "stl", "math"})
"""Languages of fenced blocks that readers render instead of showing the text."""
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_SPAN: Final = re.compile(
    r"(?P<ticks>(?<!`)`{1,2}(?!`))(?P<code>[^\n]+?)(?<!`)(?P=ticks)(?!`)"
    r"|(?P<math>\$\$.+?\$\$|(?<![\\\w$])\$(?=\S)[^$\n]+?(?<=\S)\$(?!\d))",
    re.DOTALL,
)
_TEX: Final = re.compile(
    r"\\(?=(?:href|url|class|cssId|style|data|require|unicode|mmlToken|includegraphics|html\w*|"
    r"(?:re)?newcommand|(?:re)?newenvironment|[gx]?def|let|bbox|texttip|tooltip|action|toggle)"
    r"(?![A-Za-z]))"
)
_LINK: Final = re.compile(r"\](?=\()\((?!https?://|mailto:|#)", re.IGNORECASE)
_RUN: Final = re.compile(r"`{3,}|~{3,}")
_MARKS: Final = re.compile(r"([\\`*_\[\]#!|~$])")
_OUR_FENCE: Final = re.compile(r"`{3,}")
_HEADING: Final = re.compile(r"^ {0,3}#{1,6}(?:[ \t]+(?P<text>.*?))??(?:[ \t]+#+)?[ \t]*$")
_UNDERLINE: Final = re.compile(r"^ {0,3}(?:=+|-{2,})[ \t]*$")
_PARAGRAPH: Final = re.compile(r"^ {0,3}(?=\S)(?![>|#]|[-*+][ \t]|\d+[.)][ \t])")


@lru_cache(maxsize=1024)  # a transcript is written again after each reply
def safe_markdown(text: str) -> str:
    """A model's Markdown with its structure kept and everything active made plain text."""
    lines = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).split("\n")
    done: list[str] = []
    prose: list[str] = []
    at = 0
    while at < len(lines):
        opening = _FENCE.match(lines[at])
        at += 1
        if opening is None:
            prose.append(lines[at - 1])
            continue
        indent, fence, info = opening.groups()
        closing = re.compile(rf"^[ \t]*{re.escape(fence[0])}{{{len(fence)},}}[ \t]*$")
        end = next((i for i in range(at, len(lines)) if closing.match(lines[i])), len(lines))
        done += [_prose("\n".join(prose)), _code(lines[at:end], indent, info)]
        prose = []
        at = end + 1
    done.append(_prose("\n".join(prose)))
    return "\n\n".join(part for part in done if part.strip())


@lru_cache(maxsize=1024)
def without_headings(markdown: str) -> str:
    """`safe_markdown`'s text with bold lines for headings.

    A notebook's table of contents lists the headings of its outputs, too; what a model says is
    none of the notebook's chapters (and in JupyterLab each entry costs the page some 40 kB).
    """
    done: list[str] = []
    fence = ""
    for line in markdown.split("\n"):
        if fence:
            fence = "" if line == fence else fence
        elif opened := _OUR_FENCE.match(line):
            fence = opened.group()
        elif heading := _HEADING.match(line):
            done += _bold(heading["text"] or "")
            continue
        elif _UNDERLINE.match(line) and done and _PARAGRAPH.match(done[-1]):
            done += _bold(done.pop())
            continue
        if fence or line or not done or done[-1]:  # a bold line has brought its own blank one
            done.append(line)
    return "\n".join(done)


def _bold(text: str) -> list[str]:
    bare = text.replace("**", "").strip()
    return [f"**{bare}**", ""] if bare else []


def quoted(markdown: str) -> str:
    """Markdown as a block quotation."""
    return "\n".join(f"> {line}".rstrip() for line in markdown.split("\n"))


def plain(text: str) -> str:
    """Text without any Markdown in it, on one line."""
    line = _defused(" ".join(text.split())).replace("&", "&amp;").replace("<", "&lt;")
    return _MARKS.sub(r"\\\1", line)


def code_block(text: str, language: str = "") -> str:
    """Text as a code block of its own."""
    return _code(_CONTROL.sub("", text).split("\n"), "", language)


def _code(lines: list[str], indent: str, info: str) -> str:
    """A block at the left margin, whose fence is longer than any run of backticks in it."""
    body = "\n".join(line.removeprefix(indent) for line in lines)
    longest = max(map(len, re.findall("`+", body)), default=0)
    fence = "`" * max(3, longest + 1)
    language = _LANGUAGE.match(info.strip())
    named = language.group() if language else ""
    return f"{fence}{'text' if named.lower() in _DRAWN else named}\n{body}\n{fence}"


def _prose(text: str) -> str:
    done: list[str] = []
    at = 0
    for span in _SPAN.finditer(text):
        done.append(_inert(text[at : span.start()]))
        done.append(_inline_code(span) if span["code"] else _math(span["math"]))
        at = span.end()
    done.append(_inert(text[at:]))
    # Once more over the whole: an escape must not depend on where a span was thought to end.
    return _inert("".join(done)).strip("\n")


def _inline_code(span: re.Match[str]) -> str:
    code = span["code"]
    # An entity in a code span would be shown as it is written: such code becomes plain text.
    return span.group() if _inert(code) == code else plain(code)


def _math(math: str) -> str:
    return _inert(re.sub(r"<", r"\\lt ", math))


def _inert(text: str) -> str:
    """Idempotent, and each rule holds wherever the text is put."""
    text = text.replace("<", "&lt;").replace("![", "&#33;[").replace("]:", "]&#58;")
    text = _LINK.sub("]&#40;", text)
    text = _RUN.sub(lambda run: f"&#{ord(run.group()[0])};" * len(run.group()), text)
    return _defused(text)


def _defused(text: str) -> str:
    """Disarm MathJax, which reads formulas after the reader has rendered the HTML."""
    return _TEX.sub("\\\\\N{ZERO WIDTH NON-JOINER}", text)
