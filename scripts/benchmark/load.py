"""Load on a server, and what it cost: by wrk, or by native/load.c for what wrk has no means for."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from scripts.benchmark.peers import BUILD
from scripts.benchmark.process import Server, Unavailable

LUA = Path(__file__).with_name("lua")
_MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
Figures = dict[str, float]


def wrk(
    server: Server, seconds: float, path: str = "/", connections: int = 32, script: str = "",
    headers: tuple[str, ...] = (), words: tuple[str, ...] = (),
) -> Figures:  # fmt: skip
    """`words`: what the script is given."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}", "--latency"]
    command += ["--timeout", "10"]
    command += ["-s", str(LUA / script)] if script else []
    command += [word for header in headers for word in ("-H", header)]
    command.append(f"http://127.0.0.1:{server.port}{path}")
    command += ["--", *words] if words else []
    before = server.cpu()
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return _with_cost(read_wrk(text), server.cpu() - before)


def read_wrk(text: str) -> Figures:
    """wrk's report."""
    requests = re.search(r"(\d+) requests in", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    if not requests or not rate:
        raise ValueError(f"wrk printed something else than expected:\n{text}")
    found = {"requests": float(requests[1]), "per_second": float(rate[1]), "errors": 0.0}
    for percent in (50, 99):
        latency = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s|m)\b", text)
        if latency:
            found[f"p{percent}"] = float(latency[1]) * _MILLISECONDS[latency[2]]
    for count in re.findall(r"(?:connect|read|write|timeout) (\d+)|Non-2xx.*?: (\d+)", text):
        found["errors"] += sum(int(n) for n in count if n)
    return found


def messages(
    server: Server, seconds: float, *kinds: tuple[bytes, int], connections: int = 32, rate: int = 0,
    opening: bytes = b"",
) -> Figures:  # fmt: skip
    """A kind is the bytes to send and the length of the answer. One in a hundred is of the second
    kind, if there is one; the latencies are those of the first. Rate 0: each after the answer. `opening`
    is what a connection sends first, a request whose answer is a head."""
    command = [str(BUILD / "load"), str(server.port), str(connections), str(seconds), str(rate)]
    if opening:
        (BUILD / "opening").write_bytes(opening)
        command[1:1] = ["-o", str(BUILD / "opening")]
    for number, (message, length) in enumerate(kinds):
        file = BUILD / f"message-{number}"
        file.write_bytes(message)
        command += [str(file), str(length)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, text=True, stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()  # all connections have been served once
            before = server.cpu()
            line = process.stdout.readline()
            cpu = server.cpu() - before
            complaint = process.communicate()[1]  # closes its input: it closes its connections
        except BaseException:
            process.kill()
            raise
    if not line:
        raise Unavailable(f"it did not bear the load: {complaint.strip()}")
    requests, errors, p50, p99 = map(float, line.split())
    found = {"requests": requests, "errors": errors, "p50": p50, "p99": p99}
    return _with_cost(found | {"per_second": requests / seconds}, cpu)


def _with_cost(found: Figures, cpu: float) -> Figures:
    """A server that used no measurable time has no figure for it."""
    return found | ({"per_cpu": found["requests"] / cpu} if cpu and found["requests"] else {})
