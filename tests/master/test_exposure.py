"""Which files the workers' user may write to: what a warning names."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from forkd.config import Config
from forkd.master import exposure

WORKERS = (54321, 54322, [54322, 54323])
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give files away")


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A file below two directories that only root writes to."""
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    for path in (tmp_path, tmp_path / "a", below):
        path.chmod(0o755)
    file = below / "file"
    file.touch(mode=0o644)
    return file


def test_a_file_of_ours_in_directories_of_ours_is_safe(closed: Path) -> None:
    assert exposure.writable(str(closed), WORKERS) is None


@root_only
@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize(
    "owner, mode, open_",
    [
        ((54321, 0), 0o500, True),  # who owns it may change its mode
        ((0, 54322), 0o770, True),
        ((0, 54323), 0o770, True),
        ((0, 54324), 0o770, False),
        ((0, 54322), 0o755, False),
        ((0, 0), 0o777, True),
        ((0, 0), 0o775, False),
    ],
)
def test_the_path_that_is_open_is_named(
    closed: Path, level: int, owner: tuple[int, int], mode: int, open_: bool
) -> None:
    path = [closed, *closed.parents][level]
    os.chown(path, *owner)
    path.chmod(mode)
    assert exposure.writable(str(closed), WORKERS) == (str(path) if open_ else None)


def test_a_sticky_directory_keeps_what_others_own(closed: Path) -> None:
    closed.parent.chmod(0o1777)
    assert exposure.writable(str(closed), WORKERS) is None
    missing = closed.parent / "not-there"
    assert exposure.writable(str(missing), WORKERS) == str(closed.parent)
    assert exposure.writable(str(closed.parent), WORKERS) == str(closed.parent)


@root_only
def test_both_ends_of_a_link_are_asked(closed: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir(mode=0o755)
    link = tmp_path / "links" / "link"
    link.symlink_to(closed)
    assert exposure.writable(str(link), WORKERS) is None
    link.parent.chmod(0o777)
    assert exposure.writable(str(link), WORKERS) == str(link.parent)
    link.parent.chmod(0o755)
    closed.parent.chmod(0o777)
    assert exposure.writable(str(link), WORKERS) == str(closed.parent)


class _Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, message: str) -> None:
        self.lines.append(message)


@root_only
@pytest.mark.parametrize(
    "kind, words",
    [
        ("config", "each start, reload and upgrade by root reads its options there"),
        ("control", "`forkd restart` by root takes its options"),
        ("pidfile", "`forkd stop` and `restart` by root signal"),
        ("admin_token_file", "who writes it says which token opens the pages at --admin"),
        ("hooks", "the hooks of the daemon are run from there (with the workers' ids, not root's)"),
        ("import", "each start, upgrade and verb of forkd by root runs Python from there"),
        ("module", "each start, upgrade and verb of forkd by root runs Python from there"),
    ],
)
def test_each_kind_is_named_with_what_root_runs_there(
    closed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, words: str
) -> None:
    safe = closed.parent
    target = tmp_path / "open"
    target.mkdir()
    target.chmod(0o777)
    config = replace(Config(), control=f"{safe}/c", pidfile=f"{safe}/p")
    path: str | None = None
    monkeypatch.chdir(safe)
    if kind == "config":
        path = str(target / "forkd.toml")
        Path(path).touch()
    elif kind in ("control", "pidfile", "admin_token_file"):
        config = replace(config, **{kind: str(target / "x")})
    elif kind == "hooks":
        (target / "package").mkdir(mode=0o755)
        (target / "package" / "ours.py").touch()
        monkeypatch.chdir(target)
        config = replace(config, hooks="package.ours")
    elif kind == "import":
        monkeypatch.syspath_prepend(str(target))
    else:
        module = ModuleType("a_planted_one")
        module.__file__ = str(target / "module.py")
        monkeypatch.setitem(sys.modules, "a_planted_one", module)
    log = _Lines()
    exposure.warn(log, path, config, WORKERS)  # type: ignore[arg-type]
    mine = [line for line in log.lines if line.startswith(str(tmp_path))]
    begin = f"{target} can be written by the workers' user (uid 54321) or group: "
    assert len(mine) == 1 and mine[0].startswith(begin + words), log.lines
    log.lines.clear()
    exposure.warn(log, path, config, None)  # type: ignore[arg-type]
    exposure.warn(log, path, config, (0, 0, [0]))  # type: ignore[arg-type]
    # What decides whom the workers become matters also where they are root's.
    others = f"{target} can be written by others than root: {words}"
    assert [line.startswith(others) for line in log.lines] == [True, True] * (kind == "config")
