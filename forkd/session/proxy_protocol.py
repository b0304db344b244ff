"""The header of the PROXY protocol, version 1 (a line of text) and version 2 (binary): bytes in, facts out,
and back.

A proxy sends it before all else on a connection, and says for which connection that one stands. The
specification is HAProxy's, doc/proxy-protocol.txt in its sources; sections are those of it. Where it leaves a
choice, decision 65 says what was chosen. Pure. Called in a child, by the layer that reads the header
(session/proxy_header.py) and by the relay (app/relay.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from forkd.system.ip import to_bytes, to_text

#: How version 2 begins (2.2), and its bytes up to the addresses.
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED_BYTES = 16
_TEXT_START = b"PROXY "
#: Of version 1, with its CRLF (2.1).
MAX_LINE_BYTES = 107
_PORT = re.compile(rb"0|[1-9][0-9]{0,4}")
#: The name of a family, and the bytes of an address.
_TEXT_FAMILIES = {b"TCP4": ("tcp4", 4), b"TCP6": ("tcp6", 16)}

_LOCAL, _PROXY = 0x20, 0x21  # version 2 and the command
#: By family and protocol, all that 2.2 has but the unspecified: the name, and the bytes of the addresses.
_ADDRESSES = {
    0x11: ("tcp4", 12), 0x12: ("udp4", 12),
    0x21: ("tcp6", 36), 0x22: ("udp6", 36),
    0x31: ("unix", 216), 0x32: ("unix-datagram", 216),
}  # fmt: skip
_PATH_BYTES = 108

#: Types of TLVs (2.2.1 to 2.2.7).
ALPN, AUTHORITY, CRC32C, NOOP, UNIQUE_ID, SSL, NETNS = 0x01, 0x02, 0x03, 0x04, 0x05, 0x20, 0x30
#: The most bytes of those that have a limit. A host name has 255 at most.
_MAX_BYTES = {AUTHORITY: 255, UNIQUE_ID: 128}
_TEXTS = {ALPN: "alpn", AUTHORITY: "authority", NETNS: "netns"}
_SSL_TEXTS = {0x21: "version", 0x22: "cn", 0x23: "cipher", 0x24: "signature_algorithm", 0x25: "key_algorithm"}
#: Bits of an SSL TLV: the client's connection was TLS; it has sent a certificate, in this connection or in an
#: earlier one of the session.
_TLS, _CERTIFICATE = 0x01, 0x02 | 0x04

#: IP address and port.
End = tuple[str, int]
Tlv = tuple[int, bytes]


class NotAHeader(ValueError):
    """The bytes do not begin as a header does: it is missing."""


class Malformed(ValueError):
    """They begin as one, and are none. The text says why."""


class Header(NamedTuple):
    size: int  # bytes
    #: The ends of the connection that it stands for. None: the real ends of this one hold.
    ends: tuple[End, End] | None
    #: For applications; docs/proxies.md lists the keys.
    facts: dict[str, Any]


def parse(data: bytes | bytearray) -> Header | None:
    """The header that `data` begins with; None while more bytes have to come. Raises NotAHeader or Malformed,
    as soon as it can be known."""
    start = bytes(data[: len(SIGNATURE)])
    if SIGNATURE.startswith(start):
        return _parse_binary(data)
    if _TEXT_START.startswith(start[: len(_TEXT_START)]):
        return _parse_text(data)
    raise NotAHeader("no header")


# ---- version 1 --------------------------------------------------------------------------------


def _parse_text(data: bytes | bytearray) -> Header | None:
    end = data.find(b"\n", 0, MAX_LINE_BYTES)
    if end < 0:
        if len(data) >= MAX_LINE_BYTES:
            raise Malformed(f"no end of the line within {MAX_LINE_BYTES} bytes")
        return None
    line = bytes(data[: end - 1])
    if data[end - 1 : end] != b"\r" or b"\r" in line:
        raise Malformed("a CR or LF alone")
    words = line.split(b" ")
    facts: dict[str, Any] = {"version": 1}
    if words[1] == b"UNKNOWN":  # whatever follows
        facts["transport"] = "unknown"
        return Header(end + 1, None, facts)
    if len(words) != 6 or words[1] not in _TEXT_FAMILIES:
        raise Malformed("not the fields of version 1")
    facts["transport"], size = _TEXT_FAMILIES[words[1]]
    source, destination = ((_text_address(words[i], size), _text_port(words[i + 2])) for i in (2, 3))
    facts["source"], facts["destination"] = source, destination
    return Header(end + 1, (source, destination), facts)


def _text_address(word: bytes, size: int) -> str:
    try:
        return to_text(to_bytes(word.decode("ascii"), size))
    except ValueError:
        raise Malformed("an address that is none of its family") from None


def _text_port(word: bytes) -> int:
    if not _PORT.fullmatch(word) or (port := int(word)) > 65535:
        raise Malformed("a port that is none")
    return port


# ---- version 2 --------------------------------------------------------------------------------


def _parse_binary(data: bytes | bytearray) -> Header | None:
    if len(data) > 12 and data[12] not in (_LOCAL, _PROXY):
        raise Malformed("another version or command than those of version 2")
    if len(data) < _FIXED_BYTES:
        return None
    command, kind = data[12], data[13]
    size = _FIXED_BYTES + int.from_bytes(data[14:16], "big")
    transport, address_bytes = ("local", 0) if command == _LOCAL else _kind(kind)
    addresses_end = _FIXED_BYTES + address_bytes
    if size < addresses_end:
        raise Malformed("too short for its addresses")
    if len(data) < size:
        return None
    facts: dict[str, Any] = {"version": 2, "transport": transport}
    if not address_bytes:
        return Header(size, None, facts)  # skipped by its length, whatever it has
    header = bytes(data[:size])
    ends = _ends(kind, header[_FIXED_BYTES:addresses_end])
    facts["source"], facts["destination"] = ends
    tlvs = list(_split(header[addresses_end:], "the header"))
    if tlvs:
        _check(header, tlvs)
        _name(tlvs, facts)
    return Header(size, ends if transport in ("tcp4", "tcp6") else None, facts)


def _kind(kind: int) -> tuple[str, int]:
    """The name of a family and protocol, and the bytes of its addresses; 0 where they are to be ignored."""
    found = _ADDRESSES.get(kind)
    if found is not None:
        return found
    if kind >> 4 > 3 or kind & 15 > 2:
        raise Malformed("an unassigned family or protocol")
    return "unknown", 0


def _ends(kind: int, block: bytes) -> Any:
    if kind >> 4 == 3:
        return tuple(_path(block[at : at + _PATH_BYTES]) for at in (0, _PATH_BYTES))
    size = 4 if kind >> 4 == 1 else 16
    ports = 2 * size
    return (
        (to_text(block[:size]), int.from_bytes(block[ports : ports + 2], "big")),
        (to_text(block[size:ports]), int.from_bytes(block[ports + 2 :], "big")),
    )


def _path(block: bytes) -> str:
    """Of a unix socket: "" where it has none; one in the abstract namespace begins with "@" (unix(7))."""
    if block[:1] == b"\0":
        name = block.rstrip(b"\0")[1:]
        return _text(b"@" + name) if name else ""
    return _text(block.partition(b"\0")[0])


def _split(block: bytes, what: str) -> Iterable[Tlv]:
    """The TLVs of a block, which they fill to its last byte. `what`: the block is the end of."""
    at = 0
    while at < len(block):
        start = at + 3
        at = start + int.from_bytes(block[start - 2 : start], "big")
        if start > len(block) or at > len(block):
            raise Malformed(f"a TLV that ends behind {what}")
        yield block[start - 3], block[start:at]


def _check(header: bytes, tlvs: list[Tlv]) -> None:
    """Limits, and the checksum, which is that of the header with zeros in its place (2.2.3). A second TLV of
    a type that says something of the client would leave open which of both holds."""
    types = [number for number, _ in tlvs if number in _TEXTS or number in (CRC32C, UNIQUE_ID, SSL)]
    if len(set(types)) < len(types):
        raise Malformed("a TLV that comes twice")
    at = len(header) - sum(3 + len(value) for _, value in tlvs)
    for number, value in tlvs:
        if len(value) > _MAX_BYTES.get(number, len(value)):
            raise Malformed(f"a TLV {number:#04x} of {len(value)} bytes")
        if number == CRC32C:
            if len(value) != 4:
                raise Malformed("a checksum that has not 4 bytes")
            if crc32c(header[: at + 3] + bytes(4) + header[at + 7 :]) != int.from_bytes(value, "big"):
                raise Malformed("a wrong checksum")
        at += 3 + len(value)


def _name(tlvs: list[Tlv], facts: dict[str, Any]) -> None:
    facts["tlvs"] = tuple(tlv for tlv in tlvs if tlv[0] not in (CRC32C, NOOP))
    for number, value in facts["tlvs"]:
        if number in _TEXTS:
            facts[_TEXTS[number]] = _text(value)
        elif number == UNIQUE_ID:
            facts["unique_id"] = value
        elif number == SSL:
            facts["ssl"] = _ssl(value)


def _ssl(value: bytes) -> dict[str, Any]:
    """The client's TLS (2.2.6). A result of 0 says nothing where there was no certificate."""
    if len(value) < 5:
        raise Malformed("an SSL TLV of less than 5 bytes")
    bits, result = value[0], int.from_bytes(value[1:5], "big")
    certificate = bool(bits & _CERTIFICATE)
    found: dict[str, Any] = {
        "tls": bool(bits & _TLS),
        "certificate": certificate,
        "verified": certificate and not result,
    }
    for number, text in _split(value[5:], "its SSL TLV"):
        if number in _SSL_TEXTS:
            if _SSL_TEXTS[number] in found:
                raise Malformed("a TLV that comes twice")
            found[_SSL_TEXTS[number]] = _text(text)
    return found


def _text(value: bytes) -> str:
    """What is no UTF-8 is there as PEP 383 has it, so that no two values look alike."""
    return value.decode("utf-8", "surrogateescape")


# ---- the checksum -----------------------------------------------------------------------------


def _table() -> tuple[int, ...]:
    made = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        made.append(number)
    return tuple(made)


_CRC_TABLE = _table()


def crc32c(data: bytes) -> int:
    """Castagnoli's CRC (RFC 4960, appendix B)."""
    table, crc = _CRC_TABLE, 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


# ---- a header to send -------------------------------------------------------------------------


def compose(ends: tuple[End, End] | None, tlvs: Iterable[Tlv] = ()) -> bytes:
    """A header of version 2 for a connection over TCP, with its source and its destination. None: for one
    whose ends are no IP addresses; like HAProxy's it is LOCAL, since receivers refuse others."""
    if ends is None:
        command, kind, block = _LOCAL, 0x00, b""
    else:
        hosts = [host.partition("%")[0] for host, _ in ends]
        command, kind, size = _PROXY, 0x11, 4
        if any(":" in host for host in hosts):
            kind, size = 0x21, 16
            hosts = [host if ":" in host else f"::ffff:{host}" for host in hosts]
        block = b"".join(to_bytes(host, size) for host in hosts)
        block += b"".join(port.to_bytes(2, "big") for _, port in ends)
    for number, value in tlvs:
        block += bytes([number]) + len(value).to_bytes(2, "big") + value
    return SIGNATURE + bytes([command, kind]) + len(block).to_bytes(2, "big") + block
