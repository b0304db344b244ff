"""Which hosts a request may be for: a set of names and addresses, as Host has them.

Pure. Made when the configuration is read; asked in a child (session/fronts.py), and in the master for the
pages of --admin. In native code system_hosts.c, which only ever says yes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from forkd.system.networks import Networks

__all__ = ["FORMS", "Hosts", "is_address", "name_of"]

FORMS = (
    "host names and IP addresses, IPv6 in brackets, each with a port or without; .example.org for a name "
    "with all below it, *.example.org for those below it alone, or * for every host"
)

_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*")
_MAX_NAME_CHARS = 253  # RFC 1035, without the dot of the root
_USUAL_PORTS = ("80", "443")
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True)
class Hosts:
    """`patterns`: each in its canonical form. Empty: no host is in it."""

    patterns: tuple[str, ...]
    #: By host, or by what is before the part that may be any: the ports that are taken, None among them for
    #: all.
    _exact: dict[str, frozenset[str | None]]
    _below: dict[str, frozenset[str | None]]

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Hosts:
        """Raises ValueError that names each text which is wrong."""
        patterns: dict[str, None] = {}
        exact: dict[str, frozenset[str | None]] = {}
        below: dict[str, frozenset[str | None]] = {}
        wrong: list[str] = []
        for text in texts:
            pattern = _canonical(text)
            if pattern is None:
                wrong.append(repr(text))
                continue
            patterns[pattern] = None
            name, port = _split(pattern)
            if name[0] not in ".*":
                tables = [exact]
            else:
                tables = [below, exact] if name[0] == "." else [below]
                name = name.lstrip("*.")
            for table in tables:
                table[name] = table.get(name, frozenset()) | {port or None}
        if wrong:
            raise ValueError(f"{', '.join(wrong)}: allowed are {FORMS}")
        return cls(tuple(patterns), exact, below)

    def __str__(self) -> str:
        return ", ".join(self.patterns)

    @property
    def every(self) -> bool:
        return "*" in self.patterns

    def has(self, authority: str) -> bool:
        """Whether the host is in it that Host names, with or without a port; none, where Host is empty, only
        if every one is."""
        if self.every:
            return True
        host, port = _split(authority)
        name = name_of(host)
        if name.startswith(".") or ".." in name or (port and not _is_port(port)):
            return False
        if _fits(self._exact.get(name), port):
            return True
        while name := name.partition(".")[2]:
            if _fits(self._below.get(name), port):
                return True
        return False


def name_of(host: str) -> str:
    """The one form of a host without a port: in lower case, without the dot of the root; an IPv6 address as
    it is written by RFC 5952, in brackets."""
    if host.startswith("["):
        address = Networks.canonical(host[1:-1])
        if address is None:
            return host
        return f"[{address}]" if ":" in address else address
    return host.lower().removesuffix(".")


def is_address(host: str) -> bool:
    """Whether a host without a port is an IP address and no name."""
    inner = host[1:-1] if host.startswith("[") else host
    return (":" in inner) is host.startswith("[") and Networks.canonical(inner) is not None


def _fits(ports: frozenset[str | None] | None, port: str) -> bool:
    """A port that is usual is often left out of Host."""
    if ports is None:
        return False
    return None in ports or port in ports or (not port and not ports.isdisjoint(_USUAL_PORTS))


def _split(authority: str) -> tuple[str, str]:
    """Host and port, which is without zeros in front of another digit; "": it has none."""
    host, colon, port = authority.rpartition(":")
    if not colon or not (port.isdecimal() or not port) or (":" in host and not host.endswith("]")):
        return authority, ""
    return host, port.lstrip("0") or port[:1]


def _is_port(text: str) -> bool:
    return len(text) <= 5 and 0 < int(text) <= _MAX_PORT


def _canonical(text: str) -> str | None:
    """A pattern in its one form; a name that is not ASCII as IDNA has it. None: it is none."""
    if text == "*":
        return text
    host, port = _split(text)
    if text.endswith(":") or (port and not _is_port(port)):
        return None
    suffix = f":{port}" if port else ""
    if host.startswith("["):
        return name_of(host) + suffix if host.endswith("]") and is_address(host) else None
    front = next((front for front in ("*.", ".") if host.startswith(front)), "")
    name = host.removeprefix(front)
    try:
        name = name_of(name if name.isascii() else name.encode("idna").decode())
    except UnicodeError:
        return None
    if _NAME.fullmatch(name) is None or len(name) > _MAX_NAME_CHARS:
        return None
    if front and is_address(name):
        return None
    return front + name + suffix
