"""What proxies say of a request, as the application, the logs and the counters have it: over the tables of
fronts.py, with and without native code.
"""

from __future__ import annotations

from typing import Any

import pytest

from forkd.http.forwarded import Drop, place_of
from forkd.native import native as built
from forkd.system.cells import DROPPED, FORWARDED_CELLS
from tests.session.fronts import MALFORMED, ROWS, USUAL, Row, Served, head_of

#: What is the connection's or the process' own.
OWN = ("wsgi.input", "wsgi.errors", "wsgi.file_wrapper")
WAYS = [False] if built is None else [False, True]


def seen(served: Served, fields: list[tuple[str, str]]) -> dict[str, Any]:
    served.send(head_of(fields))
    environ = served.environs.pop()
    return {key: value for key, value in environ.items() if key not in OWN}


def dropped(served: Served) -> dict[tuple[str, str], int]:
    names = [
        "forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port",
        "x-forwarded-prefix", "x-forwarded-ssl", "x-forwarded-protocol", "x-real-ip", "x-client-ip",
        "true-client-ip", "cf-connecting-ip", "other",
    ]  # fmt: skip
    cells = {
        (name, why.label): served.row.cells[DROPPED + why * FORWARDED_CELLS + place_of(name.encode())]
        for name in names for why in Drop
    }  # fmt: skip
    return {key: count for key, count in cells.items() if count}


@pytest.mark.parametrize("native", WAYS)
@pytest.mark.parametrize("row", ROWS, ids=[row.id for row in ROWS])
def test_what_the_application_sees(row: Row, native: bool) -> None:
    served = Served(row, native)
    wanted = seen(served, []) | row.seen
    found = seen(served, row.fields)
    assert found == wanted
    assert found["forkd.peer"] == row.peer
    # What one request says stays with it.
    assert seen(served, [])["REMOTE_ADDR"] == row.peer
    lines = served.access.take().decode().splitlines()
    assert [line.split(" ")[0] for line in lines] == [
        address or "unix:" for address in (row.peer, found["REMOTE_ADDR"], row.peer)
    ]


def test_ids_are_unique() -> None:
    assert len({row.id for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("native", WAYS)
@pytest.mark.parametrize("value", MALFORMED)
def test_a_forwarded_that_is_malformed_is_refused(value: str, native: bool) -> None:
    served = Served(Row("", [], {}, chosen=("forwarded",)), native)
    answer = served.send(head_of([("Forwarded", value)]))
    assert answer.startswith(b"HTTP/1.1 400 ") and not served.environs
    assert served.access.take().startswith(b"127.0.0.1 ")
    # Where it does not count, it is no matter.
    for row in (Row("", [], {}), Row("", [], {}, chosen=("forwarded",), peer="192.0.2.1")):
        served = Served(row, native)
        assert seen(served, [("Forwarded", value)]) == seen(served, [])


@pytest.mark.parametrize("native", WAYS)
def test_what_is_dropped_is_counted_by_name_and_reason(native: bool) -> None:
    fields = [("X-Forwarded-For", "1.2.3.4"), ("x-forwarded-for", "5.6.7.8"), ("X-Forwarded-User", "a"),
              ("X-Real-IP", "1.2.3.4"), ("Forwarded", "for=a")]  # fmt: skip
    served = Served(Row("", [], {}, peer="192.0.2.1"), native)
    served.send(head_of(fields))
    assert dropped(served) == {
        ("x-forwarded-for", "untrusted"): 2, ("other", "untrusted"): 1, ("x-real-ip", "untrusted"): 1,
        ("forwarded", "untrusted"): 1,
    }  # fmt: skip
    served = Served(Row("", [], {}), native)
    served.send(head_of([*fields, ("X-Forwarded-Proto", "asdf"), ("X-Forwarded-Prefix", "//evil")]))
    assert dropped(served) == {
        ("other", "not-chosen"): 1, ("x-real-ip", "not-chosen"): 1, ("forwarded", "not-chosen"): 1,
        ("x-forwarded-proto", "malformed"): 1, ("x-forwarded-prefix", "malformed"): 1,
    }  # fmt: skip


@pytest.mark.parametrize("native", WAYS)
@pytest.mark.parametrize("value", ["garbage", '"1.2.3.4"', "1.2.3.4:99999", "1.2.3", "garbage, 127.0.0.2"])
@pytest.mark.parametrize("name", ["x-forwarded-for", "x-real-ip"])
def test_what_is_no_address_is_malformed(name: str, value: str, native: bool) -> None:
    served = Served(Row("", [], {}, chosen=(name,)), native)
    served.send(head_of([(name, value)]))
    assert dropped(served) == {(name, "malformed"): 1}
    assert served.log.lines == [f"127.0.0.1: {name} is dropped: malformed"]


@pytest.mark.parametrize(
    ("value", "malformed"),
    [("for=garbage", True), ("for=1.2.3.4;proto=asdf", True), ('for=1.2.3.4;host="a b"', True),
     ("for=1.2.3.4;proto=https;host=a", False), ("proto=https", False), ("for=unknown;by=_x", False),
     ("for=_hidden", False), ("for=garbage, for=1.2.3.4", False)],
)  # fmt: skip
@pytest.mark.parametrize("native", WAYS)
def test_an_element_of_forwarded_may_be_malformed(value: str, malformed: bool, native: bool) -> None:
    served = Served(Row("", [], {}, chosen=("forwarded",)), native)
    served.send(head_of([("Forwarded", value)]))
    assert dropped(served) == ({("forwarded", "malformed"): 1} if malformed else {})


def test_a_field_that_is_dropped_is_told_at_debug_with_its_peer() -> None:
    served = Served(Row("", [], {}, peer=""), False)
    served.send(head_of([("X-Real-IP", "1.2.3.4")]))
    assert served.log.lines == ["unix: x-real-ip is dropped: not-chosen"]


@pytest.mark.parametrize("native", WAYS)
def test_fields_in_conflict_are_told_once_a_minute(native: bool) -> None:
    served = Served(Row("", [], {}, chosen=("x-real-ip", *USUAL)), native)
    for _ in range(3):
        served.send(head_of([("X-Forwarded-For", "1.2.3.4"), ("X-Real-IP", "5.6.7.8")]))
        served.send(head_of([("X-Forwarded-Host", "a:1"), ("X-Forwarded-Port", "2")]))
    assert served.log.lines == [
        "127.0.0.1: x-real-ip and x-forwarded-for do not agree on the client: the former counts "
        "(said once a minute)"
    ]


@pytest.mark.parametrize("native", WAYS)
def test_fields_that_agree_are_not(native: bool) -> None:
    served = Served(Row("", [], {}, chosen=("x-real-ip", *USUAL)), native)
    served.send(head_of([("X-Forwarded-For", "1.2.3.4:80"), ("X-Real-IP", "1.2.3.4")]))
    served.send(head_of([("X-Forwarded-Host", "a:1"), ("X-Forwarded-Port", "1")]))
    assert served.log.lines == []


@pytest.mark.parametrize("native", WAYS)
def test_the_absolute_form_names_a_host_that_a_proxy_may_change(native: bool) -> None:
    served = Served(Row("", [], {}), native)
    fields = b"Host: c\r\nX-Forwarded-Host: d\r\nX-Forwarded-For: 1.2.3.4\r\n"
    served.send(b"GET http://a/b HTTP/1.1\r\n" + fields + b"\r\n")
    environ = served.environs.pop()
    assert (environ["HTTP_HOST"], environ["REMOTE_ADDR"]) == ("d", "1.2.3.4")


@pytest.mark.parametrize("native", WAYS)
def test_a_refusal_after_the_head_shows_the_client(native: bool) -> None:
    served = Served(Row("", [], {}), native)
    fields = [("X-Forwarded-For", "1.2.3.4"), ("Content-Length", "99999999999")]
    assert served.send(head_of(fields)).startswith(b"HTTP/1.1 413 ")
    assert served.access.take().startswith(b"1.2.3.4 ")


@pytest.mark.parametrize("native", WAYS)
def test_the_first_thing_that_is_wrong_refuses(native: bool) -> None:
    served = Served(Row("", [], {}, chosen=("forwarded",)), native)
    fields = [("Forwarded", "for=a;;=b"), ("Content-Length", "99999999999")]
    assert served.send(head_of(fields)).startswith(b"HTTP/1.1 413 ")
