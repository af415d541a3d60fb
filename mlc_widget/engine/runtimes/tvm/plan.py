"""What a load must know of a model beside its compiled code, kept from the load that compiled it.

It is the same each time, and takes TVM's compiler to find out: 150 MB of memory and half a second
to import. A plan is a file ``<root>/plans/<key>.json``. One that is damaged, was made for something
else, or can have been written by another user (see `UserCache`) is not used.
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
from mlc_widget.engine.runtimes.tvm.rope import Rope
from mlc_widget.engine.store.user_cache import UserCache


@dataclass(frozen=True, slots=True)
class Plan:
    """A model as the CPU's executors take it.

    Attributes:
        shape: Of the model.
        parameters: Name and layout of each parameter, in the order of the compiled function.
        attention_rows: Rows of a full attention tile.
        max_rows: Rows of a step at most.
        widest: Features of the widest activation.
        code: The key of the compiled code in the `CompileCache`.
    """

    shape: ModelShape
    parameters: tuple[tuple[str, Layout], ...]
    attention_rows: int
    max_rows: int
    widest: int
    code: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """JSON values that `from_json` takes."""
        return {
            "shape": dataclasses.asdict(self.shape),
            "parameters": [[name, layout.record()] for name, layout in self.parameters],
            "attention_rows": self.attention_rows,
            "max_rows": self.max_rows,
            "widest": self.widest,
            "code": self.code,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Plan:
        """The plan that `to_json` was called on."""
        shape = {**values["shape"], "rope": Rope(**values["shape"]["rope"])}
        parameters = tuple((name, layout_of(record)) for name, record in values["parameters"])
        return cls(**{**values, "shape": ModelShape(**shape), "parameters": parameters})


class PlanCache:
    """The plan of one key.

    Args:
        key: Everything that the plan depends on beside this machine's CPU and the versions of our
            sources and of TVM, as JSON values.
        root: The cache's folder.
    """

    def __init__(self, key: Mapping[str, Any], root: Path | None = None) -> None:
        self._key = json.loads(json.dumps({"model": key, "host": host(), **versions()}))
        text = json.dumps(self._key, sort_keys=True).encode()
        self._name = f"{hashlib.sha256(text).hexdigest()[:32]}.json"
        self._cache = UserCache("plans", root)

    def load(self) -> Plan | None:
        """The plan; None if there is no good one, or if this CPU cannot be told from others."""
        if self._key["host"] is None or (content := self._cache.read(self._name)) is None:
            return None
        try:
            entry = json.loads(content)
            return Plan.from_json(entry["plan"]) if entry["key"] == self._key else None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def store(self, plan: Plan) -> None:
        """Write a plan, where that is possible."""
        entry = {"key": self._key, "plan": plan.to_json()}
        self._cache.write(self._name, json.dumps(entry).encode())


_TELLING = {
    "vendor_id", "cpu family", "model", "model name", "stepping", "flags",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features",
}  # fmt: skip


@functools.cache
def host() -> str | None:
    """A digest of what sets this CPU apart, as Linux tells it; elsewhere None."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = (line.partition(":") for line in text.splitlines())
    told = sorted({(name.strip(), value.strip()) for name, _, value in fields})
    told = [field for field in told if field[0] in _TELLING]
    return hashlib.sha256(json.dumps([platform.machine(), told]).encode()).hexdigest()
