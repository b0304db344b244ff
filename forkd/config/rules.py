"""Combinations of options that make no sense, each value being right by itself.

Called by `sources.Sources.load`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from forkd.config import OPTIONS, Config
from forkd.errors import Problem, show
from forkd.system.address import UNIX_PATH_MAX, Address

_BY_ATTR = {row.attr: row for row in OPTIONS}


@dataclass(frozen=True, slots=True)
class Rule:
    """A combination that makes no sense: `check` says why, or "" if all is well.

    The first of `attrs` is the one to blame; a rule is skipped if any of them was wrong already.
    """

    attrs: tuple[str, ...]
    check: Callable[[Config], str]


def _reuseport_bind(config: Config) -> str:
    other = [str(a) for a in config.bind if a.kind in ("unix", "fd")]
    if config.accept != "reuseport" or not other:
        return ""
    return f"reuseport makes TCP sockets of its own, so it cannot serve {', '.join(other)}"


def _reuseport_workers(config: Config) -> str:
    if config.accept != "reuseport" or config.workers.min == config.workers.max:
        return ""
    return (
        "reuseport needs a fixed number of workers: "
        f"the kernel would go on filling the queues of absent ones (workers {config.workers})"
    )


def _max_workers(config: Config) -> str:
    if config.workers.max <= config.most_workers:
        return ""
    return f"must not be below workers ({config.workers})"


def _jitter(config: Config) -> str:
    alone = config.max_requests_jitter and not config.max_requests
    return "has no effect without max-requests" if alone else ""


def _age_jitter(config: Config) -> str:
    alone = config.max_age_jitter and not config.max_age
    return "has no effect without max-age" if alone else ""


def _bind_twice(config: Config) -> str:
    fixed = [a.place for a in config.bind if not a.any_port]
    twice = sorted({place for place in fixed if fixed.count(place) > 1})
    return f"the same address twice: {', '.join(twice)}" if twice else ""


def only_for_fronts(address: Address, config: Config) -> bool:
    """Whether its connections have to come from a peer of --forwarded-allow."""
    return address.protocol == "uwsgi" or (config.proxy_protocol if address.proxy is None else address.proxy)


def _closed_to_all(config: Config) -> str:
    """Listeners whose connections have to come from a proxy that is trusted."""
    if config.forwarded_allow.cidrs or config.forwarded_allow.unix:
        return ""
    closed = [str(address) for address in config.bind if only_for_fronts(address, config)]
    words = "would be closed, since only peers that are in it may connect"
    return f"each connection to {', '.join(closed)} {words}" if closed else ""


def _own_listener(attr: str, others: tuple[str, ...]) -> Rule:
    """The listeners of the master's own servers are not shared."""

    def check(config: Config) -> str:
        mine: Address | None = getattr(config, attr)
        taken: list[Address | None] = [*config.bind, *(getattr(config, other) for other in others)]
        places = [address.place for address in taken if address is not None]
        if mine is not None and mine.protocol:
            return f"speaks HTTP, not {mine.protocol}"
        if mine is None or mine.any_port or mine.place not in places:
            return ""
        also = "".join(f" and from {other}" for other in others)
        return f"must differ from every bind address{also}: it has a listener of its own"

    return Rule((attr, "bind", *others), check)


def _control_bind(config: Config) -> str:
    listeners = (*config.bind, config.admin, config.health)
    taken = any(a is not None and a.kind == "unix" and a.path == config.control for a in listeners)
    return "must differ from the addresses of bind, admin and health" if taken else ""


def _control_length(config: Config) -> str:
    size = len(os.fsencode(config.control))
    if size <= UNIX_PATH_MAX:
        return ""
    return f"a unix socket path has at most {UNIX_PATH_MAX} bytes, this one {size}"


def _same_file(config: Config) -> str:
    error_log = config.error_log or config.default_error_log
    others = {"control": config.control, "error-log": error_log, "access-log": config.access_log}
    same = [name for name, path in others.items() if path == config.pidfile]
    return f"must differ from {', '.join(same)}" if same else ""


_RULES = (
    Rule(("bind",), _bind_twice),
    Rule(("forwarded_allow", "bind", "proxy_protocol"), _closed_to_all),
    Rule(("accept", "bind"), _reuseport_bind),
    Rule(("accept", "workers"), _reuseport_workers),
    Rule(("max_workers", "workers"), _max_workers),
    Rule(("max_requests_jitter", "max_requests"), _jitter),
    Rule(("max_age_jitter", "max_age"), _age_jitter),
    _own_listener("admin", ()),
    _own_listener("health", ("admin",)),
    Rule(("control", "bind", "admin", "health"), _control_bind),
    Rule(("control", "pidfile", "name"), _control_length),
    Rule(("pidfile", "control", "error_log", "access_log"), _same_file),
)


def combinations(
    config: Config, origins: Mapping[str, str], wrong: Collection[str], more: Iterable[Rule]
) -> Iterable[Problem]:
    """The problems of `config`, by the rules here and by `more`."""
    for rule in (*_RULES, *more):
        if any(attr in wrong for attr in rule.attrs) or not (words := rule.check(config)):
            continue
        row = _BY_ATTR[rule.attrs[0]]
        where = [origins[attr] for attr in rule.attrs if attr in origins]
        value = show(getattr(config, row.attr))
        yield Problem(row.name, value, words, "; ".join(where) or "default")
