"""`engine.evaluate`: labels beside the right ones, or beside those of another model or prompt."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.request_values import bad
from mlc_widget.api.table.cells import plain
from mlc_widget.api.table.schemas import REPLY

_SHOWN: Final = 20
"""Labels that are shown; others are counted."""
_NAME: Final = 40


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How labels compare with the right ones, or with others of the same rows.

    Attributes:
        rows: The number of rows with a truth; the others do not count.
        missing: Rows of these without a label, which count as wrong.
        accuracy: The share of rows with the right label, NaN if there are none.
        kappa: Cohen's kappa of the rows that have both: 1 if they always agree, 0 if as often as by
            chance; NaN if all have one and the same label.
        labels: All labels, those of the truth first, the most frequent ones before others.
        support: For each label, the rows of which it is the truth.
        precision: For each label, the share of rows with it of which it is the truth.
        recall: For each label, the share of rows of which it is the truth that have it.
        f1: The harmonic mean of `precision` and `recall`.
        confusion: How many rows have the pair (truth, label); None is a missing label.
    """

    rows: int
    missing: int
    accuracy: float
    kappa: float
    labels: tuple[Hashable, ...]
    support: Mapping[Hashable, int]
    precision: Mapping[Hashable, float]
    recall: Mapping[Hashable, float]
    f1: Mapping[Hashable, float]
    confusion: Mapping[tuple[Hashable, Hashable], int] = field(repr=False)

    def __str__(self) -> str:
        """A line of totals, and one for each label."""
        lines = [self._totals()]
        shown = self.labels[:_SHOWN]
        width = max((len(_name(label)) for label in shown), default=0)
        lines += [
            f"{_name(label):<{width}}  {self.support[label]:>6,} rows  precision "
            f"{_share(self.precision[label])}  recall {_share(self.recall[label])}  "
            f"F1 {_share(self.f1[label])}"
            for label in shown
        ]
        if len(self.labels) > _SHOWN:
            lines.append(f"… and {len(self.labels) - _SHOWN:,} more labels")
        return "\n".join(lines)

    def _totals(self) -> str:
        missing = f", {self.missing:,} without a label" if self.missing else ""
        return (
            f"accuracy {_share(self.accuracy)} of {self.rows:,} rows{missing}, "
            f"Cohen's kappa {_number(self.kappa)}"
        )

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        shown = self.labels[:_SHOWN]
        parts = [f"<p>{html.escape(self._totals())}</p>", self._label_table(shown)]
        if 1 < len(self.labels) <= _SHOWN:
            parts.append(self._confusion_table(shown))
        elif len(self.labels) > _SHOWN:
            parts.append(f"<p>… and {len(self.labels) - _SHOWN:,} more labels</p>")
        return "".join(parts)

    def _label_table(self, shown: Sequence[Hashable]) -> str:
        head = "".join(
            f"<th>{name}</th>" for name in ("label", "rows", "precision", "recall", "F1")
        )
        rows = "".join(
            f"<tr><td>{html.escape(_name(label))}</td><td>{self.support[label]:,}</td>"
            + "".join(
                f"<td>{_bar(value)} {_share(value)}</td>"
                for value in (self.precision[label], self.recall[label], self.f1[label])
            )
            + "</tr>"
            for label in shown
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"

    def _confusion_table(self, shown: Sequence[Hashable]) -> str:
        columns = [*shown, *([None] if self.missing else [])]
        head = "".join(f"<th>{html.escape(_name(label))}</th>" for label in columns)
        rows = "".join(
            f"<tr><th>{html.escape(_name(truth))}</th>"
            + "".join(self._cell(truth, label) for label in columns)
            + "</tr>"
            for truth in shown
            if self.support[truth]
        )
        return (
            f"<table><thead><tr><th>truth ↓ label →</th>{head}</tr></thead>"
            f"<tbody>{rows}</tbody></table>"
        )

    def _cell(self, truth: Hashable, label: Hashable) -> str:
        count = self.confusion.get((truth, label), 0)
        shade = count / self.support[truth] * 0.5
        return f'<td style="background: rgba(33, 118, 210, {shade:.2f})">{count:,}</td>'


def evaluate(result: Any, truth: Any, column: str | None = None) -> Evaluation:
    """Compare labels with the right ones, or with others of the same rows.

    Args:
        result: A table of `map`, or a list or column of labels.
        truth: The right labels, as a list or column, or the name of a column in `result`; or
            another table with the same column.
        column: The column of labels in tables; ``reply`` by default.

    Raises:
        BadRequestError: The two do not fit together; the message says how.
    """
    name = REPLY if column is None else column
    if not isinstance(name, str):
        raise bad("column", column, "give the name of a column.")
    labels = _values("result", result, name)
    if isinstance(truth, str):
        right = _values("truth", result, truth)
    else:
        right = _values("truth", truth, name)
        _check_index(result, truth)
    if len(labels) != len(right):
        raise BadRequestError(
            f"truth: it has {len(right):,} rows, and the result {len(labels):,}; both must be of "
            "the same rows.",
            param="truth",
        )
    pairs = [pair for pair in zip(right, labels, strict=True) if pair[0] is not None]
    _check_kinds(pairs)
    return _evaluation(Counter(pairs))


def _evaluation(confusion: Counter[tuple[Hashable, Hashable]]) -> Evaluation:
    support: Counter[Hashable] = Counter()
    given: Counter[Hashable] = Counter()
    for (right, label), count in confusion.items():
        support[right] += count
        given[label] += count
    missing = given.pop(None, 0)
    rows = support.total()
    agreed = sum(count for (right, label), count in confusion.items() if right == label)
    order = [label for label, _ in support.most_common()]
    order += [label for label, _ in given.most_common() if label not in support]
    precision = {one: _ratio(confusion[one, one], given[one]) for one in order}
    recall = {one: _ratio(confusion[one, one], support[one]) for one in order}
    f1 = {one: _ratio(2 * confusion[one, one], given[one] + support[one]) for one in order}
    return Evaluation(
        rows=rows,
        missing=missing,
        accuracy=_ratio(agreed, rows),
        kappa=_kappa(confusion),
        labels=tuple(order),
        support={one: support[one] for one in order},
        precision=precision,
        recall=recall,
        f1=f1,
        confusion=dict(confusion),
    )


def _kappa(confusion: Mapping[tuple[Hashable, Hashable], int]) -> float:
    both = {pair: count for pair, count in confusion.items() if pair[1] is not None}
    total = sum(both.values())
    if not total:
        return math.nan
    first: Counter[Hashable] = Counter()
    second: Counter[Hashable] = Counter()
    for (one, other), count in both.items():
        first[one] += count
        second[other] += count
    agreed = sum(count for (one, other), count in both.items() if one == other) / total
    chance = sum(first[one] * second[one] for one in first) / total**2
    return math.nan if chance == 1 else (agreed - chance) / (1 - chance)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _values(param: str, data: Any, column: str) -> list[Hashable]:
    """The labels of a column, or of a list, with None for missing ones."""
    values = data
    if isinstance(data, list | tuple) and any(isinstance(item, Mapping) for item in data):
        if not any(column in item for item in data):
            raise _no_column(param, column, dict.fromkeys(key for item in data for key in item))
        values = [item.get(column) for item in data]
    elif hasattr(data, "columns") and not isinstance(data, list | tuple):
        names = list(getattr(data, "column_names", data.columns))
        if column not in names:
            raise _no_column(param, column, names)
        values = data[column]
    for method in ("tolist", "to_list", "to_pylist"):  # pandas and numpy, polars, pyarrow
        if hasattr(values, method):
            values = getattr(values, method)()
            break
    if not isinstance(values, list | tuple):
        raise bad(param, data, "give a table, or a list or column of labels.")
    made: list[Hashable] = []
    for value in map(plain, values):
        if not isinstance(value, str | int | float | bool | type(None)):
            raise bad(param, value, "labels must be texts, numbers or booleans.")
        made.append(value)
    return made


def _no_column(param: str, column: str, names: Any) -> BadRequestError:
    known = ", ".join(map(str, list(names)[:30])) or "none"
    return BadRequestError(
        f"{param}: there is no column {column!r}; give column= one of {known}.", param=param
    )


def _check_index(result: Any, truth: Any) -> None:
    """Refuse pandas objects whose rows have other names: they would be compared by place."""
    first: Any = getattr(result, "index", None)
    second: Any = getattr(truth, "index", None)
    if hasattr(first, "equals") and hasattr(second, "equals") and not first.equals(second):
        raise BadRequestError(
            "truth: its index differs from that of the result. Put both in the same order, such "
            "as by truth.reindex(result.index), or give lists.",
            param="truth",
        )


def _check_kinds(pairs: Sequence[tuple[Hashable, Hashable]]) -> None:
    right = {isinstance(one, str) for one, _ in pairs}
    labels = {isinstance(label, str) for _, label in pairs if label is not None}
    if right and labels and not right & labels:
        one = next(one for one, _ in pairs)
        label = next(label for _, label in pairs if label is not None)
        raise BadRequestError(
            f"truth: it has labels such as {one!r}, and the result such as {label!r}: texts never "
            "equal numbers. Convert one of them.",
            param="truth",
        )


def _name(label: Hashable) -> str:
    text = "missing" if label is None else " ".join(str(label).split())
    return text if len(text) <= _NAME else text[: _NAME - 1] + "…"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f} %"


def _bar(value: float) -> str:
    width = 0 if math.isnan(value) else round(60 * value)
    return (
        '<svg width="60" height="8" aria-hidden="true">'
        '<rect width="60" height="8" rx="2" fill="currentColor" opacity="0.15"/>'
        f'<rect width="{width}" height="8" rx="2" fill="currentColor" opacity="0.6"/></svg>'
    )
