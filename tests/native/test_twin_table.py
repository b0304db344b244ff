"""The table of twins in docs/architecture.md has each file of C, and what it says is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/architecture.md").read_text()
ROWS = re.findall(r"^\| `native/(\w+\.c)` \| (.*?) \| (.*?) \|$", TEXT, re.M)


def test_each_file_of_c_has_a_row() -> None:
    files = {path.name for path in (ROOT / "forkd/native").glob("*.c")}
    assert sorted(name for name, _, _ in ROWS) == sorted(files - {"module.c"})


@pytest.mark.parametrize(("name", "twins", "what"), ROWS, ids=[row[0] for row in ROWS])
def test_a_row(name: str, twins: str, what: str) -> None:
    """Its twins exist, and have what it names; the file bears the name of the folder of the first."""
    paths = re.findall(r"`([\w/]+\.py)`", twins)
    text = "\n".join((ROOT / "forkd" / path).read_text() for path in paths)
    for word in re.findall(r"`(\w+)`", what):
        assert re.search(rf"^ *(?:class|def) {word}\b", text, re.M), word
    assert name.partition("_")[0] in {part for path in paths for part in path.split("/")}


def test_no_function_looks_whether_native_code_is_there() -> None:
    """But for `pick` and `serves`, and for what tells of it. The others pick a twin."""
    asked = re.compile(r"^(?! *assert ).*\b_?native is (?:not )?None", re.M)
    files = (ROOT / "forkd").rglob("*.py")
    found = {path.relative_to(ROOT).as_posix() for path in files if asked.search(path.read_text())}
    assert found == {"forkd/native/__init__.py", "forkd/models/registry.py"}
