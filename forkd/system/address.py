"""The address of a listener: the text an operator writes, as a value, and back.

Pure: nothing is resolved or opened here. Called by `options` when the configuration is read, and
wherever an address is printed; `system` turns the value into a socket.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import posixpath
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

__all__ = ["FORMS", "UNIX_PATH_MAX", "Address", "AddressKind", "page_at"]

AddressKind = Literal["tcp", "tcp6", "unix", "fd"]

FORMS = "host:port, [v6]:port, :port, port, unix:/path or fd://N"
#: What may follow a "?": fields, and the values of each by their text.
_SWITCH = {"on": True, "off": False}
_OPTIONS: dict[str, dict[str, Any]] = {
    "freebind": _SWITCH, "proxy": _SWITCH, "protocol": {"uwsgi": "uwsgi"},
}  # fmt: skip
_TCP_ONLY = ("freebind",)
#: Of a unix path, which may have any other "?" in it.
_UNIX_OPTION = "(?:proxy=(?:on|off)|protocol=uwsgi)"
_UNIX_OPTIONS = re.compile(rf"(.*)\?({_UNIX_OPTION}(?:&{_UNIX_OPTION})*)", re.DOTALL)

# unix(7): sun_path has 108 bytes, and one of them is the terminating NUL.
UNIX_PATH_MAX = 107

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})")
_DIGITS = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True)
class Address:
    """One address. Which of the other fields mean something depends on `kind`.

    tcp, tcp6: `host` (a tcp host may be a name) and `port` (0: the kernel chooses);
    unix: `path`, absolute; fd: `fd`, a descriptor number that forkd inherits.
    `freebind`, of tcp and tcp6: it is bound also while no interface has it (ip(7), IP_FREEBIND).
    `proxy`: whether its connections begin with a header of the PROXY protocol; None: as --proxy-protocol
    says.
    `protocol`: in which its clients send requests; "": that of the application's interface.
    """

    kind: AddressKind
    host: str = ""
    port: int = 0
    path: str = ""
    fd: int = -1
    freebind: bool = False
    proxy: bool | None = None
    protocol: str = ""

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address that `text` names. Raises ValueError that says what is wrong with it."""
        text = text.strip()
        plain, _, options = text.partition("?")
        if text.startswith("unix:"):
            found = _UNIX_OPTIONS.fullmatch(text)
            plain, options = found.groups() if found else (text, "")
        address = cls._parse(plain)
        tcp = address.kind.startswith("tcp")
        known = {name: values for name, values in _OPTIONS.items() if tcp or name not in _TCP_ONLY}
        given = options.split("&") if plain != text else []
        names = [option.partition("=")[0] for option in given]
        for option in given:
            name, _, value = option.partition("=")
            if value not in known.get(name, ()):
                there = ", ".join(f"{each}={next(iter(values))}" for each, values in known.items())
                raise ValueError(f"{text!r}: {option!r} is no option of such an address; there is {there}")
            if names.count(name) > 1:
                raise ValueError(f"{text!r}: {name} is given twice")
            address = replace(address, **{name: known[name][value]})
        return address

    @classmethod
    def _parse(cls, text: str) -> Address:
        """The same of a text without options."""
        if text.startswith("unix:"):
            return cls("unix", path=_unix_path(text.removeprefix("unix:")))
        if text.startswith("fd://"):
            return cls("fd", fd=_number(text.removeprefix("fd://"), 2**31 - 1, "descriptor"))
        if text.startswith("["):
            host, bracket, port = text[1:].partition("]:")
            if not bracket:
                raise ValueError(f"{text!r} needs a port after the brackets: [v6]:port")
            return cls("tcp6", host=_v6(host), port=_number(port, 65535, "port"))
        host, _, port = text.rpartition(":")
        if ":" in host:
            raise ValueError(f"{text!r}: an IPv6 address needs brackets: [v6]:port")
        if not port or (":" not in text and not _DIGITS.fullmatch(port)):
            raise ValueError(f"{text!r} has no port; use {FORMS}")
        number = _number(port, 65535, "port")
        return cls("tcp", host=_host(host) if host else "0.0.0.0", port=number)

    def __str__(self) -> str:
        """The canonical text: equal addresses print alike, and it parses back to itself."""
        options = ["freebind=on"] if self.freebind else []
        if self.proxy is not None:
            options.append("proxy=on" if self.proxy else "proxy=off")
        if self.protocol:
            options.append(f"protocol={self.protocol}")
        return f"{self.place}?{'&'.join(options)}" if options else self.place

    @property
    def any_port(self) -> bool:
        """Whether the kernel chooses the port."""
        return self.kind.startswith("tcp") and not self.port

    def fields(self) -> dict[str, Any]:
        """What makes it again, as far as it differs from the defaults: for a forkd of another version, which
        may lack the newest options."""
        return {
            row.name: value
            for row in dataclasses.fields(self)
            if (value := getattr(self, row.name)) != row.default
        }

    @property
    def place(self) -> str:
        """The text without options: where clients connect to."""
        if self.kind == "unix":
            return f"unix:{self.path}"
        if self.kind == "fd":
            return f"fd://{self.fd}"
        return f"[{self.host}]:{self.port}" if self.kind == "tcp6" else f"{self.host}:{self.port}"


def page_at(name: str, path: str) -> str:
    """The place of a page of an HTTP server, for an operator: `name` is the text of its address. No URL can
    name a unix socket, so there it is the socket and the path (`curl --unix-socket`)."""
    return f"{name} (GET {path})" if name.startswith("unix:") else f"http://{name}{path}"


def _number(text: str, most: int, what: str) -> int:
    # int() would also take "+1", "1_0", blanks and the digits of other scripts.
    if not _DIGITS.fullmatch(text) or len(text) > 10 or int(text) > most:
        raise ValueError(f"{text!r} is not a {what}: a number from 0 to {most}")
    return int(text)


def _host(text: str) -> str:
    if re.fullmatch(r"[0-9.]+", text):
        try:
            return str(ipaddress.IPv4Address(text))
        except ValueError:
            raise ValueError(f"{text!r} is not an IPv4 address") from None
    if not _HOST.fullmatch(text):
        raise ValueError(f"{text!r} is not a host name or an IPv4 address")
    return text.lower()


def _v6(text: str) -> str:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise ValueError(f"{text!r} is not an IPv6 address") from None


def _unix_path(path: str) -> str:
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise ValueError(f"{path!r} is not an absolute path of a file: unix:/path")
    # normpath keeps two leading slashes, as POSIX allows; here they mean one.
    path = "/" + posixpath.normpath(path).lstrip("/")
    if (size := len(os.fsencode(path))) > UNIX_PATH_MAX:
        raise ValueError(f"a unix socket path has at most {UNIX_PATH_MAX} bytes, this one {size}")
    return path
