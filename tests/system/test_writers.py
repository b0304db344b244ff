"""Who else may write a file: what keeps a configuration file from being read unasked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from forkd.system import writers

ME, MINE, OTHER = 54321, 54322, 54999  # a user, its group, and another user

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of root's, below directories that only root writes to."""
    below = tmp_path / "a"
    below.mkdir(mode=0o755)
    tmp_path.chmod(0o755)
    made = below / "forkd.toml"
    made.touch()
    made.chmod(0o644)
    return made


def asked_by(user: int, monkeypatch: pytest.MonkeyPatch, path: Path) -> str | None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(os, "getegid", lambda: MINE if user else 0)
    return writers.by_others(str(path))


@pytest.mark.parametrize(
    ("owner", "mode", "for_root", "for_me"),
    [
        ((0, 0), 0o644, True, True),
        ((0, 0), 0o664, True, True),
        ((ME, MINE), 0o644, False, True),
        ((ME, MINE), 0o664, False, True),
        ((OTHER, MINE), 0o600, False, False),
        ((0, MINE), 0o664, False, True),
        ((0, OTHER), 0o664, False, False),
        ((0, OTHER), 0o644, True, True),
        ((0, 0), 0o646, False, False),
    ],
)
@pytest.mark.parametrize("level", ["file", "directory"])
def test_whose_file_is_safe_for_whom(
    file: Path, monkeypatch: pytest.MonkeyPatch, owner: tuple[int, int], mode: int, for_root: bool,
    for_me: bool, level: str,
) -> None:  # fmt: skip
    culprit = file if level == "file" else file.parent
    os.chown(culprit, *owner)
    culprit.chmod(mode | 0o111 if level == "directory" else mode)
    assert asked_by(0, monkeypatch, file) == (None if for_root else str(culprit))
    assert asked_by(ME, monkeypatch, file) == (None if for_me else str(culprit))


def test_a_sticky_directory_keeps_a_file_of_ours(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.parent.chmod(0o1777)
    assert asked_by(0, monkeypatch, file) is None
    os.chown(file, OTHER, OTHER)
    assert asked_by(0, monkeypatch, file) == str(file)


def test_where_a_link_leads_to_counts(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_ = file.parent.parent / "open"
    open_.mkdir()
    target = open_ / "target"
    target.touch()
    open_.chmod(0o777)
    file.unlink()
    file.symlink_to(target)
    assert asked_by(0, monkeypatch, file) == str(open_)


def test_what_is_no_file_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked_by(0, monkeypatch, Path(os.devnull)) is None
