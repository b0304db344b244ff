"""Native code or not: each place that tells of the service says it, and who requires it gets no other."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import sysconfig
from pathlib import Path

import pytest

from .conftest import Daemon
from .test_forks import APP as FORKS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def without(service: Daemon, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    """A service of a forkd that was installed without a C compiler."""
    copy = service.dir / "installed"
    but_native = shutil.ignore_patterns("_native*.so", "__pycache__")
    shutil.copytree(ROOT / "forkd", copy / "forkd", ignore=but_native)
    # Not by way of the finder of an editable installation, which knows where this checkout has its own.
    libraries = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    service.environ["PYTHONPATH"] = os.pathsep.join([str(copy), *libraries])
    usual = service.argv
    monkeypatch.setattr(service, "argv", lambda *given: [sys.executable, "-S", *usual(*given)[1:]])
    return service


def said_in(service: Daemon, *flags: str) -> tuple[list[str], dict[str, object], list[float]]:
    """Check, banner, log and status as texts; the keys of status; forkd_build_info by native."""
    checked = service.ok("check", *service.flags(*flags))
    printed = service.start(*flags)
    master = service.live()["master"]
    return (
        [checked, printed, service.log(), " ".join(service.ok("status").split())],
        {name: master[name] for name in ("native", "native_why")},
        [service.metric("forkd_build_info", native=text) for text in ("true", "false")],
    )


@pytest.mark.parametrize("flags", [[], ["--native"]], ids=["default", "required"])
def test_with_native_code(service: Daemon, flags: list[str]) -> None:
    texts, keys, metric = said_in(service, *flags)
    for text in texts:
        assert ", native code" in text
    assert keys == {"native": True, "native_why": ""}
    assert metric == [1.0, 0.0]


def test_turned_off(service: Daemon) -> None:
    texts, keys, metric = said_in(service, "--no-native")
    for text in texts:
        assert ", no native code (native = false)" in text
    assert keys == {"native": False, "native_why": "native = false"}
    assert metric == [0.0, 1.0]


def test_absent(without: Daemon) -> None:
    why = "it was not compiled when forkd was installed"
    texts, keys, metric = said_in(without)
    for text in texts:
        assert f", no native code ({why})" in " ".join(text.split())  # status wraps it
    assert keys == {"native": False, "native_why": why}
    assert metric == [0.0, 1.0]
    assert without.get() == "v1"


@pytest.mark.parametrize("how", ["flag", "environment", "file"])
def test_required_and_absent_is_an_error(without: Daemon, how: str) -> None:
    flags, where = {
        "flag": (["--native"], "flag --native"),
        "environment": ([], "environment FORKD_NATIVE"),
        "file": (["-c", "c.toml"], f"file {without.dir}/c.toml line 1"),
    }[how]
    (without.dir / "c.toml").write_text("native = true\n")
    if how == "environment":
        without.environ["FORKD_NATIVE"] = "yes"
    for verb in ("check", "start"):
        done = without.run(verb, *without.flags(*flags))
        assert done.returncode == 2
        assert done.stderr == (
            "forkd: native = 'true': there is no native code here: it was not compiled when forkd was "
            "installed; install forkd where there is a C compiler, or leave this out "
            f"({where})\n"
        )


def test_broken_is_said_with_the_loaders_words(without: Daemon) -> None:
    module = without.dir / "installed" / "forkd" / "_native.abi3.so"
    module.write_bytes(b"no shared object")
    said = without.ok("check", *without.flags())
    assert "no native code (" in said
    assert str(os.path.basename(module)) in said


def test_what_the_application_forks_leaves_without_native_code(without: Daemon) -> None:
    without.write_app(FORKS)
    without.expected_errors = ["^Traceback"]
    without.start("-w", "1")
    expected = {"exit": "3", "return": "0", "raise": "1", "write": "6", "pieces": "0", "terminate": "-15"}
    assert {way: without.get("/" + way) for way in expected} == expected
    with without.connect() as client:
        client.sendall(b"GET /linger HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    os.kill(int(answer.rpartition(b"\r\n\r\n")[2]), signal.SIGTERM)
