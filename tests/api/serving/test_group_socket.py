"""The socket of a group's server: who can reach it, and what clients and servers refuse."""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tornado import netutil

from mlc_widget.api import group_folder
from mlc_widget.api.errors import BadRequestError, ServerError
from mlc_widget.api.group_folder import check_group, check_trusted, group_socket
from mlc_widget.api.serving import group_socket as group_socket_module
from mlc_widget.api.serving.group_socket import GroupSocket, peer_user

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="groups are served on Linux only")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def connected(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(path))
    return client


def test_only_owner_and_group_can_reach_it(groups, group):
    old = os.umask(0o077)
    try:
        with GroupSocket(group) as made:
            folder = made.path.parent
            assert made.path == groups / group / "socket"
            assert made.url == f"group://{group}"
            assert (mode_of(folder), mode_of(made.path)) == (0o750, 0o660)
            assert folder.stat().st_gid == made.path.stat().st_gid
            assert made.path.group() == group
            check_trusted(made.path)
            with connected(made.path):
                accepted, _ = made.listening.accept()
                with accepted:
                    assert peer_user(accepted) == os.geteuid()
    finally:
        os.umask(old)
    assert list(folder.iterdir()) == []


def test_its_directory_is_made_for_all_to_enter(groups, group, monkeypatch):
    monkeypatch.setenv(group_folder.DIRECTORY_VARIABLE, str(groups / "new"))
    old = os.umask(0o077)
    try:
        with GroupSocket(group):
            assert mode_of(groups / "new") == 0o755
    finally:
        os.umask(old)


@pytest.mark.parametrize("fails", ["bind_unix_socket", "check_trusted", "fchown"])
def test_a_start_that_fails_leaves_no_directories(groups, group, monkeypatch, fails):
    monkeypatch.setenv(group_folder.DIRECTORY_VARIABLE, str(groups / "new"))

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    where = {"bind_unix_socket": netutil, "check_trusted": group_socket_module, "fchown": os}
    with monkeypatch.context() as failing:
        failing.setattr(where[fails], fails, fail)
        with pytest.raises(BadRequestError, match="Operation not permitted"):
            GroupSocket(group)
        assert list(groups.iterdir()) == []
        (groups / "new" / group).mkdir(parents=True)
        with pytest.raises(BadRequestError, match="Operation not permitted"):
            GroupSocket(group)
    with GroupSocket(group):  # what was there before has stayed, and can be used
        pass


def test_a_group_has_one_server_and_one_that_was_killed_leaves_no_trace(groups, group):
    with GroupSocket(group) as first, pytest.raises(BadRequestError, match="another server"):
        GroupSocket(group)
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(first.path))
    left.close()
    with GroupSocket(group) as second, connected(second.path):
        pass


def _writable(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o770)


def _link(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    folder.symlink_to("elsewhere")


def _file(folder: Path) -> None:
    folder.touch()


def _other_socket(folder: Path) -> None:
    folder.mkdir()
    (folder / "socket").write_text("precious")


def _directory_for_all(folder: Path) -> None:
    folder.parent.chmod(0o1777)


@pytest.mark.parametrize("make", [_writable, _link, _file, _other_socket, _directory_for_all])
def test_a_folder_that_others_could_have_made_is_not_served(groups, group, make):
    make(groups / group)
    with pytest.raises(BadRequestError, match="cannot listen in") as raised:
        GroupSocket(group)
    assert raised.value.param == "group"
    if make is _other_socket:
        assert (groups / group / "socket").read_text() == "precious"
    else:
        assert not (groups / group / "socket").is_socket()


@pytest.mark.parametrize("name", ["", "..", ".x", "a/b", "a b", "a\n", "x" * 33, "é", 3, None])
def test_names_that_no_group_has(groups, name):
    for read in (check_group, GroupSocket):
        with pytest.raises(BadRequestError, match="group"):
            read(name)
    assert list(groups.iterdir()) == []


def test_an_unknown_group_is_named(groups):
    with pytest.raises(BadRequestError, match="no-such-group"):
        GroupSocket("no-such-group")
    assert list(groups.iterdir()) == []


def test_other_systems_are_refused(groups, group, monkeypatch):
    monkeypatch.delattr(socket, "SO_PEERCRED")
    with pytest.raises(BadRequestError, match="only Linux"):
        GroupSocket(group)


def _loosen_folder(path: Path) -> None:
    path.parent.chmod(0o770)


def _loosen_directory(path: Path) -> None:
    path.parent.parent.chmod(0o1777)


def _replace_folder(path: Path) -> None:
    path.parent.rename(path.parent.parent / "away")
    path.parent.symlink_to("away")


def _replace_socket(path: Path) -> None:
    path.rename(path.parent / "away")
    path.symlink_to("away")


def _file_as_socket(path: Path) -> None:
    path.unlink()
    path.touch()


@pytest.mark.parametrize(
    "spoil",
    [_loosen_folder, _loosen_directory, _replace_folder, _replace_socket, _file_as_socket],
)
def test_clients_use_nothing_that_others_could_have_put_there(groups, group, spoil):
    with GroupSocket(group) as made:
        spoil(made.path)
        with pytest.raises(ServerError) as raised:
            check_trusted(made.path)
    assert raised.value.code == "server_not_trusted"


def test_nor_what_is_in_the_directory_of_a_third_user(groups, group, monkeypatch):
    with GroupSocket(group) as made:
        if os.geteuid() == 0:  # whose directories are trusted
            os.chown(groups, 4242, -1)
        else:
            monkeypatch.setattr(group_folder, "_own_folder", lambda folder: 4242)
            monkeypatch.setattr(os, "geteuid", lambda: 4243)
        with pytest.raises(ServerError, match="third user"):
            check_trusted(made.path)


def test_a_link_that_changes_after_the_address_was_read_leads_nowhere_else(
    groups, group, monkeypatch
):
    (groups / "one").mkdir()
    (groups / "link").symlink_to("one")
    monkeypatch.setenv(group_folder.DIRECTORY_VARIABLE, str(groups / "link"))
    socket = group_socket(group)
    (groups / "link").unlink()
    (groups / "link").symlink_to(groups / "other")
    assert socket.parent.parent == (groups / "one").resolve()


def test_without_a_server_the_command_is_named(groups):
    with pytest.raises(ServerError, match="serve MODEL --group students") as raised:
        check_trusted(group_socket("students"))
    assert raised.value.code == "server_unreachable"


def _as_user(uid: int, gids: list[int], does: Callable[[], None]) -> str:
    """The name of the error that something raises for another user; empty if it raises none."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = ""
        try:
            os.setgroups(gids)
            os.setgid(uid)
            os.setuid(uid)
            does()
        except BaseException as error:
            said = getattr(error, "code", None) or type(error).__name__
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


@pytest.mark.skipif(
    sys.platform != "win32" and os.geteuid() != 0, reason="only root can become other users"
)
def test_members_connect_and_replace_nothing_and_others_do_not_get_in(groups):
    import grp  # not on Windows

    students = next(one for one in grp.getgrall() if one.gr_gid not in (0, 4242, 4243))
    groups.chmod(0o755)
    with GroupSocket(students.gr_name) as made:
        member, stranger = (4242, [students.gr_gid]), (4243, [4243])

        def join() -> None:
            check_trusted(made.path)
            connected(made.path).close()

        assert _as_user(*member, join) == ""
        accepted, _ = made.listening.accept()
        with accepted:
            assert peer_user(accepted) == 4242
        assert _as_user(*stranger, join) == "server_unreachable"
        assert _as_user(*stranger, lambda: connected(made.path).close()) == "PermissionError"
        for attempt in (
            made.path.unlink,
            lambda: made.path.rename(made.path.parent / "away"),
            (made.path.parent / "mine").touch,
            lambda: made.path.chmod(0o666),
            lambda: made.path.parent.rename(groups / "away"),
            (groups / "other").mkdir,
        ):
            assert _as_user(*member, attempt) == "PermissionError"
        assert made.path.is_socket()
