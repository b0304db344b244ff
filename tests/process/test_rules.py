"""The alerts of etc/prometheus-rules.yml: each metric in them can be scraped, and each one goes off."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import Daemon, until

RULES = Path(__file__).parents[2] / "etc" / "prometheus-rules.yml"
#: What an alert has, by the depth of its keys.
RULE = re.compile(
    r"      - alert: (?P<name>Forkd\w+)\n"
    r"        expr: (?P<expr>[^\n|]+|\|\n(?:          [^\n]+\n)+?)\n?"
    r"(?:        for: \d+[sm]\n)?"
    r"        labels:\n          severity: (?:critical|warning)\n"
    r"        annotations:\n          summary: \"[^\n]+\"\n(?:          description: \"[^\n]+\"\n)?"
)


def alerts() -> dict[str, str]:
    return {found["name"]: found["expr"] for found in RULE.finditer(RULES.read_text())}


def test_every_alert_has_the_shape_of_one() -> None:
    text = RULES.read_text()
    assert list(alerts()) == re.findall(r"alert: (\w+)", text)
    assert re.search(r"^groups:\n  - name: forkd\n    rules:\n      - alert: ", text, re.M)
    promised = {"ForkdErrors", "ForkdSlow", "ForkdSaturated", "ForkdLogLinesLost", "ForkdSheds"}
    assert promised <= set(alerts())


def test_every_metric_of_an_alert_is_scraped(service: Daemon) -> None:
    """With the labels that the alert asks for."""
    service.start("--shed-after", "5")
    service.get()
    until(lambda: service.metric("forkd_requests_total") == 1, "counted")
    page = service.admin("/metrics")[1]
    named = {
        (name, label)
        for expr in alerts().values()
        for name, labels in re.findall(r"\b((?:forkd|process)_\w+)(?:\{([^}]*)\})?", expr)
        for label in re.findall(r'(\w+)(?:=~|!=|=)"', labels) or [""]
    }
    assert len(named) > 15
    for name, label in named - {("process_open_fds", "job"), ("process_max_fds", "job")}:
        wanted = rf"^{name}\{{(?:.*,)?{label}=" if label else rf"^{name}[{{ ]"
        assert re.search(wanted, page, re.M), (name, label)


#: By alert, series that have it go off at 20 minutes; a sample each minute ("a+bxn": a, then n times b more).
SERIES = {
    "ForkdDown": ['up{job="forkd",instance="a"}', "0x30"],
    "ForkdNotReady": ['forkd_ready{instance="a"}', "0x30"],
    "ForkdWorkersEnd": [
        'forkd_worker_exits_total{reason="SIGSEGV",instance="a"}', "_x14 1+1x16",
        'forkd_generation{instance="a"}', "1x30",
    ],
    "ForkdAcceptQueueNearlyFull": [
        'forkd_accept_queue_length{listener="l",instance="a"}', "90x30",
        'forkd_accept_queue_limit{listener="l",instance="a"}', "100x30",
    ],
    "ForkdAcceptQueueWasNearlyFull": [
        'forkd_accept_queue_high_water{listener="l",instance="a"}', "90x30",
        'forkd_accept_queue_limit{listener="l",instance="a"}', "100x30",
    ],
    "ForkdNobodyAccepts": [
        'forkd_connections_accepted_total{worker="1",instance="a"}', "7x30",
        'forkd_accept_queue_length{listener="l",instance="a"}', "1x30",
        'forkd_ready{instance="a"}', "1x30",
    ],
    "ForkdReloadFailed": ['forkd_reloads_total{result="failure",instance="a"}', "0x14 1x16"],
    "ForkdErrors": [
        'forkd_requests_total{code="200",instance="a"}', "0+90x30",
        'forkd_requests_total{code="500",instance="a"}', "0+10x30",
    ],
    "ForkdSlow": [
        'forkd_request_duration_seconds_bucket{class="2xx",le="1.0",instance="a"}', "0+90x30",
        'forkd_request_duration_seconds_bucket{class="2xx",le="2.5",instance="a"}', "0+100x30",
        'forkd_request_duration_seconds_bucket{class="2xx",le="+Inf",instance="a"}', "0+100x30",
    ],
    "ForkdSaturated": [
        'forkd_worker_threads{state="busy",instance="a"}', "19x30",
        'forkd_worker_threads{state="idle",instance="a"}', "1x30",
    ],
    "ForkdConnectionsWait": [
        'forkd_queue_wait_seconds_bucket{queue="accept",le="0.5",instance="a"}', "0+9x30",
        'forkd_queue_wait_seconds_bucket{queue="accept",le="1.0",instance="a"}', "0+10x30",
        'forkd_queue_wait_seconds_bucket{queue="accept",le="+Inf",instance="a"}', "0+10x30",
    ],
    "ForkdSheds": ['forkd_requests_shed_total{instance="a"}', "0+5x30"],
    "ForkdWorkersFull": ['forkd_workers_full{instance="a"}', "1x30"],
    "ForkdLogLinesLost": ['forkd_log_lines_lost_total{log="access",instance="a"}', "0x14 7x16"],
    "ForkdLogHangs": ['forkd_log_write_seconds{log="error",instance="a"}', "11x30"],
    "ForkdMasterNearlyOutOfDescriptors": [
        'process_open_fds{job="forkd",instance="a"}', "900x30",
        'process_max_fds{job="forkd",instance="a"}', "1024x30",
    ],
}  # fmt: skip
#: A service that is well: no alert goes off.
WELL = [
    'up{job="forkd",instance="a"}', "1x30",
    'forkd_ready{instance="a"}', "1x30",
    'forkd_generation{instance="a"}', "1x30",
    'forkd_worker_exits_total{reason="SIGSEGV",instance="a"}', "0x30",
    'forkd_accept_queue_length{listener="l",instance="a"}', "1x30",
    'forkd_accept_queue_high_water{listener="l",instance="a"}', "70x30",
    'forkd_accept_queue_limit{listener="l",instance="a"}', "100x30",
    'forkd_connections_accepted_total{worker="1",instance="a"}', "0+1x30",
    'forkd_reloads_total{result="failure",instance="a"}', "1x30",
    'forkd_requests_total{code="200",instance="a"}', "0+99x30",
    'forkd_requests_total{code="500",instance="a"}', "0+1x30",
    'forkd_request_duration_seconds_bucket{class="2xx",le="1.0",instance="a"}', "0+99x30",
    'forkd_request_duration_seconds_bucket{class="2xx",le="+Inf",instance="a"}', "0+100x30",
    'forkd_request_duration_seconds_bucket{class="none",le="1.0",instance="a"}', "0x30",
    'forkd_request_duration_seconds_bucket{class="none",le="+Inf",instance="a"}', "0+100x30",
    'forkd_worker_threads{state="busy",instance="a"}', "17x30",
    'forkd_worker_threads{state="idle",instance="a"}', "3x30",
    'forkd_queue_wait_seconds_bucket{queue="accept",le="0.5",instance="a"}', "0+99x30",
    'forkd_queue_wait_seconds_bucket{queue="accept",le="+Inf",instance="a"}', "0+100x30",
    'forkd_requests_shed_total{instance="a"}', "3x30",
    'forkd_workers_full{instance="a"}', "0x30",
    'forkd_log_lines_lost_total{log="access",instance="a"}', "7x30",
    'forkd_log_write_seconds{log="error",instance="a"}', "9x30",
    'process_open_fds{job="forkd",instance="a"}', "60x30",
    'process_max_fds{job="forkd",instance="a"}', "1024x30",
]  # fmt: skip


def _test(series: list[str], firing: str | None) -> str:
    """One test as promtool has it: the alert goes off, or none does."""
    lines = ["- interval: 1m", "  input_series:"]
    for name, values in zip(series[::2], series[1::2], strict=True):
        lines += [f"  - series: '{name}'", f"    values: '{values}'"]
    if firing is not None:  # promtool compares labels and texts as well; so ask for the alert as a series
        query = f"count(ALERTS{{alertname=\"{firing}\",alertstate=\"firing\"}}) by (alertname)"
        lines += ["  promql_expr_test:", f"  - expr: '{query}'", "    eval_time: 20m", "    exp_samples:"]
        lines += [f"    - labels: '{{alertname=\"{firing}\"}}'", "      value: 1"]
    else:
        lines += ["  alert_rule_test:"]
        for name in alerts():
            lines += ["  - eval_time: 20m", f"    alertname: {name}"]
    return "\n".join(lines) + "\n"


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_every_alert_goes_off_when_it_should_and_none_when_all_is_well(tmp_path: Path) -> None:
    assert set(SERIES) == set(alerts())
    subprocess.run(["promtool", "check", "rules", str(RULES)], check=True, timeout=60)
    tests = [_test(series, name) for name, series in SERIES.items()] + [_test(WELL, None)]
    file = tmp_path / "rules.test.yml"
    file.write_text(f"rule_files: ['{RULES}']\nevaluation_interval: 1m\ntests:\n" + "".join(tests))
    done = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
