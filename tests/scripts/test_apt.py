"""scripts/apt: while it installs, no server may be started; afterwards the machine is as it was.

In a mount namespace whose /usr/sbin is a directory of the test, with an apt-get that notes what it is asked.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.process.conftest import until

APT = Path(__file__).parents[2] / "scripts" / "apt"
#: What invoke-rc.d(8) does with each service of a package.
APT_GET = """#!/bin/sh
echo "$@" >> "$NOTES/asked"
[ "$1" = install ] || exit 0
if [ -x /usr/sbin/policy-rc.d ]; then
    /usr/sbin/policy-rc.d nginx start
    echo "policy says $?" >> "$NOTES/asked"
else
    echo "nginx runs" >> "$NOTES/asked"
fi
eval "$FATE"
"""
#: (what apt-get does at its end, exit code of scripts/apt)
FATES = {
    "success": ("true", 0),
    "failure": ("echo no room; exit 100", 1),
    "interrupted": ("kill -INT 0; sleep 10", 130),
    "terminated": ("kill -TERM $PPID; sleep 0.2", 143),
    "hung up": ("kill -HUP $PPID; sleep 0.2", 143),
}


class Machine:
    def __init__(self, directory: Path) -> None:
        self.sbin, self.dir = directory / "sbin", directory
        self.policy = self.sbin / "policy-rc.d"
        commands = directory / "bin"
        for path in (self.sbin, commands):
            path.mkdir()
        for name, text in {
            "apt-get": APT_GET,
            "dpkg-query": '#!/bin/sh\n[ "$3" = curl ] && echo "install ok installed"\n',
        }.items():
            (commands / name).write_text(text)
            (commands / name).chmod(0o755)
        self.environ = {
            "PATH": f"{commands}:/usr/bin:/bin", "NOTES": str(directory), "TMPDIR": str(directory),
        }  # fmt: skip

    def run(self, fate: str, *packages: str) -> subprocess.CompletedProcess[str]:
        script = 'mount --bind "$0" /usr/sbin || exit 77; exec "$@"'
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", script, str(self.sbin), str(APT), *packages],
            env={**self.environ, "FATE": fate}, capture_output=True, text=True, timeout=60,
            start_new_session=True, restore_signals=True,
        )  # fmt: skip
        if done.returncode == 77 or "unshare" in done.stderr:
            pytest.skip(f"no mount namespace here: {done.stderr}")
        return done

    def asked(self) -> list[str]:
        path = self.dir / "asked"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("name", FATES)
def test_no_server_is_started_and_nothing_is_left(machine: Machine, name: str) -> None:
    fate, code = FATES[name]
    done = machine.run(fate, "curl", "nginx", "redis-server")
    assert done.returncode == code, done.stderr
    assert machine.asked() == [
        "update", "install -y --no-install-recommends nginx redis-server", "policy says 101",
    ]  # fmt: skip
    assert not machine.policy.exists()
    assert [path.name for path in machine.dir.iterdir() if path.name.startswith("tmp")] == []
    assert ("no room" in done.stderr) is (name == "failure")


def test_what_is_there_is_not_asked_for(machine: Machine) -> None:
    assert machine.run("true", "curl").returncode == 0
    assert machine.asked() == []


@pytest.mark.parametrize("code", [0, 104])
@pytest.mark.parametrize("name", FATES)
def test_the_administrators_own_policy_stays(machine: Machine, name: str, code: int) -> None:
    fate, expected = FATES[name]
    text = f"#!/bin/sh\nexit {code}\n"
    machine.policy.write_text(text)
    machine.policy.chmod(0o755)
    assert machine.run(fate, "nginx").returncode == expected
    assert machine.asked()[-1] == f"policy says {code}"
    assert machine.policy.read_text() == text


def test_what_a_run_has_left_that_was_killed_goes_with_the_next(machine: Machine) -> None:
    done = machine.run("kill -KILL $PPID", "nginx")
    assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
    until(machine.policy.exists, "the policy that is left")
    assert machine.run("true", "nginx").returncode == 0
    assert machine.asked().count("policy says 101") == 2
    assert not machine.policy.exists()
    assert os.access(machine.sbin, os.W_OK)
