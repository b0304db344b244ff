"""How the tasks of requests are made, as far as that is known without a loop."""

from __future__ import annotations

import sys

from forkd.config import Config
from forkd.native import serves

LAZY = "lazy"
#: Versions of CPython on which a Task that serves again is a gain, and has passed the tests.
_LAZY_VERSIONS = {(3, 11)}


def wanted_tasks(config: Config) -> str:
    """LAZY, or what else and why."""
    if not serves(config.native):
        return "made by the loop, without native code"
    if config.request_task != LAZY:
        return "real"
    if sys.implementation.name != "cpython" or not getattr(sys, "_is_gil_enabled", lambda: True)():
        return "real, with this interpreter"
    if sys.version_info[:2] not in _LAZY_VERSIONS:
        return "real, with Python {}.{}".format(*sys.version_info)
    return LAZY
