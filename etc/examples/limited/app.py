"""A rate-limited API with a shared cache and a job queue, all in one storage unit.

    forkd start -c forkd.toml

GET /price/NAME answers from the cache of all workers, POST /order puts a job into the queue, and a thread of
each worker takes jobs from there. One line of forkd.toml moves all of it from shared memory to Valkey.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from forkd import storage

RATE = "100/minute"
CACHE_SECONDS = 30

s = storage.open()
orders = s.queue("orders", tries=3)
_started = threading.Lock()


def app(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    _work_once()
    try:
        return _handle(environ, start)
    except storage.TooLarge:  # the names of clients and prices are parts of keys
        return _answer(start, "400 Bad Request", {"error": "a name is too long"}, [])


def _handle(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    client = environ.get("HTTP_X_CLIENT") or environ["REMOTE_ADDR"]
    verdict = s.limit(f"client:{client}", RATE)
    if not verdict.allowed:
        wait = f"{max(verdict.retry_after, 1):.0f}"
        return _answer(start, "429 Too Many Requests", {"retry": wait}, [("Retry-After", wait)])
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    left = [("X-RateLimit-Remaining", str(verdict.remaining))]
    if method == "GET" and path.startswith("/price/"):
        return _answer(start, "200 OK", {"price": price(path.removeprefix("/price/"))}, left)
    if method == "POST" and path == "/order":
        size = min(int(environ.get("CONTENT_LENGTH") or 0), 10_000)
        number = orders.put(environ["wsgi.input"].read(size))
        return _answer(start, "202 Accepted", {"order": number}, left)
    if method == "GET" and path == "/done":
        return _answer(start, "200 OK", {"done": s.get("done", 0)}, left)
    return _answer(start, "404 Not Found", {}, left)


def price(name: str) -> int:
    """What takes long is done by one of all processes; the others wait for it, or have it from the cache."""
    key = f"price:{name}"
    found = s.get(key)
    if found is None:
        with s.lock(key, lease=10, wait=5):
            found = s.get(key)
            if found is None:
                s.incr("computed")
                found = sum(name.encode())
                s.set(key, found, ttl=CACHE_SECONDS)
    return int(found)


def work() -> None:
    """Do jobs, one after the other, at least once each: one whose worker is killed is done by another."""
    while True:
        try:
            job = orders.get(wait=5, visible=30)
            if job is not None:
                s.incr("done")
                job.ack()
        except storage.Unavailable:
            time.sleep(1)  # the server fails over


def _work_once() -> None:
    """In this process: a thread that was started at import would not be in the worker after a fork."""
    if _started.acquire(blocking=False):
        threading.Thread(target=work, daemon=True).start()


def _answer(
    start: Callable[..., Any], status: str, body: dict[str, Any], fields: list[tuple[str, str]]
) -> list[bytes]:
    data = json.dumps(body).encode()
    start(status, [("Content-Type", "application/json"), ("Content-Length", str(len(data))), *fields])
    return [data]
