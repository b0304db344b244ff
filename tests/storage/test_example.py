"""The example in etc/examples runs over memory, over a file and over a server, by one line of its file."""

from __future__ import annotations

import http.client
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.process.conftest import Daemon, service, until  # noqa: F401

EXAMPLE = Path(__file__).resolve().parents[2] / "etc/examples/limited"


@pytest.fixture(params=["shm", "sqlite", "valkey"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "shm":
        return "shm:64m"
    if request.param == "sqlite":
        return f"sqlite:{tmp_path}/unit.db"
    return f"valkey+unix:{request.getfixturevalue('server').socket}"


def test_the_example(service: Daemon, place: str) -> None:  # noqa: F811
    shutil.copy(EXAMPLE / "app.py", service.dir)
    text = (EXAMPLE / "forkd.toml").read_text()
    text = re.sub(r'^storage = .*$', f'storage = "{place}"', text, flags=re.MULTILINE)
    config = service.dir / "forkd.toml"
    config.write_text(text.replace(":8000", ":0") + 'admin = "127.0.0.1:0"\n')
    service.start("-c", str(config), app=None)

    def ask(method: str, path: str, client: str = "a", body: bytes | None = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(*service.address, timeout=20)
        connection.request(method, path, body, {"X-Client": client})
        answer = connection.getresponse()
        found = answer.status, json.loads(answer.read())
        connection.close()
        return found

    assert {ask("GET", "/price/abc")[1]["price"] for _ in range(10)} == {294}
    assert service.ok("storage", "get", "computed") == "1\n"
    for i in range(5):
        assert ask("POST", "/order", body=b"%d" % i)[0] == 202
    until(lambda: ask("GET", "/done", client="until")[1]["done"] == 5, "the jobs are done")
    assert ask("GET", "/price/" + "a" * 300)[0] == 400
    assert ask("GET", "/price/abc", client="x" * 300)[0] == 400
    # All workers together: 100 at once, and one more in 0.6 s.
    codes = [ask("GET", "/price/abc", client="b")[0] for _ in range(130)]
    assert codes[:100] == [200] * 100
    assert 429 in codes[100:]
    assert ask("GET", "/price/abc", client="c")[0] == 200
