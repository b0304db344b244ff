"""Who may connect to a unix socket: at no instant more than was asked for, and no file of somebody else's."""

from __future__ import annotations

import os
import pwd
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from forkd.errors import BindError, StartError
from forkd.system import socket_files, sockets
from forkd.system.address import Address
from forkd.system.socket_files import PUBLIC, Permissions

NOBODY = pwd.getpwnam("nobody")
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


class Watched(socket.socket):
    """A socket at whose file somebody looks after each step, and may do something then."""

    path: Path
    seen: list[tuple[int, int, int]]  # mode, uid, gid

    def look(self) -> None:
        if self.path.exists():
            found = self.path.lstat()
            self.seen.append((stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid))

    def bind(self, address: Any) -> None:
        super().bind(address)
        self.look()
        self.bound()

    def bound(self) -> None:
        pass


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    sock = Watched(socket.AF_UNIX)
    sock.path, sock.seen = tmp_path / "s", []
    for name in ("chmod", "chown"):
        call = getattr(os, name)

        def step(*arguments: Any, call: Any = call, **more: Any) -> None:
            sock.look()
            call(*arguments, **more)
            sock.look()

        monkeypatch.setattr(socket_files.os, name, step)
    before = os.umask(0)  # the one that takes nothing away
    yield sock
    os.umask(before)
    sock.close()


@pytest.mark.parametrize("wanted", [0o600, 0o660, 0o666, 0o200])
def test_the_mode_is_right_from_the_first_instant(watched: Watched, wanted: int) -> None:
    socket_files.bind(watched, str(watched.path), Permissions(wanted))
    assert {seen[0] for seen in watched.seen} == {wanted}
    assert os.umask(0) == 0


@root_only
def test_nobody_may_connect_until_it_is_given_away(watched: Watched) -> None:
    socket_files.bind(watched, str(watched.path), Permissions(0o660, NOBODY.pw_uid, NOBODY.pw_gid))
    assert watched.seen[0] == (0, 0, 0) and watched.seen[-1] == (0o660, NOBODY.pw_uid, NOBODY.pw_gid)
    for now, uid, gid in watched.seen:
        assert now == 0 or (now, uid, gid) == (0o660, NOBODY.pw_uid, NOBODY.pw_gid)


@root_only
@pytest.mark.parametrize("link", ["symbolic", "a file", "another socket"])
def test_a_file_that_takes_its_place_is_left_alone(
    watched: Watched, tmp_path: Path, link: str
) -> None:
    """Who may write to the directory could have root give him any file, or open it to all."""
    precious = tmp_path / "precious"
    if link == "another socket":
        socket.socket(socket.AF_UNIX).bind(str(precious))
    else:
        precious.write_text("secret")
    precious.chmod(0o600)

    def swap() -> None:
        watched.path.unlink()
        watched.path.symlink_to(precious) if link == "symbolic" else os.link(precious, watched.path)

    watched.bound = swap  # type: ignore[method-assign]
    with pytest.raises(BindError, match="another file has taken the place"):
        socket_files.bind(watched, str(watched.path), Permissions(0o666, NOBODY.pw_uid, NOBODY.pw_gid))
    found = precious.lstat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o600, 0, 0)


@root_only
def test_a_group_that_one_is_not_in(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    for directory in tmp_path.parents:
        if directory.stat().st_mode & 0o055 != 0o055:
            directory.chmod(0o755)
    os.seteuid(NOBODY.pw_uid)
    try:
        with pytest.raises(BindError) as caught:
            group = Permissions(0o660, -1, 54321)
            sockets.listen(Address("unix", path=f"{tmp_path}/s"), 5, permissions=group)
    finally:
        os.seteuid(0)
    assert "EPERM" in str(caught.value) and "only to a group that they are in" in str(caught.value)
    assert not (tmp_path / "s").exists()


@root_only
def test_a_change_is_never_wider_than_before_or_after(watched: Watched) -> None:
    before = Permissions(0o606, 0, 0)
    listener = sockets.listen(Address("unix", path=str(watched.path)), 5, permissions=before)
    watched.seen.clear()
    listener.admit(Permissions(0o660, -1, NOBODY.pw_gid))
    assert watched.seen[-1] == (0o660, 0, NOBODY.pw_gid)
    for now, _, gid in watched.seen:
        assert now in (0o606, 0o600) or (now, gid) == (0o660, NOBODY.pw_gid)
    assert not [seen for seen in watched.seen[1:] if seen[0] == 0o606 and seen[2]]
    listener.close()
    assert not watched.path.exists()


def test_what_an_operator_has_changed_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = sockets.listen(Address("unix", path=str(path)), 5)
    assert mode(path) == 0o666
    path.chmod(0o600)
    listener.admit(PUBLIC)  # what it was told before
    assert mode(path) == 0o600
    listener.admit(Permissions(0o660))
    assert mode(path) == 0o660
    listener.close()


def test_a_file_that_was_replaced_is_not_ours_to_change(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = sockets.listen(Address("unix", path=str(path)), 5)
    path.rename(tmp_path / "kept")  # so that its number is not given away
    path.write_text("precious")
    path.chmod(0o600)
    listener.admit(Permissions(0o660))
    assert mode(path) == 0o600 and listener.permissions == Permissions(0o660)
    listener.close()
    assert path.read_text() == "precious"


@pytest.mark.parametrize(
    ("owner", "group", "said"),
    [
        ("no-such-account", None, "socket-owner: there is no user 'no-such-account'"),
        (None, "no-such-account", "socket-group: there is no group 'no-such-account'"),
    ],
)
def test_a_name_that_there_is_not(owner: str | None, group: str | None, said: str) -> None:
    with pytest.raises(StartError, match=said):
        Permissions.named(0o660, owner, group)


def test_names_and_numbers() -> None:
    assert Permissions.named(0o660, None, None) == Permissions(0o660, -1, -1)
    assert Permissions.named(0o660, "12345", "54321") == Permissions(0o660, 12345, 54321)
    assert Permissions.named(0o600, "nobody", None) == Permissions(0o600, NOBODY.pw_uid, -1)
