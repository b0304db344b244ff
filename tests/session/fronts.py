"""Heads with fields of proxies, and what the application is to see of each. The vectors of nginx's realip
module, gunicorn, werkzeug's ProxyFix and uvicorn's middleware are among them, as facts; where forkd sees
something else, the row says why.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from forkd.app.wsgi.exchange import Wsgi
from forkd.config import Config
from forkd.session.http1 import Http1
from forkd.session.seam import Await, Exchange
from forkd.system.cells import DROP_CELLS, DROPPED, FORWARDED_CELLS
from forkd.system.networks import Networks
from forkd.system.scoreboard import Row as CellRow
from forkd.system.scoreboard import scratch_row
from tests.access import MemoryAccess

FOR, PROTO, HOST, PORT, PREFIX = (f"X-Forwarded-{name}" for name in ("For", "Proto", "Host", "Port",
        "Prefix"))
LOCAL = ("127.0.0.0/8", "::1", "unix")
USUAL = ("x-forwarded",)
NGINX = ("127.0.0.1", "10.0.1.0/24")
RFC7239 = ("forwarded",)


class Row(NamedTuple):
    id: str
    fields: list[tuple[str, str]]
    seen: dict[str, str | None]  # of the environ; None: it is not there. All else is as without the fields.
    peer: str = "127.0.0.1"
    allow: tuple[str, ...] = LOCAL
    chosen: tuple[str, ...] = USUAL
    untrusted: str = "drop"


def xff(id: str, value: str, client: str, port: str = "0", **more: Any) -> Row:
    return Row(id, [(FOR, value)],
        {"REMOTE_ADDR": client, "REMOTE_PORT": port, "HTTP_X_FORWARDED_FOR": value}, **more)


def rfc(id: str, value: str, seen: dict[str, str | None], **more: Any) -> Row:
    seen = {"HTTP_FORWARDED": value} | seen
    return Row(f"RFC 7239: {id}", [("Forwarded", value)], seen, chosen=RFC7239, **more)


def client(address: str, port: str = "0") -> dict[str, str | None]:
    return {"REMOTE_ADDR": address, "REMOTE_PORT": port}


HTTPS: dict[str, str | None] = {"wsgi.url_scheme": "https", "SERVER_PORT": "443"}
KEEP = object()


def others(seen: dict[str, str | None], *fields: tuple[str, str]) -> dict[str, str | None]:
    """With the fields themselves."""
    return {"HTTP_" + name.upper().replace("-", "_"): value for name, value in fields} | seen


def row(id: str, fields: list[tuple[str, str]], seen: dict[str, str | None], **more: Any) -> Row:
    """One whose fields the application gets."""
    return Row(id, fields, others(seen, *fields), **more)


HUNDRED = ", ".join(["8.8.8.8", *(f"10.0.0.{n}" for n in range(1, 101))])

ROWS: list[Row] = [
    # who is the client
    xff("one", "1.2.3.4", "1.2.3.4"),
    xff("the client wrote the first", "6.6.6.6, 1.2.3.4", "1.2.3.4"),
    xff("two hops", "1.2.3.4, 10.0.0.1", "1.2.3.4", allow=("127.0.0.1", "10.0.0.0/8")),
    xff("two hops, one written by the client", "6.6.6.6, 1.2.3.4, 10.0.0.1", "1.2.3.4",
        allow=("127.0.0.1", "10.0.0.0/8")),
    xff("a client on the proxy's own host: all are trusted, the leftmost is it", "127.0.0.5, 127.0.0.1",
        "127.0.0.5"),
    xff("100 hops", HUNDRED, "8.8.8.8", allow=("127.0.0.1", "10.0.0.0/8")),
    xff("empty elements are none", " , 1.2.3.4,, 127.0.0.1 ,", "1.2.3.4") ._replace(
        seen={**client("1.2.3.4"), "HTTP_X_FORWARDED_FOR": ", 1.2.3.4,, 127.0.0.1 ,"}),
    Row("an empty field is none", [(FOR, "")], {"HTTP_X_FORWARDED_FOR": ""}),
    Row("nothing but commas is none", [(FOR, " , ,")], {"HTTP_X_FORWARDED_FOR": ", ,"}),
    Row("a list over several fields", [(FOR, "6.6.6.6"), (FOR, "1.2.3.4"), (FOR, "127.0.0.1")],
        {**client("1.2.3.4"), "HTTP_X_FORWARDED_FOR": "6.6.6.6,1.2.3.4,127.0.0.1"}),
    xff("a unix peer is trusted", "1.2.3.4", "1.2.3.4", peer=""),
    xff("nginx writes a hop over a unix socket so", "1.2.3.4, unix:", "1.2.3.4"),
    xff("and does where it is not trusted", "1.2.3.4, unix:", "", allow=("127.0.0.1",)),
    xff("IPv6 peer", "1.2.3.4", "1.2.3.4", peer="::1"),
    xff("IPv4 peer of an IPv6 socket", "1.2.3.4", "1.2.3.4", peer="::ffff:127.0.0.1"),
    # how an address is written
    xff("port", "1.2.3.4:5678", "1.2.3.4", "5678"),
    xff("a port does not make a trusted hop a stranger", "1.2.3.4:5678, 127.0.0.1:80", "1.2.3.4", "5678"),
    xff("IPv6", "2001:db8::1", "2001:db8::1"),
    xff("IPv6 in brackets", "[2001:db8::1]", "2001:db8::1"),
    xff("IPv6 in brackets with port", "[2001:db8::1]:443", "2001:db8::1", "443"),
    xff("IPv6 in its canonical form", "2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
    xff("IPv6 with a zone", "fe80::1%eth0", "fe80::1"),
    xff("IPv6 with a zone in brackets", "[fe80::1%25eth0]:80", "fe80::1", "80"),
    xff("IPv4 mapped in IPv6", "::ffff:1.2.3.4", "1.2.3.4"),
    xff("IPv4 mapped, trusted", "1.2.3.4, ::ffff:127.0.0.1", "1.2.3.4"),
    xff("IPv4 mapped in brackets", "[::ffff:1.2.3.4]:9", "1.2.3.4", "9"),
    xff("trusted IPv6 hop with port", "1.2.3.4, [::1]:80", "1.2.3.4"),
    xff("tabs", "6.6.6.6\t,\t1.2.3.4", "1.2.3.4"),
    # what is no address: the last hop that is known is the client
    *(
        row(f"hidden: {text}", [(FOR, f"1.2.3.4, {text}")], {})
        for text in ("unknown", "Unknown", "_hidden", "unknown:80", "_a.b-c_:_d")
    ),
    # and malformed, where it is not hidden
    *(
        Row(f"no address: {text}", [(FOR, f"1.2.3.4, {text}")], {})
        for text in ("localhost", "_", "_a b", "unknown:", "unknowns", "1.2.3", "1.2.3.4.5", "1.2.3.04",
            "1.2.3.4:", "1.2.3.4:x", "1.2.3.4:65536", "1.2.3.4:123456", "[1.2.3.4]", "[::1", "::1]",
            "[::1]80", "[]", ":", "::1::", "2001:db8::1:99999", "1.2.3.4 5.6.7.8", '"1.2.3.4"', "1.2.3.4;",
            "\xf0\xfd", "%", "unix:/run/x")
    ),
    xff("known, then hidden", "unknown, 127.0.0.7", "127.0.0.7"),
    Row("known, then no address", [(FOR, "a, 127.0.0.7")], client("127.0.0.7")),
    xff("what the client wrote is no address", "a, 1.2.3.4", "1.2.3.4"),
    Row("no address alone", [("X-Real-IP", "1.2.3"), (FOR, "1.2.3.4")],
        client("1.2.3.4") | {"HTTP_X_FORWARDED_FOR": "1.2.3.4"}, chosen=("x-real-ip", "x-forwarded")),
    # who is trusted
    Row("an untrusted peer",
        [(FOR, "1.2.3.4"), (PROTO, "https"), (HOST, "evil"), (PORT, "1"), (PREFIX, "/evil")], {},
        peer="192.0.2.1"),
    Row("an untrusted IPv6 peer", [(FOR, "1.2.3.4")], {}, peer="2001:db8::1"),
    Row("an untrusted unix peer", [(FOR, "1.2.3.4")], {}, peer="", allow=("127.0.0.1",)),
    Row("nobody is trusted", [(FOR, "1.2.3.4"), (PROTO, "https")], {}, allow=()),
    xff("everybody is trusted", "1.2.3.4", "1.2.3.4", peer="192.0.2.1", allow=("*",)),
    row("untrusted, passed on", [(FOR, "1.2.3.4"), (PROTO, "https"), ("Forwarded", "for=1")], {},
        peer="192.0.2.1",
        untrusted="pass"),
    # which fields count
    Row("those that were not chosen are dropped from everybody",
        [("Forwarded", "for=1.2.3.4"), ("X-Real-IP", "1.2.3.4"), ("X-Forwarded-Ssl", "on"),
            ("X-Client-IP", "1.2.3.4"),
         ("X-Forwarded-Protocol", "https"), ("True-Client-IP", "1.2.3.4"), ("CF-Connecting-IP", "1.2.3.4"),
         ("X-Forwarded-Server", "a"), ("X-Forwarded-User", "root"), ("x-FORWARDED-by", "b"),
            ("X-Forwarded-", "c")], {}),
    row("not chosen, passed on", [("X-Real-IP", "1.2.3.4"), ("X-Forwarded-User", "a")], {}, untrusted="pass"),
    Row("names with underscores stay dropped",
        [("X_Forwarded_For", "1.2.3.4"), ("Script_Name", "/x"), ("X_Forwarded_Prefix", "/x")], {}),
    row("X-Real-IP", [("X-Real-IP", "1.2.3.4")], client("1.2.3.4"), chosen=("x-real-ip",)),
    row("CF-Connecting-IP", [("CF-Connecting-IP", "2001:DB8::9")], client("2001:db8::9"),
        chosen=("cf-connecting-ip",)),
    row("a name of one's own", [("X-Our-Client", "1.2.3.4:9")], client("1.2.3.4", "9"),
        chosen=("x-our-client",)),
    Row("a name of one's own, from others", [("X-Our-Client", "1.2.3.4:9")], {}, chosen=("x-our-client",),
        peer="192.0.2.1"),
    row("an address alone, and the scheme", [("X-Real-IP", "1.2.3.4"), (PROTO, "https")],
        client("1.2.3.4") | HTTPS,
        chosen=("x-real-ip", "x-forwarded-proto")),
    row("one without a meaning here reaches the application from proxies",
        [("X-Forwarded-User", "ann"), (FOR, "1.2.3.4")], client("1.2.3.4"),
            chosen=("x-forwarded", "x-forwarded-user")),
    Row("and from no other", [("X-Forwarded-User", "ann")], {}, chosen=("x-forwarded", "x-forwarded-user"),
        peer="192.0.2.1"),
    row("X-Forwarded-Ssl, chosen", [("X-Forwarded-Ssl", "on")], HTTPS, chosen=("x-forwarded-ssl",)),
    row("X-Forwarded-Protocol, chosen", [("X-Forwarded-Protocol", "ssl")], HTTPS,
        chosen=("x-forwarded-protocol",)),
    Row("nothing chosen by x-forwarded says https but Proto", [("X-Forwarded-Ssl", "on"), (PROTO, "http")],
        {"HTTP_X_FORWARDED_PROTO": "http", "SERVER_PORT": "80"}),
    # in conflict: the first that was chosen counts
    row("two clients", [(FOR, "1.2.3.4"), ("X-Real-IP", "5.6.7.8")], client("5.6.7.8"),
        chosen=("x-real-ip", "x-forwarded")),
    row("two clients, the other way", [(FOR, "1.2.3.4"), ("X-Real-IP", "5.6.7.8")], client("1.2.3.4"),
        chosen=("x-forwarded", "x-real-ip")),
    row("the first is empty", [(FOR, ""), ("X-Real-IP", "5.6.7.8")], client("5.6.7.8"),
        chosen=("x-forwarded", "x-real-ip")),
    row("two schemes", [(PROTO, "http"), ("X-Forwarded-Ssl", "on")], {"SERVER_PORT": "80"},
        chosen=("x-forwarded", "x-forwarded-ssl")),
    # scheme
    *(row(f"scheme {text}", [(PROTO, text)], HTTPS) for text in ("https", "HTTPS", "wss", "Wss")),
    *(row(f"scheme {text}", [(PROTO, text)], {"SERVER_PORT": "80"}) for text in ("http", "ws", "HTTP")),
    *(Row(f"no scheme: {text}", [(PROTO, text)], {}) for text in ("asdf", "https;", "ssl", "on", "https:",
        "h\xe9")),
    Row("an empty scheme is none", [(PROTO, "")], {"HTTP_X_FORWARDED_PROTO": ""}),
    row("a list of schemes: the one of the client's hop",
        [(FOR, "1.2.3.4, 127.0.0.2"), (PROTO, "https, http")],
        client("1.2.3.4") | HTTPS),
    row("a list of schemes that the client began", [(FOR, "1.2.3.4"), (PROTO, "https,http")],
        client("1.2.3.4") | {"SERVER_PORT": "80"}),
    row("a shorter list of schemes", [(FOR, "1.2.3.4, 127.0.0.3, 127.0.0.2"), (PROTO, "https")],
        client("1.2.3.4") | HTTPS),
    row("a scheme without a client", [(PROTO, "http, https")], HTTPS),
    # host and port
    row("host", [(HOST, "eggs")], {"HTTP_HOST": "eggs", "SERVER_NAME": "eggs", "SERVER_PORT": "80"}),
    row("host with port", [(HOST, "eggs:8443")],
        {"HTTP_HOST": "eggs:8443", "SERVER_NAME": "eggs", "SERVER_PORT": "8443"}),
    row("host of https", [(HOST, "eggs"), (PROTO, "https")],
        HTTPS | {"HTTP_HOST": "eggs", "SERVER_NAME": "eggs"}),
    row("host, and a port that is not usual", [(HOST, "eggs"), (PORT, "8443"), (PROTO, "https")],
        {"HTTP_HOST": "eggs:8443", "SERVER_NAME": "eggs", "SERVER_PORT": "8443", "wsgi.url_scheme": "https"}),
    row("a port that is usual", [(PORT, "443"), (PROTO, "https")], HTTPS),
    row("a port without scheme and host", [(PORT, "8080")],
        {"HTTP_HOST": "spam:8080", "SERVER_PORT": "8080"}),
    row("the port of the host is what the client wrote",
        [(HOST, "eggs:8443"), (PORT, "443"), (PROTO, "https")],
        {"HTTP_HOST": "eggs:8443", "SERVER_NAME": "eggs", "SERVER_PORT": "8443", "wsgi.url_scheme": "https"}),
    *(Row(f"no port: {text}", [(PORT, text)], {}) for text in ("0", "65536", "-1", "http", "80x", "123456")),
    *(Row(f"no host: {text}", [(HOST, text)], {}) for text in
      ("//evil", "a/b", "a b", "user@evil", "a:b", "[::1", "a:99999", "\xe4", "a?", "http://a")),
    row("a list of hosts", [(FOR, "1.2.3.4, 127.0.0.2"), (HOST, "front, inner")],
        client("1.2.3.4") | {"HTTP_HOST": "front", "SERVER_NAME": "front", "SERVER_PORT": "80"}),
    # prefix
    row("prefix", [(PREFIX, "/app")], {"SCRIPT_NAME": "/app"}),
    row("prefix of two", [(PREFIX, "/a/b.c~d/")], {"SCRIPT_NAME": "/a/b.c~d"}),
    row("no prefix", [(PREFIX, "/")], {}),
    *(Row(f"prefix {text}", [(PREFIX, text)], {}) for text in
      ("//evil", "/a//b", "/..", "/a/../b", "/./a", "evil", "http://evil", "/a%2f", "/\\evil", "/a?b", "/a#b",
          "/a b", "/\xe9",
       "/%2e%2e", "/a/.", "///")),
    # RFC 7239
    rfc("for", "for=1.2.3.4", client("1.2.3.4")),
    rfc("For", 'For="[2001:db8:cafe::17]:4711"', client("2001:db8:cafe::17", "4711")),
    rfc("with all", "for=192.0.2.60;proto=https;by=203.0.113.43;host=eggs", client("192.0.2.60") | HTTPS
        | {"HTTP_HOST": "eggs", "SERVER_NAME": "eggs"}),
    rfc("a list", "for=192.0.2.43, for=198.51.100.17", client("198.51.100.17")),
    rfc("the element of the client's hop", "for=1.2.3.4;proto=https;host=a, for=127.0.0.2;proto=http;host=b",
        client("1.2.3.4") | HTTPS | {"HTTP_HOST": "a", "SERVER_NAME": "a"}),
    rfc("unknown", "for=unknown", {}),
    rfc("obfuscated", 'for="_gazonk"', {}),
    rfc("obfuscated, its scheme", "for=_hidden;proto=https", HTTPS),
    rfc("obfuscated port", 'for="1.2.3.4:_port"', client("1.2.3.4")),
    rfc("port", 'for="192.0.2.43:47011"', client("192.0.2.43", "47011")),
    rfc("unquoted, as many write it", "for=192.0.2.43:47011;host=a:80", client("192.0.2.43", "47011")
        | {"HTTP_HOST": "a:80", "SERVER_NAME": "a", "SERVER_PORT": "80"}),
    rfc("escapes", 'for="1.2\\.3\\.4"', client("1.2.3.4")),
    rfc("a comma in quotes is none", 'secret="a,for=6.6.6.6";for=1.2.3.4', client("1.2.3.4")),
    rfc("an escaped quote", 'secret="\\",for=6.6.6.6";for=1.2.3.4', client("1.2.3.4")),
    rfc("white space and empty elements", " ,for=1.2.3.4 ; proto=https\t, ,",
        client("1.2.3.4") | HTTPS) ._replace(
        seen={**client("1.2.3.4"), **HTTPS, "HTTP_FORWARDED": ",for=1.2.3.4 ; proto=https\t, ,"}),
    rfc("no for", "proto=https", HTTPS),
    Row("RFC 7239: a proto that is none, a host that is none", [("Forwarded", 'proto=x;host="//evil"')], {},
        chosen=RFC7239),
    rfc("empty", "", {}),
    Row("two fields", [("Forwarded", "for=6.6.6.6"), ("Forwarded", "for=1.2.3.4")],
        client("1.2.3.4") | {"HTTP_FORWARDED": "for=6.6.6.6,for=1.2.3.4"}, chosen=RFC7239),
    Row("X-Forwarded-* beside it is dropped",
        [("Forwarded", "for=1.2.3.4"), (FOR, "6.6.6.6"), (PROTO, "https")],
        client("1.2.3.4") | {"HTTP_FORWARDED": "for=1.2.3.4"}, chosen=RFC7239),
    # nginx, realip.t (recursive; forkd's chosen field is its real_ip_header)
    row("nginx: realip", [("X-Real-IP", "192.0.2.1")], client("192.0.2.1"), allow=NGINX,
        chosen=("x-real-ip",)),
    row("nginx: custom", [("X-Real-IP-Custom", "192.0.2.1")], client("192.0.2.1"), allow=NGINX,
        chosen=("x-real-ip-custom",)),
    xff("nginx: multi", "10.0.0.1, 192.0.2.1", "192.0.2.1", allow=NGINX),
    xff("nginx: recursive", "10.0.1.1, 192.0.2.1, 127.0.0.1", "192.0.2.1", allow=NGINX),
    Row("nginx: several fields", [(FOR, "10.0.1.1"), (FOR, "192.0.2.1"), (FOR, "127.0.0.1")],
        client("192.0.2.1") | {"HTTP_X_FORWARDED_FOR": "10.0.1.1,192.0.2.1,127.0.0.1"}, allow=NGINX),
    # werkzeug, test_proxy_fix.py: it counts hops where forkd has networks
    row("werkzeug: for", [(FOR, "192.168.0.1"), (PROTO, "https")], client("192.168.0.1") | HTTPS),
    row("werkzeug: port, host without port", [(PORT, "8080")],
        {"HTTP_HOST": "spam:8080", "SERVER_PORT": "8080"}),
    row("werkzeug: all",
        [(FOR, "192.168.0.1"), (PROTO, "https"), (HOST, "eggs"), (PORT, "443"), (PREFIX, "/ham")],
        client("192.168.0.1") | HTTPS | {"HTTP_HOST": "eggs", "SERVER_NAME": "eggs", "SCRIPT_NAME": "/ham"}),
    xff("werkzeug: multiple for", "192.168.0.1, 192.168.0.2", "192.168.0.1",
        allow=("127.0.0.1", "192.168.0.2")),
    xff("werkzeug: ignore untrusted", "192.168.0.3, 192.168.0.1", "192.168.0.1"),
    row("werkzeug: IPv6 host", [(HOST, "[2001:db8::a]")],
        {"HTTP_HOST": "[2001:db8::a]", "SERVER_NAME": "[2001:db8::a]", "SERVER_PORT": "80"}),
    row("werkzeug: IPv6 host and port", [(HOST, "[2001:db8::a]"), (PORT, "8080")],
        {"HTTP_HOST": "[2001:db8::a]:8080", "SERVER_NAME": "[2001:db8::a]", "SERVER_PORT": "8080"}),
    # It takes the last of prefixes for one trusted hop. Here are two, which appended both, and the client's
    # is the first.
    row("werkzeug: prefix < for", [(FOR, "192.168.0.1, 192.168.0.3"), (PREFIX, "/ham, /eggs")],
        client("192.168.0.1") | {"SCRIPT_NAME": "/ham"}, allow=("127.0.0.1", "192.168.0.3")),
    # uvicorn, test_proxy_headers.py
    row("uvicorn: a network", [(FOR, "1.2.3.4"), (PROTO, "https")], client("1.2.3.4") | HTTPS,
        allow=("127.0.0.0/24", "10.0.0.1")),
    row("uvicorn: the client runs on the proxy", [(FOR, "1.2.3.4"), (PROTO, "https")],
        client("1.2.3.4") | HTTPS,
        allow=("127.0.0.1", "1.2.3.4")),
    Row("uvicorn: an untrusted network", [(FOR, "1.2.3.4"), (PROTO, "https")], {}, allow=("192.168.0.0/16",)),
    row("uvicorn: empty, empty", [(FOR, ""), (PROTO, "")], {}),
    Row("uvicorn: empty, malformed", [(FOR, ""), (PROTO, "asdf")], {"HTTP_X_FORWARDED_FOR": ""}),
    row("uvicorn: commas", [(FOR, ", ,"), (PROTO, "https")], HTTPS),
    row("uvicorn: an empty one on the left", [(FOR, ", , 9.9.9.9"), (PROTO, "https")],
        client("9.9.9.9") | HTTPS),
    # It stops at an empty element; RFC 9110 5.6.1.2 has them ignored.
    row("uvicorn: empty ones in between", [(FOR, "9.9.9.9 , , , 10.0.0.1"), (PROTO, "https")],
        client("9.9.9.9") | HTTPS,
        allow=("127.0.0.1", "10.0.0.0/8")),
    row("uvicorn: empty ones on the right", [(FOR, ", , 9.9.9.9, ,"), (PROTO, "https")],
        client("9.9.9.9") | HTTPS),
    row("uvicorn: multiple", [(FOR, "1.2.3.4, 10.0.2.1, 192.168.0.2"), (PROTO, "https")],
        client("10.0.2.1") | HTTPS,
        allow=("127.0.0.1", "192.168.0.2")),
    row("uvicorn: multiple, all trusted", [(FOR, "1.2.3.4, 10.0.2.1, 192.168.0.2"), (PROTO, "https")],
        client("1.2.3.4") | HTTPS,
        allow=("127.0.0.1", "10.0.0.0/8", "192.168.0.2")),
    # It takes the leftmost, whatever is in between, where all are trusted; forkd stops at what is no address.
    Row("uvicorn: no address in between", [(FOR, "1.2.3.4, \xf0\xfd\xfd\xfd, unix:, ::1"), (PROTO, "https")],
        client("") | HTTPS | {"HTTP_X_FORWARDED_PROTO": "https"},
        allow=("*",)),
    # gunicorn, secure_scheme_headers: it refuses what forkd decides (the first chosen counts).
    Row("gunicorn: not allowed", [(PROTO, "https")], {}, allow=("134.213.44.18",)),
    row("gunicorn: two that disagree", [("X-Forwarded-Ssl", "on"), (PROTO, "http")], {"SERVER_PORT": "80"},
        allow=("*",), chosen=("x-forwarded-proto", "x-forwarded-ssl")),
]  # fmt: skip

#: A list with such a field is refused: where one ends cannot be told.
MALFORMED = ['for="1.2.3.4', 'for="a, for=1.2.3.4', "for", "for=1.2.3.4 proto=https", "for=a;for=b", '"',
        "for==", "=a",
             'for="a"b', "for=(a)", "f r=a", "for=a;;=", 'for=a"b"', 'x="\\"']  # fmt: skip


class _Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def debug(self, message: str) -> None:
        self.lines.append(message)

    info = warning = error = exception = debug


class Peer:
    client_port, server, server_port, sock, fd, ended = 40000, "127.0.0.1", 8000, None, -1, False
    note: Any
    proxy: Any = None
    direct = True

    age = 0.0

    def __init__(self, client: str) -> None:
        self.client = client
        self.exchange = Exchange()

    def waited(self) -> float:
        return self.age


class Served:
    """What a child made of heads: the environ of each, its log, its access log, its answers."""

    def __init__(self, of: Row, native: bool, **options: Any) -> None:
        self.environs: list[dict[str, Any]] = []
        self.fields: list[tuple[str, str]] = []  # more of them in each answer
        self.status: str | None = "200 OK"  # None: the application raises
        self.during: Any = lambda: None  # what the application calls
        self.log = _Log()
        self.access = MemoryAccess(native=native)
        self.row = scratch_row()
        self.recorder = self.row.recorder(native)
        self.draining = False
        config = Config(
            forwarded_allow=Networks.parse(of.allow), forwarded_fields=of.chosen,
            forwarded_untrusted=of.untrusted, native=native, **options,
        )  # fmt: skip
        self.peer: Any = Peer(of.peer)
        wsgi = Wsgi(self._app, config, self, multithread=False)  # type: ignore[arg-type]
        self._interface = Http1(wsgi, config, self)  # type: ignore[arg-type]
        self.restart(None)

    def restart(self, proxy: Any) -> None:
        """A new connection of the same peer, of which a proxy has said this."""
        self.peer.proxy = proxy
        self._session = self._interface.session(self.peer)
        next(self._session)

    def _app(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.environs.append(dict(environ))
        self.during()
        if self.status is None:
            raise RuntimeError("on purpose")
        start_response(self.status, [("Content-Type", "text/plain"), *self.fields])
        return [b"ok"]

    def send(self, head: bytes) -> bytes:
        """The answer."""
        answer = b""
        step = self._session.send(head)
        while not isinstance(step, Await):
            if isinstance(step, bytes):
                answer += step
            try:
                step = self._session.send(None)
            except StopIteration:
                break
        return answer


def head_of(fields: list[tuple[str, str]], host: str = "spam", asked: str = "GET /a") -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in [("Host", host), *fields])
    return f"{asked} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


def taken_drops(row: CellRow) -> list[int]:
    """How many fields of proxies were dropped since the last call."""
    cells = slice(DROPPED, DROPPED + DROP_CELLS * FORWARDED_CELLS)
    found = list(row.cells[cells])
    for place in range(cells.start, cells.stop):
        row.cells[place] = 0
    return found
