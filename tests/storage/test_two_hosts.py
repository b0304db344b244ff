"""Two daemons on two hosts, behind HAProxy, share sessions, a rate limit and a lock, while the server that
keeps them is killed, stopped and cut off, and clients keep book of what they were told.

With wait=1 what was acknowledged is on both servers, so it stays, whatever is done to one of them; without,
what was acknowledged from a second before the primary was lost until it was deposed may be lost. All 50
failovers of each:

    pytest -s -m soak tests/storage/test_two_hosts.py
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import signal
import subprocess
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple
from urllib.parse import urlencode

import pytest

from forkd import storage
from tests.process.conftest import Daemon, until
from tests.process.haproxy import needs_haproxy
from tests.storage.hosts import WEB_PORT, Host, Site, started_site, why_not

RATE = BURST = 2  # a second; far fewer than ask
LEASE_SECONDS = 0.5
#: Acknowledged before the primary was lost, and not yet sent to the replica.
LAG_SECONDS = 1.0

pytestmark = needs_haproxy

APP = f"""
from urllib.parse import parse_qsl
from forkd import storage

s = storage.open()


def release(token):
    lock = s.lock("job")
    lock.token = int(token)
    return lock.release()


VERBS = {{
    "/put": lambda key, value: s.set(key, value),
    "/get": lambda key: s.get(key, ""),
    "/limit": lambda: "yes" if s.limit("all", "{RATE}/second").allowed else "",
    "/acquire": lambda: s.lock("job", lease={LEASE_SECONDS}).acquire(wait=0) or "",
    "/release": release,
    "/guarded": lambda token, value: s.set("guarded", value, fence=int(token)),
}}


def app(environ, start):
    try:
        found = VERBS[environ["PATH_INFO"]](**dict(parse_qsl(environ["QUERY_STRING"])))
        status = "200 OK"
    except storage.Fenced as error:
        status, found = "409 Conflict", error
    except storage.Unavailable as error:
        status, found = "503 Service Unavailable", error
    body = str(found).encode()
    start(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""

HAPROXY = """
defaults
    mode http
    timeout client 10s
    timeout server 10s
    timeout connect 500ms
    timeout check 500ms
    option redispatch
frontend web
    bind {third}:{port}
    default_backend hosts
backend hosts
    balance roundrobin
    server h1 {first}:{port} check inter 200ms
    server h2 {second}:{port} check inter 200ms
"""


class Told(NamedTuple):
    """One thing that a client was told, and when it was asked for and told."""

    began: float
    ended: float
    token: int = 0
    until: float = 0.0  # of a hold: its holder takes it for its own until then
    key: str = ""


class Store:
    """What the lock is for, beyond the reach of any cut: remembers the greatest token, and refuses lower
    ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._greatest = 0
        self.accepted: list[Told] = []
        self.refused = 0

    def write(self, hold: Told) -> None:
        with self._lock:
            if hold.token < self._greatest:
                self.refused += 1
                return
            self._greatest = hold.token
            self.accepted.append(hold)


@dataclass
class Book:
    """What all clients were told."""

    store: Store = field(default_factory=Store)
    written: list[Told] = field(default_factory=list)
    passed: list[Told] = field(default_factory=list)
    holds: list[Told] = field(default_factory=list)
    guarded: list[Told] = field(default_factory=list)
    refused: int = 0  # of guarded writes
    #: From when a primary was lost until it followed another.
    outages: list[tuple[float, float]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)


class Client(threading.Thread):
    """Asks one address from one host, one thing after the other."""

    def __init__(self, book: Book, host: Host, address: str) -> None:
        super().__init__(daemon=True)
        self._book, self._host, self._address = book, host, address
        self.name = f"{host.number}"
        self.asked = self.answered = 0
        self.error: BaseException | None = None

    def ask(self, verb: str, **values: object) -> tuple[int, str]:
        """The status, 0 for none, and the body."""
        self.asked += 1
        client = http.client.HTTPConnection(self._address, WEB_PORT, timeout=10)
        with contextlib.closing(client), contextlib.suppress(OSError, http.client.HTTPException):
            client.request("GET", f"/{verb}?{urlencode(values)}")
            answer = client.getresponse()
            body = answer.read().decode()
            self.answered += answer.status == 200
            return answer.status, body
        return 0, ""

    def run(self) -> None:
        try:
            self._host.enter()
            for number in itertools.count():
                if self._book.over.is_set():
                    return
                self._write(number)
                self._limit()
                self._hold(number)
                sleep(0.005)  # the servers have the processors as well
        except BaseException as error:
            self.error = error

    def _write(self, number: int) -> None:
        key, began = f"{self.name}-{number}", monotonic()
        if self.ask("put", key=key, value=number)[0] == 200:
            self._book.written.append(Told(began, monotonic(), key=key))

    def _limit(self) -> None:
        began = monotonic()
        if self.ask("limit") == (200, "yes"):
            self._book.passed.append(Told(began, monotonic()))

    def _hold(self, number: int) -> None:
        began = monotonic()
        status, token = self.ask("acquire")
        if status != 200 or not token:
            return
        ended = monotonic()
        if number % 10 == 0:
            sleep(1.3 * LEASE_SECONDS)  # as one that was stopped, and does not learn of it
        hold = Told(began, ended, int(token), min(began + LEASE_SECONDS, monotonic()))
        self._book.holds.append(hold)
        self._book.store.write(hold)
        began = monotonic()
        status = self.ask("guarded", token=token, value=token)[0]
        if status == 200:
            self._book.guarded.append(Told(began, monotonic(), hold.token))
        self._book.refused += status == 409
        self.ask("release", token=token)


# ---- what must be true of what they were told ------------------------------------------------


def went_back(told: list[Told]) -> list[tuple[Told, Told]]:
    """Of two of which one was over before the other began, those where the later one's token is the lower."""
    order = sorted(told, key=lambda one: one.ended)
    ends = [one.ended for one in order]
    greatest = list(itertools.accumulate(order, lambda a, b: max(a, b, key=lambda one: one.token)))
    found = []
    for one in told:
        before = bisect_left(ends, one.began)
        if before and greatest[before - 1].token > one.token:
            found.append((greatest[before - 1], one))
    return found


def wrong_order(accepted: list[Told]) -> list[tuple[Told, Told]]:
    """Writes of a holder after one of a holder that acquired the lock later than it had."""
    latest, found = accepted[0], []
    for hold in accepted:
        if latest.began > hold.ended:
            found.append((latest, hold))
        latest = max(latest, hold, key=lambda one: one.began)
    return found


def shared_holds(holds: list[Told]) -> int:
    """How many took the lock for their own while another did."""
    order = sorted(holds, key=lambda one: one.ended)
    return sum(one.until > other.ended for one, other in itertools.pairwise(order))


def too_many(passed: list[Told]) -> float:
    """By how many more have passed than the limit lets through in any stretch of time; not above 0 where it
    held."""
    worst, least, latest = -float(BURST), float("inf"), 0.0
    for number, one in enumerate(sorted(passed, key=lambda one: one.began)):
        least, latest = min(least, number - RATE * one.began), max(latest, one.ended)
        worst = max(worst, number + 1 - RATE * latest - least - BURST)
    return worst


def lost(book: Book, socket: str) -> list[Told]:
    s = storage.open(f"valkey+unix:{socket}")
    try:
        found: set[str] = set()
        keys = [one.key for one in book.written]
        for start in range(0, len(keys), 1000):
            found |= s.get_many(keys[start : start + 1000]).keys()
    finally:
        s.close()
    return [one for one in book.written if one.key not in found]


# ---- the site --------------------------------------------------------------------------------


class Scene(NamedTuple):
    site: Site
    book: Book
    clients: list[Client]


@contextlib.contextmanager
def started_scene(directory: Path, wait: int) -> Iterator[Scene]:
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(started_site(directory / "site"))
        first, second, third = site.hosts
        for host in (first, second):
            place = directory / f"web{host.number}"
            place.mkdir()
            daemon = Daemon(place)
            stack.callback(daemon.finish)
            daemon.write_app(APP)
            daemon.under = host.under
            url = f"{site.url}?timeout=500ms&wait={wait}"
            bind = f"0.0.0.0:{WEB_PORT}"
            daemon.start_in_foreground("-b", bind, "-w", "3", "--storage", url)
        config = directory / "haproxy.cfg"
        addresses = {"first": first.address, "second": second.address, "third": third.address}
        config.write_text(HAPROXY.format(port=WEB_PORT, **addresses))
        log = stack.enter_context(open(directory / "haproxy.log", "w"))
        front = subprocess.Popen([*third.under, "haproxy", "-f", str(config), "-db"], stdout=log, stderr=log)
        stack.callback(lambda: (front.kill(), front.wait()))
        book = Book()
        clients = [Client(book, host, host.address) for host in site.hosts]
        for client in clients:
            client.start()

        def end() -> None:
            book.over.set()
            for client in clients:
                client.join(30)

        stack.callback(end)
        yield Scene(site, book, clients)


def progress(clients: list[Client], count: int, what: str) -> None:
    """Each has `count` answers more."""
    goals = [client.answered + count for client in clients]
    until(lambda: all(c.answered >= goal for c, goal in zip(clients, goals, strict=True)), what, 60)


def fail_over(scene: Scene, how: str) -> None:
    site, old = scene.site, scene.site.primary()
    server = site.databases[old]
    number = next(number for number, host in enumerate(site.hosts) if host.address == old)
    began = monotonic()
    undo: Callable[[], None]
    if how == "kill":
        server.stop()
        undo = server.start
    elif how == "stop":
        server.process.send_signal(signal.SIGSTOP)
        undo = lambda: server.process.send_signal(signal.SIGCONT)  # noqa: E731
    else:
        site.hosts[number].link("down")
        undo = lambda: site.hosts[number].link("up")  # noqa: E731
    until(lambda: site.primary() not in ("", old), f"{how}: another is the primary", 60)
    # Both take themselves for the primary, if this one lives: clients go on at either for a while.
    client = scene.clients[number]
    goal = client.asked + 10
    until(lambda: client.asked >= goal, "its client goes on", 60)
    undo()
    goal = client.asked + 10
    until(lambda: client.asked >= goal, "its client goes on", 60)
    site.depose(old)
    scene.book.outages.append((began, monotonic()))
    progress(scene.clients, 60, f"{how}: all have answers again")


@pytest.mark.parametrize(
    ("wait", "rounds"),
    [(1, 3), pytest.param(1, 50, marks=pytest.mark.soak), pytest.param(0, 50, marks=pytest.mark.soak)],
)
def test_two_hosts(tmp_path: Path, wait: int, rounds: int) -> None:
    if reason := why_not():
        pytest.skip(reason)
    with started_scene(tmp_path, wait) as scene:
        site, book, clients = scene
        progress(clients, 20, "all have answers")
        for _, how in zip(range(rounds), itertools.cycle(("kill", "cut", "stop"))):
            fail_over(scene, how)
        book.over.set()
        for client in clients:
            client.join(30)
            assert not client.is_alive()
            assert client.error is None
        missing = lost(book, site.databases[site.primary()].socket)
    excess, shared = too_many(book.passed), shared_holds(book.holds)
    outage = sum(end - began for began, end in book.outages)
    print(
        f"wait={wait}, {rounds} failovers of {outage:.0f} s: {len(book.written)} writes acknowledged, "
        f"{len(missing)} of them lost; {len(book.passed)} passed the limit, {max(excess, 0):.0f} too many; "
        f"{len(book.holds)} holds of the lock, {shared} while another had it; of writes of holders before "
        f"the store has refused {book.store.refused}, the unit {book.refused}"
    )
    tokens = [hold.token for hold in book.holds]
    assert len(set(tokens)) == len(tokens)
    assert went_back(book.holds) == []
    assert wrong_order(book.store.accepted) == []
    if wait:
        assert missing == []
        assert shared == 0
        assert excess <= 0
        assert went_back(book.guarded) == []
    else:
        for one in missing:
            assert any(began - LAG_SECONDS <= one.ended and one.began <= end for began, end in book.outages)
        assert shared <= 2 * (rounds + outage / LEASE_SECONDS)
        # Each failover may begin the limit anew, and has two of them for a while.
        assert excess <= 2 * BURST * rounds + RATE * outage
