"""Long grids of real daemons: each run serves a part of them, and the soak all (`scripts/test -m soak`)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from _pytest.mark import ParameterSet


def every_third(cases: Iterable[Any], at: int = 0, ids: Iterable[str] | None = None) -> list[Any]:
    """These parameters, of which all but every third, from number `at` on, are marked as of the soak. `ids`:
    their names, where they have none of their own."""
    found = [each if isinstance(each, ParameterSet) else pytest.param(each) for each in cases]
    names = list(ids) if ids is not None else [each.id for each in found]
    return [
        pytest.param(*each.values, id=name, marks=[*each.marks, *_soak(number, at)])
        for number, (each, name) in enumerate(zip(found, names, strict=True))
    ]


def _soak(number: int, at: int) -> list[pytest.MarkDecorator]:
    return [] if number % 3 == at else [pytest.mark.soak]
