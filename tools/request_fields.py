"""Write docs/request-fields.md from the rules in the code; ``--check`` only compares."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from mlc_widget.api.request_fields import RULES, FieldRule
from mlc_widget.engine.runtimes.mlc_llm.runtime import REQUEST_FIELDS as MLC_LLM_FIELDS
from mlc_widget.engine.runtimes.tvm.runtime import REQUEST_FIELDS as TVM_FIELDS

PAGE = Path(__file__).parent.parent / "docs" / "request-fields.md"

_HEAD = """\
# Request fields

All fields of OpenAI's API, WebLLM and mlc_llm, and whether each runtime supports them. A field that
is not supported is refused before any work starts, by a `BadRequestError` that names the field, its
value and the reason, and so is a field that is not listed here. Fields that are not OpenAI's are
given as keywords or, with OpenAI's client, in `extra_body`. `None` means that a field is not given.

- *by template*: supported if the model's conversation template has tools, or thoughts.
- *label*: accepted; by its nature it has no effect on the answer.

This page is made by `python tools/request_fields.py`; a test compares it with the code.
"""

_BY = {"engine": "yes", "template": "by template", "label": "label", "nobody": "refused"}


def _runtime(rule: FieldRule, fields: frozenset[str]) -> str:
    if rule.by == "runtime":
        return "yes" if rule.name in fields else "refused"
    return "only the neutral value" if rule.by == "neutral" else _BY[rule.by]


def page() -> str:
    """The page's text."""
    runtimes: Mapping[str, frozenset[str]] = {"tvm": TVM_FIELDS, "mlc_llm": MLC_LLM_FIELDS}
    lines = [
        "| field | requests | API | runtime `tvm` | runtime `mlc_llm` | note |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for rule in RULES:
        cells = [
            f"`{rule.name}`",
            ", ".join(rule.kinds),
            ", ".join(rule.origins),
            *(_runtime(rule, fields) for fields in runtimes.values()),
            rule.note.replace("|", "\\|"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return _HEAD + "\n" + "\n".join(lines) + "\n"


def main() -> None:
    """Write the page, or compare it."""
    if "--check" in sys.argv:
        if PAGE.read_text(encoding="utf-8") != page():
            sys.exit(f"{PAGE} is out of date: run python tools/request_fields.py")
    else:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
