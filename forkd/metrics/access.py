"""Access to the pages of the admin endpoint: by Host, by token, and without query strings.

A value for a generation: made when the configuration is read, so that a reload reads the token file anew.
docs/decisions/0039-admin-access.md has the reasons. In the master.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
from dataclasses import dataclass, field
from typing import Any

from forkd.config import Config
from forkd.errors import StartError, SystemCallError
from forkd.http.guard import Request
from forkd.http.response import error
from forkd.system.hosts import Hosts, is_address, name_of

_MAX_TOKEN_BYTES = 4096  # it has to fit into one header line
#: Any character of a field value but white space; RFC 6750 2.1 has fewer.
_TOKEN = re.compile(rb"[\x21-\x7e]+")
#: "Bearer" is a scheme's name, whose case does not matter (RFC 9110 11.1).
_BEARER = re.compile(rb"(?i:bearer) +([\x21-\x7e]+) *")
#: Permissions under which the token is no secret: others than the group may read it, or others than the owner
#: write it.
_TOO_OPEN_MODE = 0o027
#: A request line, whole or cut: as a value by itself, or within a text, where it is in double quotes as a
#: rule, and has none itself (log.escape). A target has no space.
_QUERY = re.compile(
    r"^([A-Z-]+ [^ ?\n]*)\?[^ \n]*"
    r'|((?<![A-Z-])[A-Z-]+ (?:/|(?i:https?)://)[^ ?"\n]*)\?[^ "\n]*'
)
_HIDDEN = r"\1\2?..."


@dataclass(frozen=True)
class Access:
    #: What Host may have besides IP addresses and localhost.
    hosts: Hosts = field(default_factory=lambda: Hosts.parse(()))
    #: SHA-256 of the token, or None: no token is asked for. The token itself would be in the memory of each
    #: worker that is forked later.
    token: bytes | None = None
    queries: bool = False  # whether query strings are shown

    @classmethod
    def of(cls, config: Config) -> Access:
        """Reads the token file. Raises StartError."""
        path = config.admin_token_file
        return cls(
            config.admin_hosts,
            None if path is None else hashlib.sha256(_read_token(path)).digest(),
            config.admin_queries,
        )

    def refusal(self, request: Request) -> bytes | None:
        """The answer to a request that may not see the page, or None."""
        if not self._knows(request.authority.decode("latin-1")):
            return error(
                421,
                "the pages of status and metrics are served under an IP address, localhost and the names of "
                "--admin-hosts; this Host is none of them",
                method=request.method,
            )
        if self.token is None:
            return None
        given = [value for name, value in request.headers if name.lower() == b"authorization"]
        match = _BEARER.fullmatch(given[0]) if len(given) == 1 else None
        if match is None:
            return _unauthorized(request, "", "this page needs Authorization: Bearer and the token")
        # Equally long whatever was sent, and compared in a time that does not depend on where they differ.
        if not hmac.compare_digest(hashlib.sha256(match[1]).digest(), self.token):
            return _unauthorized(request, ', error="invalid_token"', "the token is wrong")
        return None

    def shown(self, report: dict[str, Any]) -> dict[str, Any]:
        """The part of a status report that the admin endpoint shows."""
        return report if self.queries else {name: _without(value) for name, value in report.items()}

    def shown_text(self, text: str) -> str:
        return text if self.queries else without_queries(text)

    def _knows(self, authority: str) -> bool:
        """Whether the Host may be answered. With DNS rebinding a stranger's page has the browser send a
        request here whose Host is the stranger's name. An address is not such a name, and a client that sends
        no Host (HTTP/1.0) is not a browser."""
        host = re.sub(r":[0-9]*\Z", "", authority)
        if not host or is_address(host) or name_of(host) == "localhost":
            return True
        return self.hosts.has(authority)


def without_queries(text: str) -> str:
    """`text` with `?...` in place of the query string of each request line in it."""
    return _QUERY.sub(_HIDDEN, text)


def _without(value: Any) -> Any:
    if isinstance(value, str):
        return without_queries(value)
    if isinstance(value, dict):
        return {name: _without(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without(item) for item in value]
    return value


def _unauthorized(request: Request, more: str, reason: str) -> bytes:
    """RFC 6750 3: the challenge names an error only where a token was given."""
    challenge = ("WWW-Authenticate", f'Bearer realm="forkd"{more}')
    return error(401, reason, method=request.method, fields=[challenge])


def _read_token(path: str) -> bytes:
    """The only line of the file. Raises StartError."""
    try:
        # O_NONBLOCK: the master does not wait for the writer of a FIFO.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            why = _wrong_file(os.fstat(fd))
            token = b"" if why else os.read(fd, _MAX_TOKEN_BYTES + 1).strip()
        finally:
            os.close(fd)
    except OSError as error:
        raise StartError(f"admin-token-file: {SystemCallError('read', path, error)}") from error
    if not why and (len(token) > _MAX_TOKEN_BYTES or not _TOKEN.fullmatch(token)):
        why = (
            f"must hold the token and nothing else: 1 to {_MAX_TOKEN_BYTES} printable ASCII characters "
            "without a space"
        )
    if why:
        raise StartError(f"admin-token-file: {path} {why}")
    return token


def _wrong_file(found: os.stat_result) -> str:
    """Why a file cannot keep a secret, or "". With an access control list the group's bits are the most
    that any entry of it grants (acl(5))."""
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode):
        return "is not a regular file"
    if mode & _TOO_OPEN_MODE:
        return (
            f"has mode {mode:04o}: nobody but the owner may write it, and nobody but the owner and the group "
            "may read it (chmod 600, or 640)"
        )
    return ""
