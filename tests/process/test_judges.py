"""Headers of the PROXY protocol, whole and mutated: HAProxy, Varnish and a decoder from PyPI judge them."""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from proxyprotocol.detect import ProxyProtocolDetect
from proxyprotocol.result import is_ipv4, is_ipv6

from forkd.session.proxy_protocol import SIGNATURE, Header, Malformed, NotAHeader, parse
from forkd.system.networks import packed
from tests.session.test_proxy_protocol import BAD, GOOD

from .fronts import BY_NAME, Back, front
from .haproxy import haproxy

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
HAPROXY = """
frontend judge
    mode http
    bind {judge} accept-proxy
    http-request return status 200 content-type text/plain lf-string "%[src] %[src_port] %[dst] %[dst_port]"
"""
VARNISH = """
vcl 4.1;
import std;
backend none none;
sub vcl_recv { return (synth(200)); }
sub vcl_synth {
    synthetic(client.ip + " " + std.port(client.ip) + " " + server.ip + " " + std.port(server.ip));
    return (deliver);
}
"""

#: The ends that a judge takes from a header: four texts, or "real" where it says none. None: it refuses it.
Verdict = list[str] | None


def asked(address: tuple[str, int], data: bytes) -> Verdict:
    """What a server says that closes the connection where it refuses a header."""
    with socket.create_connection(address, 20) as sock:
        answer = b""
        with contextlib.suppress(OSError):
            sock.sendall(data + REQUEST)
            sock.shutdown(socket.SHUT_WR)
            while more := sock.recv(65536):
                answer += more
        real = [*map(str, (*sock.getsockname(), *address))]
    if not answer.startswith(b"HTTP/1.1 200"):
        return None
    found = answer.partition(b"\r\n\r\n")[2].decode().split(" ")
    return ["real"] if found == real else found


def decoded(data: bytes) -> Verdict:
    """By the package proxy-protocol, which takes no more bytes than the header's."""
    if data.startswith(SIGNATURE):
        data = data[: 16 + int.from_bytes(data[14:16], "big")]
    try:
        found = ProxyProtocolDetect().unpack(data)
    except Exception:  # of many kinds
        return None
    if (is_ipv4(found) or is_ipv6(found)) and found.protocol != socket.SOCK_DGRAM:
        return [str(x) for end in (found.source, found.dest) for x in end]
    return ["real"]


@contextlib.contextmanager
def by_haproxy(factory: pytest.TempPathFactory) -> Iterator[Callable[[bytes], Verdict]]:
    with haproxy(factory.mktemp("judge"), HAPROXY, "judge") as found:
        yield lambda data: asked(found.addresses["judge"], data)


@contextlib.contextmanager
def by_varnish(factory: pytest.TempPathFactory) -> Iterator[Callable[[bytes], Verdict]]:
    kind = BY_NAME["Varnish"]
    kind = kind._replace(swaps=(), command=tuple(x.replace("{port}", "{port},PROXY") for x in kind.command))
    with front(kind, factory.mktemp("judge"), Back("127.0.0.1:1", 1), text=VARNISH) as found:
        yield lambda data: asked(found.address, data)


@contextlib.contextmanager
def by_decoder(factory: pytest.TempPathFactory) -> Iterator[Callable[[bytes], Verdict]]:
    yield decoded


class Judge(NamedTuple):
    name: str
    program: str  # "": none
    by: Callable[[pytest.TempPathFactory], contextlib.AbstractContextManager[Callable[[bytes], Verdict]]]
    #: Why forkd refuses what it takes: parts of forkd's reasons, of a header in text and of a binary one.
    stricter: dict[bytes, tuple[str, ...]]
    #: Kinds of headers that forkd takes, and it may refuse.
    refuses: tuple[str, ...]


#: forkd is strict about numbers in text (HAProxy and Varnish take 192.0.2.256 for 192.0.3.0 or the like, the
#: decoder a zone and 080), about what comes twice, and about the ends of TLVs.
_NUMBERS = ("an address that", "a port that", "CR or LF")
JUDGES = (
    Judge(
        "HAProxy", "haproxy", by_haproxy,
        {b"P": (*_NUMBERS, "not the fields"), b"\r": ("twice", "SSL TLV")},
        ("unknown", "udp4", "udp6", "unix", "unix-datagram"),
    ),
    Judge(
        "Varnish", "varnishd", by_varnish,
        {b"P": (*_NUMBERS, "not the fields", "no header", "no end"),
         b"\r": ("twice", "TLV", "unassigned", "too short", "checksum")},
        ("unknown",),
    ),
    Judge(
        "decoder", "", by_decoder,
        {b"P": (*_NUMBERS, "not the fields", "no end"), b"\r": ("twice", "TLV", "unassigned", "checksum")},
        ("unknown", "unix", "unix-datagram"),
    ),
)  # fmt: skip


PIECES = (b" ", b"0", b"\r", b"\n", b":", b".", b"\0", b"1", b"F", b"\x20\0\5", b"\5\0\1a")


def mutated(chance: random.Random, rows: list[bytes]) -> bytes:
    data = bytearray(chance.choice(rows))
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        at = chance.randrange(len(data) + 1)
        match chance.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1 if at < len(data):
                data[at] = chance.choice((0, 1, 2, 3, 4, 5, 12, 36, 255, data[at] ^ 255))
            case 2:
                del data[at : at + chance.randrange(1, 4)]
            case 3:
                data[at:at] = chance.choice(PIECES)
            case 4:
                data[at:at] = chance.choice(rows)[: chance.randrange(40)]
            case 5 if data.startswith(SIGNATURE) and len(data) >= 16:
                data[14:16] = max(0, len(data) - 16).to_bytes(2, "big")  # as long as it is
            case 6:
                data[at:] = chance.choice(rows)[at:]
    return bytes(data)


def judged_here(data: bytes) -> Header | str:
    """The header, or why it is none."""
    try:
        return parse(data + REQUEST) or "incomplete"
    except (Malformed, NotAHeader) as error:
        return str(error)


def compare(judge: Judge, verdict: Callable[[bytes], Verdict], data: bytes) -> str:
    """Whether both find the same."""
    ours = judged_here(data)
    if not isinstance(ours, str) and ours.size != len(data):
        return "skipped"  # its end is somewhere else: what follows is no request
    theirs = verdict(data)
    if isinstance(ours, str):
        if theirs is None:
            return "refused"
        assert any(word in ours for word in judge.stricter.get(data[:1], ())), (data, ours, theirs)
        return "differs"
    if theirs is None or (ours.facts["transport"] == "unknown" and theirs != ["real"]):
        assert ours.facts["transport"] in judge.refuses, (data, ours, theirs)
        return "differs"
    if ours.ends is None:
        assert theirs == ["real"], data
    else:
        wanted = [x for host, port in ours.ends for x in (packed(host), port)]
        found = [packed(x) if i % 2 == 0 else int(x or "0") for i, x in enumerate(theirs)]
        assert found == wanted, data
    return "taken"


@pytest.mark.parametrize("count", [400, pytest.param(40_000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("judge", JUDGES, ids=lambda judge: judge.name)
def test_it_judges_headers_as_forkd_does(
    tmp_path_factory: pytest.TempPathFactory, judge: Judge, count: int
) -> None:
    if judge.program and shutil.which(judge.program) is None:
        pytest.skip(f"needs {judge.program}: scripts/apt")
    rows = [row[1] for row in (*GOOD, *BAD) if len(row[1]) < 1000]
    chance = random.Random(count)
    found: dict[str, int] = {}
    with judge.by(tmp_path_factory) as verdict:
        for data in (*rows, *(mutated(chance, rows) for _ in range(count))):
            what = compare(judge, verdict, data)
            found[what] = found.get(what, 0) + 1
    assert found["taken"] > count // 20 and found["refused"] > count // 4
    assert found["differs"] < count // 3
