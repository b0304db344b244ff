"""What trackers of other servers, proxies and libraries report of forwarded fields and of the PROXY protocol.

Each is a row of a table of this directory, or a test.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .fronts import ROWS
from .test_proxy_protocol import GOOD

ROOT = Path(__file__).parents[2]
#: What was reported, and where forkd has it: ids of rows, or a file and a test.
REPORTED: dict[str, tuple[str, ...]] = {
    "uvicorn 2789: a port makes a hop a stranger, or part of its address": (
        "port", "IPv6 in brackets with port", "a port does not make a trusted hop a stranger",
    ),
    "uvicorn 1068: no client where all hops are trusted": (
        "a client on the proxy's own host: all are trusted, the leftmost is it",
        "uvicorn: the client runs on the proxy",
    ),
    "uvicorn 369: fields count from trusted peers alone": ("an untrusted peer",),
    "uvicorn 590, 2971: the client is the nearest hop that is not trusted, over several fields too": (
        "two hops, one written by the client", "a list over several fields",
    ),
    "an empty field is a client": ("an empty field is none", "nothing but commas is none"),
    "gunicorn 1544: RFC 7239": ("RFC 7239: with all",),
    "gunicorn 1766, 1861: a peer over a unix socket is not trusted": ("a unix peer is trusted",),
    "gunicorn 2350, zulip 25668: a field that the front does not set says https": (
        "nothing chosen by x-forwarded says https but Proto",
        "those that were not chosen are dropped from everybody",
    ),
    "gunicorn 2650: a prefix that a client sends leads past the front's rules": (
        "names with underscores stay dropped", "prefix", "an untrusted peer",
        "tests/process/test_fronts.py::test_the_application_sees_the_client",
    ),
    "gunicorn 2400: nothing says that a field was ignored": (
        "tests/process/test_forwarded.py::test_each_model",
        "tests/process/test_forwarded.py::test_a_reload_changes_who_is_trusted",
    ),
    "HAProxy 511, kanidm 3866, varnish 2151: checks with LOCAL or UNKNOWN": (
        "v2 local", "v1 unknown", "tests/process/test_haproxy.py::test_its_probes_are_served",
        "tests/process/test_fronts.py::test_varnish_sends_the_proxy_protocol",
    ),
    "go-proxyproto 12, kubernetes 57250: what follows LOCAL is taken for a request": (
        "v2 local, with addresses", "v2 local, tcp4 without addresses", "v2 local, with what is none",
    ),
    "go-proxyproto 60: UNKNOWN and an unspecified family are refused": (
        "v1 unknown", "v1 unknown, with more", "v2 without a protocol",
    ),
}  # fmt: skip
ROW_IDS = {row.id for row in ROWS} | {row[0] for row in GOOD}


@pytest.mark.parametrize("what", REPORTED)
def test_it_is_tested(what: str) -> None:
    for where in REPORTED[what]:
        path, _, name = where.partition("::")
        if name:
            assert f"\ndef {name}(" in (ROOT / path).read_text(), where
        else:
            assert where in ROW_IDS, where
