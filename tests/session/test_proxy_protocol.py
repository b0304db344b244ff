"""The header of the PROXY protocol: bytes that are one, bytes that are none, and what follows from them."""

from __future__ import annotations

import struct
from typing import Any

import pytest

from forkd.session.proxy_protocol import (
    MAX_LINE_BYTES,
    SIGNATURE,
    Header,
    Malformed,
    NotAHeader,
    compose,
    crc32c,
    parse,
)

V4 = bytes([192, 0, 2, 7, 198, 51, 100, 1]) + struct.pack("!HH", 40000, 443)
V6 = bytes.fromhex("20010db8000000000000000000000007" "20010db8000000000000000000000001") + V4[8:]
MAPPED = bytes(10) + b"\xff\xff" + V4[:4] + bytes(10) + b"\xff\xff" + V4[4:8] + V4[8:]
ENDS4 = ("192.0.2.7", 40000), ("198.51.100.1", 443)
ENDS6 = ("2001:db8::7", 40000), ("2001:db8::1", 443)


def binary(command: int, kind: int, block: bytes = b"", size: int | None = None) -> bytes:
    size = len(block) if size is None else size
    return SIGNATURE + bytes([command, kind]) + struct.pack("!H", size) + block


def tlv(number: int, value: bytes = b"") -> bytes:
    return struct.pack("!BH", number, len(value)) + value


def tcp4(*tlvs: bytes) -> bytes:
    return binary(0x21, 0x11, V4 + b"".join(tlvs))


def summed(*tlvs: bytes, before: tuple[bytes, ...] = ()) -> bytes:
    """With a right checksum."""
    at = 16 + len(V4) + sum(map(len, before)) + 3
    data = tcp4(*before, tlv(3, bytes(4)), *tlvs)
    return data[:at] + struct.pack("!I", crc32c(data)) + data[at + 4 :]


def paths(source: bytes, destination: bytes) -> bytes:
    return source.ljust(108, b"\0") + destination.ljust(108, b"\0")


def ssl(bits: int, result: int, *tlvs: bytes) -> bytes:
    return tlv(0x20, struct.pack("!BI", bits, result) + b"".join(tlvs))


LONGEST = b"PROXY UNKNOWN " + b"f" * (MAX_LINE_BYTES - 16) + b"\r\n"
LONG6 = b"2001:0db8:1111:2222:3333:4444:5555:6666"
UNIX = paths(b"/run/client", b"/run/proxy.sock")

#: Header, ends, and facts besides version, source and destination.
GOOD: list[tuple[str, bytes, Any, dict[str, Any]]] = [
    ("v1 tcp4", b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\r\n", ENDS4, {"transport": "tcp4"}),
    ("v1 tcp6", b"PROXY TCP6 2001:db8::7 2001:DB8:0::1 40000 443\r\n", ENDS6, {"transport": "tcp6"}),
    (
        "v1 the longest tcp6", b"PROXY TCP6 %b %b 65535 65535\r\n" % (LONG6, LONG6),
        (("2001:db8:1111:2222:3333:4444:5555:6666", 65535),) * 2, {"transport": "tcp6"},
    ),
    ("v1 mapped", b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:c633:6401 40000 443\r\n", ENDS4,
     {"transport": "tcp6"}),
    ("v1 port 0", b"PROXY TCP4 192.0.2.7 198.51.100.1 0 0\r\n", (("192.0.2.7", 0), ("198.51.100.1", 0)),
     {"transport": "tcp4"}),
    ("v1 unknown", b"PROXY UNKNOWN\r\n", None, {"transport": "unknown"}),
    ("v1 unknown, with more", b"PROXY UNKNOWN ffff::1 \x00\xff ?\r\n", None, {"transport": "unknown"}),
    ("v1 unknown, the longest", LONGEST, None, {"transport": "unknown"}),
    ("v2 tcp4", tcp4(), ENDS4, {"transport": "tcp4"}),
    ("v2 tcp6", binary(0x21, 0x21, V6), ENDS6, {"transport": "tcp6"}),
    ("v2 mapped", binary(0x21, 0x21, MAPPED), ENDS4, {"transport": "tcp6"}),
    ("v2 udp4", binary(0x21, 0x12, V4), None,
     {"transport": "udp4", "source": ENDS4[0], "destination": ENDS4[1]}),
    ("v2 udp6", binary(0x21, 0x22, V6), None,
     {"transport": "udp6", "source": ENDS6[0], "destination": ENDS6[1]}),
    ("v2 unix", binary(0x21, 0x31, UNIX), None,
     {"transport": "unix", "source": "/run/client", "destination": "/run/proxy.sock"}),
    ("v2 unix, unnamed and abstract", binary(0x21, 0x32, paths(b"", b"\0name")), None,
     {"transport": "unix-datagram", "source": "", "destination": "@name"}),
    ("v2 unix, of full length", binary(0x21, 0x31, b"/" * 216), None,
     {"transport": "unix", "source": "/" * 108, "destination": "/" * 108}),
    ("v2 unspecified", binary(0x21, 0x00), None, {"transport": "unknown"}),
    ("v2 unspecified, with addresses", binary(0x21, 0x00, V4), None, {"transport": "unknown"}),
    ("v2 without a protocol", binary(0x21, 0x10, b"any"), None, {"transport": "unknown"}),
    ("v2 local", binary(0x20, 0x00), None, {"transport": "local"}),
    ("v2 local, with addresses", binary(0x20, 0x11, V4), None, {"transport": "local"}),
    # The check of an NLB (kubernetes 57250): TLVs where addresses would be.
    ("v2 local, tcp4 without addresses",
     binary(0x20, 0x11, tlv(3, b"\xbc\xe5\x95\x1f") + tlv(4, bytes(74))), None, {"transport": "local"}),
    ("v2 local, with what is none", binary(0x20, 0xFF, b"\xff" * 300), None, {"transport": "local"}),
    ("v2 local, a wrong checksum", binary(0x20, 0x11, V4 + tlv(3, b"none")), None, {"transport": "local"}),
    ("alpn", tcp4(tlv(1, b"h2")), ENDS4, {"transport": "tcp4", "alpn": "h2", "tlvs": ((1, b"h2"),)}),
    ("authority", tcp4(tlv(2, "é.example".encode())), ENDS4,
     {"transport": "tcp4", "authority": "é.example", "tlvs": ((2, "é.example".encode()),)}),
    ("authority that is no UTF-8", tcp4(tlv(2, b"\xe9.example")), ENDS4,
     {"transport": "tcp4", "authority": "\udce9.example", "tlvs": ((2, b"\xe9.example"),)}),
    ("authority, the longest", tcp4(tlv(2, b"a" * 255)), ENDS4,
     {"transport": "tcp4", "authority": "a" * 255, "tlvs": ((2, b"a" * 255),)}),
    ("unique id", tcp4(tlv(5, b"\xffid" + bytes(125))), ENDS4,
     {"transport": "tcp4", "unique_id": b"\xffid" + bytes(125), "tlvs": ((5, b"\xffid" + bytes(125)),)}),
    ("netns", tcp4(tlv(0x30, b"blue")), ENDS4,
     {"transport": "tcp4", "netns": "blue", "tlvs": ((0x30, b"blue"),)}),
    ("noop", tcp4(tlv(4, b"fill"), tlv(4)), ENDS4, {"transport": "tcp4", "tlvs": ()}),
    ("of an application, twice", tcp4(tlv(0xEA, b"\x01vpce"), tlv(0xEA)), ENDS4,
     {"transport": "tcp4", "tlvs": ((0xEA, b"\x01vpce"), (0xEA, b""))}),
    ("checksum alone", summed(), ENDS4, {"transport": "tcp4", "tlvs": ()}),
    ("checksum between others", summed(tlv(4, b"\0" * 9), before=(tlv(1, b"h2"),)), ENDS4,
     {"transport": "tcp4", "alpn": "h2", "tlvs": ((1, b"h2"),)}),
    ("ssl", tcp4(ssl(7, 0, tlv(0x21, b"TLSv1.3"), tlv(0x22, b"a.b"), tlv(0x23, b"AES"), tlv(0x24, b"SHA"),
                     tlv(0x25, b"RSA"), tlv(0x99, b"?"))), ENDS4,
     {"transport": "tcp4", "ssl": {"tls": True, "certificate": True, "verified": True, "version": "TLSv1.3",
                                   "cn": "a.b", "cipher": "AES", "signature_algorithm": "SHA",
                                   "key_algorithm": "RSA"}}),
    ("ssl without a certificate", tcp4(ssl(1, 0)), ENDS4,
     {"transport": "tcp4", "ssl": {"tls": True, "certificate": False, "verified": False}}),
    ("ssl, certificate not verified", tcp4(ssl(3, 18)), ENDS4,
     {"transport": "tcp4", "ssl": {"tls": True, "certificate": True, "verified": False}}),
    ("ssl, certificate of the session", tcp4(ssl(5, 0)), ENDS4,
     {"transport": "tcp4", "ssl": {"tls": True, "certificate": True, "verified": True}}),
    ("the longest", tcp4(tlv(0xE0, bytes(65535 - 12 - 3))), ENDS4,
     {"transport": "tcp4", "tlvs": ((0xE0, bytes(65535 - 12 - 3)),)}),
]  # fmt: skip

#: Bytes, and a word of why.
BAD: list[tuple[str, bytes, str]] = [
    ("v1 108 bytes", LONGEST[:-2] + b"f\r\n", "within 107"),
    ("v1 without an end", b"PROXY TCP4 " + b"1" * 100, "within 107"),
    ("v1 LF alone", b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443\n", "CR or LF"),
    ("v1 CR in it", b"PROXY UNKNOWN \r x\r\n", "CR or LF"),
    ("v1 LF first", b"PROXY \n", "CR or LF"),
    ("v1 nothing", b"PROXY \r\n", "fields"),
    ("v1 lower case", b"PROXY tcp4 192.0.2.7 198.51.100.1 40000 443\r\n", "fields"),
    ("v1 UDP4", b"PROXY UDP4 192.0.2.7 198.51.100.1 40000 443\r\n", "fields"),
    ("v1 UNKNOWNS", b"PROXY UNKNOWNS\r\n", "fields"),
    ("v1 two blanks", b"PROXY TCP4  192.0.2.7 198.51.100.1 40000 443\r\n", "fields"),
    ("v1 two blanks at first", b"PROXY  TCP4 192.0.2.7 198.51.100.1 40000 443\r\n", "fields"),
    ("v1 blank at the end", b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 443 \r\n", "fields"),
    ("v1 tab", b"PROXY TCP4\t192.0.2.7 198.51.100.1 40000 443\r\n", "fields"),
    ("v1 three fields", b"PROXY TCP4 192.0.2.7 198.51.100.1 40000\r\n", "fields"),
    ("v1 IPv6 in TCP4", b"PROXY TCP4 ::1 ::1 40000 443\r\n", "address"),
    ("v1 IPv4 in TCP6", b"PROXY TCP6 192.0.2.7 198.51.100.1 40000 443\r\n", "address"),
    ("v1 mixed", b"PROXY TCP4 192.0.2.7 ::1 40000 443\r\n", "address"),
    ("v1 leading zero", b"PROXY TCP4 192.0.2.07 198.51.100.1 40000 443\r\n", "address"),
    ("v1 256", b"PROXY TCP4 192.0.2.256 198.51.100.1 40000 443\r\n", "address"),
    ("v1 three numbers", b"PROXY TCP4 192.0.2 198.51.100.1 40000 443\r\n", "address"),
    ("v1 NUL", b"PROXY TCP4 192.0.2.7\0 198.51.100.1 40000 443\r\n", "address"),
    ("v1 not ASCII", "PROXY TCP4 192.0.2.٧ 198.51.100.1 40000 443\r\n".encode(), "address"),
    ("v1 zone", b"PROXY TCP6 fe80::1%eth0 ::1 40000 443\r\n", "address"),
    ("v1 brackets", b"PROXY TCP6 [::1] ::1 40000 443\r\n", "address"),
    ("v1 two times ::", b"PROXY TCP6 1::2::3 ::1 40000 443\r\n", "address"),
    ("v1 name", b"PROXY TCP4 localhost 198.51.100.1 40000 443\r\n", "address"),
    ("v1 port 65536", b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n", "port"),
    ("v1 port 00", b"PROXY TCP4 192.0.2.7 198.51.100.1 00 443\r\n", "port"),
    ("v1 port 080", b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 080\r\n", "port"),
    ("v1 port +1", b"PROXY TCP4 192.0.2.7 198.51.100.1 +1 443\r\n", "port"),
    ("v1 port -1", b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 443\r\n", "port"),
    ("v1 no port", b"PROXY TCP4 192.0.2.7 198.51.100.1  443\r\n", "port"),
    ("v2 version 1", binary(0x11, 0x11, V4), "version or command"),
    ("v2 version 3", binary(0x31, 0x11, V4), "version or command"),
    ("v2 command 2", binary(0x22, 0x11, V4), "version or command"),
    ("v2 family 4", binary(0x21, 0x41, V4), "unassigned"),
    ("v2 protocol 3", binary(0x21, 0x13, V4), "unassigned"),
    ("v2 family 4, no protocol", binary(0x21, 0x40), "unassigned"),
    ("v2 no family, protocol 3", binary(0x21, 0x03), "unassigned"),
    ("v2 tcp4 too short", binary(0x21, 0x11, V4[:-1]), "too short"),
    ("v2 tcp4 without any", binary(0x21, 0x11), "too short"),
    ("v2 tcp6 too short", binary(0x21, 0x21, V6[:-1]), "too short"),
    ("v2 tcp6 with IPv4", binary(0x21, 0x21, V4), "too short"),
    ("v2 unix too short", binary(0x21, 0x31, UNIX[:-1]), "too short"),
    ("v2 one byte more", tcp4(b"\x04"), "behind the header"),
    ("v2 two bytes more", tcp4(b"\x04\0"), "behind the header"),
    ("TLV too long by one", tcp4(tlv(4, b"abc")[:-1]), "behind the header"),
    ("TLV too long by far", tcp4(b"\xe0\xff\xff"), "behind the header"),
    ("last TLV cut", tcp4(tlv(4), tlv(1, b"h2")[:-1]), "behind the header"),
    ("checksum wrong", tcp4(tlv(3, b"none")), "wrong checksum"),
    ("checksum of 3 bytes", tcp4(tlv(3, b"abc")), "not 4 bytes"),
    ("checksum of 5 bytes", tcp4(tlv(3, b"abcde")), "not 4 bytes"),
    ("checksum, one bit changed", summed(tlv(0xE0, b"x"))[:-1] + b"y", "wrong checksum"),
    ("checksum twice", summed(tlv(3, bytes(4))), "twice"),
    ("unique id of 129 bytes", tcp4(tlv(5, bytes(129))), "of 129 bytes"),
    ("unique id twice", tcp4(tlv(5, b"a"), tlv(5, b"a")), "twice"),
    ("authority of 256 bytes", tcp4(tlv(2, b"a" * 256)), "of 256 bytes"),
    ("authority twice", tcp4(tlv(2, b"a"), tlv(2, b"b")), "twice"),
    ("ssl of 4 bytes", tcp4(tlv(0x20, bytes(4))), "less than 5"),
    ("ssl twice", tcp4(ssl(0, 1), ssl(1, 0)), "twice"),
    ("cn twice", tcp4(ssl(3, 0, tlv(0x22, b"a"), tlv(0x22, b"b"))), "twice"),
    ("TLV in ssl too long", tcp4(ssl(1, 0, tlv(0x22, b"abc")[:-1])), "behind its SSL TLV"),
    ("one byte more in ssl", tcp4(ssl(1, 0, b"\x22")), "behind its SSL TLV"),
    ("TLV of a udp4 that is cut", binary(0x21, 0x12, V4 + b"\x04"), "behind the header"),
]

#: Bytes that do not begin as a header does.
OTHER = [
    b"GET / HTTP/1.1\r\n\r\n", b"\r\nGET / HTTP/1.1\r\n", b"\r\n\r\nG", b"\x16\x03\x01\x02", b"PUT", b"PROXX",
    b"PROXY\tTCP4", b"proxy TCP4", b" PROXY TCP4", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\0",
    b"\r\n\r\n\0\r\nQUIT\r", b"\xff", b"\n",
]  # fmt: skip


def whole(data: bytes) -> Header:
    found = parse(data)
    assert found is not None
    return found


@pytest.mark.parametrize("data, ends, facts", [row[1:] for row in GOOD], ids=[row[0] for row in GOOD])
def test_a_header_says(data: bytes, ends: Any, facts: dict[str, Any]) -> None:
    found = whole(data)
    assert (found.size, found.ends) == (len(data), ends)
    known = {"version": 1 if data.startswith(b"PROXY") else 2}
    if ends is not None:
        known.update(source=ends[0], destination=ends[1])
    if "ssl" in facts:
        assert found.facts.pop("tlvs")[0][0] == 0x20
    assert found.facts == known | facts


@pytest.mark.parametrize("data", [row[1] for row in GOOD], ids=[row[0] for row in GOOD])
def test_it_is_whole_with_its_last_byte_and_not_before(data: bytes) -> None:
    for at in range(len(data) if len(data) < 1000 else 300):
        assert parse(data[:at]) is None
        assert parse(bytearray(data[:at])) is None
    for more in (b"\0", b"GET / HTTP/1.1\r\n", data):
        assert parse(data + more) == whole(data) == parse(bytearray(data + more))


@pytest.mark.parametrize("data, why", [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_malformed_one_is_refused_for_its_reason_however_it_comes(data: bytes, why: str) -> None:
    with pytest.raises(Malformed, match=why):
        parse(data)
    for at in range(len(data)):
        try:
            assert parse(data[:at]) is None
        except Malformed as early:
            assert why in str(early)
    with pytest.raises(Malformed, match=why):
        parse(data + b"GET / HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize("data", OTHER, ids=repr)
def test_other_bytes_are_no_header_from_the_first_that_differs(data: bytes) -> None:
    with pytest.raises(NotAHeader):
        parse(data)
    for at in range(len(data)):
        start = data[:at]
        if SIGNATURE.startswith(start) or b"PROXY ".startswith(start):
            assert parse(start) is None
        else:
            with pytest.raises(NotAHeader):
                parse(start)


def test_the_checksum_is_that_of_rfc_3720() -> None:
    """Its test vectors (B.4)."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize("ends", [ENDS4, ENDS6])
def test_what_is_composed_is_read(ends: Any) -> None:
    tlvs = ((5, b"id"), (0xE1, b""))
    found = whole(compose(ends, tlvs))
    assert found.ends == ends
    assert found.facts["tlvs"] == tlvs
    assert whole(compose(ends)).ends == ends


def test_what_is_composed_of_both_families_is_of_ipv6() -> None:
    data = compose((ENDS4[0], ("fe80::1%eth0", 443)))
    assert data[13] == 0x21
    assert whole(data).ends == (ENDS4[0], ("fe80::1", 443))


def test_what_is_composed_for_a_client_without_an_ip_address_names_none() -> None:
    assert whole(compose(None)).ends is None
    assert compose(None) == binary(0x20, 0x00)
