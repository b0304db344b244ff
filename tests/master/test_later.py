"""What a master imports later is pinned at its start, with all that it imports itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import forkd
from forkd.system.pinned import modules_of

CODE = """
import importlib, sys
import forkd.command.start
from forkd.master.entry import LATER

before = set(sys.modules)
for name in LATER:
    importlib.import_module(name)
print(*sorted(name for name in set(sys.modules) - before if name.startswith("forkd.")))
print(*sorted(LATER))
"""


def test_nothing_else_of_forkd_comes_with_it() -> None:
    text = subprocess.check_output([sys.executable, "-c", CODE], text=True, timeout=30)
    came, pinned = text.splitlines()
    assert came == pinned


def test_all_of_storage_is_pinned_with_a_unit() -> None:
    folder = Path(forkd.__file__).parent / "storage"
    names = {f"forkd.storage.{path.stem}" for path in folder.glob("*.py")}
    names = names - {"forkd.storage.__init__"} | {"forkd.storage"}
    assert set(modules_of("forkd.storage")) == names
