"""An address that no interface has yet: why it cannot be bound, and how it can."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from .conftest import Daemon, until

ADDRESS, ADDRESS6 = "192.0.2.7", "2001:db8::7"  # for documentation (RFC 5737, RFC 3849)
NETWORK = ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh"]
pytestmark = pytest.mark.skipif(
    shutil.which("ip") is None or subprocess.run([*NETWORK, "true"], capture_output=True).returncode != 0,
    reason="network namespaces are not permitted here, or ip is not installed",
)
GET = """
import sys, urllib.request
print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())
"""


def test_one_that_no_interface_has_is_said_to_be_one(service: Daemon) -> None:
    for verb in ("start", "check"):
        done = service.run(verb, *service.flags("-b", f"{ADDRESS}:0"))
        assert done.returncode == 1
        assert "EADDRNOTAVAIL" in done.stderr
        assert f"no interface of this machine has that address: bind {ADDRESS}:0?freebind=on" in done.stderr


@pytest.mark.parametrize("accept", ["lock", "reuseport"])
def test_it_is_served_once_an_interface_has_it(service: Daemon, accept: str) -> None:
    service.under = NETWORK
    binds = ["-b", f"{ADDRESS}:0?freebind=on", "-b", f"[{ADDRESS6}]:0?freebind=on"]
    service.start_in_foreground(*binds, "--accept", accept, "-w", "1")
    inside = ["nsenter", "--net", "-t", str(service.pid)]
    addresses = [listener["address"] for listener in service.status()["listeners"]]
    assert not any("?" in address for address in addresses)
    subprocess.run([*inside, "ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"], check=True)
    subprocess.run([*inside, "ip", "address", "add", f"{ADDRESS6}/128", "dev", "lo", "nodad"], check=True)
    service.ok("reload")
    assert [listener["address"] for listener in service.status()["listeners"]] == addresses
    for address in addresses:
        get = [*inside, "python3", "-c", GET, f"http://{address}/"]
        done = until(lambda get=get: subprocess.run(get, capture_output=True, text=True), "an answer")  # type: ignore[misc]
        assert done.stdout == "v1\n", done.stderr
