"""The table of docs/hosts.md, which `make hosts` writes."""

from __future__ import annotations

from ..hosts.table import BEGIN, NOTES, PAGE, STEPS, Result, table
from ..pages import END


def test_the_table_has_each_host_with_what_was_tried() -> None:
    written = PAGE.read_text().partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    assert written[:2] == table([]).splitlines()
    rows = [[part.strip() for part in line.strip("|").split("|")] for line in written[2:]]
    assert [row[0] for row in rows] == list(NOTES)
    for host, *marks, versions, note in rows:
        assert set(marks) <= {"yes", "no"}, host
        assert any(c.isdigit() for c in versions), host
        assert "no" not in marks or note, f"{host}: nothing says what does not work"


def test_a_step_that_fails_is_written_with_its_reason() -> None:
    result = Result("marimo", "marimo 1.0")
    result.passed("shown")
    result.fault = "no reply"
    row = table([result]).splitlines()[-1]
    assert row == f"| marimo | yes |{' no |' * (len(STEPS) - 1)} marimo 1.0 | no reply |"
