"""The pages of the admin endpoint, without a master."""

from __future__ import annotations

import sys
from typing import Any, cast

import pytest

from forkd.metrics.admin import PAGES


def test_a_scrape_after_the_packages_were_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "forkd.metrics.exposition", raising=False)
    monkeypatch.setitem(cast("dict[str, Any]", sys.modules), "prometheus_client.core", None)
    status, _, body = PAGES[b"/metrics"].show(cast(Any, None), "")
    assert status == "500 Internal Server Error"
    assert body == (
        b"import of prometheus_client.core halted; None in sys.modules: "
        b"install forkd's packages again, then forkd upgrade\n"
    )
