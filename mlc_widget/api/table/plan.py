"""The checked arguments of a map, and what is the same for all of its rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from mlc_widget._version import __version__
from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.request_values import JSONDict, bad, boolean, integer, one_of
from mlc_widget.api.requests import check_chat
from mlc_widget.api.table.labels import LabelSchema, answers_of
from mlc_widget.api.table.options import MAP_DEFAULTS, MapOptions, MapParams
from mlc_widget.api.table.prompts import RowPrompt, read_prompt
from mlc_widget.api.table.report import MapReport
from mlc_widget.api.table.schemas import ReplySchema, read_schema
from mlc_widget.api.table.tables import Table, open_table
from mlc_widget.api.table.template import check_columns
from mlc_widget.api.table.tool_calls import read_map_tools

ERROR: Final = "error"
"""The column of errors, or ``map_error`` where the data has one of this name."""

_UNKNOWN_BATCH: Final = 32


class MapPlan:
    """The arguments of `AsyncMLCEngineInterface.map`, checked.

    Raises:
        BadRequestError: One of them is wrong; the message names it.
    """

    def __init__(self, prompt: Any, data: Any, options: MapOptions) -> None:
        given: MapOptions = {**MAP_DEFAULTS, **options}
        sampling = {name: value for name, value in given.items() if name not in MAP_DEFAULTS}
        for name, value in sampling.items():
            if name not in MapParams.__annotations__:
                known = ", ".join(MapParams.__annotations__)
                raise bad(
                    name, value, f"a map has no such argument; its sampling fields are {known}."
                )
        self.keeps_errors: bool = one_of("keep", "raise")("on_error", given["on_error"]) == "keep"
        limit, report = given["limit"], given["report"]
        if limit is not None:
            limit = integer(0, 2**63)("limit", limit)
        if report is not None and not isinstance(report, MapReport):
            raise bad("report", report, "give a MapReport().")
        self.shows_progress = boolean("show_progress", given["show_progress"])
        self.report = MapReport() if report is None else report
        self.seed: int = integer(-(2**63), 2**64 - 1)("seed", given["seed"])
        self.cache = given["cache"]
        self.prompt: RowPrompt = read_prompt(prompt, given["system"])
        self.schema: ReplySchema = read_schema(given["schema"], given["into"])
        self.tools: Sequence[JSONDict] = read_map_tools(given["tools"])
        self.labels: Sequence[Any] | None = None
        """The labels whose probabilities are asked for; None if they are not."""
        if boolean("probabilities", given["probabilities"]):
            labelled = LabelSchema(self.schema)
            self.schema, self.labels = labelled, labelled.labels
            if self.tools:
                raise bad("probabilities", True, "labels are not sampled, so leave tools out.")
        self.shared = _shared(sampling, self.schema, self.tools)
        self.table: Table = open_table(data, limit)
        self.check_columns(self.table.columns)

    def check_columns(self, columns: Sequence[str] | None) -> None:
        """Check that the columns of the prompt are there, and those of the result are not.

        Raises:
            BadRequestError: One is missing, or there already.
        """
        if columns is None:
            return
        check_columns(self.prompt.columns or (), columns)
        for name in self.schema.columns:
            if name in columns:
                raise BadRequestError(
                    f"into: the data has a column {name!r} already, which the result would "
                    "replace; give into= another name, or drop that column first.",
                    param="into",
                )

    def error_column(self, columns: Sequence[str] | None) -> str:
        """The name of the column for errors, which no other column has."""
        taken = {*(columns or ()), *self.schema.columns}
        name, count = ERROR, 1
        while name in taken:
            name = "map_error" if count == 1 else f"map_error_{count}"
            count += 1
        return name


def _shared(
    sampling: Mapping[str, Any], schema: ReplySchema, tools: Sequence[JSONDict]
) -> JSONDict:
    """The checked fields of every row's request, but its messages and seed."""
    own = {
        "messages": [{"role": "user", "content": ""}],
        "response_format": schema.response_format,
        "tools": tools or None,
    }
    checked = check_chat({**sampling, **own})
    del checked["messages"]
    return checked


class RowKeys:
    """The seed and the cache's key of each row, from its messages and what all rows share.

    Args:
        plan: The map.
        model: The model as the engine lists it.
    """

    def __init__(self, plan: MapPlan, model: Mapping[str, Any]) -> None:
        self._seed = _digest(plan.seed)
        identity = [
            model.get("owned_by"),
            model.get("fingerprint") or [model["id"], model["created"]],
        ]
        asked = [] if plan.labels is None else [{"probabilities": answers_of(plan.labels)}]
        shared = dict(plan.shared)
        if bias := shared.get("logit_bias"):  # numbers and texts, which JSON cannot sort as keys
            shared["logit_bias"] = sorted(bias.items(), key=repr)
        self._shared = _digest([__version__, *identity, plan.seed, shared, *asked])

    def seed_and_key(self, messages: Sequence[Mapping[str, Any]]) -> tuple[int, bytes]:
        """The same for the same messages, whatever the row's place and the other rows."""
        text = _canonical(messages)
        seed = int.from_bytes(hashlib.sha256(self._seed + text).digest()[:8], "big") >> 1
        return seed, hashlib.sha256(self._shared + text).digest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _digest(value: Any) -> bytes:
    return hashlib.sha256(_canonical(value)).digest()


def rows_ahead(model: Mapping[str, Any], requests: int = 1) -> int:
    """How many rows keep the model's batch full while answers and new requests travel.

    Args:
        model: The model as the engine lists it.
        requests: The number of requests of each row.
    """
    batch = int(model.get("max_num_sequence") or _UNKNOWN_BATCH)
    # All replies of a batch may end in the same step: then another batch must be waiting.
    return -(-(2 * batch + 4) // requests)
