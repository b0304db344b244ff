"""cachelib's own mixins for back ends, over a unit. Run with cachelib's tests in the path (STORAGE_URL)."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any

import pytest

# Their conftest.py starts servers with it.
sys.modules["xprocess"] = xprocess = ModuleType("xprocess")
xprocess.__dict__["ProcessStarter"] = object

from clear import ClearTests  # noqa: E402
from common import CommonTests  # noqa: E402
from delete_many_with_prefix import DeleteManyWithPrefixTests  # noqa: E402
from has import HasTests  # noqa: E402
from serializer import SerializerTests  # noqa: E402

from forkd.storage.cachelib import ForkdCache  # noqa: E402


@pytest.fixture(autouse=True)
def cache_factory(request: pytest.FixtureRequest) -> None:
    def make(self: object, **options: Any) -> ForkdCache:
        cache = ForkdCache(os.environ["STORAGE_URL"], **options)
        cache._unit.clear()
        return cache

    request.cls.cache_factory = make


class TestForkdCache(CommonTests, ClearTests, HasTests, DeleteManyWithPrefixTests, SerializerTests):
    def test_a_key_may_be_called(self) -> None:
        cache: Any = self.cache_factory()
        assert cache.set(lambda: "spam", "sausages")
        assert cache.get("spam") == "sausages"
