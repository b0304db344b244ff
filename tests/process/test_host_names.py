"""A host's name is listened on in both families, at one port."""

from __future__ import annotations

import http.client
import re
import socket

import pytest

from .conftest import Daemon, until


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(not has_ipv6(), reason="there is no ::1 here")


def get(host: str, port: int) -> str:
    client = http.client.HTTPConnection(host, port, timeout=10)
    client.request("GET", "/")
    body = client.getresponse().read().decode()
    client.close()
    return body


@pytest.mark.parametrize("flags", [[], ["--accept", "reuseport"]], ids=["", "reuseport"])
def test_localhost_is_both_with_the_same_port(service: Daemon, flags: list[str]) -> None:
    said = service.start("-b", "localhost:0", *flags)
    found = re.search(r" on http://127\.0\.0\.1:(\d+)/, http://\[::1\]:(\d+)/\n", said)
    assert found is not None, said
    port = int(found[1])
    assert found[1] == found[2]
    names = [(x["address"], x["bind"]) for x in service.live()["listeners"]]
    both = [(f"127.0.0.1:{port}", "localhost:0"), (f"[::1]:{port}", "localhost:0")]
    assert names == both
    for verb in ("reload", "upgrade", "reload"):
        service.ok(verb)
        until(lambda: {get("127.0.0.1", port), get("::1", port)} == {"v1"}, "both serve")
        assert [(x["address"], x["bind"]) for x in service.live()["listeners"]] == both
    service.ok("stop")
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, port))


def test_one_that_is_taken_is_an_error(service: Daemon) -> None:
    with socket.socket(socket.AF_INET6) as holder:
        holder.bind(("::1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        flags = service.flags("-b", f"localhost:{port}", "--error-log", str(service.error_log))
        for verb in ("check", "start"):
            done = service.run(verb, *flags)
            assert done.returncode == 1
            assert f"forkd: bind([::1]:{port}): EADDRINUSE: Address already in use; it is held" in done.stderr
    service.start("-b", f"localhost:{port}")
    checked = service.ok("check", *service.flags("-b", f"localhost:{port}"))
    assert f"localhost:{port}" in checked.partition("held by the running daemon")[2]


def test_two_of_any_port_stay_two(service: Daemon) -> None:
    service.start("-b", "localhost:0", "-b", "localhost:0", "-w", "1")
    before = [x["address"] for x in service.live()["listeners"]]
    assert len(set(before)) == 4
    service.ok("reload")
    assert [x["address"] for x in service.live()["listeners"]] == before
