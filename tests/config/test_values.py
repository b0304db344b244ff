"""The kinds: what each reads, from text and from TOML, and what it refuses."""

import math
import os
from datetime import date
from typing import Any

import pytest

from forkd.config import cpus, lists
from forkd.config import options as kinds
from forkd.config.options import Workers
from forkd.system.address import Address
from forkd.system.hosts import Hosts
from forkd.system.networks import Networks

BASE = "/base"

READS: list[tuple[kinds.Kind[Any], object, object]] = [
    (kinds.Bool(), True, True),
    (kinds.Bool(), "Yes", True),
    (kinds.Bool(), "0", False),
    (kinds.Text("[a-z0-9]+", "x"), "abc", "abc"),
    (kinds.Text("[a-z0-9]+", "x"), 33, "33"),
    (kinds.Account(), "www-data", "www-data"),
    (kinds.Account(), 33, "33"),
    (kinds.Account(), "4294967294", "4294967294"),
    (kinds.Choice(("a", "b")), "b", "b"),
    (kinds.Int(0, 9), "9", 9),
    (kinds.Int(0, 9), 0, 0),
    (kinds.Duration(), 2, 2.0),
    (kinds.Duration(), 0.25, 0.25),
    (kinds.Duration(), "500ms", 0.5),
    (kinds.Duration(), "2s", 2.0),
    (kinds.Duration(), "1.5 m", 90.0),
    (kinds.Duration(), "0", 0.0),
    (kinds.Size(), 5, 5),
    (kinds.Size(), "64k", 65536),
    (kinds.Size(), "10M", 10 * 2**20),
    (kinds.Size(), "1G", 2**30),
    (kinds.Octal(), "022", 0o22),
    (kinds.Octal(), "22", 0o22),
    (kinds.Octal(), "0o27", 0o27),
    (kinds.Octal(), 0o77, 0o77),
    (kinds.SocketMode(), "0660", 0o660),
    (kinds.SocketMode(), 0o200, 0o200),
    (kinds.Path(), "a/../b", "/base/b"),
    (kinds.Path(), "/a", "/a"),
    (kinds.LogPath(off=True), "none", None),
    (kinds.LogPath(off=True), "-", "-"),
    (kinds.LogPath(off=False), "a.log", "/base/a.log"),
    (kinds.AddressOrNone(), "none", None),
    (kinds.AddressOrNone(), 9464, Address("tcp", "0.0.0.0", 9464)),
    (lists.AddressList(), ":1,fd://3", (Address("tcp", "0.0.0.0", 1), Address("fd", fd=3))),
    (lists.AddressList(), [":1", 2], (Address.parse(":1"), Address.parse(":2"))),
    (lists.FieldNames(), "X-Forwarded, cf-connecting-ip", ("x-forwarded", "cf-connecting-ip")),
    (lists.NetworkList(), "10.0.0.0/8,unix", Networks.parse(["10.0.0.0/8", "unix"])),
    (lists.NetworkList(), ["::1", "127.0.0.1"], Networks.parse(["::1", "127.0.0.1"])),
    (lists.NetworkList(), "none", Networks.parse([])),
    (lists.HostList(), "B.example., a_1,b.EXAMPLE", Hosts.parse(["b.example", "a_1"])),
    (lists.HostList(), ["a:80", ".b,*.c"], Hosts.parse(["a:80", ".b", "*.c"])),
    (kinds.TextOrNone("[a-z]+", "x"), "none", None),
    (kinds.TextOrNone("[a-z]+", "x"), "a", "a"),
    (kinds.WorkersKind(), 3, Workers(3, 3)),
    (kinds.WorkersKind(), "3", Workers(3, 3)),
    (kinds.WorkersKind(), "0:1", Workers(0, 1)),
    (kinds.WorkersKind(), "512:512", Workers(512, 512)),
]

REFUSES: list[tuple[kinds.Kind[Any], list[object]]] = [
    (kinds.Bool(), ["maybe", 1, "", []]),
    (kinds.Text("[a-z]+", "x"), ["A", "", True, 1.5, ["a"], "a\0", "a\nb"]),
    (kinds.Account(), ["", "-1", "a b", "4294967295", 99999999999, True]),
    (kinds.Choice(("a", "b")), ["c", "A", 1, ""]),
    (kinds.Int(1, 9), [0, 10, "0", "x", "1.0", "-1", 1.0, True, "1" * 30, "\u0661", date.today()]),
    (kinds.Duration(), [-1, "-1", "1w", "1h30m", "12d", "ms"]),
    (kinds.Duration(), [math.nan, math.inf, "nan", "1e3", True, 1_000_001]),
    (kinds.Size(), [-1, "1.5k", "1kk", "k", "1T", True, 1.0, 2**63]),
    (kinds.Size(10, 20), ["9", 21]),
    (kinds.Octal(), ["8", "1000", 0o1000, -1, "0x1", True, 1.0]),
    (kinds.SocketMode(), ["466", "066", "0", 0o400, "1666", "rw", -1]),
    (kinds.Path(), ["", "a\0b", 1]),
    (kinds.LogPath(off=False), ["none", ""]),
    (kinds.AddressOrNone(), ["", "x", True]),
    (lists.AddressList(), [[], "", ["x"], ":1,", [True], [[":1"]]]),
    (lists.FieldNames(), [[], "", "a_b", "a b", "x:", "-a", True]),
    (lists.FieldNames(), ["host", "x-forwarded,Cookie", ["Connection"], "sec-fetch-site", "proxy"]),
    (lists.NetworkList(), [[], "", "10.0.0.1/8", "none,unix", True, ["x"], "localhost"]),
    (lists.HostList(), [[], "", "a,,b", "a:b", "http://a", "a b", "*a", "-a", True, 1, [["a"]], "a" * 254]),
    (kinds.TextOrNone("[a-z]+", "x"), ["A", "", "a\r\nb", True]),
    (kinds.WorkersKind(), [0, "0", "0:0", "3:2", "513", "1:513", "-1", "a", "1:2:3", ":2", True]),
]


@pytest.mark.parametrize(("kind", "raw", "value"), READS)
def test_reads(kind: kinds.Kind[Any], raw: object, value: object) -> None:
    read = kind.read(raw, BASE)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("kind", "raw"), [(kind, raw) for kind, wrong in REFUSES for raw in wrong], ids=repr
)
def test_refuses(kind: kinds.Kind[Any], raw: object) -> None:
    with pytest.raises(ValueError):
        kind.read(raw, BASE)


def test_every_wrong_address_of_a_list_is_named() -> None:
    with pytest.raises(ValueError, match=r"'x' has no port.*'70000' is not a port"):
        lists.AddressList().read(["x", ":1", "h:70000"], BASE)


def test_auto_is_the_cpus_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "quota", lambda: None)  # the tests may run under one
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(3)))
    assert kinds.WorkersKind().read("auto", BASE) == Workers(3, 3)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(1000)))
    assert kinds.WorkersKind().read("auto", BASE) == Workers(512, 512)


def test_workers_print_as_they_are_written() -> None:
    assert [str(Workers(2, 2)), str(Workers(0, 4))] == ["2", "0:4"]
