"""Lines of the access log: by the format that is given, and in JSON."""

from __future__ import annotations

import json
import os
import re

import pytest

from forkd.log.lines import CombinedLines, FormattedLines, JsonLines
from forkd.system.line_format import FIELDS, parse

VALUES = ("1.2.3.4", b"GET /a?b HTTP/1.1", 200, 17, "-", "curl/8", 1_500_499)
COMBINED = '%{client} - - [%{time}] "%{request}" %{status} %{bytes} "%{referer}" "%{agent}" %{seconds}'


def made(text: str, *values: object, **more: str) -> str:
    return FormattedLines(text).make(*(values or VALUES), **more).decode()  # type: ignore[arg-type]


def test_the_default_in_fields_is_the_default() -> None:
    same = {made(COMBINED), CombinedLines().make(*VALUES).decode()}
    assert len({line.partition("]")[2] for line in same}) == 1


def test_each_field() -> None:
    text = " ".join(f"{name}=%{{{name}}}" for name in FIELDS if name not in ("time", "pid")) + " 100%% {x} }{"
    assert made("%{pid}") == f"{os.getpid()}\n"
    assert made(text, reason="timeout", id="abc", peer="10.0.0.1") == (
        "client=1.2.3.4 peer=10.0.0.1 request=GET /a?b HTTP/1.1 method=GET target=/a?b status=200 bytes=17 "
        "referer=- agent=curl/8 seconds=0.001500 request_id=abc reason=timeout 100% {x} }{\n"
    )
    assert made("%{peer} %{client} %{request_id} %{reason}", "", *VALUES[1:]) == "unix: unix: - -\n"
    assert made("%{method} %{target}", "", b"-", *VALUES[2:]) == "- -\n"


def test_no_value_forges_or_tears_a_line() -> None:
    nasty = 'a"b\\c\nd\x7f\xe9{0}%{pid}'
    text = '"%{request}" "%{referer}" "%{agent}" "%{request_id}"'
    line = made(text, "", nasty.encode("latin-1"), 200, 1, nasty, nasty, 1, id="{}")
    once = "a\\x22b\\x5cc\\x0ad\\x7f\\xe9{0}%{pid}"
    assert line == f'"{once}" "{once}" "{once}" "{{}}"\n'


@pytest.mark.parametrize("text", ["%h", "%", "a %{x} b", "%{}", "%{client", "%(h)s", "%{Pid}", "%{a%{pid}}"])
def test_what_is_no_field(text: str) -> None:
    with pytest.raises(ValueError, match=r"there is no such field; allowed are %\{client\}, "):
        parse(text)


def test_all_that_are_wrong_are_named_at_once() -> None:
    with pytest.raises(ValueError, match=re.escape("%{a}, %, %{b}: there is")):
        parse("%{a} %h %{pid} %{b}")


def test_json_has_the_peer_where_it_is_not_the_client() -> None:
    found = json.loads(JsonLines().make(*VALUES, "", "abc", "10.0.0.1"))
    assert (found["client"], found["peer"], found["request_id"]) == ("1.2.3.4", "10.0.0.1", "abc")
    for peer in ("1.2.3.4", "-"):  # the same; not known
        found = json.loads(JsonLines().make(*VALUES, "", "", peer))
        assert not {"peer", "request_id", "reason"} & set(found)
