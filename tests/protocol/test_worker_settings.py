"""A worker's settings as the message that opens a comm has them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlc_widget.api.errors import ProtocolError
from mlc_widget.protocol.worker_settings import WorkerSettings


def test_they_arrive_as_they_were_without_what_is_this_machines() -> None:
    settings = WorkerSettings(
        runtime="tvm",
        runtime_options={"threads": 2},
        handler="a.b:C",
        logit_processors={"*": "d:E"},
        dies_with_parent=True,
        runtime_dir="/tmp/here",
    )
    wire = json.loads(json.dumps(settings.to_wire()))
    assert "/tmp/here" not in json.dumps(wire)
    read = WorkerSettings.from_wire(wire)
    assert (read.runtime, read.handler) == ("tvm", "a.b:C")
    assert (read.runtime_options, read.logit_processors) == ({"threads": 2}, {"*": "d:E"})
    assert (read.dies_with_parent, read.runtime_dir, read.sharing) == (False, None, None)


def test_those_of_other_versions() -> None:
    assert WorkerSettings.from_wire({}) == WorkerSettings()
    assert WorkerSettings.from_wire({"runtime": "tvm", "of_tomorrow": 1}).runtime == "tvm"


@pytest.mark.parametrize("settings", [None, 3, "tvm", ["tvm"]])
def test_what_is_no_settings(settings: Any) -> None:
    with pytest.raises(ProtocolError, match="settings = "):
        WorkerSettings.from_wire(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [("runtime", 3), ("runtime", None), ("runtime_options", [1]), ("runtime_options", None),
     ("handler", {}), ("logit_processors", "x:Y")],
)  # fmt: skip
def test_a_setting_of_the_wrong_type(name: str, value: Any) -> None:
    with pytest.raises(ProtocolError, match=rf"settings\.{name} = "):
        WorkerSettings.from_wire({name: value})
