"""`forkd storage`, and where the password of a place is not to be seen."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from forkd.config.storage_url import StorageUnits

from .conftest import Daemon, command_line, until

APP = """
from forkd import storage
s = storage.open()
def app(environ, start):
    try:
        body = str(s.incr("hits")).encode()
    except storage.Error as error:
        body = repr(error).encode()
    start("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
SECRET = "s3cr3t-w0rd"


@pytest.fixture(params=["shm", "sqlite"])
def unit(request: pytest.FixtureRequest, service: Daemon, tmp_path: Path) -> Daemon:
    """A daemon with two units, of which the one without a name is of this engine."""
    service.write_app(APP)
    place = "shm:8m" if request.param == "shm" else f"sqlite:{tmp_path}/unit.db"
    service.start("--storage", place, "--storage", f"other=sqlite:{tmp_path}/other.db")
    return service


def test_the_actions(unit: Daemon) -> None:
    assert unit.get("/") == "1"
    assert unit.ok("storage", "get", "hits") == "1\n"
    unit.ok("storage", "set", "hits", "41", "--int")
    assert unit.get("/") == "42"
    unit.ok("storage", "set", "k", "text", "--ttl", "100")
    assert unit.ok("storage", "get", "k") == "text"
    assert unit.ok("storage", "ls").split() in (["hits", "k"], ["k", "hits"])
    assert unit.ok("storage", "ls", "h").split() == ["hits"]
    assert "keys 2" in unit.ok("storage", "stats").splitlines()
    assert unit.ok("storage", "check") == "nothing is wrong\n"
    unit.ok("storage", "del", "hits", "k")
    assert unit.ok("storage", "ls") == ""
    assert unit.get("/") == "1"


def test_ls_has_a_line_for_each_key(unit: Daemon) -> None:
    for key in ("a\nb", "\x1b[31mred", "é", "c\\d"):
        unit.ok("storage", "set", key, "v")
    lines = unit.ok("storage", "ls").splitlines()
    assert sorted(lines) == sorted([r"a\nb", r"\x1b[31mred", "é", r"c\d"])


def test_what_is_counted(unit: Daemon) -> None:
    """Shared memory counts in its table, other engines in the scoreboard; both know what was found."""
    unit.write_app(APP.replace('s.incr("hits")', 's.get("k", s.get("none", b""))'))
    unit.ok("reload")
    unit.ok("storage", "set", "k", "v")
    for _ in range(3):
        unit.get("/")
    until(lambda: unit.metric("forkd_storage_hits_total", unit="default") >= 3, "the hits are counted")
    assert unit.metric("forkd_storage_misses_total", unit="default") >= 3
    assert unit.metric("forkd_storage_hits_total", unit="other") == 0
    shown = {found["name"]: found for found in unit.live()["storage"]}
    assert shown["default"]["hits"] >= 3
    if shown["default"]["place"].startswith("sqlite"):
        assert unit.metric("forkd_storage_calls_total", unit="default") >= 6
        assert unit.metric("forkd_storage_call_seconds_total", unit="default") > 0
    else:
        assert unit.metric("forkd_storage_keys", unit="default") >= 1
        assert unit.metric("forkd_storage_bytes", unit="default") > 0
    assert "storage default" in unit.admin("/")[1]
    assert "hits" in unit.ok("status")


def test_what_is_not_there(unit: Daemon) -> None:
    done = unit.run("storage", "get", "none")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no value" in done.stderr
    assert unit.run("storage", "del", "none").returncode == 1
    assert unit.run("storage", "get").returncode == 2
    done = unit.run("storage", "ls", "--unit", "third")
    assert done.returncode == 1
    assert "default, other" in done.stderr


def test_dump_and_load(unit: Daemon) -> None:
    """From one unit to another, whatever engines they have."""
    unit.get("/")
    unit.ok("storage", "set", "text", "é", "--ttl", "1000")
    command = unit.argv("storage", "set", "bytes", "-")
    subprocess.run(command, input=b"\xff\0", cwd=unit.dir, env=unit.environ, check=True, timeout=30)
    dumped = unit.ok("storage", "dump")
    lines = {found["key"]: found for found in map(json.loads, dumped.splitlines())}
    assert lines["hits"] == {"key": "hits", "type": "int", "value": 1, "ttl": None}
    assert lines["text"]["value"] == "é"
    assert 0 < lines["text"]["ttl"] <= 1000
    done = unit.run("storage", "load", "--unit", "other", input=dumped)
    assert done.stdout == "3 values\n"
    dumped_again = unit.ok("storage", "dump", "--unit", "other")
    again = {found["key"]: found for found in map(json.loads, dumped_again.splitlines())}
    assert again.keys() == lines.keys()
    assert again["bytes"] == lines["bytes"]
    done = unit.run("storage", "load", input=dumped + '{"key": "k", "type": "pickle"}\n')
    assert done.returncode == 1
    assert "line 4" in done.stderr
    assert "3 values are loaded" in done.stderr


def test_a_place_without_a_daemon(service: Daemon, tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/unit.db"
    service.ok("storage", "set", "k", "v", "--url", url)
    assert service.ok("storage", "get", "k", "--url", url) == "v"
    assert service.run("storage", "get", "k").returncode == 3
    done = service.run("storage", "get", "k", "--url", "shm:8m")
    assert done.returncode == 1
    assert "--name" in done.stderr


def test_which_verbs_make_a_file(service: Daemon, tmp_path: Path) -> None:
    """Those that write; as root with the owner of the directory, for the service to open it."""
    path = tmp_path / "unit.db"
    url = f"sqlite:{path}"
    if not os.geteuid():
        os.chown(tmp_path, 12345, 12345)
    for words in (["get", "k"], ["ls"], ["dump"], ["stats"], ["check"], ["del", "k"]):
        done = service.run("storage", *words, "--url", url)
        assert done.returncode == 1
        assert "is not there" in done.stderr
        assert not list(tmp_path.glob("unit.db*"))
    service.ok("storage", "set", "k", "v", "--url", url)
    for found in tmp_path.glob("unit.db*"):
        assert (found.stat().st_uid, found.stat().st_mode & 0o777) == (tmp_path.stat().st_uid, 0o600)
    assert service.ok("storage", "get", "k", "--url", url) == "v"


def test_a_line_without_a_field(service: Daemon, tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/unit.db"
    for line, why in (('{"key": "a"}', "no type and no value"), ("[]", "no object"), ("3", "no object")):
        done = service.run("storage", "load", "--url", url, input=f"{line}\n")
        assert done.returncode == 1
        assert f"line 1: it is {why}" in done.stderr or f"line 1: it has {why}" in done.stderr


def test_a_line_that_dump_does_not_print(service: Daemon, tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/unit.db"
    an_int = '{"key": "a", "type": "int", '
    for line, why in (
        ('{"key": 3, "type": "int", "value": 1}', "no text"),
        (an_int + '"value": 36893488147419103232}', "64 bits"),
        (an_int + '"value": 1, "ttl": NaN}', "NaN"),
        (an_int + '"value": 1, "ttl": "5"}', "real number"),
    ):
        done = service.run("storage", "load", "--url", url, input=f"{line}\n")
        assert done.returncode == 1
        assert done.stderr.startswith("forkd: storage load: line 1: ")
        assert why in done.stderr


def test_a_daemon_without_a_unit(service: Daemon) -> None:
    service.start()
    done = service.run("storage", "ls")
    assert done.returncode == 1
    assert "--storage" in done.stderr


# ---- passwords ------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["environment", "file"])
def test_a_password_is_nowhere(service: Daemon, tmp_path: Path, by: str) -> None:
    """In no title, status, page, metric, log or exception; the server is none, so that there are errors."""
    place = f"valkey+unix://user:{SECRET}@{tmp_path}/none?timeout=100ms"
    service.write_app(APP)
    flags = []
    if by == "environment":
        service.environ["FORKD_STORAGE"] = place
    else:
        config = tmp_path / "forkd.toml"
        addresses = 'bind = "127.0.0.1:0"\nadmin = "127.0.0.1:0"\n'
        config.write_text(f'storage = "{place}"\n{addresses}workers = 2\n')
        flags = ["-c", str(config)]
    seen = [service.start(*flags)]
    body = service.get("/")
    assert "Unavailable" in body
    assert "***" in body
    seen += [body, service.ok("status"), service.ok("status", "--json")]
    assert f"valkey+unix://***@{tmp_path}/none" in seen[-1]
    seen += [command_line(pid) for pid in service.pids()]
    seen += [service.admin(page)[1] for page in ("/", "/metrics", "/status.json")]
    done = service.run("storage", "get", "k")
    assert done.returncode == 1
    seen += [done.stdout, done.stderr, service.ok("check", *service.flags(*flags))]
    service.ok("reload")
    seen.append(service.log())
    for text in seen:
        assert SECRET not in text


@pytest.mark.parametrize(
    "place",
    [
        f"valkey://:{SECRET}@", f"valkye://:{SECRET}@h", f"valkey://:{SECRET}@h?x=1",
        f"x=redis:///:{SECRET}@h", f"valkey::{SECRET} word@h", f"valkey://:{SECRET} word@h",
        f"x=valkey://:word, {SECRET}@h",
        f"shm:1m valkey://h?password=a {SECRET}", f"valkey://:word shm:{SECRET}@h", f"valkey://:{SECRET}",
    ],
)
@pytest.mark.parametrize("option", ["storage", "storige"])
def test_a_password_is_in_no_error(service: Daemon, tmp_path: Path, place: str, option: str) -> None:
    config = tmp_path / "forkd.toml"
    config.write_text(f'{option} = "{place}"\n')
    for done in (service.run("check", "-c", str(config)), service.run("check", f"--{option}", place)):
        assert done.returncode
        assert SECRET not in done.stdout + done.stderr
    with pytest.raises(ValueError, match=r"[*]{3}|not shown") as raised:
        StorageUnits().read([place], "/")
    assert SECRET not in str(raised.value)


def test_a_space_is_written_as_20() -> None:
    with pytest.raises(ValueError, match=r"number 2 is none .* %20"):
        StorageUnits().read("shm:64m x=valkey://:a", "/")
    units = dict(StorageUnits().read("shm:64m x=valkey://:a%20b@h", "/"))
    assert units["x"].password == "a b"
