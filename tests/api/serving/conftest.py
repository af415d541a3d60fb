from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlc_widget.api.errors import BadRequestError
from mlc_widget.api.group_folder import DIRECTORY_VARIABLE, check_group


@pytest.fixture
def group() -> str:
    """The name of a group that this process is in."""
    import grp  # not on Windows

    for gid in (os.getegid(), *os.getgroups()):
        with contextlib.suppress(KeyError, BadRequestError):
            return check_group(grp.getgrgid(gid).gr_name)
    pytest.skip("this process is in no group that has a name")


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the groups of these tests have their servers; its path is short, as a socket's is."""
    with tempfile.TemporaryDirectory(prefix="g-") as directory:
        monkeypatch.setenv(DIRECTORY_VARIABLE, directory)
        yield Path(directory)
