"""What native code looks up by name is declared in native/__init__.py, and nothing else is."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Protocol

import forkd.native

C = "\n".join(path.read_text() for path in sorted(Path(forkd.native.__file__).parent.glob("*.c")))
#: A table of names, or one of them; a call; a store. What is interned as k_ is a key of an environ.
INTERNED = r'n_(?:\w+)(?:, | = PyUnicode_InternFromString\()"(\w+)"'
CALLED = r'PyObject_CallMethod\([^,]+(?:\([^()]*\))?, "(\w+)"'
STORED = r'PyObject_SetAttrString\(self->\w+, "(\w+)"'


def declared() -> set[str]:
    protocols = [
        found for _, found in inspect.getmembers(forkd.native, inspect.isclass)
        if found.__module__ == forkd.native.__name__ and Protocol in found.__bases__
    ]  # fmt: skip
    return {
        name for found in protocols for name in (*vars(found), *inspect.get_annotations(found))
        if not name.startswith("_")
    }  # fmt: skip


def looked_up() -> set[str]:
    return {name for pattern in (INTERNED, CALLED, STORED) for name in re.findall(pattern, C)}


def test_each_name_is_declared_and_each_that_is_declared_is_looked_up() -> None:
    assert looked_up() == declared()


def test_there_are_no_other_ways_to_look_one_up() -> None:
    """Those that the patterns above do not see, counted: of modules and types of our own, at the start."""
    others = re.findall(r'PyObject_(?:GetAttrString|SetAttrString|CallMethod)\([^;]*?"(\w+)"', C)
    assert set(others) - looked_up() == {
        "BytesIO", "close", "version", "chunked", "expect_continue", "forwarded",
    }  # fmt: skip
