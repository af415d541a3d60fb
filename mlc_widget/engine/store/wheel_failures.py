"""How the download of a wheel fails."""

from __future__ import annotations

from pathlib import Path

from mlc_widget.engine.store.download_process import space_problem


class FetchError(Exception):
    """A failure. The text is for the user; the class's name is the ``error`` for the parent."""


class NoPip(FetchError):
    """This Python cannot run pip."""


class NoPackage(FetchError):
    """The indexes have no such package, or not in this version."""


class NoNetwork(FetchError):
    """The indexes cannot be reached."""


class NoFile(FetchError):
    """The wheel has no such file."""


class NoSpace(FetchError):
    """The disk is too small."""


class Damaged(FetchError):
    """The wheel does not match its record, or is not the expected one."""


class CutOff(NoNetwork):
    """The download was cut off again and again."""


class PipFailed(FetchError):
    """Any other failure of pip."""


def need_space(folder: Path, nbytes: int) -> None:
    """Check that a number of bytes fits on a folder's disk.

    Raises:
        NoSpace: They do not.
    """
    if problem := space_problem(folder.parent, nbytes):
        raise NoSpace(problem)
