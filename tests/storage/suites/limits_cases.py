"""The own tests of `limits` for storages, strategies and concurrency, over a unit (STORAGE_URL)."""

from __future__ import annotations

import os

import pytest

from forkd.storage.limits import ForkdStorage
from tests import utils

URI = f"forkd://?url={os.environ['STORAGE_URL']}"
ONE = pytest.mark.parametrize("uri, args, fixture", [pytest.param(URI, {}, None, id="forkd")])
# The lists of back ends that the tests below are marked with.
utils.all_storage = utils.moving_window_storage = utils.sliding_window_counter_storage = ONE

from tests.integration.test_concurrency import TestConcurrency  # noqa: E402, F401
from tests.test_storage import TestConcreteStorages  # noqa: E402, F401
from tests.test_strategy import *  # noqa: E402, F403

from tests import test_storage  # noqa: E402

test_storage.TestConcreteStorages.pytestmark = [
    pytest.mark.parametrize(
        "uri, args, expected_instance, fixture", [pytest.param(URI, {}, ForkdStorage, None, id="forkd")]
    )
]


@pytest.fixture(autouse=True)
def empty() -> None:
    ForkdStorage(URI).reset()
