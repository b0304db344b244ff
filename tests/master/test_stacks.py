"""Stacks as faulthandler writes them, by thread."""

from __future__ import annotations

import faulthandler
import threading
from pathlib import Path

from forkd.master import stacks

TEXT = """\
Fatal Python error: Segmentation fault

Thread 0x00007f0000000001 [waiter] (most recent call first):
  File "a.py", line 1 in waits
  File "a.py", line 2 in run

Current thread 0x00007f00000000ab (most recent call first):
  File "b.py", line 3 in works

Extension modules: a, b (total: 2)
"""


def test_each_thread_has_its_frames() -> None:
    assert stacks.by_thread(TEXT) == {
        0x7F0000000001: '  File "a.py", line 1 in waits\n  File "a.py", line 2 in run',
        0x7F00000000AB: '  File "b.py", line 3 in works',
    }
    assert stacks.by_thread("") == stacks.by_thread("nothing\nof the kind") == {}


def test_what_is_left_without_some() -> None:
    rest = stacks.without(TEXT, {0x7F0000000001})
    assert "waits" not in rest
    assert "works" in rest and "Segmentation fault" in rest and "Extension modules" in rest
    assert stacks.without("", {1}) == ""


def test_as_this_interpreter_writes_them(tmp_path: Path) -> None:
    over, ready = threading.Event(), threading.Event()
    idents: list[int] = []

    def waits_here() -> None:
        idents.append(threading.get_ident())
        ready.set()
        over.wait(10)

    thread = threading.Thread(target=waits_here)
    thread.start()
    try:
        assert ready.wait(10)
        with open(tmp_path / "dump", "w+") as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            found = stacks.by_thread(file.read())
    finally:
        over.set()
        thread.join()
    assert "in waits_here" in found[idents[0]]
    assert "in test_as_this_interpreter_writes_them" in found[threading.get_ident()]
