"""Fields of proxies in native code against the twin in Python: it takes the usual ones, and makes the same
of all that it takes. Heads are put together at random, by a seed that a failure prints.
"""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from forkd.app.wsgi.environ import environ_of
from forkd.app.wsgi.shortcut import native_fronts
from forkd.config import Config
from forkd.http.limits import Limits, Refused
from forkd.http.request import RequestParser
from forkd.native import native
from forkd.session.ends import Ends
from forkd.session.fronts import Fronts
from forkd.system.networks import Networks
from forkd.system.scoreboard import scratch_row
from tests.session.fronts import LOCAL, MALFORMED, ROWS, USUAL, Peer, Row, head_of, taken_drops

pytestmark = pytest.mark.skipif(native is None, reason="forkd was installed without a compiler")

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "20000"))
SEED = int(os.environ.get("FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 10**9)
TEMPLATE: dict[str, Any] = {"SCRIPT_NAME": "", "SERVER_PROTOCOL": "HTTP/1.1", "wsgi.url_scheme": "http"}


class Log:
    def debug(self, message: str) -> None: ...

    warning = debug


class Child:
    """The two twins of one configuration."""

    def __init__(self, of: Row) -> None:
        config = Config(
            forwarded_allow=Networks.parse(of.allow), forwarded_fields=of.chosen,
            forwarded_untrusted=of.untrusted,
        )  # fmt: skip
        self.row, self.log, self.peer = scratch_row(), Log(), Peer(of.peer)
        self.recorder = self.row.recorder(True)
        self._fronts = native_fronts(config, self.recorder)
        self._twin = Fronts(config, self)  # type: ignore[arg-type]
        self._ends = Ends(server="h", port="1", client=of.peer, client_port="2")
        self._limits = native.HeadLimits(  # type: ignore[union-attr]
            head=8190, fields=100, body=0, template=TEMPLATE, fronts=self._fronts, hosts=None, ids=False
        )

    def native(self, head: bytes) -> tuple[Any, ...] | None:
        found = native.read_head(head, self._limits, self._ends)  # type: ignore[union-attr]
        if found is None:
            assert not any(taken_drops(self.row))
            return None
        client = self._ends.client if found.client is None else found.client
        assert not found.forwarded
        return found.environ, client, taken_drops(self.row)

    def python(self, head: bytes) -> tuple[Any, ...] | None:
        request = RequestParser(Limits()).feed(head)
        assert request is not None
        try:
            if request.forwarded or self._twin.always:
                self._twin.judge(request, self.peer)
        except Refused:
            return None
        client = self._ends.client if request.client is None else request.client
        return environ_of(request, TEMPLATE, self._ends), client, taken_drops(self.row)


@pytest.mark.parametrize("row", ROWS, ids=[row.id for row in ROWS])
def test_what_native_code_takes_it_reads_alike(row: Row) -> None:
    child = Child(row)
    head = head_of(row.fields)
    found = child.native(head)
    assert found is None or found == child.python(head)


@pytest.mark.parametrize(
    "fields",
    [
        "X-Forwarded-For: 1.2.3.4|X-Forwarded-Proto: https|X-Forwarded-Host: a.b:8443|X-Forwarded-Port: 8443",
        "X-Forwarded-For: 6.6.6.6, 2001:db8::1, 127.0.0.2|X-Forwarded-Proto: HTTP|X-Forwarded-Prefix: /a/b/",
        "X-Forwarded-For: [2001:db8::1]:80|X-Forwarded-Port: 81|X-Forwarded-Proto: wss",
        "X-Forwarded-For: ::ffff:1.2.3.4|X-Forwarded-Host: a", "X-Forwarded-For:", "X-Forwarded-For: unknown",
        "X-Real-IP: 1.2.3.4|Forwarded: for=a|X-Forwarded-Server: x",
    ],
)  # fmt: skip
@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "", "192.0.2.1", "fe80::1%eth0"])
def test_what_is_usual_it_takes(fields: str, peer: str) -> None:
    child = Child(Row("", [], {}, peer=peer))
    head = head_of([(n, v.strip()) for n, _, v in (line.partition(":") for line in fields.split("|"))])
    found = child.native(head)
    assert found is not None and found == child.python(head)


def test_an_address_alone_it_takes() -> None:
    for chosen in ("x-real-ip", "cf-connecting-ip", "x-our-client"):
        child = Child(Row("", [], {}, chosen=(chosen,)))
        head = head_of([(chosen, "2001:DB8::1"), ("X-Forwarded-For", "1.2.3.4")])
        found = child.native(head)
        assert found is not None and found == child.python(head) and found[1] == "2001:db8::1"


NAMES = [
    "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Prefix",
    "Forwarded", "X-Real-IP", "X-Forwarded-Ssl", "x-forwarded-user", "X_Forwarded_For", "CF-Connecting-IP",
    "X-Forwarded", "X-Forwarded-", "X-Our-Client", "True-Client-IP", "Accept",
]  # fmt: skip
VALUES = sorted({value for row in ROWS for _, value in row.fields} | set(MALFORMED))
PARTS = [
    "1.2.3.4", "127.0.0.1", "::1", "[::1]", ":80", ":", ",", " , ", "%eth0", "unix:", "/a", "/", "..", ".",
    "a", "https", "http", "8443", "_x", "\t", "[", "]", "::ffff:127.0.0.1", "65535", "65536", "0", "-", "é",
    '"', "fe80::1", "fe80::1%" + "x" * 120, "10.0.0.1", "2001:DB8::", "1:2:3:4:5:6:7:8", "=", ";",
    "1:0:0:2:3:4:5:6", "1:0:2:3:4:5:6:7", "01:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:0", "0:1:2:3:4:5:6:7",
    "::1.2.3.4",
]  # fmt: skip
CHOSEN = [
    USUAL, USUAL, USUAL, ("forwarded",), ("x-real-ip", "x-forwarded"), ("x-forwarded", "x-forwarded-user"),
    ("x-our-client",), ("x-forwarded-proto", "cf-connecting-ip", "x-forwarded-ssl"),
]  # fmt: skip
ALLOWED = [LOCAL, LOCAL, ("*",), ("10.0.0.0/9", "127.0.0.1", "2001:db8::/33"), (), ("unix",)]
PEERS = ["127.0.0.1", "127.0.0.1", "", "::1", "10.200.0.1", "::ffff:127.0.0.1", "2001:db8:8000::1"]


def test_at_random() -> None:
    print(f"FUZZ_SEED={SEED}")
    rng = random.Random(SEED)
    taken = 0
    for _ in range(ROUNDS // 50):
        untrusted = rng.choice(["drop", "drop", "pass"])
        row = Row("", [], {}, rng.choice(PEERS), rng.choice(ALLOWED), rng.choice(CHOSEN), untrusted)
        child = Child(row)
        for _ in range(50):
            fields = []
            for _ in range(rng.choice((1, 1, 2, 3, 5))):
                made = "".join(rng.choice(PARTS) for _ in range(rng.randrange(5)))
                value = rng.choice(VALUES) if rng.random() < 0.4 else made
                fields.append((rng.choice(NAMES if rng.random() < 0.3 else NAMES[:5]), value))
            head = head_of(fields, rng.choice(["spam", "spam:80", "spam:8080", "[::1]:80", "spam:"]))
            found = child.native(head)
            if found is not None:
                taken += 1
                assert found == child.python(head), (row, head)
    assert taken > ROUNDS / 5
