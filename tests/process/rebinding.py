"""A listener whose options a reload or an upgrade changes, while its socket stays."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator

from .clients import Address
from .conftest import Daemon, alive, until


def rebound(
    service: Daemon, place: str, changes: Iterable[tuple[str, str]], *flags: str
) -> Iterator[tuple[str, Address]]:
    """Start at `place`, where {} stands for a free port or the daemon's directory, without options. Then, for
    each verb with the options that it brings: those options and the address, once no old worker is left."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    unix = place.startswith("unix")
    place = place.format(service.dir if unix else port)
    _configure(service, place)
    service.start("-c", "forkd.toml", "-w", "1", *flags, app=None)
    names = [x["address"] for x in service.live()["listeners"]]
    for verb, options in changes:
        _configure(service, place + options)
        assert "ok: " in service.ok("check", "-c", "forkd.toml")
        old = service.worker_pids()
        service.ok(verb)
        until(lambda old=old: not any(map(alive, old)), "the old workers are gone")  # type: ignore[misc]
        assert [x["address"] for x in service.live()["listeners"]] == names
        yield options, place.removeprefix("unix:") if unix else ("127.0.0.1", port)


def _configure(service: Daemon, bind: str) -> None:
    text = f'app = "app:app"\nadmin = "127.0.0.1:0"\nbind = "{bind}"\n'
    (service.dir / "forkd.toml").write_text(text)
