"""Through each front: nothing is seen behind it that it has not counted, and no request fails at an end."""

from __future__ import annotations

import base64

import pytest

from tests.http.cases import OWN

from .canary import APP
from .chain import ASGI, FLAGS, WSGI, Visitors, through
from .conftest import Daemon
from .fronts import BY_NAME, Back, Kind, front
from .test_fronts import REQUESTS, changed, kinds


@pytest.mark.parametrize(
    ("kind", "flags"),
    [
        *(pytest.param(*case.values, WSGI, id=case.id, marks=case.marks) for case in kinds(*REQUESTS)),
        *(
            pytest.param(*case.values, ASGI, id=f"{case.id}, asgi", marks=case.marks)
            for case in kinds(*(kind for kind in REQUESTS if "uwsgi" not in kind.bind))
        ),
    ],
)
def test_no_request_is_hidden_in_another(service: Daemon, kind: Kind, flags: tuple[str, ...]) -> None:
    """scripts/fronts has the corpora besides."""
    service.write_app(APP)
    app, *rest = flags
    service.start(*rest, "-b", kind.bind, app=app)
    with front(kind, service.dir / "front", service) as made:
        found = through(made, service, OWN)
    assert not found.hidden
    assert not found.failed
    assert found.seen > found.visits > 0


UPGRADE = b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("kind", kinds(BY_NAME["Varnish"]))
@pytest.mark.parametrize("closes", [True, False])
def test_varnish_pipes_one_request(service: Daemon, kind: Kind, closes: bool) -> None:
    """What it pipes it does not look at any more. Its sample has forkd close where nothing is upgraded; the
    usual recipe has not, and lets clients past the rules of Varnish, which this test has to see."""
    service.write_app(APP)
    service.start(*FLAGS)
    text = None if closes else changed(kind, ('"Upgrade, close"', '"Upgrade"'))
    with front(kind, service.dir / "front", service, text=text) as made:
        found = through(made, service, [{"b64": base64.b64encode(UPGRADE + HIDDEN)}])
    assert found.hidden == ({} if closes else {("GET", "hidden"): 1})


# ---- ends ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", kinds(*REQUESTS))
def test_no_request_fails_at_a_reload_and_an_upgrade(service: Daemon, kind: Kind) -> None:
    service.write_app(APP)
    service.start(*FLAGS, "-b", kind.bind)
    with front(kind, service.dir / "front", service) as made, Visitors(made.address, 8) as visitors:
        visitors.more(100)
        for verb in ("reload", "upgrade"):
            service.ok(verb)
            visitors.more(100)
    assert visitors.failed == []


POOLS = {
    "nginx": (
        ("# keepalive 32;", "keepalive 32;"),
        ('close;  # with keepalive: ""', '"";'),
        ("    server 127.0.0.1:8000;", "    server 127.0.0.1:8000;\n    server {two};"),
    ),
    "HAProxy": (),
}  # fmt: skip


@pytest.mark.parametrize("kind", kinds(*(BY_NAME[name] for name in POOLS)))
def test_no_request_fails_at_an_end_behind_a_pool(service: Daemon, other: Daemon, kind: Kind) -> None:
    """Two forkd, whose connections the front keeps: a reload and an upgrade of one, then its stop."""
    for each, seconds in ((service, "3"), (other, "0")):
        each.write_app(APP)
        each.start(*FLAGS, "--lame-duck", seconds)
    text = changed(kind, *POOLS[kind.name]).replace("{two}", Back.of(other).address)
    with (
        front(kind, service.dir / "front", service, other, text=text) as made,
        Visitors(made.address, 8) as visitors,
    ):
        visitors.more(200)
        for verb in ("reload", "upgrade", "reload"):
            service.ok(verb)
            visitors.more(200)
        service.ok("stop")
        visitors.more(200)
    assert visitors.failed == []
    assert min(visitors.asked["GET"], visitors.asked["POST"]) > 400
