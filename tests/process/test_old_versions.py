"""An upgrade from another version of forkd, and back to it: no request is lost, no counter lower, and none in
another's place.

The versions are built from what git has of them, as `scripts/bench --against` builds them.
"""

from __future__ import annotations

import signal
import subprocess
import sysconfig
from pathlib import Path

import pytest

from scripts.benchmark.against import build

from .clients import Load
from .conftest import Daemon, alive, processes_of, until
from .test_upgrade import HOW, counters, started_by_a_link

pytestmark = pytest.mark.soak  # it builds two trees

ROOT = Path(__file__).parents[2]
#: The one that three issues about faults were found on, and the one before the folders were made anew.
OLDEST, BEFORE, THIS = "3bf9a38", "79c0058", ""
#: What a few good requests and an upgrade count.
COUNTED = {
    "forkd_accept_queue_high_water_since_start", "forkd_connections_accepted_total",
    "forkd_leader_promotions_total", "forkd_lease_grants_total", "forkd_queue_wait_seconds_bucket",
    "forkd_queue_wait_seconds_count", "forkd_queue_wait_seconds_sum", "forkd_received_bytes_total",
    "forkd_request_duration_seconds_bucket", "forkd_request_duration_seconds_count",
    "forkd_request_duration_seconds_sum", "forkd_requests_total", "forkd_sent_bytes_total",
    "forkd_sigio_rings_total", "forkd_worker_cpu_seconds_total", "forkd_worker_exits_total",
}  # fmt: skip
#: Counters of a version that had another name or other labels then, or that the next one does not have.
RENAMED = {
    OLDEST: ("forkd_request_duration_seconds_",), BEFORE: (), THIS: ("forkd_proxy_headers_refused_total",),
}  # fmt: skip


def package(commit: str) -> Path:
    """The folder of forkd, with its native code."""
    if commit == THIS:
        return ROOT / "forkd"
    known = subprocess.run(["git", "cat-file", "-e", commit], cwd=ROOT, capture_output=True)
    if known.returncode:
        pytest.skip(f"git has no {commit} here")
    return Path(sysconfig.get_path("purelib", vars={"base": str(build(commit) / ".venv")})) / "forkd"


@HOW
@pytest.mark.parametrize("old, new", [(OLDEST, THIS), (BEFORE, THIS), (THIS, BEFORE)])
def test_no_request_is_lost_and_no_counter_is_lower(service: Daemon, old: str, new: str, how: str) -> None:
    first, second = package(old), package(new)
    _, lib = started_by_a_link(service, forkd=first)
    with Load(service.address, keep=3, fresh=3) as load:
        load.more(300)
        (lib / "forkd").unlink()
        (lib / "forkd").symlink_to(second)
        service.write_app(version="v2")
        until(lambda: service.metric("forkd_requests_total") >= 300, "the first ones counted")
        before = counters(service.admin("/metrics")[1])
        old_ones = processes_of(service.name)
        if how == "signal":
            service.signal(signal.SIGUSR2)
        else:
            service.ok("upgrade")
        load.more(50)
        until(lambda: not any(map(alive, old_ones)), f"the old ones gone: {service.log()}", 30)
        load.more(100)
    assert load.failures == []
    assert load.bodies == {b"v1", b"v2"}
    assert str(second) in Path(f"/proc/{service.pid}/maps").read_text()
    service.settles(load.asked, "forkd_requests_total", code="200")
    after = counters(service.admin("/metrics")[1])
    kept = {name: value for name, value in before.items() if not name.startswith(RENAMED[old] or (" ",))}
    assert len(kept) > 20
    lower = {name: (value, after.get(name)) for name, value in kept.items() if after.get(name, -1) < value}
    assert not lower
    # What nothing has happened of is 0 still: it has not got another counter's number.
    assert {name.partition("{")[0] for name, value in after.items() if value} <= COUNTED
