"""Measure: every contender of a work once per round, so that what else the machine does falls on
all of them. The results are plain dictionaries, kept as JSON."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path
from typing import Any

from scripts.benchmark.load import Figures
from scripts.benchmark.peers import BUILD, VENV, Peer
from scripts.benchmark.process import APPS, Server, Unavailable, free_port
from scripts.benchmark.servers import Contender, Place
from scripts.benchmark.work import Work

WARM_SECONDS = 1
FILES = 12_000  # descriptors that a server of 10,000 connections needs
Progress = Callable[[str], None]


def prepare() -> tuple[int, int]:
    """The cores for servers and for load. This process, and with it the load, goes to the latter;
    the servers inherit the limit of descriptors."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        print("one CPU only: servers and load share it, the figures say little", file=sys.stderr)
    os.sched_setaffinity(0, {allowed[-1]})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < FILES:
        print(f"ulimit -Hn is {hard}: works with 10,000 connections will fail", file=sys.stderr)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.environ["PYTHONPATH"] = str(APPS)
    return allowed[0], allowed[-1]


def measure(
    work: Work, rounds: int, seconds: float, peers: dict[str, Peer], core: int, progress: Progress
) -> dict[str, Any]:
    """The result of one work: per contender the figures of each round, or why there are none."""
    figures: dict[str, list[Figures]] = {contender.name: [] for contender in work.contenders}
    missing = {
        contender.name: f"not installed: {peers[contender.peer].missing}"
        for contender in work.contenders
        if peers[contender.peer].missing
    }
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for number in range(rounds):
            for contender in work.contenders:
                name = contender.name
                if name in missing:
                    continue
                progress(f"{work.name}, round {number + 1} of {rounds}: {name}")
                try:
                    if work.warm:
                        # All are up, and idle but for the one that is measured: so the rounds are short.
                        if name not in servers:
                            servers[name] = start(work, contender, core, stack)
                            work.measure(servers[name], min(WARM_SECONDS, seconds))
                        figures[name].append(work.measure(servers[name], seconds))
                    else:
                        with ExitStack() as once:
                            server = start(work, contender, core, once)
                            figures[name].append(work.measure(server, seconds))
                except Unavailable as error:
                    missing[name] = str(error)
                except (OSError, HTTPException, subprocess.CalledProcessError) as error:
                    missing[name] = f"no usable answer: {error}"
    return {
        "when": time.strftime("%Y-%m-%d %H:%M"),
        "rounds": rounds,
        "seconds": seconds,
        "figures": {name: found for name, found in figures.items() if name not in missing},
        "missing": missing,
    }


def start(
    work: Work, contender: Contender, core: int, stack: ExitStack, programs: Path = VENV / "bin"
) -> Server:
    """A server that answers as all others, from the directory of these programs. It ends with the stack."""
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmark-", dir=BUILD))
    place = Place(free_port(), Path(directory), programs, BUILD)
    command = contender.command(place)
    server = stack.enter_context(Server(command, place.port, place.directory / "log", core))
    work.check(server)
    return server
