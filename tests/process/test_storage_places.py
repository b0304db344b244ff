"""What `forkd check` and a start say of the places of storage units."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from forkd.command import storage_places
from forkd.config import Config
from forkd.config.storage_url import StorageUnits
from forkd.errors import StartError
from tests.storage.servers import Server

from .conftest import Daemon
from .test_check import problems
from .test_privileges import root_only


def with_units(text: str) -> Config:
    return Config(storage=StorageUnits().read(text, "/"))


@pytest.mark.parametrize("mode", [None, 0o644])
def test_the_file_of_a_password(service: Daemon, tmp_path: Path, mode: int | None) -> None:
    path = tmp_path / "password"
    if mode is not None:
        path.write_text("s3cr3t-w0rd\n")
        path.chmod(mode)
    said = problems(service, "--storage", f"jobs=valkey://127.0.0.1:1?password-file={path}")
    assert f"storage jobs: password-file: {path}" in said
    assert "s3cr3t" not in said
    assert ("chmod 0600" if mode else "No such file") in said


@pytest.mark.parametrize("what", ["directory", "pipe", "text"])
def test_what_is_no_file_of_sqlite(service: Daemon, tmp_path: Path, what: str) -> None:
    path = tmp_path / "unit.db"
    if what == "directory":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.write_text("a page, and no database")
    said = problems(service, "--storage", f"sqlite:{path}")
    assert f"storage default: {path} is " in said


def test_a_directory_that_is_not_there(service: Daemon, tmp_path: Path) -> None:
    done = service.run("check", *service.flags("--storage", f"sqlite:{tmp_path}/none/unit.db"))
    assert done.returncode == 1
    assert f"{tmp_path}/none: there is no such directory" in done.stderr


@root_only
def test_the_account_that_serves(service: Daemon, tmp_path: Path) -> None:
    """What root may do there means nothing."""
    service.open_up()
    service.write_app()
    directory = service.dir / "data"
    directory.mkdir()
    flags = service.flags("--storage", f"sqlite:{directory}/unit.db", "--user", "nobody")
    done = service.run("check", *flags)
    assert done.returncode == 1
    assert f"storage default: {directory} cannot be written by uid 65534" in done.stderr
    os.chown(directory, 65534, 65534)
    service.ok("check", *flags)
    assert not list(directory.iterdir())
    (directory / "unit.db").touch(0o600)
    done = service.run("check", *flags)
    assert done.returncode == 1
    assert f"{directory}/unit.db cannot be read and written by uid 65534" in done.stderr
    password = service.dir / "password"
    password.touch(0o600)
    done = service.run(
        "check", *service.flags("--user", "nobody", "--storage", f"valkey://h?password-file={password}")
    )
    assert done.returncode == 1
    assert f"{password}: Permission denied" in done.stderr


def test_a_server_that_does_not_answer_or_refuses(service: Daemon, tmp_path: Path) -> None:
    """It may by the time that a worker calls: a start succeeds."""
    done = service.run("check", *service.flags("--storage", f"valkey+unix://:s3cr3t@{tmp_path}/none"))
    assert done.returncode == 0, done.stderr
    assert f"warning: storage default: valkey+unix://***@{tmp_path}/none: " in done.stdout
    with Server.started() as server:
        done = service.run("check", *service.flags("--storage", f"valkey+unix:{server.socket}"))
        assert "warning: storage" not in done.stdout
        done = service.run("check", *service.flags("--storage", f"valkey+unix://u:s3cr3t@{server.socket}"))
        assert done.returncode == 0, done.stderr
        assert "warning: storage default: " in done.stdout
        assert "s3cr3t" not in done.stdout + done.stderr


def test_more_shared_memory_than_there_is() -> None:
    assert not storage_places.too_large(with_units("shm:1m"))
    assert "1048576 MiB" in storage_places.too_large(with_units("shm:1024g"))[0]


def test_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    storage_places.require_places(with_units("valkey://h"))
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(StartError, match=r"valkey://h needs the package valkey: pip install"):
        storage_places.require_places(with_units("valkey://h"))
