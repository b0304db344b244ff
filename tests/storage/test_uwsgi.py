"""uWSGI's calls over a unit do what uWSGI's do."""

from __future__ import annotations

from pathlib import Path

import pytest

from forkd.storage import uwsgi


@pytest.fixture(autouse=True)
def unit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FORKD_STORAGE", f"sqlite:{tmp_path}/unit.db names=sqlite:{tmp_path}/names.db")
    uwsgi._unit.cache_clear()


def test_the_cache() -> None:
    assert uwsgi.cache_get("k") is None
    assert uwsgi.cache_set("k", b"v") is True
    assert uwsgi.cache_set("k", b"w") is None
    assert uwsgi.cache_get("k") == b"v"
    assert uwsgi.cache_update("k", b"w", 60)
    assert uwsgi.cache_get("k") == b"w"
    assert uwsgi.cache_exists("k") is True
    assert uwsgi.cache_exists("none") is None
    assert uwsgi.cache_keys() == [b"k"]
    assert uwsgi.cache_del("k") is True
    assert uwsgi.cache_del("k") is None
    assert uwsgi.cache_update("other", b"v", 0, "names")
    assert uwsgi.cache_get("other") is None
    assert uwsgi.cache_get("other", "names") == b"v"
    assert uwsgi.cache_clear("names")
    assert uwsgi.cache_get("other", "names") is None


def test_the_counters() -> None:
    assert uwsgi.cache_num("n") == 0
    assert uwsgi.cache_inc("n", 5)
    assert uwsgi.cache_dec("n")
    assert uwsgi.cache_mul("n", 3)
    assert uwsgi.cache_div("n", 4)
    assert uwsgi.cache_num("n") == 3


def test_the_locks() -> None:
    assert not uwsgi.is_locked()
    uwsgi.lock()
    uwsgi.lock(1)
    assert uwsgi.is_locked()
    uwsgi.unlock()
    assert not uwsgi.is_locked()
    assert uwsgi.is_locked(1)
    uwsgi.unlock(1)
    uwsgi.unlock(1)
