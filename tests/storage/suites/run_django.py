"""Django's own tests of cache back ends, over a unit: python run_django.py TESTS URL."""

from __future__ import annotations

import sys
import unittest

TESTS, URL = sys.argv[1:3]
sys.path.insert(0, TESTS)

import django  # noqa: E402
from django.conf import settings  # noqa: E402

urlpatterns: list[object] = []
DATABASE = {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
settings.configure(
    SECRET_KEY="tests",
    DATABASES={"default": DATABASE, "other": DATABASE},
    INSTALLED_APPS=["cache"],
    ROOT_URLCONF="__main__",
    USE_TZ=False,
)
django.setup()

from cache import tests  # noqa: E402
from django.test import TestCase, override_settings  # noqa: E402
from django.test.runner import DiscoverRunner  # noqa: E402


@override_settings(
    CACHES=tests.caches_setting_for_tests(
        BACKEND="forkd.storage.django.ForkdCache",
        LOCATION=URL,
        # As for Redis and memcached: the unit evicts by its own bounds.
        exclude={"cull", "zero_cull"},
    )
)
class ForkdCacheTests(tests.BaseCacheTests, TestCase):
    pass


class Runner(DiscoverRunner):
    def build_suite(self, *args: object, **options: object) -> unittest.TestSuite:
        return unittest.defaultTestLoader.loadTestsFromTestCase(ForkdCacheTests)


sys.exit(bool(Runner(verbosity=1, interactive=False).run_tests([])))
