"""The grammar of RFC 9110 and 9112 as compiled patterns and tables; no decisions.

Used by `guard`, `request` and `body`. Quantifiers are possessive (`++`, `*+`): a pattern that
fails does so in one pass, so no input makes it quadratic.
"""

from __future__ import annotations

import re

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"  # RFC 9110 5.6.2
TEXT = rb"[\t\x20-\x7e\x80-\xff]*+"  # field-vchar, obs-text, SP and HTAB (RFC 9110 5.5)

# One header line. The lookbehind pins it to the start of its line, so a list of matches as long
# as the list of lines proves that each line is a field, whole.
FIELD = re.compile(rb"(?<=\n)(" + TOKEN + rb"):[ \t]*+(" + TEXT + rb")\r\n")

# RFC 9112 3, with any visible ASCII in the target: browsers send `"`, `|`, `{` and others that
# RFC 3986 wants encoded. Bytes beyond ASCII and controls never pass.
LINE = re.compile(rb"(" + TOKEN + rb") ([\x21-\x7e]++) HTTP/([0-9])\.([0-9])")

# The usual line in one match: origin-form, no fragment, a version that is served.
USUAL = re.compile(
    rb"([A-Z-]++) (/[\x21\x22\x24-\x3e\x40-\x7e]*+)(?:\?([\x21\x22\x24-\x7e]*+))? HTTP/1\.([01])\r\n"
)

# What condemns a request line before its end is here: a control or non-ASCII byte, CR or LF alone.
STRAY = re.compile(rb"[^\x20-\x7e\r\n]|\r(?=[^\n])|(?<!\r)\n")

# uri-host [":" port] (RFC 3986 3.2.2), not empty: RFC 9110 4.2.1 wants an empty host rejected.
_HOST = rb"(?:\[[0-9A-Fa-f:.]++\]|(?:[0-9A-Za-z\-._~!$&'()*+,;=]++|%[0-9A-Fa-f]{2})++)"
HOST = re.compile(_HOST + rb"(?::[0-9]{0,5}+)?")
AUTHORITY = re.compile(_HOST + rb":[0-9]{1,5}+")  # CONNECT names its port (RFC 9110 9.3.6)

# absolute-form (RFC 9112 3.2.2). Userinfo is taken and dropped (RFC 9110 4.2.4).
ABSOLUTE = re.compile(
    rb"(?i:https?)://(?:(?:[0-9A-Za-z\-._~!$&'()*+,;=:]++|%[0-9A-Fa-f]{2})*+@)?"
    rb"(" + _HOST + rb"(?::[0-9]{0,5}+)?)"
    rb"(/[^?#]*+)?(?:\?([^#]*+))?(?:#.*+)?"
)

LENGTH = re.compile(rb"[0-9]{1,19}")  # 19 digits fit in 63 bits

# chunk-size [chunk-ext] CRLF (RFC 9112 7.1). Of the "bad whitespace" of the RFC only the one after
# ";" is taken: llhttp and others refuse it elsewhere, and what two parsers read differently
# smuggles.
_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*+"'
CHUNK = re.compile(
    rb"([0-9A-Fa-f]{1,16}+)"
    rb"((?:;[ \t]*+" + TOKEN + rb"(?:=(?:" + TOKEN + rb"|" + _QUOTED + rb"))?)*+)\r\n"
)
CHUNK_SO_FAR = re.compile(rb"(?:[0-9A-Fa-f]{1,16}+(?:;" + TEXT + rb")?)?\r?")
TRAILER_SO_FAR = re.compile(rb"(?![ \t])" + TEXT + rb"\r?")

# The methods llhttp takes in HTTP (a test holds the two lists together), as text for the app.
_METHODS = """
    GET HEAD POST PUT DELETE PATCH OPTIONS CONNECT TRACE QUERY
    ACL BIND CHECKOUT COPY LINK LOCK M-SEARCH MERGE MKACTIVITY MKCALENDAR MKCOL MOVE NOTIFY
    PROPFIND PROPPATCH PURGE REBIND REPORT SEARCH SOURCE SUBSCRIBE UNBIND UNLINK UNLOCK
    UNSUBSCRIBE
"""
METHODS: dict[bytes, str] = {name.encode(): name for name in _METHODS.split()}

# Transfer codings that may precede the final "chunked" (RFC 9112 7): they change the payload, not
# the framing. The app gets the payload as it was sent, with the header that says so.
CODINGS = frozenset(
    (b"gzip", b"x-gzip", b"deflate", b"compress", b"x-compress", b"identity", b"chunked")
)

# Fields by which proxies say who the client is, besides all others whose names begin with X-Forwarded-. The
# place of a name is that of its counts (system/cells.py): a new one goes to the end. The first stands for all
# others.
FORWARDED_NAMES = (
    b"other", b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host",
    b"x-forwarded-port", b"x-forwarded-prefix", b"x-forwarded-ssl", b"x-forwarded-protocol", b"x-real-ip",
    b"x-client-ip", b"true-client-ip", b"cf-connecting-ip",
)  # fmt: skip
X_FORWARDED = b"x-forwarded-"
