"""Plans: what a load needs to know of a model besides its compiled code, cached on disk.

A plan is always the same, but making it needs TVM's compiler, which takes 150 MB of memory and half
a second to import. A plan is a file ``<root>/plans/<key>.json``. It is not used if it is damaged,
was made for something else, or could have been written by another user (see `UserCache`).
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlc_widget.engine.runtimes.tvm.cache import versions
from mlc_widget.engine.runtimes.tvm.layout_records import layout_of
from mlc_widget.engine.runtimes.tvm.layouts import Layout
from mlc_widget.engine.runtimes.tvm.model_shape import ModelShape
from mlc_widget.engine.store.rope import Rope
from mlc_widget.engine.store.user_cache import UserCache


@dataclass(frozen=True, slots=True)
class Plan:
    """What an executor needs to know of a model.

    Attributes:
        shape: The model's shape.
        parameters: The name and layout of each parameter, in the order of the compiled function.
        attention_rows: The number of rows of a full attention tile.
        attention_part: The number of keys of a part into which tiles may be cut; 0 for none.
        tile_rows: The number of rows that most of a CPU's linear layers compute in one pass over
            their weights; 0 for a GPU.
        max_rows: The maximum number of rows of a step.
        usual_rows: That maximum unless a user chooses another.
        widest: The number of features of the widest activation.
        code: The key of the compiled code in the `CompileCache`.
    """

    shape: ModelShape
    parameters: tuple[tuple[str, Layout], ...]
    attention_rows: int
    attention_part: int
    tile_rows: int
    max_rows: int
    usual_rows: int
    widest: int
    code: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values, for `from_json`."""
        return {
            "shape": dataclasses.asdict(self.shape),
            "parameters": [[name, layout.record()] for name, layout in self.parameters],
            "attention_rows": self.attention_rows,
            "attention_part": self.attention_part,
            "tile_rows": self.tile_rows,
            "max_rows": self.max_rows,
            "usual_rows": self.usual_rows,
            "widest": self.widest,
            "code": self.code,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Plan:
        """The plan that `to_json` was called on."""
        ropes = tuple(Rope(**rope) for rope in values["shape"]["ropes"])
        shape = {**values["shape"], "ropes": ropes}
        parameters = tuple((name, layout_of(record)) for name, record in values["parameters"])
        return cls(**{**values, "shape": ModelShape(**shape), "parameters": parameters})


class PlanCache:
    """The plan of one key.

    Args:
        key: Everything on which the plan depends, except for this machine's CPU and the versions of
            our sources and of TVM, as JSON values.
        root: The cache's folder.
    """

    def __init__(self, key: Mapping[str, Any], root: Path | None = None) -> None:
        self._key = json.loads(json.dumps({"model": key, "host": host(), **versions()}))
        text = json.dumps(self._key, sort_keys=True).encode()
        self._name = f"{hashlib.sha256(text).hexdigest()[:32]}.json"
        self._cache = UserCache("plans", root)

    def load(self) -> Plan | None:
        """The plan; None if there is no valid one, or if this CPU cannot be identified."""
        if self._key["host"] is None or (content := self._cache.read(self._name)) is None:
            return None
        try:
            entry = json.loads(content)
            return Plan.from_json(entry["plan"]) if entry["key"] == self._key else None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def store(self, plan: Plan) -> None:
        """Write a plan, if the cache can be written."""
        entry = {"key": self._key, "plan": plan.to_json()}
        self._cache.write(self._name, json.dumps(entry).encode())


_IDENTIFYING = {
    "vendor_id", "cpu family", "model", "model name", "stepping", "flags",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features",
}  # fmt: skip


@functools.cache
def host() -> str | None:
    """A digest that identifies this kind of CPU on Linux; None on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = (line.partition(":") for line in text.splitlines())
    found = sorted({(name.strip(), value.strip()) for name, _, value in fields})
    found = [field for field in found if field[0] in _IDENTIFYING]
    return hashlib.sha256(json.dumps([platform.machine(), found]).encode()).hexdigest()
