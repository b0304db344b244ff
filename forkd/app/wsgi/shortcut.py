"""The native way of a usual request: its head as environ, and the call of its application (forkd/native).

The general ways in Python (http/request.py with environ.py, and exchange.py) have every rule and every
error. Native code has the usual case alone: it accepts, or leaves the bytes to them. So they are
its twins, it can only ever make an answer sooner, and never another one; tests/native holds it to
that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from forkd.app.wsgi.environ import Environ
from forkd.config import Config
from forkd.native import pick
from forkd.session.ends import Ends
from forkd.session.fronts import policy_of
from forkd.session.http1 import Call, Shortcut, limits_of
from forkd.session.seam import Recorder


class UsualRequest(Call, Protocol):
    """An HTTP/1.1 request whose body, if any, has a length."""

    environ: Environ

    # Since it has begun.
    began: int  # ns of CLOCK_MONOTONIC
    response: Any  # what `respond` made, when there is anything unusual
    code: int
    sent: int  # bytes of body
    waited: float  # seconds before it, where that is told (Server-Timing)

    def outcome(self) -> Any:
        """The result of the application, when that was not usual. Raises what it raised."""


#: (data, what native_limits returns, ends); None: not usual, or not complete.
ReadHead = Callable[[bytes, Any, Ends], UsualRequest | None]
#: See native/wsgi_exchange.c.
MakeShortcut = Callable[..., Shortcut]


def native_ways(wanted: bool, uwsgi: bool) -> tuple[ReadHead | None, MakeShortcut | None]:
    """None where native code was not built, or is not `wanted`. `uwsgi`: for packets of that protocol."""
    name = "read_packet" if uwsgi else "read_head"
    return pick(name, None, wanted), pick("WsgiShortcut", None, wanted)


def native_fronts(
    config: Config, recorder: Recorder, chosen: Sequence[str] | None = None
) -> Any:
    """What native code is to do with fields of proxies (session/fronts.py). None: they are for Python, and so
    are all heads: where native code is not `wanted`, and where more names were chosen than it takes."""
    policy = policy_of(config, chosen)
    make = pick("Fronts", None, config.native)
    if make is None:
        return None
    allow, told = config.forwarded_allow, config.log_level == "debug"
    names = tuple(name.decode() for name in policy.chosen)
    try:
        return make(
            recorder=recorder, networks=allow.cidrs, unix=allow.unix, chosen=names, passes=policy.passes,
            tells=told,
        )  # fmt: skip
    except ValueError:
        return None


def native_hosts(config: Config) -> Any:
    """The hosts that a request may be for, as native code has them; None: all."""
    make, hosts = pick("Hosts", None, config.native), config.allowed_hosts
    return None if make is None or hosts.every else make(patterns=hosts.patterns)


def native_limits(
    config: Config, template: Environ, recorder: Recorder, chosen: Sequence[str] | None = None
) -> Any:
    """What a head may be that native code reads, and the environ that it begins with. None: all heads are for
    Python."""
    fronts, limits = native_fronts(config, recorder, chosen), limits_of(config)
    make: Any = pick("HeadLimits", None, fronts is not None)
    if make is None:
        return None
    return make(
        head=limits.shortest, fields=limits.fields, body=limits.body, template=template, fronts=fronts,
        hosts=native_hosts(config), ids=config.request_ids,
    )  # fmt: skip
