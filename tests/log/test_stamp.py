"""The time of an access log's line, whatever locale the application sets."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SAY = """
import locale, sys
from forkd.log import lines as log
locale.setlocale(locale.LC_ALL, "")
print(locale.nl_langinfo(locale.MON_5), log.stamp(1_777_900_000.0))
"""


@pytest.mark.skipif(shutil.which("localedef") is None, reason="needs localedef of libc-bin")
def test_the_month_is_in_english(tmp_path: Path) -> None:
    """RFC 9110, 5.6.7 for Date; the common log format has the same names."""
    sources = ["-i", "de_DE", "-f", "UTF-8", str(tmp_path / "de_DE.UTF-8")]
    made = subprocess.run(["localedef", *sources], capture_output=True, text=True, timeout=60)
    if not (tmp_path / "de_DE.UTF-8").exists():
        pytest.skip(f"localedef: {made.stderr}")
    said = subprocess.run(
        [sys.executable, "-c", SAY], capture_output=True, text=True, timeout=60,
        env={"LOCPATH": str(tmp_path), "LC_ALL": "de_DE.UTF-8", "TZ": "UTC"},
    )  # fmt: skip
    assert said.stdout == "Mai 04/May/2026:13:06:40 +0000\n", said.stderr
