"""The application forks: its child is no worker, has nothing of forkd's, and leaves where it comes back."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterable

import pytest

from .conftest import Daemon, until

#: What a request forks in is its path. The answer is what became of the child: its exit code, or minus
#: a signal.
APP = """
    import atexit, ctypes, json, multiprocessing, os, queue, signal, subprocess, sys, tempfile
    import threading, time

    libc = ctypes.PyDLL(None)  # which keeps the GIL, or the child might wait for it for ever
    fork = multiprocessing.get_context("fork")

    signal.signal(signal.SIGUSR2, lambda *_: os._exit(42))  # its own, and so its children's

    from os import posix_spawn, system  # bound at import, before a request

    threading.Thread(target=threading.Event().wait, daemon=True).start()  # that could take a signal

    def ended(pid):
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    class Closing(list):
        def close(self):
            pid = os.fork()
            if pid == 0:
                sys.exit(5)
            CHILDREN.put(pid)

    def pieces(pid):
        yield b""
        pid = os.fork()
        if pid == 0:
            return
        yield str(ended(pid)).encode()

    def job(*_):
        time.sleep(60)

    def square(number):
        return number * number

    def in_thread(found):
        pid = os.fork()
        if pid:
            found.append(ended(pid))

    def nothing(*_):
        pass

    def of_status(pid):
        with open(f"/proc/{pid}/status") as file:
            return masks(file.read())

    def masks(status):
        # Blocked and ignored signals, but for those that Python (SIGPIPE, SIGXFSZ) or glibc (32, 33) ignores.
        found = dict(line.partition(":")[::2] for line in status.splitlines())
        return [int(found[name], 16) & ~(1 << 12 | 1 << 24 | 3 << 31) for name in ("SigBlk", "SigIgn")]

    def sockets():
        found = []
        for fd in os.listdir("/proc/self/fd"):
            try:
                found.append(os.readlink(f"/proc/self/fd/{fd}"))
            except FileNotFoundError:
                pass
        with open("/proc/self/maps") as file:  # which keep open what they map
            found += file.read().splitlines()
        return [f for f in found if f.startswith("socket:") or "eventpoll" in f or "io_uring" in f]

    def slow(done):
        time.sleep(0.1)
        done.append(1)

    CHILDREN = queue.SimpleQueue()

    def app(environ, start):
        way = environ["PATH_INFO"].strip("/")
        headers = [("Content-Type", "text/plain")]
        start_now = way not in ("write",)
        if start_now:
            write = start("200 OK", headers)
        if way == "pieces":
            return pieces(0)
        if way == "close":
            return Closing([b"closing"])
        if way == "closed":
            return [str(ended(CHILDREN.get())).encode()]
        if way == "pid":
            return [str(os.getpid()).encode()]
        if way == "terminate":
            process = fork.Process(target=job)
            process.start()
            process.terminate()
            process.join()
            return [str(process.exitcode).encode()]
        if way == "process":
            process = fork.Process(target=nothing)
            process.start()
            process.join()
            return [str(process.exitcode).encode()]
        if way == "pool":
            with fork.Pool(2) as pool:
                found = pool.map(square, range(5))
            return [json.dumps(found).encode()]
        if way == "program":
            found = {}
            commands = {
                "vfork": {}, "fork": {"preexec_fn": nothing}, "spawn": {"close_fds": False},
            }
            for name, options in commands.items():
                out = subprocess.run(["/bin/cat", "/proc/self/status"], stdout=subprocess.PIPE, **options)
                found[name] = masks(out.stdout.decode())
            with tempfile.TemporaryDirectory() as directory:
                copy = f"{directory}/status"
                system(f"cat /proc/self/status > {copy}")
                found["system"] = masks(open(copy).read())
                ended(posix_spawn("/bin/sh", ["sh", "-c", f"cat /proc/self/status > {copy}"], {}))
                found["posix_spawn"] = masks(open(copy).read())
            return [json.dumps(found).encode()]
        if way == "thread":
            found = []
            thread = threading.Thread(target=in_thread, args=(found,))
            thread.start()
            thread.join()
            return [json.dumps(found).encode()]
        if way.endswith("linger"):
            pid = libc.fork() if way == "c-linger" else os.fork()
            if pid == 0:
                time.sleep(600)
            return iter([str(pid).encode()])
        if way.startswith("signal-"):
            read, write_end = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.write(write_end, b"!")
                time.sleep(60)
                os._exit(9)
            os.read(read, 1)
            os.close(read); os.close(write_end)
            os.kill(pid, int(way.removeprefix("signal-")))
            return [str(ended(pid)).encode()]
        if way == "state":
            read, write_end = os.pipe()
            pid = os.fork()
            if pid == 0:
                wakeup = signal.set_wakeup_fd(-1)
                odd = [n for n in range(1, 65) if n not in (13, 25, 32, 33)
                       and signal.getsignal(n) not in (signal.SIG_DFL, signal.default_int_handler)]
                told = [wakeup, of_status("self"), sockets(), odd]
                os.write(write_end, json.dumps(told).encode())
                sys.exit(0)
            os.close(write_end)
            with os.fdopen(read) as pipe:
                text = pipe.read()
            ended(pid)
            return [text.encode()]
        if way == "c-handler":
            read, write_end = os.pipe()
        pid = libc.fork() if way.startswith("c-") else os.fork()
        if pid == 0:
            if way.endswith("exit"):
                sys.exit(3)
            if way == "end":  # a thread that is not daemonic is waited for, then the hooks run
                done = []
                atexit.register(lambda: os._exit(20 + len(done)))
                threading.Thread(target=slow, args=(done,)).start()
                sys.exit(0)
            if way.endswith("return"):
                return [b"of the child"]
            if way == "raise":
                raise RuntimeError("of the child")
            if way == "write":
                write = start("200 OK", headers)
                try:
                    write(b"of the child")
                except ConnectionError:
                    sys.exit(6)
            if way == "double":
                grandchild = os.fork()
                if grandchild == 0:
                    return [b"of the grandchild"]
                sys.exit(10 + ended(grandchild))
            if way == "c-state":
                time.sleep(60)
            if way == "c-handler":
                signal.signal(signal.SIGTERM, lambda *_: os._exit(55))
                os.write(write_end, b"!")
                while True:  # a signal that comes just before a sleep does not end it
                    time.sleep(0.01)
        if way == "c-state":
            os.kill(pid, signal.SIGTERM)
        if way == "c-handler":
            os.close(write_end)
            os.read(read, 1)
            os.close(read)
            os.kill(pid, signal.SIGTERM)
        code = ended(pid)
        if not start_now:
            start("200 OK", headers)
        return [str(code).encode()]
"""

#: A handler and a protocol: the client says how to fork, and hears what became of the child.
STREAMS = """
    import asyncio, multiprocessing, os, socketserver, sys, time

    fork = multiprocessing.get_context("fork")

    def ended(pid):
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def fork_for(way):
        if way == "terminate":
            process = fork.Process(target=time.sleep, args=(60,))
            process.start()
            process.terminate()
            process.join()
            return process.exitcode
        if way == "linger":
            pid = os.fork()
            if pid == 0:
                time.sleep(600)
            return pid
        pid = os.fork()
        if pid:
            return ended(pid)
        if way == "exit":
            sys.exit(3)
        if way == "raise":
            raise RuntimeError("of the child")
        return None

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            for line in self.request.makefile("rb"):
                way = line.decode().strip()
                if way == "serve":  # the child has the socket of its handler
                    pid = os.fork()
                    if pid == 0:
                        self.request.sendall(b"child\\n")
                        return
                    ended(pid)
                    continue
                code = fork_for(way)
                if code is None:
                    return
                self.request.sendall(b"%d\\n" % code)
                if way == "linger":
                    return

    class Protocol(asyncio.Protocol):
        def connection_made(self, transport):
            self.transport = transport
            self.unread = b""

        def data_received(self, data):
            way = data.decode().strip()
            if way.startswith("soon-"):
                asyncio.get_running_loop().call_soon(self.fork, way[5:])
                asyncio.get_running_loop().call_soon(self.follow, os.getpid())
            elif way.startswith("task-"):
                self.task = asyncio.get_running_loop().create_task(self.in_task(way[5:]))
            else:
                self.fork(way)

        def follow(self, pid):
            if os.getpid() != pid:
                os._exit(77)

        async def in_task(self, way):
            await asyncio.sleep(0)
            self.fork(way)

        def fork(self, way):
            code = fork_for(way)
            if code is None:
                self.transport.write(b"of the child\\n")
                return
            self.transport.write(b"%d\\n" % code)
            if way == "linger":
                self.transport.close()
"""

DEFAULT = ("--model", "leader-followers")
MODES = {
    "native": DEFAULT,
    "python": (*DEFAULT, "--no-native"),
    "threads": (*DEFAULT, "--threads", "2"),
    "blocking": (*DEFAULT, "--io", "blocking"),
    "sigio": (*DEFAULT, "--io", "sigio"),
    "reactor": ("--model", "reactor"),
    "half-sync-half-async": ("--model", "half-sync-half-async"),
    "process-per-connection": ("--model", "process-per-connection"),
    "proactor": ("--model", "proactor", "--io", "io_uring"),
    "aio": ("--model", "proactor", "--io", "aio"),
}


PROGRAMS = ("vfork", "fork", "spawn", "system", "posix_spawn")


def ask(service: Daemon, path: str) -> str:
    return service.get("/" + path)


@pytest.mark.parametrize("mode", MODES)
def test_a_child_leaves_where_it_would_come_back(service: Daemon, mode: str) -> None:
    service.write_app(APP)
    service.expected_errors = ["^Traceback"]  # of the child that raises
    service.start("-w", "1", *MODES[mode])
    (worker,) = service.worker_pids()
    expected = {
        "exit": "3", "return": "0", "raise": "1", "write": "6", "pieces": "0", "double": "10",
        "thread": "[0]",
    }  # fmt: skip
    assert {way: ask(service, way) for way in expected} == expected
    assert service.worker_pids() == [worker]


@pytest.mark.parametrize("mode", MODES)
def test_a_child_has_nothing_of_forkd_s(service: Daemon, mode: str) -> None:
    service.write_app(APP)
    service.expected_errors = ["^Traceback"]  # of KeyboardInterrupt
    service.start("-w", "1", *MODES[mode])
    (worker,) = service.worker_pids()
    with service.connect() as idle:
        if mode != "blocking":  # where it would be the only client
            idle.sendall(b"GET /pid HTTP/1.1\r\nHost: a\r\n\r\n")
            assert idle.recv(4096)
        assert json.loads(ask(service, "state")) == [-1, [0, 0], [], [signal.SIGUSR2]]
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGRTMIN + 4):
        assert ask(service, f"signal-{number}") == str(-number)
    assert ask(service, f"signal-{signal.SIGUSR2:d}") == "42"
    assert ask(service, "terminate") == str(-signal.SIGTERM)
    assert ask(service, "process") == "0"
    assert ask(service, "end") == "21"
    assert json.loads(ask(service, "pool")) == [0, 1, 4, 9, 16]
    assert ask(service, "close") == "closing"
    if mode != "process-per-connection":  # there the child's parent has gone with its connection
        assert ask(service, "closed") == "5"
    assert json.loads(ask(service, "program")) == {name: [0, 0] for name in PROGRAMS}
    assert service.worker_pids() == [worker]


@pytest.mark.parametrize("mode", ["native", "threads", "sigio", "aio"])
def test_programs_of_an_application_that_a_template_has_loaded(service: Daemon, mode: str) -> None:
    service.write_app(APP)
    service.expected_errors = ["started 1 thread"]
    service.start("-w", "1", "--preload", *MODES[mode])
    assert json.loads(ask(service, "program")) == {name: [0, 0] for name in PROGRAMS}


@pytest.mark.parametrize("mode", ["native", "threads", "process-per-connection"])
def test_handlers_that_a_template_has_set_are_those_of_its_workers(
    service: Daemon, mode: str
) -> None:
    """And of their children, as they are where each worker imports the application."""
    service.write_app(APP)
    service.start("-w", "1", "--preload", *MODES[mode])
    (worker,) = service.worker_pids()
    assert ask(service, f"signal-{signal.SIGUSR2:d}") == "42"
    assert ask(service, f"signal-{signal.SIGUSR1:d}") == str(-signal.SIGUSR1)
    assert service.worker_pids() == [worker]


@pytest.mark.parametrize("mode", ["native", "threads", "sigio", "reactor", "process-per-connection"])
def test_a_child_that_c_code_has_forked_leaves_too(service: Daemon, mode: str) -> None:
    service.write_app(APP)
    service.start("-w", "1", *MODES[mode])
    (worker,) = service.worker_pids()
    found = {way: ask(service, way) for way in ("c-exit", "c-return", "c-state")}
    assert found == {"c-exit": "3", "c-return": "0", "c-state": "-15"}
    assert service.worker_pids() == [worker]


@pytest.mark.parametrize("mode", ["native", "sigio", "process-per-connection"])
def test_a_signal_of_a_child_that_c_code_has_forked_is_its_own(service: Daemon, mode: str) -> None:
    """It has a handler of its own, which Python lets only the main thread set."""
    service.write_app(APP)
    service.start("-w", "1", *MODES[mode])
    (worker,) = service.worker_pids()
    assert ask(service, "c-handler") == "55"
    assert ask(service, "pid") == str(worker) or mode == "process-per-connection"
    assert service.worker_pids() == [worker]


@pytest.mark.parametrize(
    "mode", ["native", "python", "threads", "reactor", "blocking", "process-per-connection"]
)
def test_a_child_of_a_handler(service: Daemon, mode: str) -> None:
    service.write_app(STREAMS)
    service.expected_errors = ["^Traceback"]
    service.start("-w", "1", "-k", "stream", *MODES[mode], app="app:Handler")
    expected = {"exit": "3", "return": "0", "raise": "1", "terminate": "-15", "serve": "child"}
    assert converse(service, expected) == expected


@pytest.mark.parametrize("mode", ["native", "python", "sigio", "half-sync-half-async", "proactor"])
def test_a_child_of_a_protocol(service: Daemon, mode: str) -> None:
    service.write_app(STREAMS)
    service.expected_errors = ["^Traceback"]
    service.start("-w", "1", "-k", "stream", *MODES[mode], app="app:Protocol")
    (worker,) = service.worker_pids()
    expected = {
        "exit": "3", "return": "0", "raise": "1", "terminate": "-15", "soon-return": "0", "task-return": "0",
        "task-exit": "3",
    }  # fmt: skip
    assert converse(service, expected) == expected
    assert service.worker_pids() == [worker]


def stream_of(service: Daemon) -> tuple[str, int]:
    host, _, port = service.live()["listeners"][0]["address"].rpartition(":")
    return host, int(port)


def converse(service: Daemon, ways: Iterable[str]) -> dict[str, str]:
    found = {}
    address = stream_of(service)
    for way in ways:
        with socket.create_connection(address, 10) as client, client.makefile("rb") as lines:
            client.sendall(way.encode() + b"\n")
            found[way] = lines.readline().decode().strip()
    return found


#: Forks wherever forkd calls a module of the application or of the operator, and notes what became of the
#: child.
MODULES = """
    import os, sys

    def fork(place):
        pid = os.fork()
        if pid:
            with open("ends", "a") as file:
                file.write(f"{place} {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}\\n")
        return pid

    if __name__ == "app":
        if fork("import") == 0:
            sys.exit(3)

        def make():
            if fork("factory") == 0:
                return app
            return app

        def app(environ, start):
            start("200 OK", [])
            return [b"served"]
    else:
        def on_starting(place):
            fork("on_starting")

        def post_fork(place):
            if fork("post_fork") == 0:
                raise RuntimeError("of the child")

        def worker_ready(place):
            fork("worker_ready")

        def worker_exit(place):
            fork("worker_exit")
"""


@pytest.mark.parametrize("flags", [(), ("--preload",), ("--no-native",)])
def test_a_child_of_an_import_or_of_a_hook(service: Daemon, flags: tuple[str, ...]) -> None:
    service.write_app(MODULES)
    service.write_app(MODULES, name="ours.py")
    service.expected_errors = ["^Traceback"]
    service.start("-w", "1", "--hooks", "ours", *flags, app="app:make()")
    assert service.get() == "served"
    service.ok("check", *service.flags(*flags, app="app:make()"))
    service.ok("stop")
    ends = (service.dir / "ends").read_text().splitlines()
    assert sorted(ends) == sorted([
        "on_starting 0", "post_fork 1", "import 3", "factory 0", "worker_ready 0", "worker_exit 0",
        "import 3", "factory 0",  # of the check
    ])  # fmt: skip


#: SIGTERM has a handler for a while, and so has SIGUSR1: asyncio takes the wake-up descriptor for both.
HANDLING = """
    import asyncio, os, signal

    def app(environ, start):
        number = int(environ["PATH_INFO"].strip("/") or 0)

        async def main():
            asyncio.get_running_loop().add_signal_handler(number, lambda: None)

        if number:
            asyncio.run(main())
        start("200 OK", [])
        return [str(os.getpid()).encode()]
"""


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT, signal.SIGTERM])
def test_a_worker_hears_sigterm_after_a_loop_with_handlers(service: Daemon, number: int) -> None:
    service.write_app(HANDLING)
    service.start("-w", "1")
    pid = int(service.get(f"/{number:d}"))
    os.kill(pid, signal.SIGTERM)
    until(lambda: service.worker_pids() not in ([], [pid]), "another worker")
    until(lambda: f"(pid {pid}) gone: SIGTERM" in service.log(), "the worker said why it went")


@pytest.mark.parametrize("mode", ["native", "python", "threads", "reactor", "sigio", "proactor"])
def test_a_child_of_a_handler_of_a_signal(service: Daemon, mode: str) -> None:
    service.write_app("""
        import os, signal

        def handle(*_):
            pid = os.fork()
            if pid:
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                print("the child ended:", code, flush=True)

        signal.signal(signal.SIGUSR1, handle)

        def app(environ, start):
            start("200 OK", [])
            return [str(os.getpid()).encode()]
    """)
    service.start("-w", "1", *MODES[mode])
    pid = int(service.get())
    os.kill(pid, signal.SIGUSR1)
    until(lambda: "the child ended: 0" in service.log(), "the child has left")
    assert int(service.get()) == pid


def test_a_worker_hears_sigterm_beside_the_application(service: Daemon) -> None:
    service.write_app("""
        import os, signal

        signal.signal(signal.SIGTERM, lambda *_: print("heard by the application"))

        def app(environ, start):
            start("200 OK", [])
            return [str(os.getpid()).encode()]
    """)
    service.start("-w", "1")
    pid = int(service.get())
    os.kill(pid, signal.SIGTERM)
    until(lambda: service.worker_pids() not in ([], [pid]), "another worker")
    until(lambda: "heard by the application" in service.log(), "the application's own handler")


def test_a_worker_hears_sigterm_beside_handlers_of_its_own_loop(service: Daemon) -> None:
    service.write_app("""
        import asyncio, os, signal

        class Protocol(asyncio.Protocol):
            def connection_made(self, transport):
                heard = b"heard\\n"
                asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, transport.write, heard)
                transport.write(b"%d\\n" % os.getpid())
    """)
    service.start("-w", "1", "-k", "stream", app="app:Protocol")
    with socket.create_connection(stream_of(service), 10) as client, client.makefile("rb") as lines:
        pid = int(lines.readline())
        os.kill(pid, signal.SIGUSR1)
        assert lines.readline() == b"heard\n"
    os.kill(pid, signal.SIGTERM)
    until(lambda: service.worker_pids() not in ([], [pid]), "another worker")


@pytest.mark.parametrize("mode", ["native", "python", "threads", "reactor", "process-per-connection"])
@pytest.mark.parametrize("way", ["linger", "c-linger"])
def test_a_client_sees_the_end_while_a_child_lives(service: Daemon, mode: str, way: str) -> None:
    service.write_app(APP)
    service.start("-w", "1", *MODES[mode])
    with service.connect() as client:
        client.sendall(b"GET /%s HTTP/1.0\r\n\r\n" % way.encode())
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    os.kill(int(answer.rpartition(b"\r\n\r\n")[2]), signal.SIGTERM)


@pytest.mark.parametrize("app", ["Handler", "Protocol"])
def test_a_client_of_a_stream_sees_the_end_while_a_child_lives(service: Daemon, app: str) -> None:
    service.write_app(STREAMS)
    service.start("-w", "1", "-k", "stream", app=f"app:{app}")
    with socket.create_connection(stream_of(service), 10) as client:
        client.sendall(b"linger\n")
        answer = b"".join(iter(lambda: client.recv(4096), b""))
    os.kill(int(answer), signal.SIGTERM)
