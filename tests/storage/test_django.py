"""Django's cache keeps no value that is too large, and fails no request for it."""

from __future__ import annotations

import logging
from typing import Any

import pytest

pytest.importorskip("django")

from forkd.storage import django

LARGE = b"x" * ((1 << 20) + 1)


@pytest.fixture
def engine() -> str:
    return "sqlite"


@pytest.fixture
def cache(url: str) -> Any:
    return django.ForkdCache(url, {})


def test_a_value_that_is_too_large_is_not_kept(cache: Any, caplog: pytest.LogCaptureFixture) -> None:
    django._warned = 0
    cache.set("k", b"old")
    with caplog.at_level(logging.WARNING):
        cache.set("k", LARGE)  # as by UpdateCacheMiddleware
        assert cache.get("k") is None
        cache.set("k", ["pickled", LARGE])
        assert not cache.add("k", LARGE)
    assert cache.get("k") is None
    assert [record.name for record in caplog.records] == ["forkd.storage.django"]
    assert "1048577 bytes" in caplog.text


def test_add_leaves_what_is_there(cache: Any) -> None:
    cache.set("k", b"v")
    assert not cache.add("k", LARGE)
    assert cache.get("k") == b"v"


def test_set_many_names_what_is_not_kept(cache: Any) -> None:
    cache.set("large", b"old")
    assert cache.set_many({"a": 1, "large": LARGE, "b": 2}) == ["large"]
    assert cache.get_many(["a", "large", "b"]) == {"a": 1, "b": 2}
    assert cache.set_many({"a": 3}) == []


def test_the_middleware_passes_a_large_page(cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings

    if not settings.configured:
        settings.configure(SECRET_KEY="tests", ALLOWED_HOSTS=["*"])
    from django.http import HttpResponse
    from django.middleware.cache import UpdateCacheMiddleware
    from django.test import RequestFactory

    def page(request: Any) -> Any:
        request._cache_update_cache = True
        return HttpResponse(LARGE)

    middleware = UpdateCacheMiddleware(page)
    monkeypatch.setattr(type(middleware), "cache", cache)
    django._warned = 0
    assert middleware(RequestFactory().get("/")).status_code == 200
    assert django._warned  # it came to the cache
