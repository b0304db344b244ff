"""Many processes at one unit, some of which are killed: python hammer.py URL WORK SECONDS SEED LOG.

Forks four workers, kills one of them at random instants and forks another in its place. Each worker writes
to LOG what it calls before the call and what it got after it, a line of JSON each: [pid, monotonic ns, word,
...].
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from typing import Any

from forkd import storage
from tests.storage import tables

WORKERS = 4


def say(log: int, pid: int, *words: Any) -> None:
    os.write(log, (json.dumps([pid, time.monotonic_ns(), *words]) + "\n").encode())


class Worker:
    def __init__(self, url: str, seed: int, log: int) -> None:
        self.random = random.Random(seed)
        self.unit = storage.open(url)
        self.log = log
        self.pid = os.getpid()

    def say(self, *words: Any) -> None:
        say(self.log, self.pid, *words)

    def call(self, key: str, name: str, argument: Any) -> Any:
        self.say("call", key, name, argument)
        result = self.do(key, name, argument)
        self.say("return", result)
        return result

    def do(self, key: str, name: str, argument: Any) -> Any:
        unit = self.unit
        if name == "get":
            return unit.get(key)
        if name == "set":
            return unit.set(key, argument)
        if name == "add":
            return unit.add(key, argument)
        if name == "delete":
            return unit.delete(key)
        assert name == "incr"
        return unit.incr(key, argument)

    def registers(self) -> None:
        """Each value is written once."""
        key = f"r{self.random.randrange(3)}"
        name = self.random.choice(("get", "get", "set", "add", "delete", "cas"))
        value = f"{self.pid}.{time.monotonic_ns()}"
        if name == "cas":
            self.say("call", key, "get", None)
            old, token = self.unit.gets(key)
            self.say("return", old)
            self.say("call", key, "cas", [old, value])
            self.say("return", self.unit.cas(key, value, token))
        else:
            self.call(key, name, value if name in ("set", "add") else None)

    def counters(self) -> None:
        key = f"n{self.random.randrange(2)}"
        name = self.random.choice(("incr", "incr", "get"))
        self.call(key, name, self.random.randrange(1, 4) if name == "incr" else None)

    def locks(self) -> None:
        with self.unit.lock("lock", lease=600, wait=60) as token:
            self.say("enter", token)
            if self.random.random() < 0.5:
                time.sleep(self.random.random() / 500)
            self.say("leave", token)

    def queues(self) -> None:
        queue = self.unit.queue("queue")
        if self.random.random() < 0.5:
            item = f"{self.pid}.{time.monotonic_ns()}"
            self.say("put", item)
            queue.put(item)
            self.say("is put", item)
        elif (job := queue.get(visible=0.5)) is not None:
            self.say("got", job.data, job.tries)
            if job.ack():
                self.say("acked", job.data)


def run(url: str, work: str, seed: int, log: int) -> None:
    worker = Worker(url, seed, log)
    step = getattr(worker, work)
    while True:
        for _ in range(20):
            step()
        # In bursts: a history of all that four processors can do would take minutes to check.
        time.sleep(worker.random.random() * 0.01)


def main(url: str, work: str, seconds: float, seed: int, path: str) -> None:
    log = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    storage.open(url).get("k")  # so that the workers, whose lives are short, import nothing
    chance = random.Random(seed)
    workers: list[int] = []
    slots: dict[int, int] = {}  # in shared memory
    end = time.monotonic() + seconds
    born = kills = 0
    while time.monotonic() < end:
        while len(workers) < WORKERS:
            born += 1
            pid = os.fork()
            if not pid:
                try:
                    tables.enter(born)
                    run(url, work, seed * 1000 + born, log)
                finally:
                    os._exit(1)
            workers.append(pid)
            slots[pid] = born
        time.sleep(chance.random() * 0.04)
        pid = workers.pop(chance.randrange(len(workers)))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL, "a worker has raised"
        tables.died(slots[pid])
        say(log, os.getpid(), "died", pid)
        kills += 1
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        say(log, os.getpid(), "died", pid)
    print(kills)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
